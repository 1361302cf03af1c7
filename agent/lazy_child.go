package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// LazyName is the name of the process that serves lazy layers. It lives from before they are mounted until they are whole;
// systemd-shutdown leaves alone whose name begins with @, and nothing else may end it: the system's root may be read through
// it.
const LazyName = "@carte-lazy"

// lazyMemory is how much that process may use before it collects its garbage harder.
const lazyMemory = 32 << 20

// lazyEnding is how long that process may take to end: it lets readers go, and gives its devices back.
const lazyEnding = 30 * time.Second

// lazyFilesAt is where its files are mounted, out of reach once the user's system runs.
const lazyFilesAt = "/carte/lazy"

// What it inherits behind its three standard files: its task, and a pipe for lazyWord, which it keeps open while it lives.
const (
	lazyTaskFD = 3 + iota
	lazyWordFD
)

// lazyTask says how the server is found, and what is to be laid where.
type lazyTask struct {
	Server, Pin, Key string
	Orders           lab.Orders                       // the writes that are Lazy are served
	Glance           bool                             // until end: what is read comes, and nothing else
	Say              func(format string, args ...any) `json:"-"` // takes what a person should know before they are; may be nil
}

// lazyWord is what the process says. The first that has Nodes or an Error is its last, but for an error.
type lazyWord struct {
	Said  string
	Nodes []string // the device of each write of the orders; empty where the write is not lazy
	Error string
}

// spawnLazy starts a process that serves the lazy layers of a task, and returns the path of the device of each write, empty
// for those that are not lazy. The process needs nothing of this one, nor of the initramfs, any more. end ends it, when
// what was mounted from those devices is unmounted again.
func spawnLazy(ctx context.Context, task lazyTask) (nodes []string, end func() error, err error) {
	text, err := json.Marshal(task)
	if err != nil {
		return nil, nil, err
	}
	memory, err := memfd("carte-lazy", text)
	if err != nil {
		return nil, nil, err
	}
	defer memory.Close()
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0) // what a crash prints
	if err != nil {
		out, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	words, said, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	p, err := os.StartProcess("/proc/self/exe", []string{LazyName}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{out, out, out, memory, said}, Sys: &syscall.SysProcAttr{Setsid: true}})
	said.Close()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("serve the lazy layers: %w", err), words.Close())
	}
	end = func() error {
		defer words.Close()
		if err := p.Signal(unix.SIGUSR1); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end the process of the lazy layers: %w", err)
		}
		words.SetReadDeadline(time.Now().Add(lazyEnding))
		if _, err := io.Copy(io.Discard, words); err != nil { // it holds its end while it lives
			return errors.Join(fmt.Errorf("the process of the lazy layers does not end: %w", err), p.Kill())
		}
		p.Wait() // unless process 1 was faster
		return nil
	}
	free := context.AfterFunc(ctx, func() { words.SetReadDeadline(time.Now()) })
	var word lazyWord
	for heard := json.NewDecoder(words); err == nil && word.Nodes == nil && word.Error == ""; {
		word = lazyWord{}
		if err = heard.Decode(&word); word.Said != "" && task.Say != nil {
			task.Say("%s", word.Said)
		}
	}
	free()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = fmt.Errorf("the process of the lazy layers ended at once; the kernel's log says why: %w", err)
	case word.Error != "":
		err = errors.New(word.Error)
	case len(word.Nodes) != len(task.Orders.Writes):
		err = errors.New("the process of the lazy layers serves others")
	default:
		return word.Nodes, end, nil
	}
	return nil, nil, errors.Join(err, end())
}

// anyLazy says whether some of what is laid is still to come.
func anyLazy(o lab.Orders) bool {
	for _, w := range o.Writes {
		if w.Lazy {
			return true
		}
	}
	return false
}

// withLazy starts the process that serves the lazy layers of a task, where there are any, and returns the machine as it is
// then: their devices stand for their partitions. end is spawnLazy's.
func (h host) withLazy(ctx context.Context, task lazyTask) (_ host, end func() error, err error) {
	if !anyLazy(task.Orders) {
		return h, func() error { return nil }, nil
	}
	if _, _, err := h.settle(ctx, task.Orders); err != nil {
		return h, nil, err
	}
	nodes, end, err := spawnLazy(ctx, task)
	if err != nil {
		return h, nil, fmt.Errorf("lazy layers: %w", err)
	}
	h.lazy = map[int64]string{}
	for i, node := range nodes {
		if node != "" {
			h.lazy[task.Orders.Writes[i].Offset] = node
		}
	}
	return h, end, nil
}

