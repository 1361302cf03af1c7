package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"carte/lab"
)

// maxSocketPath is the longest path that is used as it is. The kernel takes 107 bytes (unix(7), sun_path).
const maxSocketPath = 100

// reach calls do with a path to a file of the folder that is short enough for a socket: through the folder's open file
// descriptor where the real path is not.
func reach(dir, name string, do func(path string) error) error {
	path := filepath.Join(dir, name)
	if len(path) <= maxSocketPath {
		return do(path)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
}

// connect opens a connection to the lab of a state folder.
func connect(ctx context.Context, dir string) (c net.Conn, err error) {
	err = reach(dir, SocketName, func(path string) error {
		c, err = new(net.Dialer).DialContext(ctx, "unix", path)
		return err
	})
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, fmt.Errorf("the lab in %s belongs to another user: %w", dir, lab.ErrDenied)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no lab runs in %s; carte serve starts one: %w", dir, lab.ErrUnreachable)
	}
	return nil, fmt.Errorf("the lab in %s: %v: %w", dir, err, lab.ErrUnreachable)
}

// listen makes the socket of a state folder. One that is left over is replaced; one that answers is not.
func listen(dir string) (*net.UnixListener, error) {
	if c, err := connect(context.Background(), dir); err == nil {
		c.Close()
		return nil, fmt.Errorf("a lab runs in %s already; carte attaches to it, carte --state DIR takes another: %w", dir, lab.ErrBusy)
	} else if errors.Is(err, lab.ErrDenied) {
		return nil, err
	}
	// Made under another name, closed to others, then moved: nobody ever meets a socket that is half made.
	temp := fmt.Sprintf(".%s.%d", SocketName, os.Getpid())
	path := filepath.Join(dir, temp)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	var ln *net.UnixListener
	err := reach(dir, temp, func(short string) (err error) {
		ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket in %s: %w", dir, err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(path, 0o600); err == nil {
		err = os.Rename(path, filepath.Join(dir, SocketName))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket in %s: %w", dir, err), ln.Close(), os.Remove(path))
	}
	return ln, nil
}

// peerUID asks the kernel whose process is at the other end (unix(7), SO_PEERCRED).
func peerUID(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	if ctl := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); ctl != nil {
		return 0, ctl
	}
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
