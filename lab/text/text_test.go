package text

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"carte/lab"
)

var update = flag.Bool("update", false, "write the golden files")

func full() lab.Stack {
	return lab.Stack{
		Name: "pages", Layers: []lab.Ref{{Name: "debian", Version: 3}, {Name: "x11"}}, Cmdline: "console=ttyS0 hugepages={pages}",
		Params: map[string]string{"pages": "512", "a.b": "1"}, Start: lab.StartKexec, Until: lab.RungCollect, Grow: true, Upper: lab.UpperDisk, Reset: lab.ResetSampled,
		Asks: lab.Terms{lab.Results: lab.Required, lab.Lazy: lab.Optional}, Keep: []string{"debian"},
		Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}, {Path: "/root/key", Mode: 0o600, Text: "one"}}, Note: `the "huge" pages`,
	}
}

func TestStackIsWrittenAsItWas(t *testing.T) {
	for name, st := range map[string]lab.Stack{"full": full(), "least": {Name: "deb", Layers: []lab.Ref{{Name: "deb"}}}} {
		file := "testdata/" + name + ".toml"
		if *update {
			if err := os.WriteFile(file, Stack(st), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if got := Stack(st); string(got) != string(want) {
			t.Errorf("%s is now (%v):\n%s", file, err, got)
		}
	}
}

// What is written is read back as the same, whatever is in it.
func TestStackRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		st := random(r)
		text := Stack(st)
		got, err := ParseStack(text)
		if err != nil || !reflect.DeepEqual(got, st) {
			t.Fatalf("stack %d: %v\nwas  %+v\nis   %+v\n%s", i, err, st, got, text)
		}
	}
}

func random(r *rand.Rand) lab.Stack {
	word := func() string {
		var b strings.Builder
		for range r.IntN(12) {
			b.WriteRune([]rune("ab@{}\"'\\\n\r\t\x00\x1b\x7f\u0085\u202eé漢#=[]🙂\ufeff")[r.IntN(22)])
		}
		return b.String()
	}
	maybe := func(s string) string {
		if r.IntN(2) == 0 {
			return ""
		}
		return s
	}
	st := lab.Stack{
		Name: word(), Cmdline: word(), Note: word(), Start: lab.Start(maybe("pivot")), Until: lab.Rung(maybe("run")), Upper: lab.Upper(maybe("disk")),
		Reset: lab.Reset(maybe("trust")), Grow: r.IntN(2) == 0,
	}
	for i := range r.IntN(3) {
		st.Layers = append(st.Layers, lab.Ref{Name: fmt.Sprint("i", i), Version: r.IntN(3)})
		st.Keep = append(st.Keep, word())
		st.Files = append(st.Files, lab.TextFile{Path: word(), Mode: uint32(r.IntN(0o10000)), Text: word() + word()})
	}
	if r.IntN(2) == 0 {
		st.Params = map[string]string{word(): word(), "p": word()}
		st.Asks = lab.Terms{lab.Clause(word()): lab.Need(word()), lab.Lazy: lab.Required}
	}
	return st
}

func TestStackRefused(t *testing.T) {
	for text, words := range map[string]string{
		"name = \"a\"\nlayer = [\"b\"]\n":                          "line 2: \"layer\" is no word that carte knows here; there are name, layers, cmdline",
		"name = \"a\"\n[[files]]\npath = \"/a\"\nowner = \"me\"\n": "line 4: \"files.owner\" is no word that carte knows here; there are path, mode, text",
		"name = a\n":                         "line 1, column 8",
		"name = \"a\"\nlayers = [\"b@x\"]\n": "a version is a number",
		"name = \"a\"\nlayers = [\"\"]\n":    "empty name",
		"name = \"a\"\nname = \"b\"\n":       "line 2",
		"name = 5\n":                         "line 1",
		"name = \"a\"\n[[files]]\npath = \"/a\"\nmode = \"0999\"\n": "mode \"0999\" is no octal number",
		"name = \"a\"\n[[files]]\nmode = \"10000\"\n":               "octal",
		"\x00":                           "line 1",
		"# \xff":                         "line 1",
		"# " + strings.Repeat("x", most): "are the most",
	} {
		_, err := ParseStack([]byte(text))
		refused(t, text, err, words)
	}
}

// refused wants a text refused with words.
func refused(t *testing.T, text string, err error, words string) {
	t.Helper()
	if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), words) {
		t.Errorf("%.60q: %v, want %q", text, err, words)
	}
}

func FuzzParseStack(f *testing.F) {
	f.Add(Stack(full()))
	f.Add([]byte("name=\"a\"\nlayers=[]\n[params]\n\"\"=\"\"\n[[files]]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := ParseStack(b)
		if err != nil {
			return
		}
		again, err := ParseStack(Stack(st))
		if err != nil || !reflect.DeepEqual(again, st) {
			t.Errorf("%q\nis %+v\nand then %+v, %v", b, st, again, err)
		}
	})
}

