package fetch

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
)

// kindFolder is the kind of the source that is the output folder.
const kindFolder = "folder"

// fromEarlier writes the leaves that files of an earlier release contain. It cuts these files
// with the chunker of the new release, so that it finds a leaf at any offset. A read error ends
// the file and not the fetch.
func (f *fetcher) fromEarlier(ctx context.Context, sink Sink) error {
	s, ok := sink.(earlierSink)
	if !ok {
		return nil
	}
	wanted := map[cid.Cid]position{}
	for _, dl := range f.downloads {
		for i := dl.waiting.next(0); i >= 0; i = dl.waiting.next(i + 1) {
			wanted[dl.leaves[i].CID] = position{dl, i}
		}
	}
	f.earlier = report.SourceStats{Name: s.Folder(), Kind: kindFolder}
	for _, dl := range f.downloads {
		if err := f.fromFile(ctx, s.Earlier(dl.Role), dl, wanted); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) fromFile(ctx context.Context, file *os.File, dl *download, wanted map[cid.Cid]position) error {
	if file == nil {
		return nil
	}
	defer file.Close()
	var broken error
	take := func(ctx context.Context, c cid.Cid, data []byte) error {
		at, ok := wanted[c]
		if !ok || int64(len(data)) != at.download.leaves[at.leaf].Size {
			return nil
		}
		delete(wanted, c)
		if broken = at.download.write(at.leaf, data); broken != nil {
			return broken
		}
		f.cache.Put(ctx, c, data)
		f.Shared.Verified(c)
		f.got += at.download.complete(at.leaf)
		f.earlier.Blocks, f.earlier.Bytes = f.earlier.Blocks+1, f.earlier.Bytes+int64(len(data))
		f.Progress(f.got, f.total)
		return nil
	}
	_, err := cas.AddFile(ctx, take, io.LimitReader(file, earlierFactor*dl.Length), dl.Chunker)
	if err != nil && broken == nil && !errors.Is(err, context.Canceled) {
		f.disc.Report.Refuse("folder "+f.earlier.Name, dl.Role, err)
		return ctx.Err()
	}
	return err
}

// earlierFactor limits how much of an earlier file is read, as a multiple of the new length.
const earlierFactor = 4
