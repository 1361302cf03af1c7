package store

import (
	"errors"
	"fmt"
	"time"

	"carte/lab"
)

// say says one random thing: three times of four what moves a boot on, else anything.
func (w *world) say() error {
	s := w.snapshot()
	if all := s.SortedMachines(); len(all) > 0 && w.IntN(3) > 0 {
		m := all[w.IntN(len(all))]
		if _, busy := s.Active(m.ID); busy || w.IntN(3) == 0 {
			return w.onward(s, m)
		}
		var v lab.Verb = w.queue(m.Label())
		switch q := s.QueueOf(m.ID); {
		case len(q) > 0 && w.IntN(12) == 0:
			v = lab.Stop{Boot: q[0].ID}
		case w.IntN(8) == 0:
			v = lab.QueueCapture{Machine: m.Label(), Image: pick(w.Rand, "debian", "tree", "mine")}
		}
		_, err := w.l.Say(w.t.Context(), v)
		return err
	}
	switch w.IntN(10) {
	case 0, 1, 2, 3:
		_, err := w.l.Say(w.t.Context(), w.verb())
		return err
	case 4:
		w.now = w.now.Add(pick(w.Rand, 20*time.Second, 61*time.Second, 4*time.Minute, 20*time.Minute))
		_, _, err := w.l.SeenMachine(w.t.Context(), "", "", "", false) // says nothing: time alone acts
		return err
	case 5:
		if w.IntN(8) == 0 {
			w.restart()
		}
		return nil
	case 6:
		_, err := w.l.Lease(w.t.Context(), w.mac(), pool)
		return err
	case 7:
		rung := pick(w.Rand, lab.RungDHCP, lab.RungTFTP, lab.RungKernel, lab.RungInitrd, "nonsense")
		_, _, err := w.l.SeenMachine(w.t.Context(), w.mac(), rung, "10.0.0.9", w.IntN(2) == 0)
		return err
	case 8:
		_, err := w.l.Claim(w.t.Context(), w.claim(lab.Machine{}))
		return err
	}
	return w.script(w.mac())
}

// onward does what the machine would do next, mostly.
func (w *world) onward(s lab.Snapshot, m lab.Machine) error {
	ctx := w.t.Context()
	b, busy := s.Active(m.ID)
	if len(m.MACs) == 0 || w.IntN(12) == 0 {
		return w.powered(m)
	}
	switch {
	case busy && b.State == lab.Working && b.Plan.Capture != nil && w.IntN(3) == 0:
		_, err := w.l.Say(ctx, lab.Captured{Boot: b.ID, AddVersion: lab.AddVersion{Version: lab.Version{Root: w.root(), Bytes: 1 << 20}}})
		return err
	case busy && (b.State == lab.Handover || b.State == lab.Running) && w.IntN(2) == 0:
		return w.shim(b)
	case busy && (w.IntN(25) == 0 || b.State == lab.Running && w.IntN(8) == 0):
		_, err := w.l.Say(ctx, lab.Stop{Boot: b.ID})
		return err
	case busy && b.Plan.Start == lab.StartMemory && w.IntN(3) == 0: // which is not always the machine's to say
		if w.IntN(4) == 0 {
			return w.l.Unloaded(ctx, b.ID, "it \xff does not start", w.IntN(2) == 0)
		}
		return w.l.Loaded(ctx, b.ID)
	case !busy || b.State == lab.Starting && (m.Ticket.Boot != b.ID || w.IntN(3) == 0):
		return w.script(m.MACs[0])
	case b.State == lab.Starting && w.IntN(5) == 0:
		return w.loaded(b)
	case b.State == lab.Starting:
		_, err := w.l.Claim(ctx, w.claim(m))
		return err
	case b.State == lab.Working:
		return w.report(b)
	case w.IntN(4) == 0:
		return w.script(m.MACs[0])
	}
	return w.l.Console(ctx, m.ID, []string{pick(w.Rand, lab.StartMark, "", ""), pick(w.Rand, "debian login:", "[ 1.5] ::carte ready", "::carte metric t=1.5e-3 ms", "::carte metric bad=NaN",
		"::carte done", "::carte fail it \x1b[31mbroke\xff", "::carte fail", "noise", "::carte metric t=\xff", "::carte metric n=3 \xfe\u202e")})
}

// loaded is the word that a kernel was sent whole, or, now and then, that it could not be had or started.
func (w *world) loaded(b lab.Boot) error {
	if w.IntN(12) > 0 {
		return w.l.Loaded(w.t.Context(), b.ID)
	}
	return w.l.Unloaded(w.t.Context(), b.ID, "no such \xff kernel", w.IntN(3) == 0)
}

func (w *world) script(mac lab.MAC) error {
	s, err := w.l.Script(w.t.Context(), mac, "10.0.0.8")
	if s.Token != "" && err == nil {
		w.tokens = append(w.tokens, s.Token)
	}
	return err
}

