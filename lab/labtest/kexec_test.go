package labtest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/tui/cli"
)

// kexecInit says which way its kernel came: one from the server has a token for its second stage.
const kexecInit = `#!/bin/sh
echo "::carte metric netbooted=$(grep -c carte.token= /proc/cmdline)"
echo "::carte done"
exec /bin/busybox poweroff -f
`

// kexecBench is a virtual machine and a stack with a kernel of its own, which leaves open how that starts.
func kexecBench(t *testing.T, kernel func([]byte) []byte) (b *labtest.Bench, vms *labtest.VMs, m lab.Machine) {
	t.Helper()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	linux, err := p.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	b = labtest.New(t, netboot.Config{Payload: p})
	vms = labtest.NewVMs(t, b)
	loaded(t, b, busyboxSystem(t, kexecInit), lab.Import{Name: "base", Kind: "system", Form: lab.FormTree})
	loaded(t, b, tarOf(t, file{name: "boot/kernel", text: string(kernel(linux))}), lab.Import{Name: "own", Kind: "system", Form: lab.FormKernel})
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "k", Layers: []lab.Ref{{Name: "base"}, {Name: "own"}}}})
	return b, vms, labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 1 << 30}}).Machines[0]
}

// kexecEnds waits for the end of a boot whose kernel came from the server, and returns it.
func kexecEnds(t *testing.T, b *labtest.Bench, id int64) lab.Boot {
	t.Helper()
	x := labtest.UntilIn(t, b, labtest.Long, "the end of the boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	for _, l := range console(t, b, x.Machine) {
		if l.Source != "serial" {
			t.Logf("%s  %s: %s", l.At.Format("15:04:05.000"), l.Source, l.Text)
		}
	}
	if x.State != lab.Done || x.Plan.Start != lab.StartNetboot || x.Metrics["netbooted"].Value != 1 {
		t.Fatalf("boot %d is %s (%s), starts by %s, and said %+v", id, x.State, x.Reason, x.Plan.Start, x.Metrics)
	}
	off(t, b, labtest.Now(t, b).Machines[x.Machine])
	return x
}

// console is all that was logged of a machine.
func console(t *testing.T, b *labtest.Bench, machine int64) []lab.Line {
	t.Helper()
	lines, _, _, err := b.Tail(t.Context(), lab.Tail{Machine: machine, Max: 5000})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// onSerial counts the lines of a machine's serial console with those words.
func onSerial(t *testing.T, b *labtest.Bench, machine int64, words string) (n int) {
	t.Helper()
	for _, l := range console(t, b, machine) {
		if l.Source == "serial" && strings.Contains(l.Text, words) {
			n++
		}
	}
	return n
}

// shown is what carte shows a person.
func shown(t *testing.T, b *labtest.Bench, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	host := cli.Host{Version: "test", Open: func(context.Context, string) (lab.Desk, func() error, error) {
		return b, func() error { return nil }, nil
	}}
	term := cli.Terminal{In: strings.NewReader(""), Out: &out, Err: &out, Table: true, Env: func(string) string { return "" }, Now: time.Now}
	if code := cli.Run(t.Context(), host, term, append(args, "--state", t.TempDir())); code != 0 {
		t.Fatalf("carte %v: exit %d\n%s", args, code, out.String())
	}
	t.Logf("carte %v\n%s", args, out.String())
	return out.String()
}

// notedKexec checks that a boot and its machine tell that kexec failed, and why.
func notedKexec(t *testing.T, b *labtest.Bench, boot, why string) {
	t.Helper()
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"boot", "show", boot}, `kexec +failed: .*` + why + `.*; the server has its kernel instead`},
		{[]string{"machine", "show", "vm"}, `kexec +does not work: .*` + why + `.*; a stack's own kernel is netbooted`},
	} {
		if text := shown(t, b, x.args...); !regexp.MustCompile(x.want).MatchString(text) {
			t.Errorf("carte %v does not say %q", x.args, x.want)
		}
	}
}

// remembersKexec boots the stack once more: this time nobody tries to replace a kernel.
func remembersKexec(t *testing.T, b *labtest.Bench, m lab.Machine) {
	t.Helper()
	was := onSerial(t, b, m.ID, "Starting new kernel")
	x := kexecEnds(t, b, labtest.Boot(t, b, "k", "vm"))
	if x.Attempt != 1 || x.NoKexec != "" || onSerial(t, b, m.ID, "Starting new kernel") != was {
		t.Errorf("the next boot tries kexec again: attempt %d, %q", x.Attempt, x.NoKexec)
	}
}

