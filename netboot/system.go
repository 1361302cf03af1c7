package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"carte/lab"
	"carte/lab/chunk"
)

// Systems that have a kernel of their own, which iPXE loads: under /system the server has the kernel of the plan that the
// machine's boot has, and with it the second stage that its agent has sent, or, for one that runs in memory, the kernel
// image's own initrd. There is nothing secret in any of it, and nothing of another boot.

// A KernelSource reads what machines start out of kernel images. It may be called from any number of goroutines.
type KernelSource interface {
	// Kernel returns /boot/kernel and, nil where there is none, /boot/initrd of the kernel image that has this root and so
	// many bytes. They are not written to.
	Kernel(ctx context.Context, root chunk.ID, size int64) (kernel, initrd []byte, err error)
}

// kernels are those that machines ask for just now, in memory.
type kernels struct {
	source KernelSource
	mu     sync.Mutex // also: a kernel is read once for fifty machines that ask at once
	have   *lru.Cache[chunk.ID, kernel]
	sent   map[int64]int // by boot: the attempt for which all of the kernel was sent
}

type kernel struct{ kernel, initrd []byte }

// keptKernels is how many are kept in memory at most. A live system's initrd has some hundred megabytes.
const keptKernels = 4

func newKernels(source KernelSource) *kernels {
	have, err := lru.New[chunk.ID, kernel](keptKernels)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return &kernels{source: source, have: have, sent: map[int64]int{}}
}

func (k *kernels) find(ctx context.Context, l lab.PlanLayer) (kernel, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if x, ok := k.have.Get(l.Root); ok {
		return x, nil
	}
	if k.source == nil {
		return kernel{}, fmt.Errorf("this server reads no kernel images: %w", lab.ErrRefused)
	}
	a, b, err := k.source.Kernel(ctx, l.Root, l.Bytes)
	if err != nil {
		return kernel{}, fmt.Errorf("kernel image %s: %w", l.Ref, err)
	}
	k.have.Add(l.Root, kernel{a, b})
	return kernel{a, b}, nil
}

func (k *kernels) wasSent(b lab.Boot) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent[b.ID] == b.Attempt
}

func (k *kernels) note(b lab.Boot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent[b.ID] = b.Attempt
}

// drop forgets what no boot starts with any more.
func (k *kernels) drop(now lab.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.have.Len() == 0 && len(k.sent) == 0 {
		return
	}
	needed := map[chunk.ID]bool{}
	for _, b := range now.Boots {
		if l, ok := b.Plan.Kernel(); ok && loads(b) {
			needed[l.Root] = true
		}
	}
	for _, root := range k.have.Keys() {
		if !needed[root] {
			k.have.Remove(root)
		}
	}
	for id := range k.sent {
		if b, ok := now.Boots[id]; !ok || !loads(b) {
			delete(k.sent, id)
		}
	}
}

// loads says that a boot's machine may ask for its own kernel just now.
func loads(b lab.Boot) bool {
	switch b.Plan.Start {
	case lab.StartMemory:
		return b.State == lab.Starting || b.State == lab.Handover
	case lab.StartNetboot:
		return b.State == lab.Handover
	}
	return false
}

// tidy forgets kernels and second stages when their boots no longer need them.
func (s *Server) tidy(ctx context.Context) error {
	for rev := uint64(0); ; {
		now, err := s.cfg.Lab.Watch(ctx, rev)
		if err != nil {
			return err
		}
		rev = now.Rev
		s.kernels.drop(now)
		if err := s.stages.drop(func(boot int64) bool {
			b, ok := now.Boots[boot]
			return ok && !b.State.Final() && b.State != lab.Queued
		}); err != nil {
			s.cfg.Log.Warn("second stages: one that nobody needs stays", "err", err)
		}
	}
}

// system makes sure that a machine can be given the kernel of its boot, and started with it. Where it cannot, the boot's
// attempt ends with the reason, and ask says what comes next.
func (s *Server) system(ctx context.Context, ask func() (lab.Script, error), words func(lab.Script) own) (d lab.Script, o own, err error) {
	for range 8 { // boots that wait behind one another, all of which fail
		if d, err = ask(); err != nil || d.Do != lab.ScriptSystem {
			return d, o, err
		}
		o = words(d)
		why := s.ready(ctx, d, &o)
		if why == nil || ctx.Err() != nil {
			return d, o, ctx.Err()
		}
		if err := s.cfg.Lab.Unloaded(ctx, d.Boot, lab.Words(why), isFinal(why)); err != nil {
			return d, o, err
		}
	}
	return lab.Script{Do: lab.ScriptHold, Machine: d.Machine, Why: "one boot after another cannot be started"}, o, nil
}

// isFinal says that trying again would end the same way.
func isFinal(err error) bool {
	return errors.Is(err, lab.ErrRefused) || errors.Is(err, lab.ErrInvalid)
}

// ready returns why the machine cannot be given its kernel, or cannot start it; else it completes how iPXE loads it.
func (s *Server) ready(ctx context.Context, d lab.Script, o *own) error {
	l, ok := d.Plan.Kernel()
	if !ok {
		return fmt.Errorf("the plan has no kernel: %w", lab.ErrInvalid)
	}
	now, err := s.cfg.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	in := now.Versions[l.Ref.String()].Inside
	if err := startable(l, in, d.Machine); err != nil {
		return err
	}
	k, err := s.kernels.find(ctx, l)
	if err != nil {
		return err
	}
	if d.Plan.Start == lab.StartMemory {
		o.initrd = k.initrd != nil
		o.named = o.initrd && (in.Starts == "linux" || in.Starts == "")
		return o.check()
	}
	o.initrd, o.named = true, true
	f, _, err := s.stages.find(d.Boot)
	if err != nil {
		return fmt.Errorf("the server has no second stage of this boot, its agent makes a new one: %w", err)
	}
	return errors.Join(f.Close(), o.check())
}