func (w *world) claim(m lab.Machine) lab.Claim {
	w.keys = append(w.keys, key(len(w.keys)))
	c := lab.Claim{Token: "1.1.00", Key: w.keys[len(w.keys)-1], Inventory: w.inventory(m)}
	if n := len(w.tokens); n > 0 && w.IntN(10) > 0 {
		c.Token = w.tokens[max(0, n-1-w.IntN(3))]
	}
	return c
}

func (w *world) queue(machine string) lab.Queue {
	q := lab.Queue{Machine: machine, Stack: pick(w.Rand, "s-debian", "s-tree", "s-live", "s-all", "s-more"), Lay: w.IntN(6) == 0}
	if w.IntN(4) == 0 {
		q.Set = map[string]string{"n": pick(w.Rand, "0", "512", "a b")}
	}
	return q
}

// shim says what the system that runs, or what lives beside it, might say.
func (w *world) shim(b lab.Boot) error {
	ctx := w.t.Context()
	switch w.IntN(8) {
	case 0:
		return w.l.Collected(ctx, b.ID, []lab.Result{{Path: "a", Bytes: 1}})
	case 1:
		_, err := w.l.Say(ctx, lab.WroteBack{Boot: b.ID, AddVersion: lab.AddVersion{Version: lab.Version{Image: pick(w.Rand, "home", "work", "tree"), Root: w.root(), Bytes: 1 << 20, Place: pick(w.Rand, "", "/home/me")}}})
		return err
	case 2:
		return w.l.Loaded(ctx, b.ID)
	}
	r := lab.Report{Boot: b.ID, Shim: true, Lines: []string{pick(w.Rand, "noise", "::carte metric n=1 s", "::carte metric bad", "::carte fail it \xff", "::carte done", "::carte ready")}}
	switch w.IntN(10) {
	case 0:
		r.Revoked = true
	case 1:
		r.Error = "it broke \xff"
	case 2:
		r.Proven = true
	}
	return w.reported(r)
}

func (w *world) report(b lab.Boot) error {
	r := lab.Report{Boot: b.ID, Progress: lab.Progress{Done: 5, Of: 10, Rate: 2}, Moved: lab.Moved{Read: w.Int64N(100)}}
	switch w.IntN(10) {
	case 0:
		r.Error, r.Fatal = "it broke \xff", w.IntN(3) == 0
	case 1:
		r.Revoked = true
	case 2, 3:
		r.Rung, r.Writing = lab.RungWrite, true
	case 4, 5, 6:
		r.Rung, r.Proven = lab.RungHandover, true
	case 7:
		r.Rung = lab.RungHandover
	default:
		r.Rung = pick(w.Rand, lab.RungProbe, lab.RungHash, lab.RungFetch, lab.RungVerify, lab.RungRun, "")
	}
	return w.reported(r)
}

// reported sends a report with the right key, which the test does not know, or with wrong ones.
func (w *world) reported(r lab.Report) error {
	var err error
	for i := len(w.keys) - 1; i >= max(0, len(w.keys)-6); i-- {
		if _, err = w.l.Report(w.t.Context(), w.keys[i], r); err == nil {
			break
		}
	}
	return err
}

func (w *world) powered(m lab.Machine) error {
	p := lab.Powered{Machine: m.ID, Order: pick(w.Rand, "", "on", "off", "cycle"), State: pick(w.Rand, "on", "on", "on", "off", "")}
	if w.IntN(6) == 0 {
		p.Err = errors.New("no answer\xff")
	}
	return w.l.Powered(w.t.Context(), p)
}

