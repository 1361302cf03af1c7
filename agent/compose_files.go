package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// openIn opens a path in a tree at root as it would be if root were /: links lead where they lead then, and nothing leads out.
func openIn(root, name string, flags uint64) (fd int, err error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
}

// makeDir makes a directory in the tree at root, with those above it, and returns where it is: a path that has no links and
// begins with root.
func makeDir(root, name string, mode uint32) (at string, err error) {
	done := "/"
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		next := path.Join(done, part)
		fd, err := openIn(root, next, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) {
			above, e := openIn(root, done, unix.O_PATH|unix.O_DIRECTORY)
			if e != nil {
				return "", fmt.Errorf("%s: %w", done, e)
			}
			if err = unix.Mkdirat(above, part, mode); err == nil {
				err = likeFolder(above, part)
			}
			unix.Close(above)
			if err == nil {
				fd, err = openIn(root, next, unix.O_PATH|unix.O_DIRECTORY)
			}
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", next, err)
		}
		at, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		if err != nil {
			return "", err
		}
		done = next
	}
	return at, nil
}

// likeFolder gives what was made in an open directory the owner of that directory: what is in somebody's home is theirs.
func likeFolder(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// writeTexts writes files into the tree at root. One that is there is replaced; a link there is followed.
func writeTexts(root string, all []lab.TextFile) error {
	for _, f := range all {
		if err := writeText(root, f); err != nil {
			return fmt.Errorf("write %s into the system: %w", f.Path, err)
		}
	}
	return nil
}

func writeText(root string, f lab.TextFile) error {
	dir, err := makeDir(root, path.Dir(f.Path), 0o755)
	if err != nil {
		return err
	}
	fd, err := openIn(root, f.Path, unix.O_WRONLY|unix.O_TRUNC)
	if errors.Is(err, unix.ENOENT) {
		fd, err = create(dir, path.Base(f.Path))
	}
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), f.Path)
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	_, err = file.WriteString(f.Text)
	return errors.Join(err, unix.Fchmod(fd, mode), file.Close())
}

// create makes a file in a directory.
func create(dir, name string) (fd int, err error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	fd, err = unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return -1, errors.New("a link is there that leads nowhere")
	}
	if err != nil {
		return -1, err
	}
	if err := likeFolder(at, name); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
