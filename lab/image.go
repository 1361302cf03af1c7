package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"carte/lab/chunk"
)

// Form is what the bytes of an image are.
type Form string

const (
	FormDisk  Form = "disk"  // a whole disk with its partition table, any operating system
	FormTree  Form = "tree"  // one Linux root file system, ext4
	FormFiles Form = "files" // a file set, an ext4 of its own: a layer over a tree

	// FormKernel is what a machine starts, an ext4 of its own: /boot/kernel, /boot/initrd if it has one, and its modules in
	// /lib/modules. Beside a tree it is that tree's kernel; alone it is started in memory.
	FormKernel Form = "kernel"
)

// Forms lists the forms that images can have.
var Forms = []Form{FormDisk, FormTree, FormFiles, FormKernel}

// An Image is a named thing with a kind, which is its contract.
type Image struct {
	Name   string    `json:"name"`
	Kind   string    `json:"kind"` // a row of Kinds
	Form   Form      `json:"form"`
	Latest int       `json:"latest"` // number of the newest version there ever was
	Since  time.Time `json:"since"`
	Dies   time.Time `json:"dies,omitzero"`   // of a kind that lives until a date: then its versions are removed
	Owner  string    `json:"owner,omitempty"` // of a kind that lives with its machine: the name of that machine

	Tags map[string]int `json:"tags,omitempty"` // names of versions, by what people call them
}

// A Version is what an image was at one time. It never changes. Root names its bytes.
type Version struct {
	Image       string    `json:"image"`
	Number      int       `json:"number"`
	Root        chunk.ID  `json:"root"`
	Bytes       int64     `json:"bytes"`                       // logical size
	Content     int64     `json:"content_bytes"`               // without chunks that are all zero or that nobody needs
	FileSystems int64     `json:"file_system_bytes,omitempty"` // how far the file systems in it reach, added up; 0: not known
	Stored      int64     `json:"stored_bytes"`                // that this version added to the store
	Parent      int       `json:"parent,omitempty"`
	Message     string    `json:"message,omitempty"`
	Author      string    `json:"author,omitempty"`
	Found       string    `json:"found,omitempty"`   // what import saw inside, in words
	Inside      Inside    `json:"inside,omitzero"`   // the same, for rules
	Offers      Terms     `json:"offers,omitempty"`  // the clauses that it offers, where it says which
	Cmdline     string    `json:"cmdline,omitempty"` // of a kernel: what its command line begins with
	Place       string    `json:"place,omitempty"`   // where files are mounted, an absolute path; empty: as their kind has it
	At          time.Time `json:"at"`
}

// Ref names this version.
func (v Version) Ref() Ref { return Ref{v.Image, v.Number} }

// Inside is what import saw in an image. What is empty is not known.
type Inside struct {
	Arch     string     `json:"arch,omitempty"`     // of its programs or its kernel, as Go calls it: amd64, arm64
	Firmware []Firmware `json:"firmware,omitempty"` // that can start it: of a disk, or of a kernel that needs one
	Starts   string     `json:"starts,omitempty"`   // of a kernel: linux, multiboot, elf, efi
	Kernels  []string   `json:"kernels,omitempty"`  // releases of the Linux kernels in it
	Lacks    []string   `json:"lacks,omitempty"`    // of a Linux kernel: what the clause lazy takes, and it has neither built in nor as a module
	Init     string     `json:"init,omitempty"`     // of a tree: the program that is started
	Serial   bool       `json:"serial,omitempty"`   // something in it opens a serial console
	Run      bool       `json:"run,omitempty"`      // it has a program called run at its top
	Idle     string     `json:"idle,omitempty"`     // why nothing starts: of files, from run at their top; of a disk, at all
	UUIDs    []string   `json:"uuids,omitempty"`    // ids of its file systems
}

// A Ref names an image, and one of its versions when Version is not 0. It is written name or name@3.
type Ref struct {
	Name    string
	Version int
}

func (r Ref) String() string {
	if r.Version == 0 {
		return r.Name
	}
	return r.Name + "@" + strconv.Itoa(r.Version)
}

// MarshalText and UnmarshalText make a Ref a string in JSON. The zero Ref is the empty string.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Ref) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*r = Ref{}
		return nil
	}
	*r, err = ParseRef(string(b))
	return err
}

// ParseRef reads name or name@3.
func ParseRef(s string) (Ref, error) {
	name, number, pinned := strings.Cut(s, "@")
	if err := checkName("image", name); err != nil {
		return Ref{}, err
	}
	if !pinned {
		return Ref{Name: name}, nil
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 {
		return Ref{}, fmt.Errorf("%q: a version is a number from 1, as in %s@3; a tag such as %s@stable is for the command line: %w", s, name, name, ErrInvalid)
	}
	return Ref{name, n}, nil
}

// checkName holds names to what is safe in a file name, an address and a kernel command line.
func checkName(what, s string) error {
	bad := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	})
	switch {
	case s == "":
		return fmt.Errorf("the %s has no name: %w", what, ErrInvalid)
	case len(s) > 64:
		return fmt.Errorf("%s name %.20q… has %d letters, 64 is the most: %w", what, s, len(s), ErrInvalid)
	case bad >= 0:
		return fmt.Errorf("%s name %q: letter %d is not one of a-z A-Z 0-9 . _ -: %w", what, s, bad+1, ErrInvalid)
	case strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-"):
		return fmt.Errorf("%s name %q begins with %q: %w", what, s, s[:1], ErrInvalid)
	}
	return nil
}

