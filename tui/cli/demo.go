package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"carte/lab"
	"carte/lab/remote"
)

const (
	demoMachine = "vm-1"
	demoName    = "demo" // of the image and of the stack
	demoDisk    = 256 << 20
	demoMemory  = 1 << 30
	demoTimeout = 15 * time.Minute
)

type demoOptions struct {
	headless bool
	firmware string
	timeout  time.Duration
}

// demoDoc is the one document of carte demo --json.
type demoDoc struct {
	OK      bool                 `json:"ok"`
	Machine string               `json:"machine"`
	Boot    demoBoot             `json:"boot"`
	Metrics map[string]metricDoc `json:"metrics"`
	Seconds float64              `json:"seconds"` // from the order to the end
}

type demoBoot struct {
	ID     int64     `json:"id"`
	State  lab.State `json:"state"`
	Reason string    `json:"reason,omitempty"`
	Rungs  []rungDoc `json:"rungs"`
	lab.Moved
}

// demo runs the demo in a lab of its own.
func (c *call) demo(ctx context.Context, o demoOptions) error {
	if f := lab.Firmware(o.firmware); f != lab.BIOS && f != lab.UEFI {
		return fmt.Errorf("--firmware %q is neither bios nor uefi: %w", o.firmware, lab.ErrInvalid)
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout %s: a time from 1s: %w", o.timeout, lab.ErrInvalid)
	}
	o.headless = o.headless || c.json
	if !o.headless && (!c.term.Asks || !c.term.Table) {
		return fmt.Errorf("the screen needs a terminal; carte demo --headless works without one: %w", lab.ErrInvalid)
	}
	state, err := c.demoDir()
	if err != nil {
		return err
	}
	c.state = state
	run := func(ctx context.Context, d lab.Desk, own bool) error {
		id, err := c.demoBoot(ctx, d, o)
		if err != nil {
			return err
		}
		if o.headless {
			return c.demoWait(ctx, d, id, o.timeout)
		}
		return c.host.Screen(ctx, d, c.screenOptions(demoName, fmt.Sprintf("machines/%s/boot/%d", demoMachine, id), own))
	}
	cl, err := remote.Dial(state)
	switch {
	case err == nil:
		defer cl.Close()
		return run(ctx, cl, false)
	case !errors.Is(err, lab.ErrUnreachable):
		return err
	}
	cfg, err := settings(state, LabConfig{})
	if err != nil {
		return err
	}
	serve := ServeOptions{State: state, Config: cfg}
	return c.host.Serve(ctx, serve, func(ctx context.Context, d lab.Desk) error { return run(ctx, d, true) })
}

// demoDir is --state, or a folder beside the lab's own.
func (c *call) demoDir() (string, error) {
	dir, err := c.stateDir()
	if err != nil || c.state != "" || c.term.Env("CARTE_STATE") != "" {
		return dir, err
	}
	return filepath.Join(filepath.Dir(dir), "carte-demo"), nil
}

// demoBoot makes what the demo needs, as far as it is not there, and queues a boot.
func (c *call) demoBoot(ctx context.Context, d lab.Desk, o demoOptions) (int64, error) {
	if err := c.demoReady(ctx, d); err != nil {
		return 0, err
	}
	r, err := c.host.DemoImage(ctx)
	if err != nil {
		return 0, err
	}
	i := lab.Import{Name: demoName, Kind: "system", Form: lab.FormTree, Message: "carte's own", File: "demo.ext4"}
	_, err = d.Import(ctx, r, i, nil)
	if err = errors.Join(err, r.Close()); err != nil {
		return 0, err
	}
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return 0, err
	}
	if _, ok := s.Stacks[demoName]; !ok {
		if _, err := d.Say(ctx, lab.NewStack{Name: demoName, Layers: []lab.Ref{{Name: demoName}}}); err != nil {
			return 0, err
		}
	}
	if err := demoVM(ctx, d, s, lab.Firmware(o.firmware)); err != nil {
		return 0, err
	}
	b, _, err := queueBoot(ctx, desk{Desk: d}, demoName, demoMachine)
	return b.ID, err
}

// demoReady says at once, and not after minutes, what is missing.
func (c *call) demoReady(ctx context.Context, d lab.Desk) error {
	found, err := d.Doctor(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.Must && !f.OK {
			return &missing{f}
		}
	}
	return nil
}

// missing is a finding that nothing goes without.
type missing struct{ f lab.Finding }

func (m *missing) Error() string {
	text := m.f.What + ": " + m.f.Why
	if strings.Contains(text, m.f.Fix) {
		return text
	}
	return text + "\nwhat to do: " + m.f.Fix
}
func (m *missing) Unwrap() error { return lab.ErrRefused }
func (m *missing) Fix() []string { return []string{m.f.Fix} }

// demoVM adds the virtual machine, or sees to it that the one there is may boot and has the firmware that was asked for.
func demoVM(ctx context.Context, d lab.Desk, s lab.Snapshot, firmware lab.Firmware) error {
	m, err := s.Find(demoMachine)
	if err == nil && m.Virtual != nil && m.Virtual.Firmware != firmware {
		if _, err := d.Say(ctx, lab.Forget{Machine: demoMachine, Confirm: demoMachine}); err != nil {
			return err
		}
		err = lab.ErrNotFound
	}
	if err == nil && m.Virtual != nil && m.Virtual.Firmware == firmware {
		if m.Parked != "" {
			_, err = d.Say(ctx, lab.SetMachine{Machine: demoMachine, Values: map[string]string{"parked": "no"}})
		}
		return err
	}
	_, err = d.Say(ctx, lab.AddMachine{Name: demoMachine, Virtual: &lab.Virtual{DiskBytes: demoDisk, MemoryBytes: demoMemory, Firmware: firmware}})
	return err
}

// demoWait waits for the boot's end and shows what it came to.
func (c *call) demoWait(ctx context.Context, d lab.Desk, id int64, timeout time.Duration) error {
	b, _, err := c.waitBoot(ctx, d, id, string(lab.Done), timeout)
	if err == nil && len(b.Metrics) == 0 {
		err = fmt.Errorf("boot %d is done, and its system measured nothing", id)
	}
	if b.ID == 0 {
		return err
	}
	end := b.Ended
	if end.IsZero() {
		end = c.term.Now()
	}
	doc := demoDoc{
		OK: err == nil, Machine: demoMachine, Metrics: metricsOf(b), Seconds: end.Sub(b.Queued).Seconds(),
		Boot: demoBoot{ID: id, State: b.State, Reason: b.Reason, Rungs: rungsOf(b), Moved: b.Moved},
	}
	rows := [][]string{{"boot " + strconv.FormatInt(id, 10), fmt.Sprintf("%s after %s", b.State, took(doc.Seconds))}}
	for _, name := range sortedKeys(doc.Metrics) {
		rows = append(rows, []string{name, strings.TrimSpace(fmt.Sprintf("%v %s", doc.Metrics[name].Value, doc.Metrics[name].Unit))})
	}
	if m := b.Moved; m.Total > 0 {
		rows = append(rows, []string{"disk", fmt.Sprintf("read %s, fetched %s, wrote %s of %s", lab.Bytes(m.Read), lab.Bytes(m.Fetched), lab.Bytes(m.Written), lab.Bytes(m.Total))})
	}
	return errors.Join(c.show(list{doc: doc, names: []string{strconv.FormatInt(id, 10)}, rows: rows}), err)
}
