package lab

import (
	"encoding/xml"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

// The same plan gives the same picture, in every way that it can be drawn.
func TestDiagram(t *testing.T) {
	b := furnished(t)
	st := Stack{
		Name: "pages", Layers: named("root", "hpt", "tools", "work", "me"), Cmdline: `console=ttyS0 hugepages={n} a="<b>&[c]"`, Params: map[string]string{"n": "512"},
		Files: []TextFile{{Path: "/etc/hostname", Text: "{machine}"}, {Path: "/root/.ssh/authorized_keys"}}, Asks: Terms{Lazy: Optional}, Upper: UpperDisk,
	}
	plans := map[string]Stack{"pages": st, "deb": {Name: "deb", Layers: named("deb")}, "live": {Name: "live", Layers: named("memtest")}}
	for name, st := range plans {
		p, err := b.now().Plan(st, Machine{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for ext, text := range map[string]string{"txt": p.Diagram(false), "ascii.txt": p.Diagram(true), "mmd": p.Mermaid(), "svg": p.SVG()} {
			file := "testdata/diagram-" + name + "." + ext
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(file); string(want) != text {
				t.Errorf("%s (%v) is now\n%s", file, err, text)
			}
		}
		for i, r := range p.Diagram(true) {
			if r >= utf8.RuneSelf && name != "pages" {
				t.Errorf("%s: byte %d of the picture in ASCII is %q", name, i, r)
			}
		}
		wide := 0
		for _, line := range strings.Split(p.Diagram(false), "\n")[1:] {
			if !strings.HasPrefix(line, "│") && !strings.HasPrefix(line, "├") {
				continue
			}
			if n := utf8.RuneCountInString(line); wide != 0 && n != wide {
				t.Errorf("%s: a line is %d wide, and the ones before are %d: %s", name, n, wide, line)
			} else {
				wide = n
			}
		}
		dec := xml.NewDecoder(strings.NewReader(p.SVG()))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s.svg: %v", name, err)
			}
		}
	}
}
