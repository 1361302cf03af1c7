package lab

import (
	"encoding/json"
	"strings"
	"testing"

	"carte/lab/chunk"
)

func TestParseRef(t *testing.T) {
	for s, want := range map[string]Ref{"deb": {"deb", 0}, "deb@3": {"deb", 3}, "a.b-c_D9@12": {"a.b-c_D9", 12}, long(64, "x"): {long(64, "x"), 0}} {
		if got, err := ParseRef(s); err != nil || got != want || got.String() != s {
			t.Errorf("%q is %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "@", "@3", "deb@", "deb@0", "deb@-1", "deb@x", "deb@1@2", "deb@99999999999999999999", "../etc", ".hidden", "-flag", "a b", "a/b", "a\x00b", "é", long(65, "x")} {
		_, err := ParseRef(s)
		wantError(t, s, err, ErrInvalid)
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"deb", "deb@3", "deb@03", "@", "../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(r.Name, "/\\ \x00\n") || strings.HasPrefix(r.Name, ".") || r.Version < 0 || len(r.Name) > 64 {
			t.Errorf("%q is taken for %+v", s, r)
		}
		text, err := json.Marshal(r)
		var back Ref
		if err != nil || json.Unmarshal(text, &back) != nil || back != r {
			t.Errorf("%+v becomes %s and %+v", r, text, back)
		}
	})
}

