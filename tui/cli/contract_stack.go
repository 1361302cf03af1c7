package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"carte/lab"
)

// What a contract test boots: the image, what it needs beside it, and a machine; and how all of that is taken away again.

const contractNote = "made by carte contract test"

// probeRun is the program that looks round in the user's system. It says numbers, because those come home with the boot's record.
const probeRun = `#!/bin/sh
echo "::carte metric contract_started=1"
dirty=0; [ -e /etc/carte-contract ] && dirty=1
echo "::carte metric contract_dirty=$dirty"
echo "was here" > /etc/carte-contract
net=0; n=0
while [ $net = 0 ] && [ $n -lt 60 ]; do
	while read -r if to via rest; do [ "$to" = 00000000 ] && net=1; done < /proc/net/route
	[ $net = 1 ] || sleep 1
	n=$((n+1))
done
echo "::carte metric contract_network=$net"
[ -d /carte/out ] || mkdir -p /carte/out
echo "boot $CARTE_BOOT" > /carte/out/contract
echo "::carte done"
`

// probeFiles put the probe where a project's program is started, over the project's own where there is one.
func probeFiles() []lab.TextFile {
	return []lab.TextFile{{Path: lab.ProjectPlace + "/run", Mode: 0o755, Text: probeRun}}
}

// look finds the version, and refuses what there is nothing to prove of.
func (t *contractTest) look(s lab.Snapshot, image string) error {
	ref, err := s.ParseRef(image)
	if err != nil {
		return err
	}
	if t.version, err = s.Version(ref); err != nil {
		return err
	}
	t.image = s.Images[t.version.Image]
	if t.terms, err = s.Declared(t.version.Ref()); err != nil {
		return err
	}
	t.name = "contract-" + t.version.Image[:min(len(t.version.Image), 40)]
	if err := t.fits(s); err != nil {
		return err
	}
	if t.machine != "" {
		m, err := s.Find(t.machine)
		if err == nil && m.Virtual == nil {
			err = fmt.Errorf("%s is no virtual machine, and a contract is tested in one: %w", m.Label(), lab.ErrRefused)
		}
		return err
	}
	return nil
}

// fits refuses flags that the image has no use for, and says which it needs.
func (t *contractTest) fits(s lab.Snapshot) error {
	form, me := t.image.Form, t.version.Ref()
	switch {
	case form == lab.FormFiles && len(t.terms) == 0:
		return fmt.Errorf("%s declares no clauses, and files start nothing by themselves, so there is nothing to prove; a file /carte/image.toml in it declares some, or --offer autostart=required at its next import (carte kind ls lists them): %w", me, lab.ErrInvalid)
	case form == lab.FormFiles && t.system == "":
		return fmt.Errorf("%s is files, and runs on a system: --system IMAGE names the tree%s: %w", me, treesOf(s), lab.ErrInvalid)
	case t.system != "" && (form == lab.FormTree || form == lab.FormDisk):
		return fmt.Errorf("%s is a system itself (%s): --system is for files, and for a kernel that starts a tree: %w", me, form, lab.ErrInvalid)
	case t.kernel != "" && form != lab.FormTree && form != lab.FormFiles:
		return fmt.Errorf("%s is a %s: --kernel is for trees, and for what runs on one: %w", me, form, lab.ErrInvalid)
	case t.alone && (form != lab.FormKernel || t.system != ""):
		return fmt.Errorf("--alone is for a kernel, and without --system: %w", lab.ErrInvalid)
	case t.until != "" && (lab.Rung(t.until) != lab.RungHandover || form == lab.FormTree || form == lab.FormFiles):
		return fmt.Errorf("--until can be handover, for a disk or a kernel that has no serial console: %w", lab.ErrInvalid)
	case t.firmware != "" && t.machine != "":
		return fmt.Errorf("--firmware is for a machine that is made, and %s is there: %w", t.machine, lab.ErrInvalid)
	case t.firmware != "" && lab.Firmware(t.firmware) != lab.BIOS && lab.Firmware(t.firmware) != lab.UEFI:
		return fmt.Errorf("--firmware %q is neither bios nor uefi: %w", t.firmware, lab.ErrInvalid)
	}
	return nil
}

