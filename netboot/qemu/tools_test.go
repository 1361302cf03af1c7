package qemu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
)

func TestFindWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Find(t.Context())
	if !errors.Is(err, lab.ErrNotFound) || !strings.Contains(err.Error(), Install) {
		t.Errorf("Find() = %v, want not found and the command that installs it", err)
	}
}

func TestVersion(t *testing.T) {
	for out, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright": "7.2.22",
		"QEMU emulator version 9.1.0\n":                                 "9.1.0",
		"QEMU emulator version ":                                        "unknown",
		"":                                                              "unknown",
	} {
		if got := version([]byte(out)); got != want {
			t.Errorf("version(%q) = %q, want %q", out, got, want)
		}
	}
}

func TestFindFirmware(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	code, vars := write("code.fd", "c"), write("vars.fd", "v")
	firmware := func(code, machine, features string) string {
		return `{"interface-types":["uefi"],"mapping":{"device":"flash","executable":{"filename":"` + code +
			`","format":"raw"},"nvram-template":{"filename":"` + vars + `","format":"raw"}},
			"targets":[{"architecture":"x86_64","machines":["` + machine + `"]}],"features":[` + features + `]}`
	}
	write("10-broken.json", `{"mapping": 1`)
	write("20-secure.json", firmware(code, "pc-q35-*", `"acpi-s3","secure-boot","requires-smm"`))
	write("30-old-pc.json", firmware(code, "pc-i440fx-*", ""))
	write("40-gone.json", firmware(filepath.Join(dir, "none.fd"), "pc-q35-*", ""))
	if c, v := findFirmware([]string{dir}, nil); c != "" {
		t.Errorf("unusable firmware found: %s, %s", c, v)
	}
	pairs := [][2]string{{"/nowhere/a", "/nowhere/b"}, {vars, code}}
	if c, v := findFirmware([]string{dir}, pairs); c != vars || v != code {
		t.Errorf("findFirmware = %s, %s, want the pair that exists", c, v)
	}
	write("50-good.json", firmware(code, "pc-q35-*", `"acpi-s3"`))
	if c, v := findFirmware([]string{filepath.Join(dir, "none"), dir}, pairs); c != code || v != vars {
		t.Errorf("findFirmware = %s, %s, want %s, %s", c, v, code, vars)
	}
}

func TestPrepare(t *testing.T) {
	vars := filepath.Join(t.TempDir(), "vars")
	if err := os.WriteFile(vars, []byte("empty variables"), 0o444); err != nil {
		t.Fatal(err)
	}
	tools := Tools{Code: vars, Vars: vars}
	s := plain(filepath.Join(t.TempDir(), "machines", "1"))
	s.UEFI = true
	if err := prepare(tools, s); err != nil {
		t.Fatal(err)
	}
	disk, efivars := filepath.Join(s.Dir, diskFile), filepath.Join(s.Dir, varsFile)
	if st, err := os.Stat(disk); err != nil || st.Size() != s.Disk {
		t.Errorf("disk: %v, %v, want %d bytes", st, err, s.Disk)
	}
	// What the machine wrote stays, even when the spec has changed.
	for _, path := range []string{disk, efivars} {
		if err := os.WriteFile(path, []byte("the machine's own"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.Disk *= 2
	if err := prepare(tools, s); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{disk, efivars} {
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, []byte("the machine's own")) {
			t.Errorf("%s = %.40q, %v after the second start, want it untouched", path, b, err)
		}
	}
	if files, err := os.ReadDir(s.Dir); err != nil || len(files) != 2 {
		t.Errorf("%d files in the folder (%v), want 2", len(files), err)
	}
	_, err := New(Tools{}, s, nil)
	if !errors.Is(err, lab.ErrNotFound) || !strings.Contains(err.Error(), "OVMF") {
		t.Errorf("UEFI without OVMF: %v, want its name and how to install it", err)
	}
}
