package labtest_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The shim is built for every system that it is promised for, and the agent for both kinds of machine that have one.
func TestShimIsBuiltForOtherSystems(t *testing.T) {
	for _, x := range []struct {
		pkg, system, arch string
		machine           elf.Machine
	}{
		{"carte/agent/shim/carte-shim", "linux", "amd64", elf.EM_X86_64},
		{"carte/agent/shim/carte-shim", "linux", "arm64", elf.EM_AARCH64},
		{"carte/agent/shim/carte-shim", "freebsd", "amd64", elf.EM_X86_64},
		{"carte/agent/shim/carte-shim", "netbsd", "amd64", elf.EM_X86_64},
		{"carte/agent/shim/carte-shim", "openbsd", "amd64", elf.EM_X86_64},
		{"carte/agent/init", "linux", "arm64", elf.EM_AARCH64},
	} {
		path := filepath.Join(t.TempDir(), "shim")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, x.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+x.system, "GOARCH="+x.arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s for %s/%s: %v\n%s", x.pkg, x.system, x.arch, err, out)
			continue
		}
		f, err := elf.Open(path)
		if err != nil {
			t.Errorf("%s for %s/%s: %v", x.pkg, x.system, x.arch, err)
			continue
		}
		if f.Machine != x.machine {
			t.Errorf("%s for %s/%s is for %v", x.pkg, x.system, x.arch, f.Machine)
		}
		f.Close()
		if x.system == "linux" && x.arch == "amd64" {
			out, err := exec.Command(path, "-offers").CombinedOutput()
			if err != nil || strings.Contains(string(out), "not offered") {
				t.Errorf("what the shim offers on Linux: %v\n%s", err, out)
			}
		}
	}
}