// Version returns the version that ref names, the newest when it names none.
func (s Snapshot) Version(ref Ref) (Version, error) {
	if _, ok := s.Images[ref.Name]; !ok {
		return Version{}, fmt.Errorf("image %q: %w%s", ref.Name, ErrNotFound, among("; there are ", s.imageNames()))
	}
	all := s.VersionsOf(ref.Name)
	if im := s.Images[ref.Name]; len(all) == 0 && !im.Dies.IsZero() {
		return Version{}, fmt.Errorf("image %s died at %s, and its bytes were removed (clause %q of kind %s): %w", im.Name, im.Dies.Format(time.RFC3339), ClauseLifetime, im.Kind, ErrNotFound)
	}
	if im := s.Images[ref.Name]; len(all) == 0 && im.Owner != "" {
		return Version{}, fmt.Errorf("image %s lived with %s, and its bytes went when that machine was forgotten (clause %q of kind %s): %w", im.Name, im.Owner, ClauseLifetime, im.Kind, ErrNotFound)
	}
	if ref.Version == 0 && len(all) > 0 {
		return all[len(all)-1], nil
	}
	if v, ok := s.Versions[ref.String()]; ok {
		return v, nil
	}
	var have []string
	for _, v := range all {
		have = append(have, v.Ref().String())
	}
	return Version{}, fmt.Errorf("version %s: %w%s", ref, ErrNotFound, among("; there are ", have))
}

// VersionsOf returns an image's versions, oldest first.
func (s Snapshot) VersionsOf(name string) (all []Version) {
	for _, v := range s.Versions {
		if v.Image == name {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b Version) int { return cmp.Compare(a.Number, b.Number) })
	return all
}

