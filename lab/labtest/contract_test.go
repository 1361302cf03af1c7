package labtest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/store/media"
	"carte/tui/cli"
)

// contractInit is a system that brings its network up by itself, is at its login then, and does nothing more.
const contractInit = `#!/bin/sh
/bin/busybox mount -t proc proc /proc 2>/dev/null; /bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
/bin/busybox ip route add default via 10.0.2.2
/bin/busybox ip route | /bin/busybox grep -q default && echo "::carte metric contract_network=1"
echo changed 2>/dev/null >/changed; /bin/busybox sync
echo "busybox login:"
while :; do sleep 1000; done
`

// contract runs the command, which makes a machine for the test, and returns its document. Nothing but the badge may be left.
func contract(t *testing.T, s *labtest.Served, p netboot.Payload, args ...string) (words string, got map[lab.Clause]lab.Proof) {
	t.Helper()
	before := labtest.Now(t, s)
	var out, said bytes.Buffer
	code := cli.Run(t.Context(), cli.Host{Version: "test", Kernel: p.Kernel}, cli.Terminal{
		In: strings.NewReader(""), Out: &out, Err: &said, Env: os.Getenv, Now: time.Now,
	}, append([]string{"contract", "test", "--state", s.Dir, "--json", "--timeout", "20m"}, args...))
	t.Logf("%s", said.String())
	var doc struct {
		Ref    lab.Ref     `json:"ref"`
		Kept   bool        `json:"kept"`
		Words  string      `json:"words"`
		Proofs []lab.Proof `json:"proofs"`
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatalf("the command ended with %d: %v", code, err)
	}
	got = map[lab.Clause]lab.Proof{}
	for _, x := range doc.Proofs {
		got[x.Clause] = x
		t.Logf("%s: %s, %s", x.Clause, x.Verdict, x.Why)
	}
	after := labtest.Now(t, s)
	if b, ok := after.BadgeOf(after.Versions[doc.Ref.String()]); code != 0 || !doc.Kept || !ok || !b.Kept() || b.Carte != "test" || b.Words() != doc.Words {
		t.Errorf("the command ended with %d, and the badge is %+v, %v", code, b, ok)
	}
	if len(after.Images) != len(before.Images) || len(after.Stacks) != len(before.Stacks) || len(after.Machines) != len(before.Machines) {
		t.Errorf("the test left %d images, %d stacks and %d machines", len(after.Images), len(after.Stacks), len(after.Machines))
	}
	return doc.Words, got
}

// Images of every form that declare clauses are tested by the command: what they declare is kept, what cannot be told says why, and the
// badge stays with the version.
func TestContract(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	s := labtest.Serve(t)
	load(t, s, busyboxSystem(t, contractInit), lab.Import{
		Name: "base", Kind: "system", Form: lab.FormTree, File: "base.tar",
		Offers: lab.Terms{lab.Overlay: lab.Required, lab.Heartbeat: lab.Optional, lab.Results: lab.Optional, lab.Sealed: lab.Optional, lab.Lazy: lab.Optional},
	})
	t.Run("tree", func(t *testing.T) {
		_, got := contract(t, s, p, "base")
		for _, c := range []lab.Clause{lab.Starts, lab.Overlay, lab.Heartbeat, lab.Results, lab.Lazy, lab.Sealed} {
			if got[c].Verdict != lab.VerdictKept {
				t.Errorf("%s is %q: %s", c, got[c].Verdict, got[c].Why)
			}
		}
		if got[lab.Autostart].Verdict != lab.VerdictAbsent {
			t.Errorf("%+v", got[lab.Autostart])
		}
	})
	t.Run("project", func(t *testing.T) {
		load(t, s, archive(t, map[string]string{"run": "#!/bin/sh\necho own >/carte/out/own; echo '::carte metric own=1'\n"}),
			lab.Import{Name: "work", Kind: "project", Form: lab.FormFiles, Offers: lab.Terms{lab.Autostart: lab.Required, lab.Results: lab.Required, lab.Network: lab.Optional}})
		_, got := contract(t, s, p, "work", "--system", "base")
		if got[lab.Network].Verdict != lab.VerdictKept || !strings.Contains(got[lab.Autostart].Why, "its own program started") || !strings.Contains(got[lab.Results].Why, "what its program left came home") {
			t.Error("the project's own program, or the network beside it, was not proven")
		}
	})
	t.Run("kernel", func(t *testing.T) {
		load(t, s, filepath.Join(debs(t, "xen-hypervisor-4.17-amd64"), "boot", "xen-4.17-amd64.gz"), lab.Import{Name: "xen", Kind: "system", Form: lab.FormKernel})
		words, got := contract(t, s, p, "xen", "--cmdline", "com1=115200,8n1 console=com1")
		if words != "starts" || !strings.Contains(got[lab.Starts].Why, "Xen") {
			t.Errorf("the badge is %q", words)
		}
	})
	t.Run("disk", func(t *testing.T) {
		if _, err := media.FindBootTools(); err != nil {
			labtest.Lacking(t, err)
		}
		kernel, err := p.Kernel()
		if err != nil {
			t.Fatal(err)
		}
		load(t, s, archive(t, map[string]string{"boot/kernel": string(kernel)}), lab.Import{Name: "linux", Kind: "system", Form: lab.FormKernel})
		labtest.Say(t, s, lab.PutStack{Stack: lab.Stack{Name: "whole", Layers: []lab.Ref{{Name: "base"}, {Name: "linux"}}}})
		disk, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		if _, err := s.ExportStack(t.Context(), "whole", "disk", disk, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		load(t, s, disk.Name(), lab.Import{Name: "disk", Kind: "system", Form: lab.FormDisk, Offers: lab.Terms{lab.Network: lab.Optional, lab.Sealed: lab.Required, lab.Heartbeat: lab.Optional}})
		words, got := contract(t, s, p, "disk")
		if words != "starts, and again, 2 clauses kept, 1 skipped" || got[lab.Overlay].Verdict != lab.VerdictAbsent || !strings.Contains(got[lab.Again].Why, "its system writes to its disk") {
			t.Errorf("the badge is %q", words)
		}
	})
}
