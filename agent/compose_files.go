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
			err = unix.Mkdirat(above, part, mode)
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
		fd, err = unix.Open(path.Join(dir, path.Base(f.Path)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EEXIST) {
			err = errors.New("a link is there that leads nowhere")
		}
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
