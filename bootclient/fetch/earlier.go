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
	wanted := f.wanted()
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
		var taken bool
		if taken, broken = f.takeWanted(ctx, wanted, c, data); taken {
			f.earlier.Blocks, f.earlier.Bytes = f.earlier.Blocks+1, f.earlier.Bytes+int64(len(data))
		}
		return broken
	}
	_, err := cas.AddFile(ctx, take, io.LimitReader(file, earlierFactor*dl.Length), dl.Chunker)
	if err != nil && broken == nil && !errors.Is(err, context.Canceled) {
		f.disc.Report.Refuse("folder "+f.earlier.Name, dl.Role, err)
		return ctx.Err()
	}
	return err
}

// wanted returns the position of each missing leaf.
func (f *fetcher) wanted() map[cid.Cid]position {
	wanted := map[cid.Cid]position{}
	for at := range waiting(f.downloads) {
		wanted[at.info().CID] = at
	}
	return wanted
}

// takeWanted writes a verified leaf to its targets and to the cache, if it is wanted.
func (f *fetcher) takeWanted(ctx context.Context, wanted map[cid.Cid]position, c cid.Cid, data []byte) (taken bool, err error) {
	at, ok := wanted[c]
	if !ok || int64(len(data)) != at.info().Size {
		return false, nil
	}
	delete(wanted, c)
	if err := f.write(at, data); err != nil {
		return false, err
	}
	f.cache.Put(ctx, c, data)
	f.got += at.download.complete(at.leaf)
	f.Progress(f.got, f.total)
	return true, nil
}

// earlierFactor limits how much of an earlier file is read, as a multiple of the new length.
const earlierFactor = 4
