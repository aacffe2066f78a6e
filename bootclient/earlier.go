package bootclient

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// kindFolder is the kind of a source that is the output folder.
const kindFolder = "folder"

// An earlierSink is a Sink that may hold files of an earlier release, which are one more
// source: nothing of them is believed before it hashes to its name.
type earlierSink interface {
	// Earlier opens the file that stands where the artifact of a role will, nil for none.
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

// fromSink takes the leaves that files of an earlier release have. The files are cut as the
// new ones were, so that a leaf is found wherever it lies. A file that cannot be read to its
// end gives what it gave.
func (f *fetch) fromSink(ctx context.Context, sink Sink) error {
	s, ok := sink.(earlierSink)
	if !ok {
		return nil
	}
	wanted := map[cid.Cid]position{}
	for _, p := range f.downloads {
		for i := p.waiting.next(0); i >= 0; i = p.waiting.next(i + 1) {
			wanted[p.leaves[i].CID] = position{p, i}
		}
	}
	f.disc.folder = SourceStats{Name: s.Folder(), Kind: kindFolder}
	for _, p := range f.downloads {
		if err := f.fromFile(ctx, s.Earlier(p.Role), p, wanted); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetch) fromFile(ctx context.Context, file *os.File, p *download, wanted map[cid.Cid]position) error {
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
		f.cache.put(ctx, c, data)
		f.disc.shared.verified(c)
		f.got += at.download.landed(at.leaf)
		f.disc.folder.Blocks, f.disc.folder.Bytes = f.disc.folder.Blocks+1, f.disc.folder.Bytes+int64(len(data))
		f.cfg.Progress(f.got, f.total)
		return nil
	}
	_, err := cas.AddFile(ctx, take, io.LimitReader(file, earlierFactor*p.Length), p.Chunker)
	if err != nil && broken == nil && !errors.Is(err, context.Canceled) {
		f.cfg.Report.Refuse("folder "+f.disc.folder.Name, p.Role, err)
		return ctx.Err()
	}
	return err
}

// earlierFactor bounds what is read of an earlier file, in lengths of the new one.
const earlierFactor = 4
