package cli

import (
	"strings"
	"testing"

	"carte/lab"
)

// A text that is only checked is mended by a line in it: there is no stack for a command to change.
func TestMendText(t *testing.T) {
	st := lab.Stack{Name: "x", Layers: []lab.Ref{{Name: "tree"}}}
	to := st
	to.Cmdline = "quiet"
	all := []lab.Remark{{Fix: "carte stack fix x E-CLAUSE", Edited: &to}, {Fix: "carte stack edit unnamed"}, {Fix: "carte machine arm vm-1"}}
	mendText(st, all)
	if !strings.Contains(all[0].Fix, `cmdline = "quiet"`) || all[1].Fix != "edit the text" || all[2].Fix != "carte machine arm vm-1" {
		t.Errorf("fixes: %+v", all)
	}
}
