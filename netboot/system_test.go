package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// shelf is a KernelSource in memory.
type shelf map[chunk.ID]kernel

func (s shelf) Kernel(_ context.Context, root chunk.ID, _ int64) ([]byte, []byte, error) {
	k, ok := s[root]
	if !ok {
		return nil, nil, fmt.Errorf("it has no /boot/kernel: %w", lab.ErrInvalid)
	}
	return k.kernel, k.initrd, nil
}

// home is a HomeSink that keeps the last of everything.
type home struct {
	took []string
	fail error
}

func (h *home) Out(_ context.Context, b lab.Boot, tar io.Reader) error {
	all, err := io.ReadAll(tar)
	h.took = append(h.took, fmt.Sprintf("out of %d: %s", b.ID, all))
	return errors.Join(err, h.fail)
}

func (h *home) Back(_ context.Context, b lab.Boot, image string, tar io.Reader) (lab.Kept, error) {
	all, err := io.ReadAll(tar)
	h.took = append(h.took, fmt.Sprintf("%s of %d: %s", image, b.ID, all))
	return lab.Kept{Ref: lab.Ref{Name: image, Version: 2}}, errors.Join(err, h.fail)
}

// systems is a flight whose lab has kernels: live in memory, with an initrd; boot, in multiboot's way, without one; own, a
// tree with live as its kernel.
type systems struct {
	*flight
	home   *home
	stages string
}

var liveKernel, liveInitrd = bytes.Repeat([]byte("live kernel "), 50000), bytes.Repeat([]byte("live initrd "), 3000)

func newSystems(t *testing.T) *systems {
	f := newFlight(t)
	s := &systems{flight: f, home: &home{}, stages: filepath.Join(t.TempDir(), "stages")}
	kernels := shelf{chunk.ID{1}: {liveKernel, liveInitrd}, chunk.ID{2}: {[]byte("multiboot"), nil}}
	add := func(name string, root chunk.ID, form lab.Form, in lab.Inside) {
		say(t, f.lab, lab.AddVersion{Version: lab.Version{Image: name, Root: root, Bytes: 1 << 20, Inside: in}, Kind: "system", Form: form})
	}
	add("live", chunk.ID{1}, lab.FormKernel, lab.Inside{Starts: "linux"})
	add("multi", chunk.ID{2}, lab.FormKernel, lab.Inside{Starts: "multiboot"})
	add("empty", chunk.ID{3}, lab.FormKernel, lab.Inside{})
	add("tree", f.images[0].Root(), lab.FormTree, lab.Inside{})
	stack := func(name, cmdline string, start lab.Start, layers ...string) {
		st := lab.Stack{Name: name, Cmdline: cmdline, Start: start}
		for _, l := range layers {
			st.Layers = append(st.Layers, lab.Ref{Name: l})
		}
		say(t, f.lab, lab.PutStack{Stack: st})
	}
	stack("live", "quiet", "", "live")
	stack("multi", "console=com1", "", "multi")
	stack("empty", "", "", "empty")
	stack("bad", "a=1 && reboot", "", "live")
	stack("own", "hugepages=64", lab.StartNetboot, "tree", "live")
	stack("any", "", "", "tree", "live")
	f.server = start(t, Config{Lab: f.lab, Chunks: f.store, Kernels: kernels, Home: s.home, Stages: s.stages})
	return s
}

