package labtest

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/netboot/qemu"
)

// Patience is far longer than anything a test waits for takes on an idle machine.
const Patience = 4 * time.Minute

// QEMU finds the tools for virtual machines, or skips the test with the reason.
func QEMU(t testing.TB) qemu.Tools {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test starts QEMU")
	}
	tools, err := qemu.Find(t.Context())
	if err != nil {
		Lacking(t, err)
	}
	return tools
}

// A Guest is a virtual machine that runs for a test.
type Guest struct {
	*qemu.VM
	Spec    qemu.Spec
	Console *Screen
	end     chan error
}

// VM starts a virtual machine and returns once QEMU runs. What s leaves out is
// filled in: a name, a folder, 1 GiB of memory, one emulated CPU, a card's address,
// a disk serial; the disk stays out. Cleanup switches it off and, when the test
// failed, shows the end of its console.
//
// Plug it into a wire with s.Wire = qemu.Wire{Socket: Cable(t, wire.Port(t))}. Who
// then asks for a boot (TestClients; QEMU 7.2, ipxe-qemu 1.0.0+git-20190125, OVMF
// 2022.11; all of them send PXEClient as vendor class):
//
//	firmware  s.ROM    edit      architecture  user class  it is
//	SeaBIOS   ROMiPXE            0             iPXE        an iPXE already
//	SeaBIOS   ROMiPXE  HideIPXE  0             none        a plain BIOS PXE ROM
//	OVMF      ROMiPXE            7             iPXE        an iPXE already
//	OVMF      ROMNone            7             none        the firmware's own PXE
//
// SeaBIOS has no PXE of its own, and all of QEMU's ROMs are iPXE, down to pxe-*.rom.
func VM(t *testing.T, s qemu.Spec) *Guest {
	t.Helper()
	tools := QEMU(t)
	if s.UEFI && tools.Code == "" {
		Lacking(t, "UEFI firmware is not installed: "+qemu.Install)
	}
	g := &Guest{Spec: filled(t, s), Console: NewScreen(), end: make(chan error, 1)}
	vm, err := qemu.New(tools, g.Spec, g.Console)
	if err != nil {
		t.Fatal(err)
	}
	g.VM = vm
	// Not t.Context(), which ends before the first cleanup: the machine outlives the
	// servers that the test started after it.
	ctx, cancel := context.WithCancel(context.Background())
	go func() { g.end <- vm.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-vm.Done()
		if t.Failed() {
			t.Logf("the console of %s ended with:\n%s", g.Spec.Name, g.Console.last(4000))
		}
	})
	select {
	case <-vm.Started():
	case <-vm.Done():
		t.Fatal(<-g.end)
	}
	return g
}

func filled(t *testing.T, s qemu.Spec) qemu.Spec {
	if s.Name == "" {
		s.Name = "vm-test"
	}
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	if s.Memory == 0 {
		s.Memory = 1 << 30
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.MAC == nil {
		s.MAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	}
	if s.Serial == "" {
		s.Serial = "carte-test"
	}
	if s.Accel == "" {
		s.Accel = "tcg" // the same everywhere, and never a KVM that hangs
	}
	return s
}

// Shows waits until the machine has printed words on its serial console.
func (g *Guest) Shows(t *testing.T, words string) {
	t.Helper()
	g.ShowsIn(t, Patience, words)
}

// ShowsIn is Shows with a patience of its own.
func (g *Guest) ShowsIn(t *testing.T, patience time.Duration, words string) {
	t.Helper()
	limit := time.After(patience)
	for {
		text, changed := g.Console.read()
		if strings.Contains(text, words) {
			return
		}
		select {
		case <-changed:
		case <-g.Done():
			if text, _ := g.Console.read(); !strings.Contains(text, words) {
				t.Fatalf("%s is off and did not print %q", g.Spec.Name, words)
			}
		case <-limit:
			t.Fatalf("%s did not print %q in %v", g.Spec.Name, words, patience)
		}
	}
}

// Ends waits until the machine is off and returns what qemu.VM.Run returned. Call it
// once.
func (g *Guest) Ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-g.end:
		return err
	case <-time.After(Patience):
		t.Fatalf("%s is still on after %v", g.Spec.Name, Patience)
		return nil
	}
}

// Screen keeps all that a machine prints, and tells when there is more.
type Screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed, and replaced, at every Write
}

// NewScreen makes an empty screen.
func NewScreen() *Screen { return &Screen{changed: make(chan struct{})} }

func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(p)
}

// String returns all that was printed.
// Wait waits until words were written.
func (s *Screen) Wait(t *testing.T, words string) {
	t.Helper()
	limit := time.After(Patience)
	for {
		text, changed := s.read()
		if strings.Contains(text, words) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%q was not written in %v, but this:\n%s", words, Patience, text)
		}
	}
}

func (s *Screen) String() string {
	text, _ := s.read()
	return text
}

func (s *Screen) read() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.changed
}

// last returns at most the last n bytes, without escape characters.
func (s *Screen) last(n int) string {
	text := s.String()
	text = text[max(0, len(text)-n):]
	return strings.NewReplacer("\x1b", "", "\r", "", "\b", "").Replace(text)
}
