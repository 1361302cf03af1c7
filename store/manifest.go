package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/chunk"
)

func (c *Chunks) manifestPath(root chunk.ID) string {
	return filepath.Join(c.manifestDir(), root.String())
}

// PutManifest keeps the manifest as a file named by its root, and returns the root. Keeping it twice is no error. lab.ErrInvalid: a chunk that it
// lists is not here, and nothing was kept. Say what it is for within an hour, then Settle it.
func (c *Chunks) PutManifest(m chunk.Manifest) (chunk.ID, error) {
	root := m.Root()
	c.mu.Lock() // held to the end, so that Collect cannot take a chunk between the check and the file
	defer c.mu.Unlock()
	for i, id := range m.IDs {
		if !c.has(id) {
			return chunk.ID{}, fmt.Errorf("manifest %v: chunk %d (%v) is not here: %w", root, i, id, lab.ErrInvalid)
		}
	}
	c.keep(root, m)
	if _, err := c.Manifest(root); err == nil {
		return root, nil
	}
	c.step("manifest next")
	if err := writeDurably(c.manifestPath(root), m.Packed()); err != nil {
		c.settle(root) // nobody will say what it is for
		return chunk.ID{}, fmt.Errorf("manifest %v: %w", root, full(err))
	}
	c.step("manifest written")
	return root, nil
}

// Manifest returns the manifest with that root, checked against it. lab.ErrNotFound, or lab.ErrDamaged if the file is not what its name promises.
func (c *Chunks) Manifest(root chunk.ID) (chunk.Manifest, error) {
	b, err := os.ReadFile(c.manifestPath(root))
	if errors.Is(err, fs.ErrNotExist) {
		return chunk.Manifest{}, fmt.Errorf("manifest %v: %w", root, lab.ErrNotFound)
	}
	if err != nil {
		return chunk.Manifest{}, fmt.Errorf("manifest %v: %w", root, err)
	}
	m, err := chunk.DecodePacked(b)
	if err != nil {
		return chunk.Manifest{}, fmt.Errorf("%s: %w", c.manifestPath(root), err)
	}
	if got := m.Root(); got != root {
		return chunk.Manifest{}, fmt.Errorf("%s: its content hashes to %v: %w", c.manifestPath(root), got, lab.ErrDamaged)
	}
	return m, nil
}

// Roots lists the roots of all manifests, in the order of their text. They are not read.
func (c *Chunks) Roots() ([]chunk.ID, error) {
	list, err := os.ReadDir(c.manifestDir())
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	var roots []chunk.ID
	for _, e := range list {
		if id, err := chunk.ParseID(e.Name()); err == nil && id.String() == e.Name() {
			roots = append(roots, id)
		}
	}
	return roots, nil
}

// Remove deletes a manifest. Its chunks stay until Collect. Removing what is not there is lab.ErrNotFound.
func (c *Chunks) Remove(root chunk.ID) error {
	err := os.Remove(c.manifestPath(root))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest %v: %w", root, lab.ErrNotFound)
	}
	if err == nil {
		err = syncDir(c.manifestDir())
	}
	if err != nil {
		return fmt.Errorf("remove manifest %v: %w", root, err)
	}
	return nil
}

// Verify hashes every chunk of the version again, each once. progress, if not nil, is told bytes of stored chunks: how many are done, how many there
// are. Damage does not stop it: the error names how many chunks are damaged or missing and where in the image the first lie, and wraps
// lab.ErrDamaged. Importing the same bytes again mends them.
func (c *Chunks) Verify(ctx context.Context, root chunk.ID, progress func(done, total int64)) error {
	m, err := c.Manifest(root)
	if err != nil {
		return err
	}
	first := map[chunk.ID]int{} // the first place of each chunk
	var total, done int64
	for i, id := range m.IDs {
		if _, ok := first[id]; !ok && !id.Implied() {
			first[id] = i
			total += int64(m.Len(i))
		}
	}
	var found []string
	var count int
	buf := make([]byte, chunk.Size)
	for i, id := range m.IDs {
		if at, ok := first[id]; !ok || at != i {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch b, err := c.Get(id, buf); {
		case errors.Is(err, lab.ErrDamaged), errors.Is(err, lab.ErrNotFound), err == nil && len(b) != m.Len(i):
			if count++; count <= 3 {
				found = append(found, fmt.Sprintf("chunk %d at byte %d", i, int64(i)*chunk.Size))
			}
		case err != nil:
			return err
		}
		done += int64(m.Len(i))
		if progress != nil {
			progress(done, total)
		}
	}
	if count > 0 {
		_ = c.noteDamaged() // Close tries again
		return fmt.Errorf("version %v: %d of %d chunks are damaged or missing (%s); import the same file again to mend them: %w",
			root, count, len(first), strings.Join(slices.Clip(found), ", "), lab.ErrDamaged)
	}
	return nil
}
