package labtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"carte/agent"
	"carte/lab"
)

// A Sim is a simulated machine: firmware in a few lines, the real agent, and a plain file as its disk. It speaks to a
// real server over HTTP, as iPXE and the agent do, and has no operating system of its own.
type Sim struct {
	MAC  lab.MAC
	Disk Disk
	More []Disk // other disks that the machine has; none of them may ever be written
	Boot string // base URL of the server's boot scripts, http://ADDRESS:PORT

	Interval time.Duration                                                          // of the agent's reports
	Wrap     func(agent.Disk) agent.Disk                                            // stands between the agent and the disk
	Agent    func(*agent.Options)                                                   // last word on the agent's options
	Asked    atomic.Int64                                                           // boot scripts fetched
	Slowest  atomic.Int64                                                           // nanoseconds that the slowest script took
	Said     func(script string)                                                    // hears every script
	Rest     time.Duration                                                          // between two boots, 20 ms when 0
	Again    bool                                                                   // what it is sent to restarts it: it lives until it is turned off
	System   func(ctx context.Context, script string, args map[string]string) error // runs what iPXE loads that is not carte's own; nil: it ends with EndSystem
	HTTP     *http.Client                                                           // what firmware and agent ask with; nil: their own
}

// A Disk is a plain file that a Sim has as its disk.
type Disk struct {
	File string
	lab.DiskID
	Removable bool
	Contents  string
}

// What became of a simulated machine that was powered on.
const (
	EndLocal = "local" // it was sent to its own disk
	EndPivot = "pivot" // the agent started the user's system

	EndSystem = "system" // iPXE started the kernel of its boot's own plan
)

// PowerOn runs the machine until it would run something that is not carte's, and says what. It lives on through
// everything that a server does to it, as firmware does; only the end of ctx is an error.
func (s *Sim) PowerOn(ctx context.Context) (string, error) {
	for {
		end, err := s.once(ctx)
		if end != "" && !s.Again || ctx.Err() != nil {
			return end, ctx.Err()
		}
		_ = err // firmware: whatever went wrong, it starts again
		select {
		case <-time.After(max(s.Rest, 20*time.Millisecond)):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// once is one start: script, kernel, initrd, agent. An empty end means that the machine restarts.
func (s *Sim) once(ctx context.Context) (end string, err error) {
	begin := time.Now()
	script, err := s.fetch(ctx, s.Boot+"/boot/"+string(s.MAC)+".ipxe")
	if err != nil {
		return "", err
	}
	s.Asked.Add(1)
	for took := int64(time.Since(begin)); ; {
		if was := s.Slowest.Load(); took <= was || s.Slowest.CompareAndSwap(was, took) {
			break
		}
	}
	if s.Said != nil {
		s.Said(script)
	}
	args, files := parseScript(script)
	switch {
	case len(files) > 0:
	case strings.Contains(script, "sanboot"):
		return EndLocal, nil
	default:
		return "", errors.New("held")
	}
	for _, file := range files {
		if !strings.Contains(file, "://") {
			file = s.Boot + "/" + strings.TrimPrefix(file, "/")
		}
		if _, err := s.fetch(ctx, file); err != nil {
			return "", err
		}
	}
	if strings.Contains(script, lab.StartMark) {
		if s.System == nil {
			return EndSystem, nil
		}
		return "", s.System(ctx, script, args)
	}
	o := agent.Options{
		Server: args[lab.ArgServer], Pin: args[lab.ArgPin], Token: args[lab.ArgToken], Interval: s.Interval, HTTP: s.HTTP,
		Inventory: func() (lab.Inventory, error) { return s.inventory(), nil },
		OpenDisk:  func(id lab.DiskID) (agent.Disk, error) { return s.open(id, agent.OpenFile) },
		ReadDisk:  func(id lab.DiskID) (agent.Disk, error) { return s.open(id, agent.ReadFile) },
		Handover: func(_ context.Context, o lab.Orders) error {
			if o.Do == lab.DoBoot && o.Start == lab.StartPivot {
				end = EndPivot
			}
			return nil
		},
	}
	if s.Agent != nil {
		s.Agent(&o)
	}
	return end, agent.Run(ctx, o)
}

// fetch reads all that a URL has.
func (s *Sim) fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := s.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	var text strings.Builder
	keep := io.Writer(&text)
	if !strings.HasSuffix(url, ".ipxe") {
		keep = io.Discard
	}
	_, err = io.Copy(keep, resp.Body)
	return text.String(), err
}

// parseScript finds the kernel's arguments and the files to fetch in a boot script.
func parseScript(script string) (args map[string]string, files []string) {
	args = map[string]string{}
	for _, line := range strings.Split(script, "\n") {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "kernel" && words[0] != "initrd" {
			continue
		}
		rest := words[1:]
		for len(rest) > 1 && strings.HasPrefix(rest[0], "--") {
			rest = rest[2:]
		}
		files = append(files, rest[0])
		for _, w := range rest[1:] {
			if k, v, ok := strings.Cut(w, "="); ok && words[0] == "kernel" {
				args[k] = v
			}
		}
	}
	return args, files
}

func (s *Sim) inventory() lab.Inventory {
	inv := lab.Inventory{Vendor: "labtest", Product: "sim", Firmware: lab.BIOS, CPU: "simulated", Cores: 1, Threads: 1, NUMA: 1, MemoryBytes: 1 << 30,
		NICs: []lab.NIC{{MAC: s.MAC, Name: "eth0", Mbps: -1, Link: true}}}
	for i, d := range append([]Disk{s.Disk}, s.More...) {
		inv.Disks = append(inv.Disks, lab.Disk{DiskID: d.DiskID, Path: fmt.Sprintf("/dev/sim%d", i), BlockBytes: 512, Removable: d.Removable, Contents: d.Contents})
	}
	return inv
}

func (s *Sim) open(id lab.DiskID, with func(path string) (agent.Disk, error)) (agent.Disk, error) {
	var found []Disk
	for _, d := range append([]Disk{s.Disk}, s.More...) {
		if d.Is(id) {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d disks are %s: %w", len(found), id, lab.ErrRefused)
	}
	d, err := with(found[0].File)
	if err == nil && s.Wrap != nil {
		d = s.Wrap(d)
	}
	return d, err
}

// NewDisk makes a blank disk in a sparse file.
func NewDisk(file, serial string, bytes int64) (Disk, error) {
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	return Disk{File: file, DiskID: lab.DiskID{Serial: serial, Bytes: bytes}}, err
}
