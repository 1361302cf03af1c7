package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/lab/remote"
)

func (c *call) watchCommands() []entry {
	var follow bool
	var most int
	var wait waiting
	limit := func(f *pflag.FlagSet) { wait.limit(f, "5m") }
	return []entry{
		{use: "status", help: "show what the lab does, and what needs you", run: func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(d desk) error { return c.status(ctx, d) })
		}},
		{
			use: "log [MACHINE]", help: "show the log of a machine, or of all", streams: true,
			flags: func(f *pflag.FlagSet) {
				f.BoolVarP(&follow, "follow", "f", false, "go on as lines come")
				f.VarP(count{&most}, "lines", "n", "only the newest so many")
			},
			run: func(ctx context.Context, args []string) error {
				if follow && c.json && !c.jsonl {
					return fmt.Errorf("a log that goes on has no end, and --json is one document: --jsonl: %w", lab.ErrInvalid)
				}
				if !follow {
					return c.with(ctx, func(d desk) error { return c.log(ctx, d, args, follow, most) })
				}
				return c.live(func(d desk) error { return c.log(ctx, d, args, follow, most) })
			},
		},
		{
			use: "wait boot BOOT GOAL", help: "wait until a boot has reached a rung or a state, such as run or done", streams: true, flags: limit,
			run: func(ctx context.Context, args []string) error {
				if err := checkGoal(args[1]); err != nil {
					return err
				}
				return c.live(seeing(ctx, func(d desk, s lab.Snapshot) error {
					b, err := findBoot(s, args[0])
					if err != nil {
						return err
					}
					return c.follow(ctx, d, b.ID, waiting{args[1], wait.most})
				}))
			},
		},
		{
			use: "wait machine MACHINE GOAL", help: "wait until a machine is in a state, such as running, idle or off", streams: true, flags: limit,
			run: func(ctx context.Context, args []string) error {
				return c.live(func(d desk) error { return c.waitMachine(ctx, d, args[0], args[1], wait.most) })
			},
		},
		{use: "doctor", help: "look at what carte needs from this computer", run: func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(d desk) error { return c.doctor(ctx, d) })
		}},
		{use: "version", help: "show the version of this carte, and of the lab that runs", run: func(ctx context.Context, _ []string) error {
			return c.version(ctx)
		}},
	}
}

// count is a flag that takes a number from 1.
type count struct{ n *int }

func (c count) Set(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return fmt.Errorf("a number from 1: %w", lab.ErrInvalid)
	}
	*c.n = n
	return nil
}
func (count) Type() string { return "N" }
func (c count) String() string {
	if c.n == nil || *c.n == 0 {
		return ""
	}
	return strconv.Itoa(*c.n)
}

type lineDoc struct {
	At      time.Time `json:"at"`
	Machine string    `json:"machine,omitempty"`
	Source  string    `json:"source"`
	Text    string    `json:"text"`
	Lost    int64     `json:"lost,omitempty"` // lines before this one that were not kept
}

func (c *call) log(ctx context.Context, d desk, args []string, follow bool, most int) error {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	t := lab.Tail{Max: most}
	if len(args) > 0 {
		m, err := s.Find(args[0])
		if err != nil {
			return err
		}
		t.Machine = m.ID
	}
	docs := []lineDoc{}
	for {
		var lines []lab.Line
		var next, lost int64
		tail := func() (err error) {
			lines, next, lost, err = d.Tail(ctx, t)
			if errors.Is(err, lab.ErrUnreachable) {
				t.After = 0 // of the lab that comes after it
			}
			return err
		}
		if follow {
			err = c.again(ctx, tail)
		} else {
			err = tail()
		}
		if err != nil {
			return err
		}
		for _, l := range lines {
			if _, ok := s.Machines[l.Machine]; !ok && l.Machine != 0 { // newer than the picture
				if s, err = d.Watch(ctx, 0); err != nil {
					return err
				}
			}
			x := lineDoc{l.At, "", l.Source, l.Text, lost}
			if l.Machine != 0 {
				x.Machine = machineName(s, l.Machine)
			}
			lost = 0
			if c.json && !c.jsonl {
				docs = append(docs, x)
			} else if err := c.showLine(x); err != nil {
				return err
			}
		}
		if !follow {
			break
		}
		t.After, t.Max, t.Wait = next, 0, true
	}
	if c.json && !c.jsonl {
		return writeJSON(c.term.Out, struct {
			Lines []lineDoc `json:"lines"`
		}{docs})
	}
	return nil
}

func (c *call) showLine(x lineDoc) error {
	if c.jsonl {
		return writeJSON(c.term.Out, x)
	}
	if x.Lost > 0 {
		c.note("… %d lines not kept", x.Lost)
	}
	at := x.At.Local().Format("15:04:05.000")
	if c.term.Table {
		_, err := fmt.Fprintf(c.term.Out, "%s %-8s %-6s %s\n", at, or(x.Machine, "—"), x.Source, lab.Clean(x.Text))
		return err
	}
	return tabbed(c.term.Out, [][]string{{at, x.Machine, x.Source, x.Text}})
}

