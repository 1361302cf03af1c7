// Package modules knows the modules of a Linux kernel: what each file says of itself, the lists that depmod(8) makes of that for modprobe(8), and which
// modules a device or a name leads to.
//
// The package refuses to know machines, images and what modules are packed in: it reads ELF files and the lists beside them, and gives bytes and names. It
// runs no program and writes no file.
package modules

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"carte/lab"
)

// Name is the name of the module in a file: with _ for every -, and without what it is packed in.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// A Set is what is known of the modules of one kernel. A name is a module's own, with _ for every -.
type Set struct {
	dir     fs.FS               // lib/modules/RELEASE; nil where lists are all there is
	files   map[string]string   // by name: the path below dir
	needs   map[string][]string // by name: those that come before it; not all of them, but each has its own
	aliases []alias             // in the order of the kernel's files
	built   map[string]bool     // names that are in the kernel itself
	unread  map[string]bool     // names of modules whose own facts have not been needed
}

// An alias is a pattern that a device's modalias, or a name, may match. plain is how the pattern begins, to its first sign: nearly all
// of them are told from nearly all words by that.
type alias struct{ plain, pattern, name string }

func newAlias(pattern, name string) alias {
	n := strings.IndexAny(pattern, `*?[\`)
	if n < 0 {
		n = len(pattern)
	}
	return alias{pattern[:n], pattern, name}
}

func (a alias) matches(word string) bool {
	if !strings.HasPrefix(word, a.plain) {
		return false
	}
	ok, err := path.Match(a.pattern, word)
	return ok && err == nil
}

// The lists that a Set is read from; the kernel's build makes modules.builtin, depmod the others.
var read = []string{"modules.builtin", "modules.dep", "modules.alias", "modules.softdep"}

// Open reads what depmod has written down about the modules in dir, or, where nobody has called it, the modules themselves: those that may lie between a
// machine and its disks or its network at once, the others when they are needed. Files of dir must be io.ReaderAt. lab.ErrInvalid: a module cannot be read.
func Open(dir fs.FS) (*Set, error) {
	lists := map[string][]byte{}
	for _, name := range read {
		b, err := fs.ReadFile(dir, name)
		if err == nil {
			lists[name] = b
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	s := Parse(lists)
	s.dir = dir
	if len(s.files) == 0 {
		return s, s.readInfos()
	}
	return s, nil
}

// Parse reads modules.builtin, modules.dep, modules.alias and modules.softdep, as far as they are in lists.
func Parse(lists map[string][]byte) *Set {
	s := &Set{files: map[string]string{}, needs: map[string][]string{}, built: map[string]bool{}}
	each := func(name string, line func(string)) {
		for l := range strings.Lines(string(lists[name])) {
			if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
				line(l)
			}
		}
	}
	each("modules.builtin", func(line string) { s.built[Name(line)] = true })
	each("modules.dep", func(line string) {
		file, needs, _ := strings.Cut(line, ":")
		s.files[Name(file)] = file
		for _, f := range strings.Fields(needs) {
			s.needs[Name(file)] = append(s.needs[Name(file)], Name(f))
		}
	})
	each("modules.alias", func(line string) {
		if rest, ok := strings.CutPrefix(line, "alias "); ok {
			pattern, name, _ := strings.Cut(rest, " ")
			s.aliases = append(s.aliases, newAlias(pattern, Name(name)))
		}
	})
	each("modules.softdep", func(line string) {
		if w := strings.Fields(line); len(w) > 2 && w[0] == "softdep" {
			s.soft(Name(w[1]), w[2:])
		}
	})
	return s
}

// soft notes modules that another one asks for by name while it works: "pre: a b post: c". The order is a matter of taste; that
// they are there is not.
func (s *Set) soft(name string, words []string) {
	for _, w := range words {
		if !strings.HasSuffix(w, ":") {
			s.needs[name] = append(s.needs[name], strings.ReplaceAll(w, "-", "_"))
		}
	}
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
func (s *Set) readInfos() error {
	s.unread = map[string]bool{}
	var likely []string
	err := fs.WalkDir(s.dir, ".", func(below string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		switch _, packed, is := strings.Cut(e.Name(), ".ko"); {
		case !is:
			return nil
		case packed != "":
			return fmt.Errorf("%s is packed, and nobody has written down what it needs: import the kernel again, which makes these lists, or run depmod where its files are: %w", below, lab.ErrInvalid)
		}
		name := Name(below)
		s.files[name], s.unread[name] = below, true
		if !slices.ContainsFunc(elsewhereThan, func(dir string) bool { return strings.HasPrefix(below, dir+"/") }) {
			likely = append(likely, name)
		}
		return nil
	})
	for _, name := range likely {
		err = errors.Join(err, s.learn(name))
	}
	return err
}

// learn reads what a module says of itself, once.
func (s *Set) learn(name string) error {
	if !s.unread[name] {
		return nil
	}
	delete(s.unread, name)
	info, err := s.info(s.files[name])
	if err != nil {
		return fmt.Errorf("module %s: %w", s.files[name], err)
	}
	for _, a := range info.Aliases {
		s.aliases = append(s.aliases, newAlias(a, name))
	}
	s.needs[name] = append(s.needs[name], info.Depends...)
	for _, words := range info.Soft {
		s.soft(name, strings.Fields(words))
	}
	return nil
}

func (s *Set) info(file string) (Info, error) {
	f, err := s.dir.Open(file)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return Info{}, errors.New("BUG: a file that cannot be read at any place")
	}
	return ReadInfo(r)
}

// Built says that a module of that name is in the kernel itself.
func (s *Set) Built(name string) bool { return s.built[name] }

// Has says that there is a file of a module of that name.
func (s *Set) Has(name string) bool { return s.files[name] != "" }

// Wanted returns the files of the modules that names and modaliases lead to, each after those that it needs. What is built in, or
// not there, is left out.
func (s *Set) Wanted(names, modaliases []string) (files []string, err error) {
	seen := map[string]bool{}
	var visit func(string)
	byAlias := func(word string) {
		for _, a := range s.aliases {
			if a.matches(word) {
				visit(a.name)
			}
		}
	}
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		err = errors.Join(err, s.learn(name))
		for _, n := range s.needs[name] {
			visit(n)
		}
		if file, ok := s.files[name]; ok {
			files = append(files, file)
		} else if !s.built[name] {
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