func TestParseMAC(t *testing.T) {
	for s, want := range map[string]MAC{"52:54:00:00:00:01": "52:54:00:00:00:01", "52-54-00-00-00-AB": "52:54:00:00:00:ab", "5254.0000.0001": "52:54:00:00:00:01"} {
		if got, err := ParseMAC(s); err != nil || got != want {
			t.Errorf("%q is %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "vm", "52:54:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00:00:01"} {
		_, err := ParseMAC(s)
		wantError(t, s, err, ErrInvalid)
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("52:54:00:00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMAC(s); err == nil {
			if again, err := ParseMAC(string(m)); err != nil || again != m || len(m) != 17 {
				t.Errorf("%q is %q is %q", s, m, again)
			}
		}
	})
}

// What people can say crosses the socket and comes back the same; what only machines may say does not cross it.
func TestVerbs(t *testing.T) {
	for _, name := range VerbNames() {
		v, err := ParseVerb(name, []byte("{}"))
		if err != nil || VerbName(v) != name {
			t.Errorf("%s is %T, %v", name, v, err)
		}
		_, err = ParseVerb(name, []byte(`{"no_such_field":1}`))
		wantError(t, name, err, ErrInvalid, "no_such_field")
		b := newBench(t)
		if _, err := b.Say(t.Context(), v); err == nil { // nothing panics on nothing
			t.Errorf("%s without a word is accepted", name)
		}
	}
	_, err := ParseVerb("image.add", []byte("{}"))
	wantError(t, "image.add", err, ErrNotFound, "boot.stop")
	if VerbName(AddVersion{}) != "" {
		t.Error("a person may make versions of bytes that nobody has checked")
	}
}

func FuzzVerbs(f *testing.F) {
	f.Add(0, []byte(`{"name":"x","virtual":{}}`))
	f.Add(3, []byte(`{"boot":1,"before":1}`))
	f.Fuzz(func(t *testing.T, n int, text []byte) {
		names := VerbNames()
		v, err := ParseVerb(names[(n%len(names)+len(names))%len(names)], text)
		if err != nil {
			return
		}
		b := newBench(t)
		b.queue("vm", "deb")
		b.Say(t.Context(), v)
	})
}

func TestMachineSettings(t *testing.T) {
	b := newBench(t)
	set := func(name, value string) SetMachine {
		return SetMachine{Machine: "metal", Values: map[string]string{name: value}}
	}
	for _, c := range [][3]string{
		{"name", "vm", "there already"}, {"name", "a b", "letter 2"}, {"name", "5254.0000.0009", "looks like an address"}, {"power", "qemu", "virtual"},
		{"power", "ipmi", "wol"}, {"power", "exec", "needs its command"}, {"power", "exec: ", "needs its command"}, {"power", "wol:x", "needs its command"},
		{"warm", "maybe", "yes nor no"}, {"note", "a\nb", "control"}, {"note", long(201, "x"), "200"}, {"note", "\xff", "UTF-8"}, {"note", "\u202e", "control"},
		{"parked", "yes", "only be set to no"}, {"tail", "1M", "at least 128 MiB"}, {"tail", "much", "does not begin with a number"}, {"colour", "red", "warm"},
	} {
		b.refused(set(c[0], c[1]), map[bool]error{true: ErrBusy, false: ErrInvalid}[c[2] == "there already"], c[2])
	}
	b.refused(SetMachine{Machine: "metal"}, ErrInvalid, "nothing to set")
	b.must(set("power", "exec:/bin/plug 3"))
	b.must(set("note", "caf\u00e9"))
	b.must(set("name", "metal"))
	if m := b.machine("metal"); strings.Join(m.Power.Exec, " ") != "/bin/plug 3" || m.Note != "caf\u00e9" {
		t.Errorf("%+v", m)
	}
	b.must(set("name", "iron"))
	b.machine("iron")
	b.refused(AddMachine{Name: "vm", Virtual: &Virtual{}}, ErrBusy)
	b.refused(AddMachine{Name: "x"}, ErrInvalid, "--virtual")
	b.refused(AddMachine{Name: "x", MACs: []string{string(vmMAC)}}, ErrBusy, "vm")
	for what, v := range map[string]Virtual{"arm": {Firmware: "arm"}, "CPUs": {CPUs: 65}, "memory": {MemoryBytes: 1}, "512": {DiskBytes: 1<<20 + 1}, "wire": {Wire: "tap0,script=/bin/sh"}} {
		b.refused(AddMachine{Name: "x", Virtual: &v}, ErrInvalid, what)
	}
}

func TestImages(t *testing.T) {
	b := newBench(t)
	add := func(root byte, kind string, form Form) AddVersion {
		return AddVersion{Version: Version{Image: "deb", Root: chunk.ID{root}, Bytes: 5, Message: "a\x1b[2J\xff"}, Kind: kind, Form: form}
	}
	if c := b.must(add(1, "system", FormDisk)); len(c.Versions) != 0 {
		t.Errorf("the same bytes are a new version: %+v", c)
	}
	if v := b.must(add(2, "system", FormDisk)).Versions[0]; v.Number != 2 || v.Parent != 1 || v.Message != "a\uFFFD" {
		t.Errorf("%+v", v)
	}
	b.refused(add(3, "user", FormDisk), ErrRefused, "kind system")
	b.refused(add(3, "system", FormTree), ErrRefused, "form disk")
	b.refused(add(3, "sistem", FormDisk), ErrInvalid, "system")
	b.refused(add(3, "system", "iso"), ErrInvalid, "disk, tree, files and kernel")
	b.refused(add(0, "system", FormDisk), ErrInvalid, "empty")
	id := b.queue("vm", "deb")
	if got := b.boot(id).Plan.Layers[0].Ref; got.Version != 2 {
		t.Errorf("a floating stack takes %s", got)
	}
	b.refused(RemoveImage{Ref: Ref{"deb", 2}, Confirm: "deb@2"}, ErrBusy, "boot 1")
	b.refused(RemoveImage{Ref: Ref{"deb", 0}, Confirm: "deb"}, ErrBusy, "stack deb")
	b.refused(RemoveImage{Ref: Ref{"deb", 1}}, ErrConfirm, "--confirm deb@1")
	b.refused(RemoveImage{Ref: Ref{"deb", 7}, Confirm: "deb@7"}, ErrNotFound, "deb@1")
	b.refused(RemoveImage{Ref: Ref{"no", 0}, Confirm: "no"}, ErrNotFound, "deb")
	b.must(RemoveImage{Ref: Ref{"deb", 1}, Confirm: "deb@1"})
	b.must(Stop{Boot: id})
	b.must(RemoveStack{Name: "deb"})
	b.refused(RemoveStack{Name: "deb"}, ErrNotFound, "tree")
	b.must(RemoveImage{Ref: Ref{"deb", 2}, Confirm: "deb@2"})
	if _, ok := b.now().Images["deb"]; ok {
		t.Error("an image without versions is left")
	}
	b.refused(PutStack{Stack: Stack{Name: "tree", Layers: []Ref{{"tree", 0}}}}, ErrBusy)
	b.refused(PutStack{Stack: Stack{Name: "x", Layers: []Ref{{"tree", 9}}}}, ErrNotFound)
	b.refused(PutStack{Stack: Stack{Name: "x"}}, ErrInvalid, "no images")
	b.refused(PutStack{Stack: Stack{Name: "x", Layers: []Ref{{"tree", 0}}, Cmdline: "a\nb"}}, ErrInvalid, "byte 1")
	b.must(AddVersion{Version: Version{Image: "home", Root: chunk.ID{7}, Bytes: 5}, Kind: "user", Form: FormTree})
	b.refused(PutStack{Stack: Stack{Name: "x", Layers: []Ref{{"home", 0}}}}, ErrRefused, "kind user")
}

// The same stack on the same lab is the same plan; other bytes or words are another.
func TestResolve(t *testing.T) {
	b := newBench(t)
	one, err := b.now().Resolve("tree")
	two, _ := b.now().Resolve("tree")
	if err != nil || one.Digest != two.Digest || one.Digest.IsZero() || one.Bytes() != GiB+TreeOffset+TreeTail {
		t.Errorf("%+v %+v %v", one, two, err)
	}
	b.must(PutStack{Stack: Stack{Name: "quiet", Layers: []Ref{{"tree", 1}}, Cmdline: "quiet"}})
	if q, _ := b.now().Resolve("quiet"); q.Digest == one.Digest {
		t.Error("another command line, the same digest")
	}
	b.must(AddVersion{Version: Version{Image: "tree", Root: chunk.ID{8}, Bytes: GiB}, Kind: "system", Form: FormTree})
	if f, _ := b.now().Resolve("tree"); f.Digest == one.Digest || f.Layers[0].Ref.Version != 2 {
		t.Errorf("a floating stack did not follow: %+v", f)
	}
	if p, _ := b.now().Resolve("quiet"); p.Layers[0].Ref.Version != 1 {
		t.Errorf("a pinned stack moved: %+v", p)
	}
}
