package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		text  string
		flags LabConfig
		want  LabConfig
		says  string // what the error says; empty: none
	}{
		{"", LabConfig{Name: "x"}, LabConfig{Name: "x"}, ""},
		{"[lab]\nname = \"bench0\"\ninterface = \"eth1\"\ndhcp = \"auto\"", LabConfig{DHCP: "proxy"}, LabConfig{Name: "bench0", Interface: "eth1", DHCP: "proxy"}, ""},
		{"[lab]\nname = \"bench0\"\nintreface = \"eth1\"", LabConfig{}, LabConfig{}, "3| intreface = \"eth1\""},
		{"interface = \"eth1\"", LabConfig{}, LabConfig{}, "below [lab] there may be name, interface, dhcp, pool, listen, listen_api, boot_files"},
		{"[lab]\npool = \"10.0.0.1-10.0.0.9\"", LabConfig{Interface: "eth1"}, LabConfig{}, ""},
		{"[lab]\ndhcp = 7", LabConfig{}, LabConfig{}, "2| dhcp = 7"},
		{"[lab]\nname = \"bench0", LabConfig{}, LabConfig{}, "2| name = \"bench0"},
		{"[lab]\ninterface = \"e\"\ndhcp = \"maybe\"", LabConfig{}, LabConfig{}, "dhcp = \"maybe\" is none of auto, server, proxy, off"},
		{"[lab]\npool = \"10.0.0.9-10.0.0.1\"", LabConfig{}, LabConfig{}, "the last comes before the first"},
		{"[lab]\npool = \"10.0.0.9-x\"", LabConfig{}, LabConfig{}, "\"x\" is not an IPv4 address"},
		{"", LabConfig{Pool: "fe80::1-fe80::2"}, LabConfig{}, "is not an IPv4 address"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := settings(dir, c.flags)
		if c.says == "" && (err != nil || c.want.Name != "" && got != c.want) {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
		if c.says != "" && (!errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%q: %v, want %q", c.text, err, c.says)
		}
	}
}

// The doctor and the status look at the settings file too.
func TestSettingsAreLookedAt(t *testing.T) {
	b := newBench(t)
	if out := b.ok("doctor"); strings.Contains(out, "settings") {
		t.Errorf("no file: %s", out)
	}
	if err := os.WriteFile(filepath.Join(b.dir, ConfigName), []byte("interface = \"eth1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := b.run("doctor"); code != 4 || !strings.Contains(out, "FAIL\tsettings\t") || !strings.Contains(out, "below [lab]") {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	if out := b.ok("status"); !strings.Contains(out, "needs you\tsettings: ") {
		t.Errorf("status: %s", out)
	}
}

func TestSplitLine(t *testing.T) {
	for line, want := range map[string][]string{
		"":                            nil,
		" a  b ":                      {"a", "b"},
		`a 'b c' "d e"`:               {"a", "b c", "d e"},
		`note='it'\''s' x\ y "" "\""`: {"note=it's", "x y", "", `"`},
	} {
		if got, err := splitLine(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
	for _, line := range []string{`'a`, `"a`, `a\`} {
		if got, err := splitLine(line); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

func TestStateDir(t *testing.T) {
	env := map[string]string{}
	c := &call{term: Terminal{Env: func(n string) string { return env[n] }}}
	check := func(want string) {
		t.Helper()
		got, err := c.stateDir()
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	check("")
	env["HOME"] = "/home/me"
	check("/home/me/.local/state/carte")
	env["XDG_STATE_HOME"] = "/xdg"
	check("/xdg/carte")
	if got, _ := c.demoDir(); got != "/xdg/carte-demo" {
		t.Errorf("the demo is in %s", got)
	}
	env["CARTE_STATE"] = "/lab"
	check("/lab")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env["CARTE_STATE"] = file
	if _, err := c.stateDir(); err == nil || !strings.HasPrefix(err.Error(), "CARTE_STATE="+file+": it must be a folder") {
		t.Errorf("a file: %v", err)
	}
	c.state = "/other"
	check("/other")
}

func TestMeter(t *testing.T) {
	at := time.Unix(0, 0)
	var out strings.Builder
	c := &call{term: Terminal{Err: &out, Progress: true, Now: func() time.Time { return at }}}
	m := c.meter("import x", 100e6)
	m.to(1e6)
	if out.Len() > 0 {
		t.Errorf("drawn at once: %q", out.String())
	}
	at = at.Add(2 * time.Second)
	m.to(50e6)
	m.to(51e6)
	if got := out.String(); got != "\rimport x: 50.0 MB of 100 MB, 50%, 25.0 MB/s, 2s left" {
		t.Errorf("%q", got)
	}
	m.end()
	if strings.Contains(out.String(), "\x1b") {
		t.Error("the meter steers the terminal")
	}
	out.Reset()
	c.term.Progress = false
	m.to(60e6)
	m.end()
	if out.Len() > 0 {
		t.Errorf("in a pipe: %q", out.String())
	}
}