// A machine whose kernel refuses to be replaced restarts, and has the stack's kernel from the server: in the same attempt. Its lab
// knows that of it from then on, and tells why.
func TestKexecRefused(t *testing.T) {
	t.Parallel()
	b, vms, m := kexecBench(t, func(linux []byte) []byte { return linux })
	proxied(t, vms, func(script string) string {
		return regexp.MustCompile(`(?m)^kernel http://[^/]*/kernel\?m=\d+`).ReplaceAllString(script, "$0 sysctl.kernel.kexec_load_disabled=1")
	})
	x := kexecEnds(t, b, labtest.Boot(t, b, "k", "vm"))
	if x.Attempt != 1 || x.Strikes != 0 || !strings.Contains(x.NoKexec, "operation not permitted") {
		t.Errorf("it took %d attempts, %d strikes: %q", x.Attempt, x.Strikes, x.NoKexec)
	}
	notedKexec(t, b, "1", "operation not permitted")
	remembersKexec(t, b, m)
}

// proxied changes the boot scripts that virtual machines are given. Nothing else of a lab lets a test add to the line of carte's own
// kernel.
func proxied(t *testing.T, vms *labtest.VMs, change func(string) string) {
	t.Helper()
	of := vms.Boot
	var to string // the lab's own HTTP
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(to + r.URL.RequestURI())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		script, _ := io.ReadAll(resp.Body)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.WriteString(w, change(string(script)))
	}))
	t.Cleanup(s.Close)
	vms.Boot = func(m lab.Machine) string {
		u, err := url.Parse(of(m))
		if err != nil {
			return ""
		}
		to = "http://" + net.JoinHostPort("127.0.0.1", u.Port())
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		u.Host = net.JoinHostPort(u.Hostname(), port)
		return u.String()
	}
}

// A kernel that is loaded, jumped to and never heard of again costs an attempt: the lab switches the machine off and on, has its
// server give the kernel from then on, and tells why.
func TestKexecNeverComesBack(t *testing.T) {
	t.Parallel()
	b, vms, m := kexecBench(t, func(linux []byte) []byte { return hangsAfterKexec(t, linux) })
	id := labtest.Boot(t, b, "k", "vm")
	vms.Expect(t, m, 0, "Starting new kernel")
	x := labtest.Now(t, b).Boots[id]
	if x.State != lab.Handover || x.Plan.Start != lab.StartKexec || x.Rung() != lab.RungHandover {
		t.Errorf("before its time is over the boot is %s on %s and starts by %s", x.State, x.Rung(), x.Plan.Start)
	}
	run, _ := lab.StepOf(lab.RungRun)
	b.Pass(run.Limit + time.Second)
	x = kexecEnds(t, b, id)
	if x.Attempt != 2 || x.Strikes != 1 || !strings.Contains(x.NoKexec, "no sign of life") {
		t.Errorf("it took %d attempts, %d strikes: %q", x.Attempt, x.Strikes, x.NoKexec)
	}
	// The agent's, the agent's again, and its own from the server. The one that was jumped to has printed nothing.
	if n := onSerial(t, b, m.ID, "Linux version"); n != 3 {
		t.Errorf("%d kernels began, want 3", n)
	}
	notedKexec(t, b, "1", "no sign of life")
	remembersKexec(t, b, m)
}

// hangsAfterKexec changes a kernel so that it stands still where another kernel has started it: its 64-bit entry, through which all
// go that are not EFI's, compares who loaded it (boot_params.hdr.type_of_loader) with what kexec_file_load writes there, and
// turns on the spot. The instructions that make room set segments to 0 which they need not be (Linux:
// Documentation/arch/x86/boot.rst, arch/x86/boot/compressed/head_64.S, arch/x86/kernel/kexec-bzimage64.c).
func hangsAfterKexec(t *testing.T, linux []byte) []byte {
	t.Helper()
	was := []byte{0xfc, 0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8} // cld; cli; xor %eax,%eax; mov %eax,%ds, es, ss, fs, gs
	now := []byte{0xfc, 0xfa, 0x80, 0xbe, 0x10, 0x02, 0, 0, 0xd0, 0x74, 0xfe, 0x90, 0x90, 0x90}       // cld; cli; cmpb $0xd0,0x210(%rsi); je .; nop; nop; nop
	at := (int(linux[0x1f1])+1)*512 + 0x200
	if !bytes.Equal(linux[at:at+len(was)], was) {
		t.Fatalf("the kernel's 64-bit entry is % x, and this test knows % x", linux[at:at+len(was)], was)
	}
	changed := bytes.Clone(linux)
	copy(changed[at:], now)
	return changed
}