// The ways in which iPXE starts a kernel, as import names them, and the firmware that it can do so under: without
// firmware of the PC's kind it knows EFI programs alone, and Linux kernels as far as they are that as well.
var startsUnder = map[string][]lab.Firmware{
	"multiboot": {lab.BIOS},
	"elf":       {lab.BIOS},
	"efi":       {lab.UEFI},
}

// startable refuses a kernel that the machine's firmware cannot start.
func startable(l lab.PlanLayer, in lab.Inside, m lab.Machine) error {
	under := in.Firmware
	if len(under) == 0 {
		under = startsUnder[in.Starts]
	}
	has := firmwareOf(m)
	if has == "" || len(under) == 0 || slices.Contains(under, has) {
		return nil
	}
	what := in.Starts
	if what == "" {
		what = "such a"
	}
	return fmt.Errorf("%s is %s kernel, which iPXE starts under %s, and %s has %s; its firmware's settings may have the other: %w",
		l.Ref, article(what), strings.ToUpper(string(under[0])), m.Label(), strings.ToUpper(string(has)), lab.ErrRefused)
}

func article(word string) string {
	switch {
	case word == "such a":
		return word
	case strings.ContainsRune("aeiou", rune(word[0])):
		return "an " + word
	}
	return "a " + word
}

// firmwareOf is what a machine starts with, or empty where nobody has seen it yet.
func firmwareOf(m lab.Machine) lab.Firmware {
	switch {
	case m.Virtual != nil && m.Virtual.Firmware == "":
		return lab.BIOS
	case m.Virtual != nil:
		return m.Virtual.Firmware
	case m.Inventory != nil:
		return m.Inventory.Firmware
	}
	return ""
}

// notStarted ends the attempt of a machine whose iPXE has all of its boot's kernel and says that it cannot start it. One that
// lacks a part of it was cut off, and asks again.
func (s *Server) notStarted(ctx context.Context, mac lab.MAC) error {
	now, err := s.cfg.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	for _, b := range now.Boots {
		if loads(b) && slices.Contains(now.Machines[b.Machine].MACs, mac) && s.kernels.wasSent(b) {
			return s.cfg.Lab.Unloaded(ctx, b.ID, "iPXE did not start its kernel, and says why on the machine's own screen; is it one for this firmware?", false)
		}
	}
	return nil
}

// starting returns the boot whose kernel the machine that a request names may have. The name gives no right to anything
// that another machine's boot does not have.
func (s *Server) starting(r *http.Request) (m lab.Machine, b lab.Boot, ok bool) {
	id, err := strconv.ParseInt(r.URL.Query().Get("m"), 10, 64)
	if err != nil {
		return m, b, false
	}
	now, err := s.cfg.Lab.Watch(r.Context(), 0)
	if err != nil {
		return m, b, false
	}
	b, ok = now.Active(id)
	return now.Machines[id], b, ok && loads(b)
}

// serveSystem sends the kernel of a machine's boot, or what goes with it.
func (s *Server) serveSystem(w http.ResponseWriter, r *http.Request, rung lab.Rung) {
	m, b, ok := s.starting(r)
	if !ok {
		http.Error(w, "no boot of this machine has that", http.StatusNotFound)
		return
	}
	from, size, last, err := s.part(r.Context(), b, rung)
	if err != nil {
		f := lab.FailingOf(err)
		if f.Kind == nil {
			s.cfg.Log.Error("http: system", "machine", m.Label(), "rung", rung, "err", err)
		}
		http.Error(w, "no boot of this machine has that", f.HTTP)
		return
	}
	defer from.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		return
	}
	if len(m.MACs) > 0 {
		if _, _, err := s.cfg.Lab.SeenMachine(r.Context(), m.MACs[0], rung, "", false); err != nil && r.Context().Err() == nil {
			s.cfg.Log.Warn("http: note a rung", "machine", m.Label(), "rung", rung, "err", err)
		}
	}
	start := time.Now()
	if _, err := io.Copy(w, io.LimitReader(from, size)); err != nil {
		return // the machine asks again
	}
	if rung == lab.RungKernel {
		s.kernels.note(b)
	}
	if last {
		if err := s.cfg.Lab.Loaded(context.WithoutCancel(r.Context()), b.ID); err != nil {
			s.cfg.Log.Warn("http: note that a kernel was sent", "machine", m.Label(), "err", err)
		}
	}
	s.cfg.Lab.Log(lab.Line{Machine: m.ID, Source: "http", Text: fmt.Sprintf("its own %s %s in %.1f s", rung, lab.Bytes(size), time.Since(start).Seconds())})
}

// part opens what a machine asks for of its boot; last says that iPXE asks for nothing after it.
func (s *Server) part(ctx context.Context, b lab.Boot, rung lab.Rung) (from io.ReadCloser, size int64, last bool, err error) {
	if rung == lab.RungInitrd && b.Plan.Start == lab.StartNetboot {
		from, size, err = s.stages.find(b.ID)
		return from, size, true, err
	}
	l, _ := b.Plan.Kernel()
	k, err := s.kernels.find(ctx, l)
	if err != nil {
		return nil, 0, false, err
	}
	data := k.kernel
	if rung == lab.RungInitrd {
		data = k.initrd
	}
	if data == nil {
		return nil, 0, false, fmt.Errorf("%s has no initrd: %w", l.Ref, lab.ErrNotFound)
	}
	last = rung == lab.RungInitrd || k.initrd == nil && b.Plan.Start == lab.StartMemory
	return io.NopCloser(bytes.NewReader(data)), int64(len(data)), last, nil
}
