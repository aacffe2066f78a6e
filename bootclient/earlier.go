package bootclient

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// kindFolder is the kind of the source that is the output folder.
const kindFolder = "folder"

// An earlierSink is a Sink that may have files of an earlier release. They are one more
// untrusted source: each leaf is verified by its CID.
type earlierSink interface {
	// Earlier opens the earlier file of a role, nil for none.
	Earlier(role string) *os.File
	// Folder is the name of this source in the report.
	Folder() string
}

// Earlier opens a regular file of the output folder.
func (d *DirSink) Earlier(role string) *os.File {
	f, err := file.OpenIn(d.root, role, file.NoFollow)
	if err != nil {
		return nil
	}
	return f
}

// Folder is the path that NewDirSink was given.
func (d *DirSink) Folder() string { return d.dir }

// fromEarlier writes the leaves that files of an earlier release contain. It cuts these files
// with the chunker of the new release, so that it finds a leaf at any offset. A read error ends
// the file and not the fetch.
func (f *fetch) fromEarlier(ctx context.Context, sink Sink) error {
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

func (f *fetch) fromFile(ctx context.Context, file *os.File, dl *download, wanted map[cid.Cid]position) error {
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
		f.shared.verified(c)
		f.got += at.download.complete(at.leaf)
		f.earlier.Blocks, f.earlier.Bytes = f.earlier.Blocks+1, f.earlier.Bytes+int64(len(data))
		f.progress(f.got, f.total)
		return nil
	}
	_, err := cas.AddFile(ctx, take, io.LimitReader(file, earlierFactor*dl.Length), dl.Chunker)
	if err != nil && broken == nil && !errors.Is(err, context.Canceled) {
		f.report.Refuse("folder "+f.earlier.Name, dl.Role, err)
		return ctx.Err()
	}
	return err
}

// earlierFactor limits how much of an earlier file is read, as a multiple of the new length.
const earlierFactor = 4