// treesOf names the trees that there are, for who has to choose one.
func treesOf(s lab.Snapshot) string {
	var names []string
	for _, im := range sortedImages(s) {
		if im.Form == lab.FormTree {
			names = append(names, im.Name)
		}
	}
	if len(names) == 0 {
		return "; there is none yet, carte image import ROOT.tar --form tree makes one"
	}
	return "; there are " + strings.Join(names, ", ")
}

// prepare makes the stack, what it needs, and the machine.
func (t *contractTest) prepare(ctx context.Context, s lab.Snapshot) error {
	t.stack = lab.Stack{Name: t.name, Asks: lab.Terms{}, Note: contractNote, Until: lab.Rung(t.until), Cmdline: t.cmdline}
	var err error
	switch {
	case t.image.Form == lab.FormDisk:
		t.stack.Layers = []lab.Ref{t.version.Ref()}
	case t.image.Form == lab.FormKernel && t.inMemory():
		t.stack.Layers = []lab.Ref{t.version.Ref()}
		if in := t.version.Inside; in.Starts == "linux" && !strings.Contains(t.version.Cmdline+t.cmdline, "console=") {
			t.stack.Cmdline = strings.TrimSpace(t.cmdline + " console=ttyS0,115200")
		}
	default:
		err = t.onTree(ctx, s)
	}
	if err != nil {
		return err
	}
	for c := range t.terms {
		t.stack.Asks[c] = lab.Optional
	}
	if _, err := t.desk.Say(ctx, lab.PutStack{Stack: t.stack}); err != nil {
		return err
	}
	t.undo = append([]lab.Verb{lab.RemoveStack{Name: t.name}}, t.undo...)
	return t.borrow(ctx)
}

// inMemory says that a kernel is started alone: nobody named a tree, and it brings no modules for one.
func (t *contractTest) inMemory() bool {
	return t.alone || t.system == "" && !strings.Contains(t.version.Found, " modules of ")
}

// onTree makes the stack of a tree: the image itself or what it runs on, the image, a kernel, the probe.
func (t *contractTest) onTree(ctx context.Context, s lab.Snapshot) error {
	t.stack.Reset, t.probes = lab.ResetAlways, true
	switch {
	case t.system != "":
		ref, err := s.ParseRef(t.system)
		if err != nil {
			return err
		}
		if im := s.Images[ref.Name]; im.Form != lab.FormTree && im.Name != "" {
			return fmt.Errorf("--system %s is a %s, and what is needed is a tree%s: %w", ref, im.Form, treesOf(s), lab.ErrInvalid)
		}
		t.stack.Layers = append(t.stack.Layers, ref)
	case t.image.Form == lab.FormKernel:
		ref, err := t.demoTree(ctx)
		if err != nil {
			return err
		}
		t.stack.Layers, t.probes = append(t.stack.Layers, ref), false // it has no shell
	}
	t.stack.Layers = append(t.stack.Layers, t.version.Ref())
	if err := t.kernelFor(ctx, s); err != nil {
		return err
	}
	if !t.probes {
		return nil
	}
	s, err := t.desk.Watch(ctx, 0) // with what was just imported
	if err != nil {
		return err
	}
	p, err := s.Plan(lab.Stack{Name: t.name, Layers: t.stack.Layers}, lab.Machine{}, nil)
	if err != nil {
		return err
	}
	for _, l := range p.Layers {
		t.own = t.own || l.Place == lab.ProjectPlace && p.Gives(lab.Autostart)
	}
	if !t.own {
		t.stack.Files = probeFiles()
	}
	t.stack.Asks[lab.Results], t.stack.Asks[lab.Autostart] = lab.Optional, lab.Optional
	ref, err := t.add(ctx, "probe", "temporary", lab.Import{
		Form: lab.FormFiles, Place: lab.ProbePlace, Size: 16 << 20, Dies: t.term.Now().Add(t.timeout + time.Hour),
		Offers: lab.Terms{lab.Autostart: lab.Optional, lab.Results: lab.Optional},
	}, "about", []byte("The probe of carte contract test.\n"))
	t.stack.Layers = append(t.stack.Layers, ref)
	return err
}

