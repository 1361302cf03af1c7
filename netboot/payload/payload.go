// Package payload holds the bytes that a machine without an operating system is
// given to boot: iPXE, the agent's kernel, the agent, and the initramfs that
// carries the agent.
//
// It knows formats and names only. It refuses to know who asks, over which
// protocol, and what for: no sockets, no machines, no state.
//
// The kernel and the agent are built or copied into bin by `make payload` and
// embedded from there; a carte that was built without them works, and says so
// (ErrMissing) when a machine needs them. iPXE comes as a Go module and is always
// there. Files in Payload.Dir go before what is embedded.
package payload

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	// The kernel module holds no Go code to call. The import keeps its exact
	// version in go.sum; `make payload` copies its vmlinuz, because go:embed
	// cannot reach into another module.
	_ "github.com/gokrazy/kernel.amd64"
	"go.universe.tf/netboot/out/ipxe"
)

//go:embed all:bin
var bin embed.FS

// ErrMissing says that this binary was built without the kernel and the agent.
var ErrMissing = errors.New("this carte was built without its payload: run `make payload build`")

// Names of the files that a payload is made of: in bin, in Payload.Dir, and (iPXE)
// over TFTP.
const (
	KernelFile   = "vmlinuz"
	AgentFile    = "agent"
	DemoFile     = "demo"
	UndionlyFile = "undionly.kpxe" // BIOS: iPXE over the card's own UNDI driver
	IPXEFile     = "ipxe.efi"      // x86-64 UEFI: iPXE with its own drivers
)

// ipxeAssets maps the names that machines ask for to the module's names.
var ipxeAssets = map[string]string{
	UndionlyFile: "third_party/ipxe/src/bin/undionly.kpxe",
	IPXEFile:     "third_party/ipxe/src/bin-x86_64-efi/ipxe.efi",
}

// Payload is where boot files come from. The zero value takes the embedded ones.
type Payload struct {
	// Dir, when set, is a folder whose files (any of the names above) are used
	// instead of the embedded ones. It is read at every call, so that a file can
	// be replaced while carte runs.
	Dir string
}

// Has reports whether both a kernel and an agent are there.
func (p Payload) Has() bool {
	return p.has(KernelFile) && p.has(AgentFile)
}

// Kernel returns the agent's kernel, an x86-64 bzImage of about 17 MB. Each call
// makes a new copy: call it once and keep the result. Without a kernel the error
// is ErrMissing.
func (p Payload) Kernel() ([]byte, error) { return p.file(KernelFile) }

// Agent returns the agent, a static x86-64 ELF program that runs as PID 1. Each
// call makes a new copy. Without an agent the error is ErrMissing.
func (p Payload) Agent() ([]byte, error) { return p.file(AgentFile) }

// IPXE returns the network boot program of this name (UndionlyFile or IPXEFile)
// and whether there is one. Any other name, and a file in Dir that cannot be
// read, is not there; Check tells the second at start.
func (p Payload) IPXE(name string) ([]byte, bool) {
	asset, ok := ipxeAssets[name]
	if !ok {
		return nil, false
	}
	b, err := p.override(name)
	if err == nil {
		return b, true
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	b, err = ipxe.Asset(asset)
	return b, err == nil
}

// Check says what is wrong with Dir before a machine finds out: that it is not a
// folder, or that one of the files in it cannot be read. A file that Dir does not
// have is fine.
func (p Payload) Check() error {
	if p.Dir == "" {
		return nil
	}
	if _, err := os.ReadDir(p.Dir); err != nil {
		return fmt.Errorf("boot files folder: %w", err)
	}
	for _, name := range []string{KernelFile, AgentFile, UndionlyFile, IPXEFile} {
		b, err := p.override(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("boot file: %w", err)
		case len(b) == 0:
			return fmt.Errorf("boot file %s is empty: remove it or replace it", filepath.Join(p.Dir, name))
		}
	}
	return nil
}

func (p Payload) has(name string) bool {
	if p.Dir != "" {
		if _, err := os.Stat(filepath.Join(p.Dir, name)); err == nil {
			return true
		}
	}
	_, err := fs.Stat(bin, "bin/"+name)
	return err == nil
}

func (p Payload) file(name string) ([]byte, error) {
	b, err := p.override(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	b, err = bin.ReadFile("bin/" + name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	return b, nil
}

// override reads a file of Dir; fs.ErrNotExist when there is none or no Dir.
// name is always one of the constants above, never what a machine sent.
func (p Payload) override(name string) ([]byte, error) {
	if p.Dir == "" {
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(filepath.Join(p.Dir, name))
}
