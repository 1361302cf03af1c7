package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"carte/lab"
)

// Install is the command that installs all that virtual machines need, on Debian
// and Ubuntu.
const Install = "apt-get install --no-install-recommends qemu-system-x86 ovmf"

// Tools are the programs and files of this computer that run virtual machines.
type Tools struct {
	QEMU    string // path of qemu-system-x86_64
	Version string // as QEMU prints it: "7.2.22"
	Code    string // UEFI firmware (OVMF); empty when it is not installed
	Vars    string // its empty variable store
}

// Find looks for QEMU and for UEFI firmware. Without QEMU the error is a sentence
// with the command that installs it; a missing firmware is told by New, when a
// UEFI machine needs it.
func Find(ctx context.Context) (Tools, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return Tools{}, fmt.Errorf("virtual machines need QEMU, which is not installed: %s: %w", Install, lab.ErrNotFound)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Tools{}, fmt.Errorf("%s --version: %w", path, err)
	}
	t := Tools{QEMU: path, Version: version(out)}
	t.Code, t.Vars = findFirmware([]string{"/etc/qemu/firmware", "/usr/share/qemu/firmware"}, firmwarePairs)
	return t, nil
}

// version takes the number out of "QEMU emulator version 7.2.22 (Debian ...)".
func version(out []byte) string {
	_, rest, _ := bytes.Cut(out, []byte("version "))
	if f := strings.Fields(string(rest)); len(f) > 0 {
		return f[0]
	}
	return "unknown"
}

// firmwarePairs are where distributions without firmware descriptors keep OVMF.
var firmwarePairs = [][2]string{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

// descriptor is the part we need of a firmware descriptor, a file of QEMU's
// docs/interop/firmware.json by which distributions say what they install.
type descriptor struct {
	Interfaces []string `json:"interface-types"`
	Mapping    struct {
		Device     string `json:"device"`
		Executable struct {
			Filename, Format string
		} `json:"executable"`
		Vars struct {
			Filename, Format string
		} `json:"nvram-template"`
	} `json:"mapping"`
	Targets []struct {
		Architecture string   `json:"architecture"`
		Machines     []string `json:"machines"`
	} `json:"targets"`
	Features []string `json:"features"`
}

// fits reports whether the firmware starts an unsigned program on a plain q35: no
// Secure Boot, no SMM, raw flash files.
func (d descriptor) fits() bool {
	if !slices.Contains(d.Interfaces, "uefi") || d.Mapping.Device != "flash" ||
		d.Mapping.Executable.Format != "raw" || d.Mapping.Vars.Format != "raw" {
		return false
	}
	for _, f := range d.Features {
		if f == "secure-boot" || f == "enrolled-keys" || f == "requires-smm" {
			return false
		}
	}
	for _, t := range d.Targets {
		if t.Architecture == "x86_64" && slices.ContainsFunc(t.Machines, func(m string) bool { return strings.HasPrefix(m, "pc-q35") }) {
			return true
		}
	}
	return false
}

// findFirmware returns the first firmware that fits and whose two files exist: by
// descriptor, in the order of their file names as the format asks, then by pairs.
// A descriptor that cannot be read is as good as none.
func findFirmware(dirs []string, pairs [][2]string) (code, vars string) {
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "*.json")) // sorted
		for _, f := range files {
			b, err := os.ReadFile(f)
			var d descriptor
			if err != nil || json.Unmarshal(b, &d) != nil || !d.fits() {
				continue
			}
			code, vars := d.Mapping.Executable.Filename, d.Mapping.Vars.Filename
			if readable(code) == nil && readable(vars) == nil {
				return code, vars
			}
		}
	}
	for _, p := range pairs {
		if readable(p[0]) == nil && readable(p[1]) == nil {
			return p[0], p[1]
		}
	}
	return "", ""
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
