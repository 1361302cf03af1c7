package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// A card is what a version needs besides its manifest and chunks, in a file of its own: versions/NAME@3.json, two lines, the JSON and its BLAKE3-256 in
// hex. Cards are written before the version's row and removed after it, so that every row has its card. When the catalogue is lost, the cards give the
// images and their versions back; machines, stacks and history are only in the catalogue and its backups.
type card struct {
	Image   lab.Image   `json:"image"`
	Version lab.Version `json:"version"`
}

const cardExt = ".json"

func (d *DB) cardPath(ref string) string { return filepath.Join(d.cards, ref+cardExt) }

// writeCards writes the cards of the versions in changes, and returns what takes them back.
func (d *DB) writeCards(changes []lab.Change) (undo func() error, err error) {
	before := map[string][]byte{} // nil: there was none
	undo = func() error {
		var all error
		for path, was := range before {
			if was == nil {
				all = errors.Join(all, os.Remove(path))
			} else {
				all = errors.Join(all, writeDurably(path, was))
			}
		}
		return all
	}
	if d.cards == "" {
		return undo, nil
	}
	images := map[string]lab.Image{}
	for _, c := range changes {
		switch c := c.(type) {
		case lab.Image:
			images[c.Name] = c
		case lab.Version:
			path := d.cardPath(c.Ref().String())
			was, err := os.ReadFile(path) // left by a crash, as a rule
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return undo, errors.Join(err, undo())
			}
			if err := writeCard(path, card{images[c.Image], c}); err != nil {
				return undo, errors.Join(fmt.Errorf("card of %s: %w", c.Ref(), full(err)), undo())
			}
			before[path] = was
		}
	}
	return undo, nil
}

// dropCards removes the cards of versions whose rows are gone. One that stays is harmless: it counts only when the catalogue is lost.
func (d *DB) dropCards(changes []lab.Change) {
	for _, c := range changes {
		if g, ok := c.(lab.Gone); ok && g.Table == lab.TableVersions && d.cards != "" {
			os.Remove(d.cardPath(g.Key))
		}
	}
}

func writeCard(path string, c card) error {
	doc, err := encode(c)
	if err != nil {
		return err
	}
	return writeDurably(path, fmt.Appendf(doc, "\n%s\n", chunk.Sum(doc)))
}

func readCard(path string) (c card, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return card{}, err
	}
	doc, sum, _ := bytes.Cut(b, []byte("\n"))
	if string(sum) != chunk.Sum(doc).String()+"\n" {
		return card{}, fmt.Errorf("it does not hash to what it says: %w", lab.ErrDamaged)
	}
	if err := json.Unmarshal(doc, &c); err != nil {
		return card{}, fmt.Errorf("%v: %w", err, lab.ErrDamaged)
	}
	if c.Version.Ref().String()+cardExt != filepath.Base(path) || c.Image.Name != c.Version.Image {
		return card{}, fmt.Errorf("it is the card of %s: %w", c.Version.Ref(), lab.ErrDamaged)
	}
	return c, nil
}

// rebuild makes cards and catalogue agree: a catalogue in which nothing was ever written takes in the versions of all sound cards whose manifest is
// here, and one that has versions without a card writes those. It returns a sentence for each thing that it did or could not do.
func (s *State) rebuild(ctx context.Context, now time.Time) (notes []string, err error) {
	s.DB.cards = filepath.Join(s.Dir, "versions")
	if err := os.MkdirAll(s.DB.cards, 0o700); err != nil {
		return nil, err
	}
	if err := removeTemporary(s.DB.cards); err != nil {
		return nil, err
	}
	have, err := s.DB.Load(ctx)
	if err != nil {
		return nil, err
	}
	if have.LastFact > 0 {
		return nil, s.writeMissingCards(have)
	}
	paths, err := filepath.Glob(filepath.Join(s.DB.cards, "*"+cardExt))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	images := map[string]lab.Image{}
	var versions []lab.Change
	for _, path := range paths {
		c, err := readCard(path)
		if err == nil {
			_, err = s.Chunks.Manifest(c.Version.Root)
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s is not found again: %v", strings.TrimSuffix(filepath.Base(path), cardExt), err))
			continue
		}
		im, known := images[c.Image.Name]
		if !known {
			im = c.Image
		}
		im.Latest = max(im.Latest, c.Image.Latest, c.Version.Number)
		images[im.Name] = im
		versions = append(versions, c.Version)
	}
	var changes []lab.Change
	for _, im := range images {
		changes = append(changes, im)
	}
	text := fmt.Sprintf("the catalogue was empty; %d versions of %d images are found again by their cards; machines and stacks, if there were any, are not", len(versions), len(images))
	changes = append(append(changes, versions...), lab.Fact{Seq: 1, At: now.UTC().Truncate(time.Millisecond), Text: text})
	if err := s.DB.Save(ctx, changes); err != nil {
		return nil, fmt.Errorf("rebuild the catalogue: %w", err)
	}
	return append([]string{text}, notes...), nil
}

func (s *State) writeMissingCards(have lab.Snapshot) error {
	for ref, v := range have.Versions {
		path := s.DB.cardPath(ref)
		if _, err := readCard(path); err == nil {
			continue
		}
		if err := writeCard(path, card{have.Images[v.Image], v}); err != nil {
			return fmt.Errorf("card of %s: %w", ref, full(err))
		}
	}
	return nil
}
