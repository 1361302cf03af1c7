package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// A mark is a flash that has begun to write and is not finished. It lies in the user's cache folder, so that the same flash
// may go on without a question: a chunk may be torn, which is then neither old nor new.
type mark struct {
	path   string   // of its file; empty: nothing is kept
	Target string   `json:"target"` // what the target is, wherever it is attached
	Root   chunk.ID `json:"root"`
	Asked  bool     `json:"confirmed"` // a person had confirmed that all may go
	there  bool     // it was found
}

// markOf is the mark for a target, found or new. A target that cannot be told from another, and a user without a folder,
// have none.
func markOf(t *target, o lab.Flash) mark {
	m := mark{Target: t.identity(), Root: o.Version.Root, Asked: o.Confirm != ""}
	dir, err := os.UserCacheDir()
	if err != nil || m.Target == "" {
		return m
	}
	sum := sha256.Sum256([]byte(m.Target))
	m.path = filepath.Join(dir, "carte", "unfinished", hex.EncodeToString(sum[:16]))
	b, err := os.ReadFile(m.path)
	was := mark{}
	if err != nil || json.Unmarshal(b, &was) != nil || was.Target != m.Target || was.Root != m.Root {
		return m
	}
	m.there, m.Asked = true, m.Asked || was.Asked
	return m
}

// set writes the mark down, so that it outlives a power cut.
func (m *mark) set() error {
	if m.path == "" {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(m.path); err == nil && bytes.Equal(have, b) {
		return nil
	}
	dir := filepath.Dir(m.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(dir)
}

// drop removes the mark.
func (m *mark) drop() error {
	if m.path == "" {
		return nil
	}
	if err := os.Remove(m.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// identity tells a target from any other: a file by its inode and age, a loop device by the file behind it, a disk by its serial
// number or world-wide name, and one that has neither by its number since this computer started. Empty: nobody can tell.
func (t *target) identity() string {
	if t.plain {
		return fileIdentity(t.file)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.file.Fd()), &st); err != nil {
		return ""
	}
	return here.identity(fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), t.size)
}

// fileIdentity has the time at which the file was made: its inode may have been another file's.
func fileIdentity(f *os.File) string {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return ""
	}
	return fmt.Sprintf("file %d:%d inode %d of %d.%09d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)
}

// identity tells a device of that number.
func (h host) identity(number string, size int64) string {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", number))
	if err != nil {
		return ""
	}
	part := ""
	if start, err := os.ReadFile(filepath.Join(dir, "start")); err == nil {
		part = ", from sector " + strings.TrimSpace(string(start))
		dir = filepath.Dir(dir)
	}
	what := ""
	name := filepath.Base(dir)
	if backing, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil {
		f, err := os.Open(strings.TrimSuffix(string(backing), "\n"))
		if err != nil {
			return ""
		}
		file := fileIdentity(f)
		if err := f.Close(); err != nil || file == "" {
			return ""
		}
		what = fmt.Sprintf("loop over %s, offset %s", file, h.line("block", name, "loop/offset"))
	} else if serial, wwn := h.serial(name), h.wwn(name); serial != "" || wwn != "" {
		what = "disk " + strconv.Quote(serial) + " " + strconv.Quote(wwn)
	} else if seq, err := os.ReadFile(filepath.Join(dir, "diskseq")); err == nil {
		boot, err := os.ReadFile(filepath.Join(h.proc, "sys/kernel/random/boot_id"))
		if err != nil {
			return ""
		}
		what = "disk " + strings.TrimSpace(string(seq)) + " of boot " + strings.TrimSpace(string(boot))
	} else {
		return ""
	}
	return fmt.Sprintf("%s%s, %d bytes", what, part, size)
}

// attached returns the loop device that has the file, if one has.
func (h host) attached(f *os.File) string {
	backing, _ := filepath.Glob(filepath.Join(h.sys, "block/loop*/loop/backing_file")) // the pattern is good
	mine, err := f.Stat()
	if err != nil {
		return ""
	}
	for _, b := range backing {
		path, err := os.ReadFile(b)
		if err != nil {
			continue
		}
		if st, err := os.Stat(strings.TrimSuffix(string(path), "\n")); err == nil && os.SameFile(st, mine) {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(b)))
		}
	}
	return ""
}
