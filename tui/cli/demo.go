package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"carte/lab"
	"carte/lab/remote"
)

const (
	demoName    = "demo" // of the image and of the stack
	demoDisk    = 256 << 20
	demoMemory  = 1 << 30
	demoTimeout = 15 * time.Minute
)

// demoMachines are the demo's: the first that runs it has the firmware of the first demo, the other the other one.
var demoMachines = []string{"vm-1", "vm-2"}

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
		machine, id, err := c.demoBoot(ctx, d, o)
		if err != nil {
			return err
		}
		if o.headless {
			return c.demoWait(ctx, d, machine, id, o.timeout)
		}
		return c.host.Screen(ctx, d, c.screenOptions(demoName, fmt.Sprintf("machines/%s/boot/%d", machine, id), own))
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
func (c *call) demoBoot(ctx context.Context, d lab.Desk, o demoOptions) (machine string, id int64, err error) {
	if err := c.demoReady(ctx, d); err != nil {
		return "", 0, err
	}
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return "", 0, err
	}
	if machine, err = demoVM(ctx, d, s, lab.Firmware(o.firmware)); err != nil {
		return "", 0, err
	}
	r, err := c.host.DemoImage(ctx)
	if err != nil {
		return "", 0, err
	}
	i := lab.Import{Name: demoName, Kind: "system", Form: lab.FormTree, Message: "carte's own", File: "demo.ext4"}
	_, err = d.Import(ctx, r, i, nil)
	if err = errors.Join(err, r.Close()); err != nil {
		return "", 0, err
	}
	if _, ok := s.Stacks[demoName]; !ok {
		if _, err := d.Say(ctx, lab.PutStack{Stack: lab.Stack{Name: demoName, Layers: []lab.Ref{{Name: demoName}}}}); err != nil {
			return "", 0, err
		}
	}
	b, _, err := queueBoot(ctx, desk{Desk: d}, lab.Queue{Machine: machine, Stack: demoName})
	return machine, b.ID, err
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

// demoVM finds the demo's virtual machine of that firmware, adds it when it is not there, and sees to it that it may boot.
// What is not the demo's own is never changed: a lab that has it refuses the demo.
func demoVM(ctx context.Context, d lab.Desk, s lab.Snapshot, firmware lab.Firmware) (name string, err error) {
	if err := demoOnly(s); err != nil {
		return "", err
	}
	free := ""
	for _, name := range demoMachines {
		m, err := s.Find(name)
		switch {
		case err != nil:
			free = or(free, name)
		case m.Virtual.Firmware == firmware && m.Parked != "":
			_, err = d.Say(ctx, lab.SetMachine{Machine: name, Values: map[string]string{"parked": "no"}})
			return name, err
		case m.Virtual.Firmware == firmware:
			return name, nil
		}
	}
	if free == "" { // two names, two firmwares
		return "", fmt.Errorf("%v are there already, and none has the firmware %s: %w", demoMachines, firmware, lab.ErrBusy)
	}
	_, err = d.Say(ctx, lab.AddMachine{Name: free, Virtual: &lab.Virtual{DiskBytes: demoDisk, MemoryBytes: demoMemory, Firmware: firmware}})
	return free, err
}

// demoOnly refuses a lab in which somebody else works: one with other machines, or with another image or stack of the
// demo's name.
func demoOnly(s lab.Snapshot) error {
	refuse := func(what string) error {
		return fmt.Errorf("this lab has %s, and the demo changes nothing that is not its own; without --state and CARTE_STATE it has a lab of its own: %w", what, lab.ErrRefused)
	}
	for _, m := range s.SortedMachines() {
		if m.Standing == lab.Adopted && !demoOwn(m) {
			return refuse("the machine " + m.Label())
		}
	}
	if i, ok := s.Images[demoName]; ok && i.Form != lab.FormTree {
		return refuse("another image " + demoName)
	}
	if st, ok := s.Stacks[demoName]; ok && (len(st.Layers) != 1 || st.Layers[0] != lab.Ref{Name: demoName}) {
		return refuse("another stack " + demoName)
	}
	return nil
}

// demoOwn says whether a machine is one that the demo added.
func demoOwn(m lab.Machine) bool {
	if v := m.Virtual; !slices.Contains(demoMachines, m.Name) || v == nil || v.DiskBytes != demoDisk || v.MemoryBytes != demoMemory || v.CPUs != 1 || v.Wire != "user" {
		return false
	}
	return !slices.ContainsFunc(m.Holds, func(h lab.Holding) bool { return h.Ref.Name != demoName })
}

// demoWait waits for the boot's end and shows what it came to.
func (c *call) demoWait(ctx context.Context, d lab.Desk, machine string, id int64, timeout time.Duration) error {
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
		OK: err == nil, Machine: machine, Metrics: metricsOf(b), Seconds: end.Sub(b.Queued).Seconds(),
		Boot: demoBoot{ID: id, State: b.State, Reason: b.Reason, Rungs: rungsOf(b, end), Moved: b.Moved},
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
