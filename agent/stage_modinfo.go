package agent

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"carte/lab"
)

// modules is what is known of the modules of one kernel. A name is a module's own, with _ for every -.
type modules struct {
	dir     string              // lib/modules/RELEASE
	files   map[string]string   // by name: the path below dir
	needs   map[string][]string // by name: those that come before it; not all of them, but each has its own
	aliases []alias             // in the order of the kernel's files
	built   map[string]bool     // names that are in the kernel itself
	unread  map[string]bool     // names of modules whose own facts have not been needed
}

// An alias is a pattern that a device's modalias, or a name, may match.
type alias struct{ pattern, name string }

// readModules reads what depmod has written down about the modules in dir, or, where nobody has called it, the modules
// themselves.
func readModules(dir string) (*modules, error) {
	m := &modules{dir: dir, files: map[string]string{}, needs: map[string][]string{}, built: map[string]bool{}}
	err := m.lines("modules.builtin", func(line string) { m.built[moduleName(line)] = true })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = m.lines("modules.dep", func(line string) {
		file, needs, _ := strings.Cut(line, ":")
		m.files[moduleName(file)] = file
		for _, f := range strings.Fields(needs) {
			m.needs[moduleName(file)] = append(m.needs[moduleName(file)], moduleName(f))
		}
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(m.files) == 0 {
		return m, m.readInfos()
	}
	if err != nil {
		return nil, err
	}
	err = m.lines("modules.alias", func(line string) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "alias" {
			m.aliases = append(m.aliases, alias{w[1], moduleName(w[2])})
		}
	})
	if err == nil {
		err = m.lines("modules.softdep", func(line string) {
			if w := strings.Fields(line); len(w) > 2 && w[0] == "softdep" {
				m.soft(moduleName(w[1]), w[2:])
			}
		})
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return m, err
}

// lines hands over the lines of one of depmod's files.
func (m *modules) lines(name string, each func(string)) error {
	f, err := os.Open(filepath.Join(m.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			each(line)
		}
	}
	return s.Err()
}

// soft notes modules that another one asks for by name while it works: "pre: a b post: c". The order is a matter of taste; that
// they are there is not.
func (m *modules) soft(name string, words []string) {
	for _, w := range words {
		if !strings.HasSuffix(w, ":") {
			m.needs[name] = append(m.needs[name], strings.ReplaceAll(w, "-", "_"))
		}
	}
}

// moduleName is the name of the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// elsewhereThan are directories of modules that are for nothing between a machine and its disk or its network. There are
// thousands of them, and what they are for is not read.
var elsewhereThan = []string{
	"kernel/sound", "kernel/net", "kernel/fs", "kernel/drivers/gpu", "kernel/drivers/media", "kernel/drivers/staging", "kernel/drivers/iio",
	"kernel/drivers/hwmon", "kernel/drivers/input", "kernel/drivers/hid", "kernel/drivers/infiniband", "kernel/drivers/video", "kernel/drivers/leds",
	"kernel/drivers/rtc", "kernel/drivers/w1", "kernel/drivers/watchdog", "kernel/drivers/comedi", "kernel/drivers/power", "kernel/drivers/thermal",
	"kernel/drivers/target", "kernel/drivers/bluetooth", "kernel/drivers/edac", "kernel/drivers/accel", "kernel/drivers/mtd", "kernel/drivers/extcon",
	"kernel/drivers/usb/serial", "kernel/drivers/usb/misc", "kernel/drivers/usb/gadget", "kernel/drivers/net/wireless", "kernel/drivers/net/can",
}

// readInfos lists the modules, and reads what those say of themselves that may be for this machine's hardware.
func (m *modules) readInfos() error {
	m.unread = map[string]bool{}
	var likely []string
	err := filepath.WalkDir(m.dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		below, err := filepath.Rel(m.dir, file)
		if err != nil {
			return err
		}
		switch _, packed, is := strings.Cut(e.Name(), ".ko"); {
		case !is:
			return nil
		case packed != "":
			return fmt.Errorf("%s is packed, and nobody has written down what it needs: run depmod where the kernel's files are, and import them again: %w", below, lab.ErrInvalid)
		}
		name := moduleName(file)
		m.files[name], m.unread[name] = below, true
		if !slices.ContainsFunc(elsewhereThan, func(dir string) bool { return strings.HasPrefix(below, dir+"/") }) {
			likely = append(likely, name)
		}
		return nil
	})
	for _, name := range likely {
		err = errors.Join(err, m.learn(name))
	}
	return err
}

// learn reads what a module says of itself, once.
func (m *modules) learn(name string) error {
	if !m.unread[name] {
		return nil
	}
	delete(m.unread, name)
	info, err := modinfo(filepath.Join(m.dir, m.files[name]))
	if err != nil {
		return fmt.Errorf("module %s: %w: %w", m.files[name], err, lab.ErrInvalid)
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		switch key, value, _ := strings.Cut(string(line), "="); key {
		case "alias":
			m.aliases = append(m.aliases, alias{value, name})
		case "depends":
			for _, n := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
				m.needs[name] = append(m.needs[name], moduleName(n))
			}
		case "softdep":
			m.soft(name, strings.Fields(value))
		}
	}
	return nil
}

// modinfo is the section of a module in which it says what it is for: words with a zero byte behind each.
func modinfo(file string) ([]byte, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("it has no .modinfo")
	}
	return s.Data()
}

// wanted returns the files of the modules that names and modaliases lead to, each after those that it needs. What is built in, or
// not there, is left out.
func (m *modules) wanted(names, modaliases []string) (files []string, err error) {
	seen := map[string]bool{}
	var visit func(string)
	byAlias := func(word string) {
		for _, a := range m.aliases {
			if ok, err := path.Match(a.pattern, word); ok && err == nil {
				visit(a.name)
			}
		}
	}
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		err = errors.Join(err, m.learn(name))
		for _, n := range m.needs[name] {
			visit(n)
		}
		if file, ok := m.files[name]; ok {
			files = append(files, file)
		} else if !m.built[name] {
			byAlias(name)
		}
	}
	for _, n := range names {
		visit(n)
	}
	for _, w := range modaliases {
		byAlias(w)
	}
	return files, err
}