type statusDoc struct {
	State    string          `json:"state"` // the folder
	Running  bool            `json:"running"`
	Server   *remote.Version `json:"server,omitempty"`
	Services []lab.Service   `json:"services"`
	Machines map[string]int  `json:"machines"` // by state
	Boots    []bootDoc       `json:"boots"`    // that go on
	Waiting  int             `json:"waiting"`
	Images   int             `json:"images"`
	Stacks   int             `json:"stacks"`
	Results  outsDoc         `json:"results"` // that boots left, and that are here
	Needs    []lab.Alert     `json:"needs"`
}

func (c *call) status(ctx context.Context, d desk) error {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	doc := statusDoc{Running: d.running, Services: []lab.Service{}, Machines: map[string]int{}, Boots: []bootDoc{}, Waiting: len(s.QueueOf(0)), Images: len(s.Images), Stacks: len(s.Stacks), Needs: append([]lab.Alert{}, s.Alerts(c.term.Now())...)}
	if doc.State, err = c.stateDir(); err != nil {
		return err
	}
	for _, f := range settingsFinding(doc.State) {
		if !f.OK {
			doc.Needs = append(doc.Needs, lab.Alert{Sort: lab.AlertSettings, Who: f.What, Why: f.Why, Fix: f.Fix})
		}
	}
	lives := "no lab runs; carte serve starts one"
	if d.client != nil {
		v, err := d.client.Version(ctx)
		if err != nil {
			return err
		}
		doc.Server, lives = &v, fmt.Sprintf("runs in process %d, carte %s", v.PID, v.Version)
	}
	rows := [][]string{{"lab", lives}, {"state", doc.State}}
	for _, name := range sortedKeys(s.Services) {
		x := s.Services[name]
		doc.Services = append(doc.Services, x)
		rows = append(rows, []string{name, x.State + optional(", ", x.Note)})
	}
	for _, m := range s.SortedMachines() {
		doc.Machines[stateOf(s, m)]++
	}
	text := plural(len(s.Machines), "machine")
	for _, state := range sortedKeys(doc.Machines) {
		text += fmt.Sprintf(", %d %s", doc.Machines[state], state)
	}
	rows = append(rows, []string{"machines", text}, []string{"images", strconv.Itoa(doc.Images)}, []string{"stacks", strconv.Itoa(doc.Stacks)})
	for _, b := range s.SortedBoots() {
		if b.State != lab.Queued && !b.State.Final() {
			doc.Boots = append(doc.Boots, bootDocOf(s, b, c.term.Now()))
			rows = append(rows, []string{"boot", fmt.Sprintf("%d %s on %s: %s", b.ID, b.Plan.Stack, machineName(s, b.Machine), whereIs(b)+optional("; ", s.Why(b)))})
		}
	}
	rows = append(rows, []string{"queue", plural(doc.Waiting, "boot")})
	for _, b := range s.Outs() {
		doc.Results.add(b)
	}
	if doc.Results.Boots > 0 {
		rows = append(rows, []string{"results", doc.Results.String()})
	}
	for _, n := range doc.Needs {
		rows = append(rows, []string{"needs you", n.Who + ": " + n.Why + optional("; ", n.Fix)})
	}
	return c.show(list{doc: doc, rows: rows})
}

func optional(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

func (c *call) doctor(ctx context.Context, d desk) error {
	found, err := d.Doctor(ctx)
	if err != nil {
		return err
	}
	state, err := c.stateDir()
	if err != nil {
		return err
	}
	found = append(found, settingsFinding(state)...)
	l := list{
		doc: struct {
			Findings []lab.Finding `json:"findings"`
		}{append([]lab.Finding{}, found...)},
		head: []string{"", "WHAT", "WHY", "WHAT TO DO"},
	}
	bad := 0
	for _, f := range found {
		mark := "ok"
		if !f.OK {
			mark = "warn"
			if f.Must {
				mark, bad = "FAIL", bad+1
			}
			l.names = append(l.names, f.What)
		}
		l.rows = append(l.rows, []string{mark, f.What, f.Why, f.Fix})
	}
	if err := c.show(l); err != nil || bad == 0 {
		return err
	}
	return fmt.Errorf("%s that carte needs: %w", plural(bad, "thing")+" is missing", lab.ErrRefused)
}

func (c *call) version(ctx context.Context) error {
	type doc struct {
		Version string          `json:"version"`
		Server  *remote.Version `json:"server,omitempty"`
	}
	x := doc{Version: c.host.Version}
	rows := [][]string{{"carte", c.host.Version}}
	cl, err := c.dial()
	switch {
	case err == nil:
		defer cl.Close()
		v, err := cl.Version(ctx)
		if err != nil {
			return err
		}
		x.Server = &v
		rows = append(rows, []string{"lab", fmt.Sprintf("%s, process %d in %s", v.Version, v.PID, v.State)})
	case !errors.Is(err, lab.ErrUnreachable) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	return c.show(list{doc: x, names: []string{c.host.Version}, rows: rows})
}
