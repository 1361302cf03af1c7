package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"carte/lab"
)

// On a full disk not even the catalogue opens: SQLite must write before it reads, and removing an image is a row that must be written. So the folder
// keeps some room that nobody else gets, in the file reserve. Open and Save give it up when the disk is full, and try once more; Open and Collect make
// it again when there is room.
const (
	reserveSize = 4 << 20
	reserveRoom = 16 * reserveSize // below this much free space no reserve is taken away from the rest
	barelyFree  = 1 << 20          // below this much, what SQLite calls an I/O error is a full disk
)

func (s *State) reservePath() string { return filepath.Join(s.Dir, "reserve") }

// Reserved says whether the room for a full disk is kept.
func (s *State) Reserved() bool {
	st, err := os.Stat(s.reservePath())
	return err == nil && st.Size() == reserveSize
}

// keepReserve makes the reserve where there is none and room for it. Without one everything works until the disk is full.
func (s *State) keepReserve() error {
	if free, err := s.Free(); err != nil || free < reserveRoom || s.Reserved() {
		return err
	}
	beside := s.reservePath() + temporary
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep room for a full disk: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		b := make([]byte, reserveSize)
		for i := range b {
			b[i] = byte(i*i>>7) | 1 // zeros might take no room
		}
		_, err = f.Write(b)
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(beside, s.reservePath())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep room for a full disk: %w", err), os.Remove(beside))
	}
	return syncDir(s.Dir)
}

// giveUpReserve frees it, and says whether there was one.
func (s *State) giveUpReserve() bool { return os.Remove(s.reservePath()) == nil }

// roomFor says whether err came from a full disk and there is more room now.
func (s *State) roomFor(err error) bool {
	if err == nil {
		return false
	}
	var e *sqlite.Error
	if !isFull(err) && errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			if free, ferr := s.Free(); ferr != nil || free >= barelyFree {
				return false
			}
		default:
			return false
		}
	} else if !isFull(err) {
		return false
	}
	return s.giveUpReserve()
}

// isFull says whether err means, whoever says it, that the disk is full.
func isFull(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE // of lab.db-shm, which is made at every open
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// reserveNote is what people hear when the reserve was needed.
var reserveNote = fmt.Sprintf("the disk is full, and the %s that were kept back for this are in use now: free some space (carte image rm, then carte gc)", lab.Bytes(reserveSize))
