package labtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// netnsEnv names the test that runs inside a namespace.
const netnsEnv = "CARTE_TEST_NETNS"

// Netns runs f in a network namespace of its own, with nothing in it but a loopback
// that is up, so that real DHCP servers and clients can meet without anybody else
// hearing them. The namespace ends with f.
//
// It starts the test binary again for this one test; call it first in the test, with
// all the rest in f. Root is not needed where the kernel lets users make namespaces;
// where it does not, the test is skipped with the kernel's reason.
func Netns(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getenv(netnsEnv) == t.Name() {
		// Some systems let anybody make a user namespace and then give it no rights
		// (Ubuntu's AppArmor profile): this is where it shows.
		if err := up("lo"); errors.Is(err, fs.ErrPermission) {
			Lacking(t, fmt.Sprintf("no rights in a new network namespace: %v", err))
		} else if err != nil {
			t.Fatal(err)
		}
		f(t)
		return
	}
	// The child is to die with us, and its parent is a thread: see qemu.VM.Run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.count=1",
		"-test.run="+exactly(t.Name()), fmt.Sprintf("-test.short=%v", testing.Short()), "-test.timeout="+remaining(t))
	cmd.Env = append(os.Environ(), netnsEnv+"="+t.Name())
	cmd.SysProcAttr = namespace()
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		Lacking(t, fmt.Sprintf("this system forbids a network namespace: %v", err))
	}
	t.Logf("in its namespace:\n%s", out)
	switch {
	case err != nil:
		t.Fatalf("the test failed in its namespace: %v", err)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		t.Skip("skipped in its namespace; the reason is above")
	case !strings.Contains(string(out), "--- PASS: "+t.Name()+" "):
		t.Fatal("the test did not run in its namespace")
	}
}

// namespace: root needs no user namespace, and then keeps its real rights (a tap, a
// loop device); anybody else becomes root of one.
func namespace() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// exactly is the pattern of -test.run that fits one test, or one subtest, alone.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return strings.Join(parts, "/")
}

// remaining is the time that t still has, a little less, so that the inner test
// tells where it stood.
func remaining(t *testing.T) string {
	end, ok := t.Deadline()
	if !ok {
		return "0"
	}
	return max(time.Until(end)-5*time.Second, time.Second).String()
}

// A Wire is an Ethernet switch in the namespace of the test.
type Wire struct {
	// Name is the server's interface, plugged into the switch.
	Name  string
	ports int
}

// NewWire makes a switch whose own end is the interface name with the address addr:
// where the server under test listens. Cleanup takes it away.
func NewWire(t *testing.T, name string, addr netip.Prefix) *Wire {
	t.Helper()
	if os.Getenv(netnsEnv) == "" {
		t.Fatal("BUG: a wire outside Netns would be in everybody's network")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	a, err := netlink.ParseAddr(addr.String())
	must(t, err)
	must(t, netlink.AddrAdd(bridge, a))
	bare(t, name)
	must(t, up(name))
	return &Wire{Name: name}
}

// Port plugs a new interface into the switch and returns its name: a client's
// interface, or the end for a Cable. It is up and has no address.
func (w *Wire) Port(t *testing.T) string {
	t.Helper()
	inner, outer := fmt.Sprintf("%sp%d", w.Name, w.ports), fmt.Sprintf("nic%d", w.ports)
	w.ports++
	attrs := netlink.NewLinkAttrs()
	attrs.Name = inner
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: outer}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { must(t, netlink.LinkDel(veth)) })
	bridge, err := netlink.LinkByName(w.Name)
	must(t, err)
	port, err := netlink.LinkByName(inner)
	must(t, err)
	must(t, netlink.LinkSetMaster(port, bridge))
	for _, name := range []string{inner, outer} {
		bare(t, name)
		must(t, up(name))
	}
	return outer
}

// bare makes an interface behave like a wire to real hardware: frames leave it whole,
// with their checksums, and its IPv6 address counts at once instead of after the
// seconds that duplicate address detection takes.
func bare(t *testing.T, name string) {
	t.Helper()
	must(t, offloadsOff(name))
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		t.Fatal(err)
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
