package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"carte/lab"
	"carte/lab/text"
)

// KindsName is the file of a lab's own kinds, in its folder. It need not be there.
const KindsName = "kinds.toml"

// takenKindsName is the file of kinds that a bundle brings. It is there only while the bundle is being taken in.
const takenKindsName = KindsName + ".taken"

// KindsFile is where the lab's own kinds are written.
func (s *State) KindsFile() string { return filepath.Join(s.Dir, KindsName) }

// readKinds reads the kinds that a lab has beside those that carte comes with. A file that is wrong is an error, which names
// the line: a lab that went on without a kind would forget what it has promised.
func readKinds(file string) ([]lab.Kind, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the lab's own kinds: %w", err)
	}
	all, err := text.Kinds(b)
	if err == nil {
		err = lab.CheckKinds(all)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

// A stamp tells a file from what it was. The zero stamp is of a file that is not there.
type stamp struct {
	at   time.Time
	size int64
	node uint64
}

func stampOf(file string) stamp {
	st, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	s := stamp{at: st.ModTime(), size: st.Size()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.node = sys.Ino
	}
	return s
}

// freshKinds reads the lab's own kinds again where their file has changed. What is wrong with it leaves those in force that were; it is noted in the
// snapshot, and in the log.
func (d *Desk) freshKinds(ctx context.Context) error {
	d.State.kinds.Lock()
	defer d.State.kinds.Unlock()
	now := stampOf(d.State.KindsFile())
	if now == d.State.read {
		return nil
	}
	all, wrong := readKinds(d.State.KindsFile())
	trouble, err := d.Lab.TakeKinds(ctx, all, wrong)
	if err != nil {
		return err
	}
	d.State.read = now
	words := fmt.Sprintf("%s was read again: %d kinds of the lab's own are in force", KindsName, len(all))
	if trouble != "" {
		words = fmt.Sprintf("%s was changed and is not in force, the kinds that were are: %s", KindsName, trouble)
	}
	d.Lab.Log(lab.Line{Source: "store", Text: lab.Clean(words)})
	return nil
}

// prepareKinds writes kinds that are to be taken, durably and apart.
func (s *State) prepareKinds(all []lab.Kind) error {
	return full(writeDurably(filepath.Join(s.Dir, takenKindsName), text.WriteKinds(all)))
}

// forgetKinds takes back what prepareKinds has written, if it has.
func (s *State) forgetKinds() error {
	err := os.Remove(filepath.Join(s.Dir, takenKindsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// placeKinds adds kinds to the end of the lab's own file, which stays as it is but for that, and forgets what prepareKinds has written.
func (s *State) placeKinds(all []lab.Kind) error {
	file := s.KindsFile()
	if there, err := filepath.EvalSymlinks(file); err == nil { // it may lie among a person's own files
		file = there
	}
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have, err := text.Kinds(b)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(k lab.Kind) bool {
		return slices.ContainsFunc(have, func(x lab.Kind) bool { return x.Name == k.Name })
	})
	if len(all) > 0 {
		if b = bytes.TrimRight(b, "\n"); len(b) > 0 {
			b = append(b, "\n\n"...)
		}
		b = append(b, "# came with a bundle\n"...)
		seen := stampOf(s.KindsFile()) == s.read // else a person has changed it meanwhile, and it is to be read again
		if err := writeDurably(file, append(b, text.WriteKinds(all)...)); err != nil {
			return full(err)
		}
		if seen {
			s.read = stampOf(s.KindsFile())
		}
	}
	return s.forgetKinds()
}

// takenKinds settles what a stop in the middle of a bundle has left: kinds that came with its images are added, the others are forgotten.
func (s *State) takenKinds(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(s.Dir, takenKindsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := text.Kinds(b)
	if err != nil {
		return fmt.Errorf("%s: %w", takenKindsName, err)
	}
	used, err := s.DB.kinds(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(k lab.Kind) bool { return !slices.Contains(used, k.Name) })
	if err := s.placeKinds(all); err != nil {
		return err
	}
	s.Kinds, err = readKinds(s.KindsFile())
	return err
}

// kinds lists the kinds of images.
func (d *DB) kinds(ctx context.Context) (names []string, err error) {
	err = d.list(ctx, func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		names = append(names, name)
		return nil
	}, "SELECT DISTINCT kind FROM images ORDER BY kind")
	if err != nil {
		return nil, fmt.Errorf("read the kinds of images: %w", d.explain(err))
	}
	return names, nil
}