func (s *systems) get(path string) (int, string) {
	s.Helper()
	addr, _ := s.server.Addrs()
	res, err := http.Get("http://" + addr[0].String() + path)
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// script fetches a machine's script and wants words in it.
func (s *systems) script(m lab.Machine, query string, words ...string) {
	s.Helper()
	_, text := s.get("/boot/" + scriptName(m.MACs[0]) + query)
	for _, w := range words {
		if !strings.Contains(text, w) {
			s.Errorf("the script has no %q:\n%s", w, text)
		}
	}
}

// queue queues a stack on a new machine.
func (s *systems) queue(stack, machine string, v lab.Virtual) (lab.Machine, func() lab.Boot) {
	s.Helper()
	say(s.T, s.lab, lab.AddMachine{Name: machine, Virtual: &v}, lab.Queue{Machine: machine, Stack: stack})
	m := s.machine(machine)
	now, err := s.lab.Watch(s.Context(), 0)
	if err != nil {
		s.Fatal(err)
	}
	b, _ := now.LastBootOf(m.ID)
	return m, func() lab.Boot {
		now, err := s.lab.Watch(s.Context(), 0)
		if err != nil {
			s.Fatal(err)
		}
		return now.Boots[b.ID]
	}
}

func (s *systems) in(b lab.Boot, state lab.State, strikes int, words string) {
	s.Helper()
	if b.State != state || b.Strikes != strikes || !strings.Contains(b.Reason, words) {
		s.Errorf("boot %d of %s is %s after %d strikes because %q, want %s after %d because %q", b.ID, b.Plan.Stack, b.State, b.Strikes, b.Reason, state, strikes, words)
	}
}

// becomes waits until a boot is in a state: the server notes what it has sent when the client has it already.
func (s *systems) becomes(boot func() lab.Boot, state lab.State) {
	s.Helper()
	for b, rev := boot(), uint64(0); b.State != state; b = boot() {
		ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
		now, err := s.lab.Watch(ctx, rev)
		cancel()
		if rev = now.Rev; err != nil {
			s.Fatalf("%+v: %v", b, err)
		}
	}
}

// gives wants a path's answer, which has that text and no more.
func (s *systems) gives(path, want string) {
	s.Helper()
	if code, text := s.get(path); code != 200 || text != want {
		s.Errorf("%s: %d, %d bytes: %.40q", path, code, len(text), text)
	}
}

func kernelOf(m lab.Machine) string { return fmt.Sprintf("/system/kernel?m=%d", m.ID) }
func initrdOf(m lab.Machine) string { return fmt.Sprintf("/system/initrd?m=%d", m.ID) }

// agentOf is the agent of a machine that has claimed its orders, which have words in them.
func (s *systems) agentOf(m lab.Machine, words string) agent {
	s.Helper()
	a := s.agent()
	a.key = strings.Repeat("05", 32)
	a.want(200, words, "POST", lab.PathClaim, s.claimOf(m.Name, a.key))
	return a
}

// handsOver reports what an agent has done by the time at which the system begins.
func (a agent) handsOver(b lab.Boot) {
	a.t.Helper()
	for _, r := range []lab.Report{{Rung: lab.RungWrite, Writing: true}, {Rung: lab.RungHandover, Proven: true}} {
		r.Boot = b.ID
		a.want(200, "", "POST", lab.PathReport, mustJSON(r))
	}
}

// A kernel that runs in memory comes with its initrd and its own words, to its machine alone, and climbs the rungs.
func TestMemorySystem(t *testing.T) {
	s := newSystems(t)
	m, boot := s.queue("live", "vm-live", lab.Virtual{})
	s.gives(kernelOf(m), string(liveKernel)) // the machine is being started, and may
	s.script(m, "", "/system/kernel?m=3 initrd=initrd quiet ||", "initrd --name initrd http", "/system/initrd?m=3 ", lab.StartMark)
	for _, path := range []string{"/system/kernel", "/system/kernel?m=1", "/system/kernel?m=99", "/system/kernel?m=x", "/system/", "/system/kernel/?m=3", "/system/../kernel?m=3x", "/system/Kernel?m=3", "/system/token?m=3"} {
		if code, text := s.get(path); code != 404 || strings.Contains(text, "live") {
			t.Errorf("%s: %d %.40s", path, code, text)
		}
	}
	if s.gives(kernelOf(m), string(liveKernel)); boot().Rung() != lab.RungKernel {
		t.Errorf("on %s", boot().Rung())
	}
	s.in(boot(), lab.Starting, 0, "")
	s.gives(initrdOf(m), string(liveInitrd))
	s.becomes(boot, lab.Handover)
	if b := boot(); b.Rung() != lab.RungHandover || len(b.Climbed()) < 4 {
		t.Errorf("%+v", b.Climbed())
	}
	s.script(m, "?failed=1", "/system/kernel") // iPXE did not start it
	s.in(boot(), lab.Starting, 1, "")
	s.script(m, "?failed=1", "/system/kernel") // it has not even loaded it: the wire
	s.in(boot(), lab.Starting, 1, "")
}

// What a machine cannot start is refused with the reason, before it is given anything.
func TestSystemRefused(t *testing.T) {
	s := newSystems(t)
	for _, c := range []struct {
		stack, words string
		firmware     lab.Firmware
	}{
		{"multi", "multi@1 is a multiboot kernel, which iPXE starts under BIOS, and vm-multi has UEFI", lab.UEFI},
		{"empty", "it has no /boot/kernel", lab.BIOS},
		{"bad", `the word "&&"`, lab.BIOS},
	} {
		m, boot := s.queue(c.stack, "vm-"+c.stack, lab.Virtual{Firmware: c.firmware})
		s.script(m, "", "#!ipxe")
		s.in(boot(), lab.Failed, 0, c.words)
	}
	m, boot := s.queue("multi", "vm-bios", lab.Virtual{})
	s.script(m, "", kernelOf(m)+" console=com1 ||")
	s.in(boot(), lab.Starting, 0, "")
	s.gives(kernelOf(m), "multiboot")
	s.becomes(boot, lab.Handover)
}

// A second stage is taken from the agent that works, given to its machine's iPXE, and gone when the boot is over.
func TestStage(t *testing.T) {
	s := newSystems(t)
	m, boot := s.queue("own", "vm-own", lab.Virtual{})
	s.agent().want(401, "E-DENIED", "POST", lab.PathStage, []byte("stage"))
	a := s.agentOf(m, `"start":"netboot"`)
	a.want(400, "empty", "POST", lab.PathStage, nil)
	a.want(200, "", "POST", lab.PathStage, []byte("first try"))
	a.want(200, "", "POST", lab.PathStage, []byte("second stage"))
	if all, err := os.ReadDir(s.stages); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if code, _ := s.get(initrdOf(m)); code != 404 {
		t.Errorf("before the handover: %d", code)
	}
	a.handsOver(boot())
	a.want(401, "E-DENIED", "POST", lab.PathStage, []byte("too late"))
	s.script(m, "", "panic=10 hugepages=64 carte.server=https://", "carte.token=", initrdOf(m)+" ")
	s.gives(kernelOf(m), string(liveKernel))
	s.gives(initrdOf(m), "second stage")
	s.in(boot(), lab.Handover, 0, "")
	say(t, s.lab, lab.Stop{Boot: boot().ID})
	for giveUp := time.Now().Add(10 * time.Second); ; { // the lab has said so already, and the server does it any moment
		all, err := os.ReadDir(s.stages)
		if err != nil || time.Now().After(giveUp) {
			t.Fatalf("%v, %v", all, err)
		}
		if len(all) == 0 {
			return
		}
	}
}

// Where the stage was lost, the boot is tried again.
func TestStageLost(t *testing.T) {
	s := newSystems(t)
	m, boot := s.queue("own", "vm-own", lab.Virtual{})
	s.agentOf(m, "").handsOver(boot())
	s.script(m, "", fmt.Sprintf("/kernel?m=%d initrd=initrd", m.ID))
	s.in(boot(), lab.Starting, 1, "")
}

// A machine that could not replace its kernel, and restarts instead, is given the same by iPXE: its agent has sent the stage.
func TestKexecFallsBack(t *testing.T) {
	s := newSystems(t)
	m, boot := s.queue("any", "vm-any", lab.Virtual{})
	a := s.agentOf(m, `"fallback":true`)
	a.want(200, "", "POST", lab.PathStage, []byte("stage"))
	a.handsOver(boot())
	if code, _ := s.get(initrdOf(m)); code != 404 {
		t.Errorf("while it replaces its kernel: %d", code)
	}
	s.script(m, "", kernelOf(m)+" initrd=initrd")
	if b := boot(); b.Plan.Start != lab.StartNetboot || s.machine("vm-any").Kexec.Failed == "" {
		t.Errorf("it starts by %s, and of its machine is known %+v", b.Plan.Start, s.machine("vm-any").Kexec)
	}
	s.gives(initrdOf(m), "stage")
	s.in(boot(), lab.Handover, 0, "")
}

// What a running system sends home is its own, and a refusal reaches it.
func TestHome(t *testing.T) {
	s := newSystems(t)
	m, boot := s.queue("own", "vm-own", lab.Virtual{})
	a := s.agentOf(m, "")
	a.want(401, "E-DENIED", "POST", lab.PathOut, []byte("tar"))
	a.want(200, "", "POST", lab.PathStage, []byte("stage"))
	a.handsOver(boot())
	a.key = strings.Repeat("06", 32)
	a.want(200, `"do":"run"`, "POST", lab.PathClaim, s.claimOf("vm-own", a.key))
	a.want(200, "", "POST", lab.PathReport, mustJSON(lab.Report{Boot: boot().ID, Shim: true}))
	s.in(boot(), lab.Running, 0, "")
	a.want(200, "", "POST", lab.PathOut, []byte("results"))
	a.want(200, `{"ref":"user@2","same":false}`, "POST", lab.PathBack+"user", []byte("changes"))
	a.want(404, "E-NOT-FOUND", "POST", lab.PathBack, nil)
	a.want(404, "E-NOT-FOUND", "POST", lab.PathBack+"a/b", nil)
	s.home.fail = fmt.Errorf(`tree is not written back (clause "written back" of kind system): %w`, lab.ErrRefused)
	a.want(403, `clause \"written back\"`, "POST", lab.PathBack+"tree", nil)
	if want := fmt.Sprintf("out of %d: results|user of %[1]d: changes|tree of %[1]d: ", boot().ID); strings.Join(s.home.took, "|") != want {
		t.Errorf("%q, want %q", s.home.took, want)
	}
	say(t, s.lab, lab.PowerMachine{Machine: m.Name, Want: "off"})
}

func TestCommandLine(t *testing.T) {
	for words, good := range map[string]bool{
		"a=1 b=\"c d\" $x {y} x#y a||b -- --z": true, "": true,
		"a=${net0/mac}": false, "a #b": false, "a || b": false, "a && b": false, "a ; b": false,
		strings.Repeat("x", maxCommandLine): true, strings.Repeat("x", maxCommandLine+1): false,
	} {
		o := ownWords(lab.Script{Plan: lab.Plan{Start: lab.StartMemory, Cmdline: words}}, "", hosts{}, "")
		if err := o.check(); (err == nil) != good {
			t.Errorf("%.40q: %v", words, err)
		}
		if good && o.line() != strings.TrimSuffix(" "+words, " ") {
			t.Errorf("%q became %q", words, o.line())
		}
	}
}
