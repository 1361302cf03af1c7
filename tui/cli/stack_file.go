package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"carte/lab"
)

// exportForms are what a stack is exported as.
var exportForms = []string{"bundle", "disk"}

// exportStack writes a stack to a file that appears when it is whole, or to standard output.
func (c *call) exportStack(ctx context.Context, d desk, s lab.Snapshot, name, as, file string, force bool) error {
	switch {
	case as == "":
		return fmt.Errorf("export stack %s as what? --as bundle for another lab, --as disk for a machine without one: %w", name, lab.ErrInvalid)
	case !slices.Contains(exportForms, as):
		return fmt.Errorf("--as %q: a stack is exported as bundle or as disk: %w", as, lab.ErrInvalid)
	}
	if _, err := s.Resolve(name); err != nil {
		return err
	}
	p := c.meter("export stack "+name, 0)
	defer p.end()
	var notes []string
	n, done, err := c.toFile(file, force, func(w io.Writer) (err error) {
		notes, err = d.ExportStack(ctx, name, as, w, p.toOf)
		return err
	})
	p.end()
	for _, note := range notes {
		c.aside("%s", lab.Clean(note))
	}
	if err != nil || done {
		return err
	}
	return c.show(list{
		doc: struct {
			Stack string   `json:"stack"`
			As    string   `json:"as"`
			File  string   `json:"file"`
			Bytes int64    `json:"size_bytes"`
			Notes []string `json:"notes,omitempty"`
		}{name, as, file, n, notes},
		names: []string{file}, rows: [][]string{{name, fmt.Sprintf("%s, %s in %s", as, lab.Bytes(n), file)}},
	})
}

// toFile lets write write a file that appears when it is whole, and returns its length; or to standard output, and then says
// that there is nothing more to show.
func (c *call) toFile(file string, force bool, write func(io.Writer) error) (n int64, done bool, err error) {
	switch {
	case file == "":
		return 0, false, fmt.Errorf("where to? -o FILE, or -o - for standard output: %w", lab.ErrInvalid)
	case file == "-" && c.term.Table:
		return 0, false, fmt.Errorf("standard output is a terminal; this would not look well there: -o FILE: %w", lab.ErrInvalid)
	case file == "-" && c.json:
		return 0, false, fmt.Errorf("the bytes and the JSON document cannot both go to standard output: %w", lab.ErrInvalid)
	case file == "-":
		return 0, true, write(c.term.Out)
	}
	if err := checkOutput(file, force); err != nil {
		return 0, false, err
	}
	err = whole(file, func(f *os.File) error {
		w := &sparse{f: f}
		err := write(w)
		n = w.at
		if err != nil {
			return err
		}
		return w.end()
	})
	return n, false, err
}
