package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"carte/lab"
	"carte/netboot/qemu"
)

// QEMU is the driver of virtual machines. Its machines are processes: they live no
// longer than Run.
type QEMU struct {
	// Dir holds a folder for each machine, named by its id, with its disk.
	Dir string
	// Boot is the address of the boot script for a machine on QEMU's own network,
	// where the host's loopback is 10.0.2.2.
	Boot func(m lab.Machine) string
	// Console takes the lines of m's serial console. It is called from one
	// goroutine a machine.
	Console func(m lab.Machine, lines []string)
	// Ended is told when a machine went off and nobody here had asked for it; err is
	// nil when its own system did it.
	Ended func(m lab.Machine, err error)

	once   sync.Once
	starts chan start

	mu      sync.Mutex
	running map[int64]*guest
	tools   qemu.Tools // empty until found
	accel   string
	why     string
}

var _ lab.PowerDriver = (*QEMU)(nil)

// guest is one power-on of one machine.
type guest struct {
	vm    *qemu.VM
	asked bool          // under QEMU.mu: it is to go off
	gone  chan struct{} // closed after it ended and Ended was told
	err   error         // why it ended; set before gone is closed
}

// start asks Run for a guest.
type start struct {
	machine lab.Machine
	guest   *guest
	lines   *lines
}

func (q *QEMU) init() {
	q.once.Do(func() {
		q.starts = make(chan start)
		q.running = map[int64]*guest{}
	})
}

// Run runs the machines that On starts, and returns when ctx has ended and all of
// them are off.
func (q *QEMU) Run(ctx context.Context) error {
	q.init()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-q.starts:
			heard := make(chan struct{})
			wg.Go(func() {
				s.lines.run()
				close(heard)
			})
			wg.Go(func() {
				err := s.guest.vm.Run(ctx)
				s.lines.close()
				<-heard // what a system said last counts before its end does
				q.end(ctx, s, err)
			})
		}
	}
}

func (q *QEMU) end(ctx context.Context, s start, err error) {
	q.mu.Lock()
	asked := s.guest.asked
	q.mu.Unlock()
	s.guest.err = err
	if !asked && ctx.Err() == nil && q.Ended != nil {
		q.Ended(s.machine, err)
	}
	// Only now may On start the next guest: its "on" must not be told before this
	// one's "off".
	q.unbook(s.machine.ID, s.guest)
}

// On starts m's process. It returns when QEMU runs, or with why it does not.
func (q *QEMU) On(ctx context.Context, m lab.Machine) error {
	if g := q.guest(m.ID); g != nil {
		select {
		case <-g.vm.Done(): // its end is being told
			if err := g.waitGone(ctx); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	spec, tools, err := q.spec(ctx, m)
	if err != nil {
		return err
	}
	if err := Fits(*m.Virtual); err != nil {
		return fmt.Errorf("%s cannot be switched on: it has %w", m.Label(), err)
	}
	out := newLines(func(l []string) {
		if q.Console != nil {
			q.Console(m, l)
		}
	})
	vm, err := qemu.New(tools, spec, out)
	if err != nil {
		return err
	}
	g := &guest{vm: vm, gone: make(chan struct{}), asked: true} // until it runs, its end is On's error
	if !q.book(m.ID, g) {
		return nil // another On was faster
	}
	select {
	case q.starts <- start{m, g, out}:
	case <-ctx.Done():
		q.unbook(m.ID, g)
		return ctx.Err()
	}
	select {
	case <-g.gone:
		return g.err
	case <-vm.Started():
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.mu.Lock()
	g.asked = false
	q.mu.Unlock()
	return err
}

func (q *QEMU) book(id int64, g *guest) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running[id] != nil {
		return false
	}
	q.running[id] = g
	return true
}

func (q *QEMU) unbook(id int64, g *guest) {
	q.mu.Lock()
	delete(q.running, id)
	q.mu.Unlock()
	close(g.gone)
}

func (g *guest) waitGone(ctx context.Context) error {
	select {
	case <-g.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Off pulls the plug.
func (q *QEMU) Off(ctx context.Context, m lab.Machine) error {
	g := q.guest(m.ID)
	if g == nil {
		return nil
	}
	q.mu.Lock()
	g.asked = true
	q.mu.Unlock()
	if err := g.vm.PowerOff(ctx); err != nil {
		return err
	}
	return g.waitGone(ctx)
}

// Cycle is Off and On, so that a changed setting counts from then on.
func (q *QEMU) Cycle(ctx context.Context, m lab.Machine) error {
	if err := q.Off(ctx, m); err != nil {
		return err
	}
	return q.On(ctx, m)
}

// State is on for a paused machine too: it has a process. A machine is off only once its end was told.
func (q *QEMU) State(_ context.Context, m lab.Machine) (string, error) {
	if q.guest(m.ID) == nil {
		return StateOff, nil
	}
	return StateOn, nil
}

// Type writes p to m's serial console.
func (q *QEMU) Type(m lab.Machine, p []byte) error {
	g := q.guest(m.ID)
	if g == nil {
		return fmt.Errorf("%s is off: %w", m.Label(), lab.ErrUnreachable)
	}
	_, err := g.vm.Write(p)
	return err
}

func (q *QEMU) guest(id int64) *guest {
	q.init()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running[id]
}

// spec makes a machine of the lab into one of QEMU.
func (q *QEMU) spec(ctx context.Context, m lab.Machine) (qemu.Spec, qemu.Tools, error) {
	if m.Virtual == nil || len(m.MACs) == 0 {
		return qemu.Spec{}, qemu.Tools{}, fmt.Errorf("%s is not a virtual machine: carte machine set %s power=manual: %w", m.Label(), m.Label(), lab.ErrInvalid)
	}
	mac, err := net.ParseMAC(string(m.MACs[0]))
	if err != nil {
		return qemu.Spec{}, qemu.Tools{}, errors.Join(err, lab.ErrInvalid)
	}
	tools, accel, err := q.found(ctx)
	if err != nil {
		return qemu.Spec{}, qemu.Tools{}, err
	}
	s := qemu.Spec{
		Name: m.Label(), Dir: filepath.Join(q.Dir, fmt.Sprint(m.ID)),
		Disk: m.Virtual.DiskBytes, Memory: m.Virtual.MemoryBytes, CPUs: m.Virtual.CPUs,
		UEFI: m.Virtual.Firmware == lab.UEFI,
		MAC:  mac, Serial: m.Virtual.Serial, UUID: m.UUID, Accel: accel,
	}
	if wire := m.Virtual.Wire; wire != "" && wire != "user" {
		s.Wire.Tap = wire
	} else if q.Boot != nil {
		s.Boot = q.Boot(m)
	}
	return s, tools, nil
}

// found looks for QEMU once it is needed, and remembers it once it was there.
func (q *QEMU) found(ctx context.Context) (qemu.Tools, string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.accel != "" {
		return q.tools, q.accel, nil
	}
	tools, err := qemu.Find(ctx)
	if err != nil {
		return qemu.Tools{}, "", err
	}
	accel, why := qemu.Accel(ctx, tools)
	if ctx.Err() != nil {
		return qemu.Tools{}, "", ctx.Err()
	}
	q.tools, q.accel, q.why = tools, accel, why
	return tools, accel, nil
}

// Accel returns what virtual machines run on, "kvm" or "tcg", and why. The first
// call takes up to 3 s. Without QEMU the error says how to install it.
func (q *QEMU) Accel(ctx context.Context) (accel, why string, err error) {
	_, accel, err = q.found(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	return accel, q.why, err
}
