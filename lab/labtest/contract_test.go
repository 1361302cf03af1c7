package labtest_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/tui/cli"
)

// A small system that declares clauses is tested by the command, in a virtual machine that is made for it: what it declares is kept, what cannot be told
// says why, the badge stays with the version, and nothing else of the test does.
func TestContract(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	labtest.RealPayload(t)
	s := labtest.Serve(t)
	tree := busyboxSystem(t, "#!/bin/sh\nwhile :; do sleep 1000; done\n")
	if _, err := s.Import(t.Context(), bytes.NewReader(tree), lab.Import{
		Name: "base", Kind: "system", Form: lab.FormTree, File: "base.tar",
		Offers: lab.Terms{lab.Overlay: lab.Required, lab.Heartbeat: lab.Optional, lab.Results: lab.Optional, lab.Network: lab.Optional, lab.Sealed: lab.Optional, lab.Lazy: lab.Optional},
	}, nil); err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	code := cli.Run(t.Context(), cli.Host{Version: "test"}, cli.Terminal{
		In: strings.NewReader(""), Out: &out, Err: &said, Env: os.Getenv, Now: time.Now,
	}, []string{"contract", "test", "base", "--state", s.Dir, "--json", "--timeout", "20m"})
	t.Logf("%s\n%s", said.String(), out.String())
	if code != 0 {
		t.Fatalf("the command ended with %d", code)
	}
	var doc struct {
		Kept   bool        `json:"kept"`
		Proofs []lab.Proof `json:"proofs"`
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil || !doc.Kept {
		t.Errorf("%v: %+v", err, doc)
	}
	got := map[lab.Clause]lab.Verdict{}
	for _, p := range doc.Proofs {
		got[p.Clause] = p.Verdict
	}
	for _, c := range []lab.Clause{lab.Overlay, lab.Heartbeat, lab.Results, lab.Network} {
		if got[c] != lab.VerdictKept {
			t.Errorf("%s is %q", c, got[c])
		}
	}
	now := labtest.Now(t, s)
	if b, ok := now.BadgeOf(now.Versions["base@1"]); !ok || !b.Kept() || b.Carte != "test" || len(b.Proofs) != 6 {
		t.Errorf("the badge is %+v, %v", b, ok)
	}
	if len(now.Images) != 1 || len(now.Stacks) != 0 || len(now.Machines) != 0 {
		t.Errorf("the test left %d images, %d stacks and %d machines", len(now.Images), len(now.Stacks), len(now.Machines))
	}
}
