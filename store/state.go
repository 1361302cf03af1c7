package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// State is a lab's folder: the catalogue, the chunks, the secret that boot tokens are made from, and whatever else must
// survive a restart. Only one process has it open.
//
//	log.jsonl   what machines and carte said, also log.1.jsonl
//	lock        held while open; holds the number of the process, and its command
//	lab.db      the catalogue
//	chunks/     packs and manifests
//	versions/   a card for each version, from which a lost catalogue is made again
//	secret      32 random bytes
//	results/    what boots left, a folder for each
//	tmp/        emptied at every Open
//	reserve     room that is given up when the disk is full
//	kinds.toml  kinds of images that this lab has beside carte's; a person's. What a bundle brings is added at its end
//	kinds.toml.taken  what is just now being added
type State struct {
	Dir    string
	DB     *DB
	Chunks *Chunks
	Secret []byte
	Kinds  []lab.Kind // the lab's own, as they were at Open
	Notes  []string   // what Open had to mend, for people
	lock   *os.File
	log    *logbook // nil until Hold

	kinds sync.Mutex // held while kinds.toml is read or written
	read  stamp      // of kinds.toml when it was read last
}

// Open opens the lab's folder, and makes it where there is none. lab.ErrBusy: another process has it open. Close it.
func Open(ctx context.Context, dir string) (_ *State, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open the lab: %w", err)
	}
	s := &State{Dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open the lab in %s: %w", dir, err), s.Close())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = takeLock(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	s.read = stampOf(s.KindsFile())
	if s.Kinds, err = readKinds(s.KindsFile()); err != nil {
		return nil, fmt.Errorf("nothing was started: %w", err)
	}
	err = s.openAll(ctx)
	scarce := s.roomFor(err)
	if scarce {
		err = s.openAll(ctx)
	}
	if err != nil {
		return nil, err
	}
	if scarce {
		s.Notes = append(s.Notes, reserveNote)
	} else if err := s.keepReserve(); err != nil {
		s.Notes = append(s.Notes, err.Error())
	}
	s.DB.room = s.roomFor
	if err := s.takenKinds(ctx); err != nil {
		return nil, err
	}
	return s, errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))) // the names of what was made just now survive, too
}

// openAll opens what is in the folder, all of it or nothing.
func (s *State) openAll(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeAll())
		}
	}()
	if err := errors.Join(os.RemoveAll(s.Temp()), os.Mkdir(s.Temp(), 0o700)); err != nil {
		return full(err)
	}
	if s.Secret, err = s.File("secret", func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	}); err != nil {
		return full(err)
	}
	if s.DB, err = OpenDB(ctx, filepath.Join(s.Dir, "lab.db")); err != nil {
		return err
	}
	if s.Chunks, err = OpenChunks(filepath.Join(s.Dir, "chunks")); err != nil {
		return full(err)
	}
	s.Notes, err = s.rebuild(ctx, time.Now())
	return err
}

// takeLock holds the lock file until it is closed. The kernel frees it when the process dies, however it dies.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%s has the lab open by itself; wait for it, or run carte serve first: then commands run side by side: %w", holder(f), lab.ErrBusy), f.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	line := fmt.Appendf(nil, "%d %s\n", os.Getpid(), command(os.Args))
	_, err = f.WriteAt(line, 0)
	if isFull(err) {
		line, err = nil, nil // it is for people only
	}
	if err := errors.Join(err, f.Truncate(int64(len(line)))); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// holder says who holds the lock, as far as the file tells: process 12 (carte flash deb).
func holder(f io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(f, 32+4*commandLength)) // it is for people only
	number, words, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	pid, err := strconv.Atoi(number)
	switch {
	case err != nil:
		return "another process"
	case words == "":
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, lab.Clean(words))
}

// commandLength is how many letters of a command are told.
const commandLength = 60

// command is what was typed to start a process, without the folder of the program, as a short line.
func command(args []string) string {
	words := slices.Clone(args)
	if len(words) > 0 {
		words[0] = filepath.Base(words[0])
	}
	line := []rune(lab.Clean(strings.Join(words, " ")))
	if len(line) > commandLength {
		line = append(line[:commandLength], []rune("...")...)
	}
	return string(line)
}

// Temp is a folder for files that need not survive.
func (s *State) Temp() string { return filepath.Join(s.Dir, "tmp") }

// File returns the content of a small file of the folder that only its owner can read. Where there is none it is made,
// durably, from what create returns.
func (s *State) File(name string, create func() ([]byte, error)) ([]byte, error) {
	path := filepath.Join(s.Dir, name)
	b, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = create(); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return b, writeDurably(path, b)
}

// Free is the room that is left on the disk which holds the lab, in bytes.
func (s *State) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.Dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Close closes everything and gives up the lock last.
func (s *State) Close() error {
	all := s.closeAll()
	if s.log != nil {
		all = errors.Join(all, s.log.Close())
	}
	if s.lock != nil {
		all = errors.Join(all, s.lock.Close())
	}
	return all
}

func (s *State) closeAll() error {
	var all error
	if s.Chunks != nil {
		all = errors.Join(all, s.Chunks.Close())
	}
	if s.DB != nil {
		all = errors.Join(all, s.DB.Close())
	}
	return all
}