func (s Snapshot) imageNames() (names []string) {
	for n := range s.Images {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// AddVersion makes bytes that are already in the store a version of an image, and the image when it is new. The same
// bytes as the newest version again change nothing.
type AddVersion struct {
	Version // At is set by the lab. Number: 0 for the next; one that another lab gave must be free here, or the same bytes. Parent: what it was made from, 0 for the newest
	Kind    string
	Form    Form
	Dies    time.Time // of a kind that lives until a date
	Owner   string    // of a kind that lives with its machine
	Back    bool      // a machine wrote it back: what is newer than Parent must not be hidden by it
	Exact   bool      // its Offers and Place are just as they are; else what is left out is as the newest version has it
}

// check refuses what no image has, whatever the lab has already.
func (v AddVersion) check() error {
	bad := firstControl(v.Cmdline)
	switch {
	case !slices.Contains(Forms, v.Form):
		return fmt.Errorf("form %q: carte knows disk, tree, files and kernel: %w", v.Form, ErrInvalid)
	case v.Root.IsZero() || v.Bytes <= 0:
		return fmt.Errorf("image %s is empty: %w", v.Image, ErrInvalid)
	case bad >= 0:
		return fmt.Errorf("image %s: byte %d of its kernel's command line is a control character or broken UTF-8: %w", v.Image, bad, ErrInvalid)
	case v.Place != "" && v.Form != FormFiles:
		return fmt.Errorf("image %s has the form %s, and only files are mounted at a place such as %s: --form files: %w", v.Image, v.Form, v.Place, ErrInvalid)
	}
	return errors.Join(v.Offers.Check(), checkPlace(v.Image, v.Place))
}

func (v AddVersion) decide(d *draft) error {
	if err := checkName("image", v.Image); err != nil {
		return err
	}
	k, err := d.KindOf(v.Kind)
	if err != nil {
		return err
	}
	if err := v.check(); err != nil {
		return err
	}
	im, err := d.imageFor(k, v)
	if err != nil {
		return err
	}
	if newest, err := d.Snapshot.Version(Ref{Name: im.Name}); err == nil {
		if !v.Exact && v.Number == 0 {
			if v.Place = or(v.Place, newest.Place); v.Offers == nil {
				v.Offers = newest.Offers
			}
		}
		if newest.same(v.Version) && (v.Number == 0 || v.Number == newest.Number) {
			if was := d.Images[im.Name]; im.Dies != was.Dies || im.Owner != was.Owner {
				d.put(im)
			}
			return nil
		}
		if v.Back && v.Parent != newest.Number {
			return k.broken(ClauseVersioned, "%s was changed on a machine that had %s, and %s is newer: it would be hidden; nothing was kept", im.Name, Ref{im.Name, v.Parent}, newest.Ref())
		}
		if v.Parent == 0 {
			v.Parent = newest.Number
		}
	}
	if base := (Ref{im.Name, v.Parent}); v.Parent != 0 && v.Number == 0 {
		if _, err := d.Snapshot.Version(base); err != nil {
			return fmt.Errorf("made from %s: %w", base, err)
		}
	}
	if v.Number != 0 {
		if have, ok := d.Versions[Ref{im.Name, v.Number}.String()]; ok {
			if have.Root == v.Root {
				return nil
			}
			return k.broken(ClauseVersioned, "%s is here already and has other bytes; a version is never overwritten", have.Ref())
		}
	}
	v.Message, v.Author, v.Found = Clean(v.Message), Clean(v.Author), Clean(v.Found)
	if v.Number == 0 {
		v.Number = im.Latest + 1
	}
	im.Latest = max(im.Latest, v.Number)
	v.At = d.at
	d.put(im, v.Version)
	d.fact(0, 0, "image %s: %s, root %s", v.Version.Ref(), Bytes(v.Bytes), v.Root)
	return nil
}

// imageFor is the image that a version is one of, new or not.
func (d *draft) imageFor(k Kind, v AddVersion) (Image, error) {
	im, ok := d.Images[v.Image]
	switch {
	case !ok:
		im = Image{Name: v.Image, Kind: v.Kind, Form: v.Form, Since: d.at}
	case im.Kind != v.Kind:
		return im, fmt.Errorf("image %s is of kind %s; a version cannot change it to %s: %w", im.Name, im.Kind, v.Kind, ErrRefused)
	case im.Form != v.Form:
		return im, fmt.Errorf("image %s has the form %s; a version cannot change it to %s: %w", im.Name, im.Form, v.Form, ErrRefused)
	}
	return d.life(k, im, v)
}

// same says that two versions of an image have the same bytes, and are used in the same way.
func (v Version) same(o Version) bool {
	return v.Root == o.Root && v.Cmdline == o.Cmdline && v.Place == o.Place && maps.Equal(v.Offers, o.Offers)
}

// life holds a new version to the lifetime that its kind gives the image.
func (d *draft) life(k Kind, im Image, v AddVersion) (Image, error) {
	switch k.Lifetime {
	case "date":
		if !v.Dies.IsZero() {
			im.Dies = v.Dies.UTC().Truncate(time.Millisecond)
		}
		if im.Dies.IsZero() {
			return im, k.broken(ClauseLifetime, "image %s lives until a date, and none was given: --until DATE, or --for 8h", im.Name)
		}
		if !v.Dies.IsZero() && !im.Dies.After(d.at) {
			return im, k.broken(ClauseLifetime, "image %s would live until %s, which is past; nothing can be kept so", im.Name, im.Dies.Format(time.RFC3339))
		}
		if !im.Dies.After(d.at) {
			return im, k.broken(ClauseLifetime, "image %s died at %s; a new version needs a new date", im.Name, im.Dies.Format(time.RFC3339))
		}
	case "machine":
		if v.Owner+im.Owner == "" {
			return im, k.broken(ClauseLifetime, "image %s lives with a machine, and none was given: --machine NAME says which", im.Name)
		}
		m, err := d.Find(or(v.Owner, im.Owner))
		if err != nil {
			return im, k.broken(ClauseLifetime, "image %s lives with a machine, and %v; --machine NAME says which", im.Name, err)
		}
		if m.Name == "" {
			return im, k.broken(ClauseLifetime, "image %s lives with a machine, and %s has no name yet: carte machine adopt %s --name NAME", im.Name, m.Label(), m.Label())
		}
		if im.Owner != "" && im.Owner != m.Name {
			return im, k.broken(ClauseJoins, "image %s is %s's, and cannot be given to %s", im.Name, im.Owner, m.Name)
		}
		im.Owner = m.Name
	}
	if k.Lifetime != "date" && !v.Dies.IsZero() || k.Lifetime != "machine" && v.Owner != "" {
		return im, k.broken(ClauseLifetime, "image %s neither dies at a date nor lives with a machine", im.Name)
	}
	return im, nil
}

// checkPlace refuses a place that files cannot be mounted at.
func checkPlace(image, place string) error {
	if place != "" && (!path.IsAbs(place) || path.Clean(place) != place || place != Clean(place) || len(place) > 255) {
		return fmt.Errorf("image %s: files are mounted at an absolute path such as /home/me, not at %q: %w", image, place, ErrInvalid)
	}
	for _, own := range []string{"/carte", "/proc", "/sys", "/dev", "/run"} {
		if (place == own || strings.HasPrefix(place, own+"/")) && place != ProjectPlace && place != ProbePlace {
			return fmt.Errorf("image %s: files are not mounted at %s: %s is the kernel's or carte's own; a place such as /home/me or /opt/tools is free, and so is %s: %w", image, place, own, ProjectPlace, ErrInvalid)
		}
	}
	return nil
}