// kernelFor adds the kernel that the tree starts by, where one was named. Where none was, and the image says that its system brings
// the network up, carte's own is kept ready as one of the stack's: without it (pivot) the system has carte's network.
func (t *contractTest) kernelFor(ctx context.Context, s lab.Snapshot) error {
	if t.kernel != "" {
		ref, err := s.ParseRef(t.kernel)
		t.stack.Layers = append(t.stack.Layers, ref)
		return err
	}
	if _, declared := t.terms[lab.Network]; !declared || t.image.Form == lab.FormKernel || t.host.Kernel == nil {
		return nil
	}
	kernel, err := t.host.Kernel()
	if err != nil {
		return fmt.Errorf("clause network is proven under a kernel of its own, and this carte has none (--kernel IMAGE names one): %w", err)
	}
	t.silent, err = t.add(ctx, "kernel", "system", lab.Import{Form: lab.FormKernel}, "boot/kernel", kernel)
	return err
}

// demoTree imports carte's demo system.
func (t *contractTest) demoTree(ctx context.Context) (lab.Ref, error) {
	if t.host.DemoImage == nil {
		return lab.Ref{}, fmt.Errorf("%s starts a tree: --system IMAGE names it: %w", t.version.Ref(), lab.ErrInvalid)
	}
	r, err := t.host.DemoImage(ctx)
	if err != nil {
		return lab.Ref{}, fmt.Errorf("%s starts a tree, and carte's demo system is not in this carte (--system IMAGE names another): %w", t.version.Ref(), err)
	}
	defer r.Close()
	return t.bring(ctx, "system", "system", lab.Import{Form: lab.FormTree}, r)
}

// add imports one file as an image of the test's.
func (t *contractTest) add(ctx context.Context, as, kind string, i lab.Import, file string, data []byte) (lab.Ref, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return lab.Ref{}, err
	}
	return t.bring(ctx, as, kind, i, &b)
}

// bring imports an image of the test's, which goes with it.
func (t *contractTest) bring(ctx context.Context, as, kind string, i lab.Import, r io.Reader) (lab.Ref, error) {
	i.Name, i.Kind, i.File, i.Message = t.name+"-"+as, kind, "the "+as+" of carte contract test", contractNote
	im, err := t.desk.Import(ctx, r, i, nil)
	if err != nil {
		return lab.Ref{}, err
	}
	t.undo = append(t.undo, lab.RemoveImage{Ref: lab.Ref{Name: i.Name}, Confirm: i.Name})
	return im.Version.Ref(), nil
}

// borrow makes a machine that the stack fits on, unless one was named.
func (t *contractTest) borrow(ctx context.Context) error {
	if t.machine != "" {
		t.borrowed = true
		return nil
	}
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	p, err := s.Resolve(t.name)
	if err != nil {
		return err
	}
	v := lab.Virtual{DiskBytes: (p.Bytes() + p.Bytes()/4 + 1<<30) &^ (1<<20 - 1), Firmware: lab.Firmware(t.firmware)}
	if can := t.version.Inside.Firmware; v.Firmware == "" && p.Form != lab.FormTree && len(can) > 0 && !slices.Contains(can, lab.BIOS) {
		v.Firmware = can[0]
	}
	if _, err := t.desk.Say(ctx, lab.AddMachine{Name: t.name, Virtual: &v}); err != nil {
		return err
	}
	t.machine = t.name
	t.undo = append([]lab.Verb{lab.Forget{Machine: t.machine, Confirm: t.machine}}, t.undo...)
	return nil
}