func TestManifest(t *testing.T) {
	m, err := ParseManifest([]byte("# what I am\nplace = \"/home/me\"\n[clauses]\nautostart = \"optional\"\nsealed = \"required\"\n[kernel]\ncmdline = \"quiet\"\nstarts = \"multiboot\"\n"))
	want := Manifest{lab.Terms{lab.Autostart: lab.Optional, lab.Sealed: lab.Required}, "/home/me", KernelPart{"quiet", "multiboot"}}
	if err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("the manifest is %+v, %v", m, err)
	}
	if m, err := ParseManifest(nil); err != nil || m.Offers != nil {
		t.Errorf("an empty manifest is %+v, %v", m, err)
	}
	if m, err := ParseManifest([]byte("[clauses]\n")); err != nil || m.Offers == nil {
		t.Errorf("a manifest that offers nothing on purpose is %+v, %v", m, err)
	}
	for text, words := range map[string]string{
		"[clauses]\nautorun = \"optional\"\n": "clause \"autorun\"",
		"[clauses]\nlazy = \"maybe\"\n":       "optional or required",
		"[kernel]\nstarts = \"grub\"\n":       "linux, multiboot, elf or efi",
		"place = 7\n":                         "line 1, column 9: \"place\" is to be text in quotes, and this is of the sort integer",
		"where = \"/\"\n":                     "line 1: \"where\" is no word that carte knows here; there are place, clauses, kernel",
		"[kernel]\ninitrd = \"x\"\n":          "there are cmdline, starts",
	} {
		_, err := ParseManifest([]byte(text))
		refused(t, text, err, words)
	}
}

func TestKinds(t *testing.T) {
	all, err := Kinds([]byte("[[kind]]\nname = \"course\"\nversioned = true\nshared = true\n\n[[kind]]\nname = \"notes\"\nchecksummed = true\nupdates_by_itself = true\nwritten_back = \"changed\"\nlifetime = \"date\"\n"))
	want := []lab.Kind{{Name: "course", Versioned: true, Shared: true, WrittenBack: "never"}, {Name: "notes", Checksummed: true, Updates: true, WrittenBack: "changed", Lifetime: "date"}}
	if err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("the kinds are %+v, %v", all, err)
	}
	for text, words := range map[string]string{
		"[[kind]]\nname = \"a\"\n[[kind]]\nname = \"b\"\nwritten_back = \"often\"\n": "the 2nd [[kind]]: kind b: written_back is \"often\"",
		"[[kind]]\nname = \"a\"\njoins = true\n":                                     "line 3: \"kind.joins\" is no word that carte knows here; there are name, versioned",
		"[[kind]]\nversioned = true\n":                                               "has no name",
		"[[kind]]\nname = \"a\"\nupdates_by_itself = true\n":                         "never written back",
	} {
		_, err := Kinds([]byte(text))
		refused(t, text, err, words)
	}
}

func TestKindsAsWritten(t *testing.T) {
	want := []lab.Kind{{Name: "course", Versioned: true, Shared: true, WrittenBack: "request"}, {Name: "x", Checksummed: true, Joins: true, Updates: true, WrittenBack: "always", Lifetime: "machine"}}
	got, err := Kinds(WriteKinds(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("written and read: %+v, %v", got, err)
	}
}

func TestErrorsAreOnTheirLine(t *testing.T) {
	b := []byte("# a comment\nname = \"s\"\nlayers = [\n  \"root\",\n  # and\n  \"tools@9\",\n]\n\nstart = \"kexe\"\nasks = { lazy = \"maybe\",\n}\n[params]\npages = \"1\"\n[[files]]\npath = \"/a\"\ntext = \"\"\"\nstart = \"x\"\n\"\"\"\n[[files]]\npath = \"/b\"\nmode = \"9\"\n")
	for key, want := range map[string]string{
		"name": "line 2: ", "layers": "line 3: ", "layers[0]": "line 4: ", "layers[1]": "line 6: ", "layers[7]": "line 3: ", "start": "line 9: ", "asks.lazy": "line 10: ", "asks.sealed": "line 10: ",
		"params": "line 12: ", "params.pages": "line 13: ", "files[0]": "line 14: ", "files[1]": "line 19: ", "files[1].mode": "line 21: ", "upper": "", "keep[1]": "",
	} {
		if got := onLine(b, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if _, err := ParseStack(b); err == nil || !strings.Contains(err.Error(), "line 21: ") {
		t.Errorf("the mode: %v", err)
	}
	for text, want := range map[string]string{
		"name = \"s\"\nlayers = [\"a\",\n \"b@x\"]\n": "line 3",
		"name = \"s\"\nlayers = [\"a\",\n \"\"]\n":    "line 3: ",
		"name = \"s\"\n\nlayers = 7\n":                "line 3",
		"name = \"s\"\ngrow = \"yes\"\n":              "line 2",
	} {
		if _, err := ParseStack([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	st := lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: "tools"}}, Start: "kexe"}
	if err := At(b, lab.Snapshot{}.MayPut(lab.PutStack{Stack: st})); err == nil || !strings.HasPrefix(err.Error(), "line 9: stack s: a system starts by") {
		t.Errorf("%v", err)
	}
}