// Lazy is the life of the process that spawnLazy starts. It returns the code to exit with.
func Lazy() int {
	debug.SetMemoryLimit(lazyMemory)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE, unix.SIGTERM, unix.SIGQUIT)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGUSR1)
	defer stop()
	os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) // without it the system has no disk
	console := io.Writer(io.Discard)
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		console = f
	}
	l := &lazyLife{h: here, voice: &voice{console: console, log: discard}, words: os.NewFile(lazyWordFD, "word")}
	err := l.inherit()
	if err == nil {
		err = l.Run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		l.say("lazy layers: %v", err)
		l.tell(lazyWord{Error: err.Error()})
		return 1
	}
	return 0
}

// lazyLife is what that process does.
type lazyLife struct {
	*voice
	h      host
	task   lazyTask
	client *client
	words  *os.File

	mu      sync.Mutex
	nodes   []string
	waiting int // devices that are not there yet
	coming  int // layers that are not whole yet
}

func (l *lazyLife) inherit() error {
	f := os.NewFile(lazyTaskFD, "task")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 16*lab.MaxMessage))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, &l.task)
}

// tell says the one word; nobody may listen any more.
func (l *lazyLife) tell(w lazyWord) {
	if b, err := json.Marshal(w); err == nil {
		l.words.Write(append(b, '\n'))
	}
}

// Run serves the layers until all are whole and read without it, or ctx ends.
func (l *lazyLife) Run(ctx context.Context) (err error) {
	l.client, err = newClient(Options{Server: l.task.Server, Pin: l.task.Pin, Interval: time.Second, Plain: strings.HasPrefix(l.task.Server, "http:")}, l.voice)
	if err != nil {
		return err
	}
	l.client.key = l.task.Key
	var g group
	quiet := newLull()
	l.nodes = make([]string, len(l.task.Orders.Writes))
	for i, w := range l.task.Orders.Writes {
		if !w.Lazy {
			continue
		}
		d, err := l.open(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.Ref, err)
		}
		defer d.disk.Close()
		defer d.plain.Close()
		d.lull, d.glance = quiet, l.task.Glance
		d.zeroed()
		l.waiting++
		l.coming++
		g = append(g, func(ctx context.Context) error {
			ready := func(node string) { l.ready(i, node) }
			err := d.run(ctx, ready, l.whole)
			if why := (*unserved)(nil); errors.As(err, &why) && ctx.Err() == nil {
				return l.bring(ctx, d, why, ready)
			}
			return err
		})
	}
	return g.Run(ctx)
}

// open makes a lazy layer of the partition of w.
func (l *lazyLife) open(ctx context.Context, w lab.Write) (*lazyDevice, error) {
	disk, err := l.h.find(l.task.Orders.Disk)
	if err != nil {
		return nil, err
	}
	parts, err := l.h.partitions(disk.name)
	if err != nil {
		return nil, err
	}
	path, err := partitionFor(parts, w)
	if err != nil {
		return nil, err
	}
	m, err := l.client.Manifest(ctx, w.Root, w.Bytes)
	if err != nil {
		return nil, err
	}
	d, err := openShared(path)
	if err != nil {
		return nil, err
	}
	plain, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := os.MkdirAll(lazyFilesAt, 0o700); err != nil {
		return nil, errors.Join(err, d.Close(), plain.Close())
	}
	w.Offset = 0 // in its partition
	file := filepath.Join(lazyFilesAt, fmt.Sprintf("lazy-%s", w.Ref.Name))
	return &lazyDevice{lazy: openLazy(d, newPart(w, m), l.client, l.say), path: file, plain: plain}, nil
}

// ready takes the device of write i; with the last one the process says its word.
func (l *lazyLife) ready(i int, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[i] = node
	if l.waiting--; l.waiting == 0 {
		l.tell(lazyWord{Nodes: l.nodes})
	}
}

// whole is called for each layer that is on the disk and proven; with the last one the server is told.
func (l *lazyLife) whole(ctx context.Context) error {
	l.mu.Lock()
	l.coming--
	last := l.coming == 0
	l.mu.Unlock()
	if !last {
		return nil
	}
	if _, err := l.client.report(ctx, lab.Report{Boot: l.task.Orders.Boot, Shim: true, Proven: true}); err != nil && ctx.Err() == nil {
		l.say("the server does not hear that all is on the disk, it compares at the next boot: %v", err)
	}
	return context.Cause(ctx)
}

// openShared opens a partition for writing that others may have mounted, directly or through a mapped device.
func openShared(path string) (_ *device, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	d := &device{file: f}
	if d.size, d.block, err = measure(f); err == nil {
		d.direct, err = os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}
