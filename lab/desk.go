package lab

import (
	"context"
	"io"
	"time"
)

// A Desk is all that a person can do with a lab, wherever the lab runs: in this process, or behind a unix socket. The
// screen and the command line know nothing else.
type Desk interface {
	Say(ctx context.Context, v Verb) (Changed, error)
	Watch(ctx context.Context, after uint64) (Snapshot, error)
	Tail(ctx context.Context, t Tail) (lines []Line, next, lost int64, err error)

	// Import reads an image to the end and makes it a version. Progress is told in bytes of r.
	Import(ctx context.Context, r io.Reader, i Import, progress func(done int64)) (Imported, error)
	// Export writes a version's bytes.
	Export(ctx context.Context, ref Ref, w io.Writer, progress func(done, of int64)) error
	// Verify hashes every chunk of a version again.
	Verify(ctx context.Context, ref Ref, progress func(done, of int64)) error
	// Collect frees what no version and no boot refers to. A dry run says what that would be, and changes nothing.
	Collect(ctx context.Context, dry bool) (Collected, error)
	// Fsck hashes every chunk in the store again, and mends what a good copy allows. What is damaged is no error of it.
	Fsck(ctx context.Context, progress func(done, of int64)) (Fscked, error)
	// Judge checks a stack, which need not be written down, by itself and for every adopted machine.
	Judge(ctx context.Context, st Stack) (Judged, error)
	// Results writes what a boot left in /carte/out, as a tar archive. lab.ErrNotFound: it left nothing.
	Results(ctx context.Context, boot int64, w io.Writer) error
	// ExportStack writes a stack as "bundle", which ImportStack takes in another lab, or as "disk", which boots without
	// carte; notes say what was made or changed for that, and what may be missed there. Progress is told in bytes; of is 0 while
	// nobody knows how many there will be.
	ExportStack(ctx context.Context, name, as string, w io.Writer, progress func(done, of int64)) (notes []string, err error)
	// ImportStack reads a bundle to its end, and takes it in under the names that as says: kinds, versions and the stack, or
	// nothing. Progress is told in bytes of r.
	ImportStack(ctx context.Context, r io.Reader, as TakeAs, progress func(done int64)) (Taken, error)
	// Doctor looks at what the lab needs from the machine it runs on.
	Doctor(ctx context.Context) ([]Finding, error)
}

// Import says what the bytes that follow are.
type Import struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Form    Form   `json:"form"`
	Message string `json:"message,omitempty"`
	Author  string `json:"author,omitempty"`
	File    string `json:"file,omitempty"`       // where it came from, for messages
	Whole   bool   `json:"whole,omitempty"`      // what file systems do not need is kept, too
	Size    int64  `json:"size_bytes,omitempty"` // of the file system that is made of files; 0: what they need, and room

	Offers Terms     `json:"offers,omitempty"` // clauses, beside or instead of those that a manifest in it declares
	Place  string    `json:"place,omitempty"`  // where files are mounted
	Dies   time.Time `json:"dies,omitzero"`    // of a kind that lives until a date
	Owner  string    `json:"owner,omitempty"`  // machine, of a kind that lives with one
}

// SparseRecord, in the PAX header of a tar's member, says that its blocks of zeros are holes. carte packs folders so:
// archive/tar does not write the holes of a file.
const SparseRecord = "CARTE.sparse"

// Imported is what an import came to. Same means that the newest version had these bytes already.
type Imported struct {
	Version Version `json:"version"`
	Same    bool    `json:"same"`
	Format  string  `json:"format"`           // raw, gz, qcow2 in zst, ...
	New     int64   `json:"new_stored_bytes"` // that the store grew by
	Mended  int     `json:"mended_chunks"`    // of what was stored: chunks that the store had damaged, or had lost
	Seconds float64 `json:"seconds"`

	Warnings []string `json:"warnings,omitempty"` // what is odd about it, for people
}

// A Finding is what the doctor says about one thing.
type Finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Must bool   `json:"must"` // without it carte cannot do its main job
	Why  string `json:"why,omitempty"`
	Fix  string `json:"fix,omitempty"`
}
