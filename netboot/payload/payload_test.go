package payload

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestIPXE(t *testing.T) {
	var p Payload
	for name, magic := range map[string]string{
		UndionlyFile: "\xea",
		IPXEFile:     "MZ",
	} {
		b, ok := p.IPXE(name)
		if !ok || len(b) < 32<<10 || len(b) > 1<<20 {
			t.Errorf("IPXE(%s) = %d bytes, %v; want a file for TFTP", name, len(b), ok)
			continue
		}
		if !bytes.HasPrefix(b, []byte(magic)) {
			t.Errorf("IPXE(%s) begins with %q, want %q", name, b[:4], magic)
		}
	}
	for _, name := range []string{"", "vmlinuz", "../ipxe.efi", "bin/README", "ipxe.pxe", "/ipxe.efi"} {
		if b, ok := p.IPXE(name); ok {
			t.Errorf("IPXE(%q) gave %d bytes, want nothing", name, len(b))
		}
	}
}

func TestMissing(t *testing.T) {
	var p Payload
	if p.Has() {
		if _, err := p.Kernel(); err != nil {
			t.Errorf("Has, but Kernel: %v", err)
		}
		if _, err := p.Agent(); err != nil {
			t.Errorf("Has, but Agent: %v", err)
		}
		return
	}
	_, kernel := p.Kernel()
	_, agent := p.Agent()
	if !errors.Is(kernel, ErrMissing) && !errors.Is(agent, ErrMissing) {
		t.Errorf("without a payload: Kernel: %v, Agent: %v; one must be ErrMissing", kernel, agent)
	}
}

func TestDirGoesFirst(t *testing.T) {
	p := Payload{Dir: t.TempDir()}
	for _, name := range []string{KernelFile, AgentFile, IPXEFile} {
		if err := os.WriteFile(filepath.Join(p.Dir, name), []byte("my "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Check(); err != nil || !p.Has() {
		t.Errorf("Check() = %v, Has() = %v, want nil, true", err, p.Has())
	}
	kernel, _ := p.Kernel()
	agent, _ := p.Agent()
	efi, _ := p.IPXE(IPXEFile)
	for name, got := range map[string][]byte{KernelFile: kernel, AgentFile: agent, IPXEFile: efi} {
		if string(got) != "my "+name {
			t.Errorf("%s = %.20q, want the file of Dir", name, got)
		}
	}
	if b, ok := p.IPXE(UndionlyFile); !ok || len(b) < 32<<10 {
		t.Errorf("a name that Dir lacks gave %d bytes, %v; want the embedded one", len(b), ok)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := (Payload{}).Check(); err != nil {
		t.Errorf("no Dir: %v", err)
	}
	if err := (Payload{Dir: filepath.Join(dir, "no")}).Check(); err == nil {
		t.Error("a Dir that is not there passed")
	}
	if err := os.Mkdir(filepath.Join(dir, IPXEFile), 0o755); err != nil {
		t.Fatal(err)
	}
	p := Payload{Dir: dir}
	if err := p.Check(); err == nil {
		t.Error("a folder in place of ipxe.efi passed")
	}
	if b, ok := p.IPXE(IPXEFile); ok {
		t.Errorf("a folder in place of ipxe.efi gave %d bytes", len(b))
	}
}
