package action

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// images are the actions on images. Import, export and verify are long; the screen does them through the desk and shows
// how far they are.
var images = []Action{
	{
		ID: "image.badge", Words: "contract test", Where: []Place{Images},
		Help: "boot an image in a virtual machine, and prove each clause that it declares",
		Enabled: func(t Target) (bool, string) {
			return false, "it takes two boots; in a shell: carte contract test " + or(t.Image.Name, "IMAGE")
		},
		Command: func(t Target) string { return command("carte", "contract", "test", or(t.Image.Name, "IMAGE")) },
		Verb:    func(Target) (lab.Verb, error) { return lab.PutBadge{}, nil },
	},
	{
		ID: "image.import", Words: "image import", Keys: []string{"a"}, Where: []Place{Images},
		Help: "import a file or folder as an image, or as the next version of one",
		Ask: func(Target) string {
			return "file or folder, then the image's name where it differs, then disk, tree, files or kernel"
		},
		Command: func(t Target) string {
			file, i, err := ParseImport(t.Text)
			if err != nil {
				return command("carte", "image", "import", "FILE", "--name", "NAME")
			}
			words := []string{"carte", "image", "import", file, "--name", i.Name}
			if i.Form != FormByName(file) {
				words = append(words, "--form", string(i.Form))
			}
			return command(words...)
		},
	},
	{
		ID: "image.export", Words: "image export", Keys: []string{"e"}, Where: []Place{Images},
		Help:    "write an image's bytes to a file",
		Ask:     func(t Target) string { return "file to write " + ref(t).String() + " to" },
		Enabled: anImage,
		Command: func(t Target) string {
			return command("carte", "image", "export", imageWord(t), "-o", or(t.Text, "FILE"))
		},
	},
	{
		ID: "image.verify", Words: "image verify", Keys: []string{"V"}, Where: []Place{Images},
		Help:    "hash every byte of an image again",
		Enabled: anImage,
		Command: func(t Target) string { return command("carte", "image", "verify", imageWord(t)) },
	},
	{
		ID: "image.rm", Words: "image rm", Keys: []string{"D"}, Where: []Place{Images}, Danger: Destroys,
		Help: "remove an image or one of its versions",
		Enabled: func(t Target) (bool, string) {
			if ok, why := anImage(t); !ok {
				return ok, why
			}
			if err := t.Snapshot.Removable(ref(t)); err != nil {
				return false, lab.Words(err)
			}
			return true, ""
		},
		Command: func(t Target) string {
			return command("carte", "image", "rm", imageWord(t), "--confirm", imageWord(t))
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.RemoveImage{Ref: ref(t), Confirm: t.Confirm}, nil
		},
		Loses: func(t Target) string {
			all := t.Snapshot.VersionsOf(t.Image.Name)
			var stored int64
			for _, v := range all {
				stored += v.Stored
			}
			switch {
			case t.Version.Number != 0:
				return fmt.Sprintf("version %s, %s", t.Version.Ref(), lab.Bytes(t.Version.Stored))
			case len(all) == 1:
				return fmt.Sprintf("%s and its only version, %s", t.Image.Name, lab.Bytes(stored))
			}
			return fmt.Sprintf("%s and all its %d versions, %s", t.Image.Name, len(all), lab.Bytes(stored))
		},
		Confirm: func(t Target) string { return ref(t).String() },
	},
	{
		ID: "image.tag", Words: "image tag", Keys: []string{"T"}, Where: []Place{Images},
		Help:    "give a version a name beside its number, as in debian@stable",
		Enabled: anImage,
		Ask:     func(t Target) string { return "tag for " + ref(t).String() },
		Command: func(t Target) string { return command("carte", "image", "tag", imageWord(t), or(t.Text, "TAG")) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.TagImage{Ref: ref(t), Tag: t.Text}, nil },
	},
	{
		ID: "image.rollback", Words: "image rollback", Keys: []string{"R"}, Where: []Place{Images},
		Help: "make the bytes of an older version the newest, as a version of its own",
		Enabled: both(anImage, func(t Target) (bool, string) {
			return len(t.Snapshot.VersionsOf(t.Image.Name)) > 1, t.Image.Name + " has no older version"
		}),
		Ask: func(t Target) string {
			if t.Version.Number != 0 {
				return ""
			}
			return "number of the version of " + t.Image.Name + " that is to be the newest"
		},
		Command: func(t Target) string {
			return command("carte", "image", "rollback", or(t.Image.Name, "IMAGE"), "--to", or(backTo(t), "VERSION"))
		},
		Verb: func(t Target) (lab.Verb, error) {
			n, err := strconv.Atoi(backTo(t))
			if err != nil {
				return nil, fmt.Errorf("%q is no version's number: %w", t.Text, lab.ErrInvalid)
			}
			return lab.RollbackImage{Image: t.Image.Name, To: n}, nil
		},
	},
	{
		ID: "store.gc", Words: "gc", Where: []Place{Images}, Danger: Interrupts,
		Help:    "free what no version refers to any more; --dry-run only says how much that is",
		Command: func(Target) string { return command("carte", "gc") },
		Loses:   func(Target) string { return "what no version refers to (carte gc --dry-run says how much)" },
	},
	{
		ID: "store.fsck", Words: "fsck", Where: []Place{Images},
		Help:    "hash everything in the store again, and mend what a good copy allows",
		Command: func(Target) string { return command("carte", "fsck") },
	},
	{
		ID: "stack.of", Words: "stack of this", Keys: []string{"m"}, Where: []Place{Images},
		Help:    "make a stack of an image",
		Ask:     func(t Target) string { return "name of the stack of " + ref(t).String() },
		Enabled: anImage,
		Command: func(t Target) string {
			return command("carte", "stack", "new", or(t.Text, "NAME"), "--system", imageWord(t))
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.PutStack{Stack: lab.Stack{Name: t.Text, Layers: []lab.Ref{ref(t)}}}, nil
		},
	},
}

