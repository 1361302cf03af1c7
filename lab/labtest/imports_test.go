package labtest_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// A row says what a package may import from carte and why; "…" stands for the packages below.
type row struct {
	pkg string
	may []string
	why string
}

// table is the star of packages: lab in the middle, one package a technology around it, and none of them knows another.
var table = []row{
	{"carte/lab/chunk", nil, "chunks are pure over io.Reader"},
	{"carte/lab/ext4", []string{"carte/lab"}, "blocks of a file system, out"},
	{"carte/lab/initrd", nil, "the first root of a kernel: bytes out"},
	{"carte/lab/modules", []string{"carte/lab"}, "what modules say, and depmod's lists of it"},
	{"carte/lab/layout", nil, "bytes of a disk in, bytes and places out"},
	{"carte/lab/text", []string{"carte/lab"}, "stacks, kinds and manifests as people write them"},
	{"carte/lab/remote", []string{"carte/lab", "carte/lab/chunk"}, "the same verbs, over a socket"},
	{"carte/lab/labtest", []string{"…"}, "tests put everything together"},
	{"carte/lab", []string{"carte/lab/chunk"}, "the model knows no technology"},
	{"carte/store/media", []string{"carte/lab", "carte/lab/chunk", "carte/lab/ext4", "carte/lab/initrd", "carte/lab/layout", "carte/lab/modules", "carte/lab/text"}, "formats know no lab"},
	{"carte/store", []string{"carte/lab", "carte/lab/chunk", "carte/lab/ext4", "carte/lab/layout", "carte/lab/text", "carte/store/media"}, "what survives a restart"},
	{"carte/netboot/payload", nil, "bytes to boot"},
	{"carte/netboot/qemu", []string{"carte/lab"}, "a virtual machine as a process"},
	{"carte/netboot/power", []string{"carte/lab", "carte/netboot/qemu"}, "switches machines"},
	{"carte/netboot", []string{"carte/lab", "carte/lab/chunk", "carte/netboot/payload"}, "what a machine without a system talks to"},
	{"carte/agent/init", []string{"carte/agent"}, "the embedded binary"},
	{"carte/agent/shim/carte-shim", []string{"carte/agent/shim"}, "the shim of a system that carte's agent did not start"},
	{"carte/agent/wire", []string{"carte/lab"}, "how a machine asks its server"},
	{"carte/agent/shim", []string{"carte/agent/wire", "carte/lab"}, "what lives beside a user's system, whichever"},
	{"carte/agent/demo", nil, "the demo system's one program"},
	{"carte/agent", []string{"carte/agent/shim", "carte/agent/wire", "carte/lab", "carte/lab/chunk", "carte/lab/ext4", "carte/lab/initrd", "carte/lab/layout", "carte/lab/modules"}, "what runs on the machine"},
	{"carte/tui/quiet", nil, "one line that stops the terminal query"},
	{"carte/tui/cell", []string{"carte/lab"}, "cells of the screen"},
	{"carte/tui/action", []string{"carte/lab"}, "the one table of actions"},
	{"carte/tui/folder", []string{"carte/lab"}, "a folder as a tar"},
	{"carte/tui/cli", []string{"carte/lab", "carte/lab/remote", "carte/lab/text", "carte/tui/action", "carte/tui/folder"}, "the command line from the same table"},
	{"carte/tui", []string{"carte/lab", "carte/lab/text", "carte/tui/action", "carte/tui/cell", "carte/tui/folder", "carte/tui/quiet"}, "the screen keeps no data"},
	{"carte", []string{"…"}, "wiring"},
}

// homes says where a module lives alone, so that it can be replaced in one place.
var homes = map[string][]string{
	"github.com/charmbracelet/bubble":   {"carte/tui"},
	"github.com/charmbracelet/lipgloss": {"carte/tui"},
	"github.com/spf13/cobra":            {"carte/tui/cli"},
	"modernc.org/sqlite":                {"carte/store"},
	"github.com/pin/tftp":               {"carte/netboot"},
	"github.com/insomniacslk/dhcp":      {"carte/netboot", "carte/agent"},
	"github.com/zeebo/blake3":           {"carte/lab/chunk"},
	"github.com/klauspost/compress":     {"carte/lab/chunk", "carte/store/media", "carte/netboot/payload"},
	"github.com/ulikunitz/xz":           {"carte/store/media"},
	"github.com/lima-vm/go-qcow2reader": {"carte/store/media"},
	"github.com/diskfs/go-diskfs":       {"carte/store/media"},
	"github.com/hashicorp/golang-lru":   {"carte/netboot", "carte/store", "carte/agent"},
	"github.com/vishvananda/netlink":    {"carte/agent", "carte/netboot"},
	"go.universe.tf/netboot":            {"carte/netboot/payload"},
	"github.com/gokrazy/kernel.amd64":   {"carte/netboot/payload"},
	"github.com/pelletier/go-toml":      {"carte/tui/cli", "carte/lab/text"},
	"github.com/hanwen/go-fuse":         {"carte/agent"},
}

func TestImports(t *testing.T) {
	seen := 0
	err := fs.WalkDir(os.DirFS("../.."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		src, err := os.ReadFile("../../" + name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Join("carte", path.Dir(name))
		i := slices.IndexFunc(table, func(r row) bool { return r.pkg == pkg })
		if i < 0 {
			t.Errorf("%s: package %s is not in the table of packages", name, pkg)
			return nil
		}
		seen++
		for _, spec := range f.Imports {
			check(t, name, table[i], strings.Trim(spec.Path.Value, `"`))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < len(table) {
		t.Errorf("only %d files were read", seen)
	}
}

func check(t *testing.T, file string, r row, imp string) {
	t.Helper()
	ours := imp == "carte" || strings.HasPrefix(imp, "carte/")
	if ours && !slices.Contains(r.may, imp) && !slices.Contains(r.may, "…") {
		t.Errorf("%s imports %s; %s may import %v: %s", file, imp, r.pkg, r.may, r.why)
	}
	if r.pkg == "carte/lab" && !ours && strings.Contains(strings.Split(imp, "/")[0], ".") {
		t.Errorf("%s imports %s; lab knows the standard library only", file, imp)
	}
	for module, at := range homes {
		if !strings.HasPrefix(imp, module) {
			continue
		}
		if !slices.ContainsFunc(at, func(h string) bool { return r.pkg == h || strings.HasPrefix(r.pkg, h+"/") }) && r.pkg != "carte/lab/labtest" {
			t.Errorf("%s imports %s, which lives in %v alone", file, imp, at)
		}
	}
}
