package agent

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// besideConsole writes to the machine's consoles while others own them. A getty hangs up what was open before it came, so
// they are opened anew when they fail; and nobody waits for a line that is held up.
type besideConsole struct {
	mu    sync.Mutex
	names []string
	open  map[string]*os.File
}

func newBesideConsole() *besideConsole {
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	names := strings.Fields(string(active))
	if len(names) == 0 {
		names = []string{"console"}
	}
	return &besideConsole{names: names, open: map[string]*os.File{}}
}

func (c *besideConsole) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := []byte(strings.ReplaceAll(string(b), "\n", "\r\n")) // the line may be raw: somebody edits a command on it
	for _, name := range c.names {
		for range 2 {
			if c.write(name, text) == nil {
				break
			}
		}
	}
	return len(b), nil
}

func (c *besideConsole) write(name string, b []byte) (err error) {
	f := c.open[name]
	if f == nil {
		if f, err = os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		c.open[name] = f
	}
	f.SetWriteDeadline(time.Now().Add(time.Second)) // what cannot have one is not held up
	if _, err = f.Write(b); err != nil {
		f.Close()
		delete(c.open, name)
	}
	return err
}