// stacks are the actions on stacks.
var stacks = []Action{
	{
		ID: "stack.new", Words: "stack new", Keys: []string{"a"}, Where: []Place{Stacks},
		Help: "make a stack of a system image",
		Ask: func(Target) string {
			return "name of the stack and its system image, as in hpt debian, hpt debian@3 or hpt debian@stable"
		},
		Enabled: func(t Target) (bool, string) {
			return len(t.Snapshot.Images) > 0, "there is no image yet; import one on Images"
		},
		Command: func(t Target) string {
			name, image, _ := strings.Cut(strings.TrimSpace(t.Text), " ")
			return command("carte", "stack", "new", or(name, "NAME"), "--system", or(strings.TrimSpace(image), "IMAGE"))
		},
		Verb: func(t Target) (lab.Verb, error) {
			words := strings.Fields(t.Text)
			if len(words) != 2 {
				return nil, fmt.Errorf("%q is not a stack's name and an image: %w", t.Text, lab.ErrInvalid)
			}
			r, err := t.Snapshot.ParseRef(words[1])
			if err != nil {
				return nil, err
			}
			return lab.PutStack{Stack: lab.Stack{Name: words[0], Layers: []lab.Ref{r}}}, nil
		},
	},
	{
		ID: "stack.edit", Words: "stack edit", Keys: []string{"e"}, Where: []Place{Stacks, Compose},
		Help:    "edit a stack as text in your editor",
		Enabled: aStack,
		Command: func(t Target) string { return command("carte", "stack", "edit", stackWord(t)) },
	},
	{
		ID: "stack.check", Words: "stack check", Keys: []string{"c"}, Where: []Place{Stacks},
		Help:    "check whether a stack can run, and on which machine",
		Enabled: aStack,
		Command: func(t Target) string { return command("carte", "stack", "check", stackWord(t)) },
	},
	{
		ID: "stack.fix", Words: "stack fix", Where: []Place{Stacks},
		Help:    "mend what a check found, by its code",
		Enabled: aStack,
		Ask:     func(t Target) string { return "code of what is to be mended in " + stackWord(t) },
		Command: func(t Target) string { return command("carte", "stack", "fix", stackWord(t), or(t.Text, "CODE")) },
	},
	{
		ID: "stack.rm", Words: "stack rm", Keys: []string{"D"}, Where: []Place{Stacks}, Danger: Interrupts,
		Help:    "remove a stack; boots that wait keep what they were given",
		Enabled: aStack,
		Command: func(t Target) string { return command("carte", "stack", "rm", stackWord(t)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.RemoveStack{Name: t.Stack.Name}, nil },
		Loses:   func(t Target) string { return "stack " + t.Stack.Name },
	},
}

// ParseImport reads "FILE [NAME [FORM]]". Without a name it is the file's, without its endings; without a form it goes by the
// file's name, and the kind by the form.
func ParseImport(text string) (file string, i lab.Import, err error) {
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > 3 {
		return "", i, fmt.Errorf("%q is not a file and, at most, a name and a form: %w", text, lab.ErrInvalid)
	}
	file = words[0]
	i = lab.Import{Form: FormByName(file), File: file}
	if len(words) > 2 {
		if i.Form = lab.Form(words[2]); !slices.Contains(lab.Forms, i.Form) {
			return "", i, fmt.Errorf("form %q: carte knows disk, tree, files and kernel: %w", i.Form, lab.ErrInvalid)
		}
	}
	i.Kind = KindByForm(i.Form)
	if len(words) > 1 {
		i.Name = words[1]
	} else {
		i.Name = NameByFile(file)
	}
	if _, err := lab.ParseRef(i.Name); err != nil {
		return "", i, err
	}
	return file, i, nil
}

// endings are those of files that images are made of, and of what they are packed in.
var endings = []string{".gz", ".xz", ".zst", ".bz2", ".tar", ".tgz", ".txz", ".tzst", ".tbz2", ".tbz", ".img", ".raw", ".qcow2", ".iso", ".ext4", ".deb", ".efi", ".elf", ".bin"}

// NameByFile is a name for the image that is made of a file: the file's own in small letters, without the endings that tell what it is, and with "-" for
// what names do not have; of a Debian package its name and version. It may be empty.
func NameByFile(file string) string {
	name := strings.ToLower(path.Base(file))
	deb := strings.HasSuffix(name, ".deb")
	for cut := true; cut; {
		cut = false
		for _, ending := range endings {
			if rest, ok := strings.CutSuffix(name, ending); ok {
				name, cut = rest, true
			}
		}
	}
	if parts := strings.Split(name, "_"); deb && len(parts) == 3 {
		name = parts[0] + "-" + parts[1]
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, name)
	return strings.Trim(name[:min(len(name), 64)], "-.")
}

// FormByName guesses an image's form from its file's name: .ext4 and .tar are a tree, whatever they are packed in, and so is a folder that is named
// with a slash behind it; all else is a disk.
func FormByName(file string) lab.Form {
	if strings.HasSuffix(file, "/") {
		return lab.FormTree
	}
	name := strings.ToLower(path.Base(file)) + "."
	for _, ending := range []string{".ext4.", ".tar.", ".tgz.", ".txz.", ".tzst.", ".tbz2.", ".tbz."} {
		if strings.Contains(name, ending) {
			return lab.FormTree
		}
	}
	return lab.FormDisk
}

// KindByForm is the kind of an image of which only the form is known.
func KindByForm(f lab.Form) string {
	if f == lab.FormFiles {
		return "user"
	}
	return "system"
}

func anImage(t Target) (bool, string) { return t.Image.Name != "", "no image is selected" }

// backTo is the version that a rollback goes to, as a number.
func backTo(t Target) string {
	if t.Version.Number != 0 {
		return strconv.Itoa(t.Version.Number)
	}
	return t.Text
}

func aStack(t Target) (bool, string) { return t.Stack.Name != "", "no stack is selected" }

func stackWord(t Target) string { return or(t.Stack.Name, "STACK") }

// ref is the selected version, or the image when no version is.
func ref(t Target) lab.Ref { return lab.Ref{Name: t.Image.Name, Version: t.Version.Number} }

func imageWord(t Target) string { return or(ref(t).String(), "IMAGE") }
