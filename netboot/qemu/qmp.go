package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// monitor speaks QMP, QEMU's control protocol (docs/interop/qmp-spec): one JSON
// object a line. QEMU greets, wants qmp_capabilities, then answers commands by
// their id and tells events in between, which nobody needs here.
type monitor struct {
	conn net.Conn

	mu      sync.Mutex
	next    int64
	waiting map[int64]chan reply
	ended   bool
}

// reply is any line from QEMU.
type reply struct {
	ID     int64           `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Greeting json.RawMessage `json:"QMP"`
}

func newMonitor(conn net.Conn) *monitor {
	return &monitor{conn: conn, waiting: map[int64]chan reply{}}
}

// run reads until QEMU is gone and hands each answer to who waits for it. ready is
// called once, when commands are taken.
func (m *monitor) run(ready func()) error {
	defer m.end()
	r := bufio.NewReader(m.conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var p reply
		if err := json.Unmarshal(line, &p); err != nil {
			return fmt.Errorf("qmp: %q: %w", line, err)
		}
		switch {
		case p.Greeting != nil:
			if _, err := io.WriteString(m.conn, `{"execute":"qmp_capabilities","id":0}`+"\n"); err != nil {
				return err
			}
		case p.ID == 0 && p.Return != nil && ready != nil:
			ready()
			ready = nil
		default:
			m.deliver(p)
		}
	}
}

func (m *monitor) deliver(p reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.waiting[p.ID]; ok { // events have no id, 0 is nobody's
		delete(m.waiting, p.ID)
		c <- p // buffered, one answer each
	}
}

func (m *monitor) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for id, c := range m.waiting {
		delete(m.waiting, id)
		close(c)
	}
}

// execute says verb and waits for its answer, which is decoded into result unless
// that is nil. The error is io.EOF when QEMU is gone. QEMU answers "quit" before it
// quits.
func (m *monitor) execute(ctx context.Context, verb string, result any) error {
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return io.EOF
	}
	m.next++
	id, c := m.next, make(chan reply, 1)
	m.waiting[id] = c
	// A command is far smaller than the socket's buffer, so this does not block; it
	// is under the lock so that two commands do not mix.
	_, err := fmt.Fprintf(m.conn, `{"execute":%q,"id":%d}`+"\n", verb, id)
	m.mu.Unlock()
	if errors.Is(err, unix.EPIPE) {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	select {
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
		return fmt.Errorf("%s: %w", verb, ctx.Err())
	case p, ok := <-c:
		switch {
		case !ok:
			return io.EOF
		case p.Error != nil:
			return fmt.Errorf("%s: qemu: %s", verb, p.Error.Desc)
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(p.Return, result); err != nil {
			return fmt.Errorf("%s: %q: %w", verb, p.Return, err)
		}
		return nil
	}
}

// socketPair returns two connected stream sockets: ours as a connection, and one
// for a child to inherit. Close both.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for the %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours) // a duplicate
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}