// sweep takes away what an earlier test of the image left when it was killed. One that goes on is an error.
func (t *contractTest) sweep(s lab.Snapshot) error {
	for _, b := range s.SortedBoots() {
		if b.Plan.Stack == t.name && !b.State.Final() {
			return fmt.Errorf("%s is being tested: boot %d of %s is %s; carte boot stop %d ends it: %w", t.version.Image, b.ID, t.name, b.State, b.ID, lab.ErrBusy)
		}
	}
	if m, err := s.Find(t.name); err == nil && m.Virtual != nil && t.machine != t.name {
		t.undo = append(t.undo, lab.Forget{Machine: t.name, Confirm: t.name})
	}
	if st, ok := s.Stacks[t.name]; ok && st.Note != contractNote {
		return fmt.Errorf("the stack %s is in the way of the test, which makes one of that name: %w", t.name, lab.ErrBusy)
	} else if ok {
		t.undo = append(t.undo, lab.RemoveStack{Name: t.name})
	}
	for _, as := range []string{"probe", "kernel", "system"} {
		if im, ok := s.Images[t.name+"-"+as]; ok {
			t.undo = append(t.undo, lab.RemoveImage{Ref: lab.Ref{Name: im.Name}, Confirm: im.Name})
		}
	}
	if len(t.undo) == 0 {
		return nil
	}
	t.note("an earlier test of %s was cut off; what it left is taken away", t.version.Image)
	return t.clean()
}

// clean takes away what the test made; the image and its badge stay.
func (t *contractTest) clean() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), powerWait)
	defer cancel()
	if t.borrowed {
		err = t.stopAll(ctx, t.machine)
	}
	for _, v := range t.undo {
		var e error
		if f, ok := v.(lab.Forget); ok {
			e = t.stopAll(ctx, f.Machine)
		}
		if e == nil {
			_, e = t.desk.Say(ctx, v)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("the test left something behind, which its next run takes away: %w", e))
		}
	}
	t.undo = nil
	return errors.Join(err, t.forgetOut(ctx))
}

// forgetOut removes what the test's own boots have left: it is evidence, which the badge has, and nobody's results.
func (t *contractTest) forgetOut(ctx context.Context) error {
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	var v lab.ForgetOut
	for _, b := range s.Outs() {
		if b.State.Final() && (slices.Contains(t.mine, b.ID) || slices.ContainsFunc(b.Plan.Layers, func(l lab.PlanLayer) bool { return l.Ref.Name == t.name+"-probe" })) {
			v.Boots = append(v.Boots, b.ID)
		}
	}
	if len(v.Boots) == 0 {
		return nil
	}
	v.Confirm = v.Boots
	_, err = t.desk.Say(ctx, v)
	return err
}

// stopAll ends what is left of the test's boots, and waits until the machine is off.
func (t *contractTest) stopAll(ctx context.Context, machine string) error {
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	m, err := s.Find(machine)
	if err != nil {
		return err
	}
	for _, b := range s.SortedBoots() {
		if b.Machine == m.ID && b.Plan.Stack == t.name && !b.State.Final() {
			if _, err := t.desk.Say(ctx, lab.Stop{Boot: b.ID, Reason: "the contract test is over"}); err != nil {
				return err
			}
		}
	}
	if s.Live[m.ID].Power == "on" {
		if _, err := t.desk.Say(ctx, lab.PowerMachine{Machine: machine, Want: "off"}); err != nil {
			return err
		}
	}
	for s.Live[m.ID].Power == "on" {
		if s, err = t.desk.Watch(ctx, s.Rev); err != nil {
			return err
		}
	}
	return nil
}