func (w *world) verb() lab.Verb {
	name := pick(w.Rand, "vm", "metal", "m2", "52:54:00:00:00:01", "52:54:00:00:00:02", "bad/name", "note\xff")
	boot := w.Int64N(12)
	image := pick(w.Rand, "debian", "tree")
	form := map[string]lab.Form{"debian": lab.FormDisk, "tree": lab.FormTree}[image]
	switch w.IntN(34) {
	case 22, 23:
		return w.stack()
	case 24, 25, 26:
		return w.version()
	case 27:
		return lab.TagImage{Ref: lab.Ref{Name: pick(w.Rand, image, "home", "tmp"), Version: w.IntN(3)}, Tag: pick(w.Rand, "a", "b", "3", "bad\xff"), Remove: w.IntN(3) == 0}
	case 28:
		return lab.RollbackImage{Image: pick(w.Rand, image, "home", "tmp"), To: w.IntN(3), Message: "a\xff"}
	case 29, 30:
		return w.queue(name)
	case 31:
		return lab.QueueRepair{Machine: name, Base: w.IntN(2) == 0}
	case 0:
		return lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{}}
	case 1:
		return lab.AddMachine{Name: "metal", MACs: []string{string(w.mac()), string(w.mac())}}
	case 2:
		return lab.Adopt{Machine: string(w.mac()), Name: name}
	case 3:
		return lab.SetMachine{Machine: name, Values: map[string]string{pick(w.Rand, "warm", "parked", "note", "name"): pick(w.Rand, "yes", "no", "m3", "bad\xff", "bad\u202e")}}
	case 4:
		return lab.SetMachine{Machine: name, Values: map[string]string{"power": pick(w.Rand, "manual", "wol", "qemu", "exec:/bin/plug 3", "exec: ", "exec:")}}
	case 5, 6:
		return lab.ArmDisk{Machine: name, Disk: pick(w.Rand, "S1", "S2", "/dev/sdb"), Confirm: pick(w.Rand, name, ""), Disarm: w.IntN(6) == 0}
	case 7:
		if w.IntN(4) > 0 {
			return lab.PowerMachine{Machine: name, Want: pick(w.Rand, "on", "off", "cycle", "up")}
		}
		return pick[lab.Verb](w.Rand, lab.Forget{Machine: name, Confirm: name}, lab.Ignore{Machine: name})
	case 8:
		ref := lab.Ref{Name: image, Version: w.IntN(3)}
		return lab.RemoveImage{Ref: ref, Confirm: pick(w.Rand, ref.String(), "")}
	case 9, 10, 11:
		v := lab.Version{Image: image, Root: w.root(), Bytes: pick[int64](w.Rand, 1<<20, 3<<20, 1<<40), Message: "a\xff\nb"}
		return lab.AddVersion{Version: v, Kind: pick(w.Rand, "system", "system", "system", "user", "nope"), Form: form}
	case 12, 13:
		return lab.PutStack{Stack: lab.Stack{Name: "s-" + image, Layers: []lab.Ref{{Name: image, Version: w.IntN(2)}}, Cmdline: pick(w.Rand, "", "quiet", "bad\xff")}}
	case 14:
		return lab.RemoveStack{Name: "s-" + image}
	case 15:
		return lab.Stop{Boot: boot, Reason: pick(w.Rand, "", "why\xff")}
	case 16:
		return lab.Retry{Boot: boot}
	case 18, 20, 21:
		return lab.QueueCapture{Machine: name, Image: pick(w.Rand, image, "mine"), Base: w.IntN(2), Disk: pick(w.Rand, "", "", "S1"), Kind: pick(w.Rand, "", "user"), Message: "a\xff\nb"}
	case 19:
		return lab.Captured{Boot: boot, AddVersion: lab.AddVersion{Version: lab.Version{Root: w.root(), Bytes: 1 << 20}}}
	case 17:
		return lab.MoveBoot{Boot: boot, Before: w.Int64N(12), Machine: pick(w.Rand, "", "vm", "metal")}
	}
	return lab.Queue{Machine: name, Stack: fmt.Sprint("s-", image)}
}

// stack makes or edits a stack of several images.
func (w *world) stack() lab.PutStack {
	st := lab.Stack{Name: pick(w.Rand, "s-more", "s-all"), Layers: []lab.Ref{{Name: pick(w.Rand, "tree", "tree", "debian", "live"), Version: w.IntN(2)}}}
	for _, i := range w.Perm(5)[:w.IntN(4)] {
		st.Layers = append(st.Layers, lab.Ref{Name: []string{"live", "home", "work", "tmp", "notes"}[i], Version: w.IntN(2)})
	}
	st.Upper = pick(w.Rand, "", lab.UpperDisk, lab.UpperMemory)
	st.Reset = pick(w.Rand, "", lab.ResetTrust)
	if w.IntN(3) == 0 {
		st.Asks = lab.Terms{pick(w.Rand, lab.Lazy, lab.Results, lab.Network, "nope"): pick(w.Rand, lab.Optional, lab.Required)}
		st.Keep = []string{pick(w.Rand, "tree", "home", "nope")}
		st.Params = map[string]string{"n": pick(w.Rand, "1", "", "bad\xff")}
		st.Files = []lab.TextFile{{Path: pick(w.Rand, "/etc/hostname", "etc"), Text: "{machine} {n}"}}
	}
	return lab.PutStack{Stack: st, Edit: w.IntN(2) == 0}
}

// version adds to an image of one of the other kinds.
func (w *world) version() lab.AddVersion {
	v := lab.AddVersion{Version: lab.Version{Image: pick(w.Rand, "home", "work", "tmp", "notes"), Root: w.root(), Bytes: 1 << 20}, Form: lab.FormFiles}
	v.Kind = map[string]string{"home": "user", "work": "project", "tmp": "temporary", "notes": "machine"}[v.Image]
	v.Place = pick(w.Rand, "", "/srv", "bad")
	v.Parent, v.Back = w.IntN(3), w.IntN(3) == 0
	if w.IntN(8) == 0 {
		v.Number = 1 + w.IntN(3)
	}
	if v.Kind == "temporary" || w.IntN(12) == 0 {
		v.Dies = w.now.Add(pick(w.Rand, time.Minute, 20*time.Minute, -time.Minute))
	}
	if v.Kind == "machine" || w.IntN(12) == 0 {
		v.Owner = pick(w.Rand, "vm", "metal", "nobody")
	}
	return v
}
