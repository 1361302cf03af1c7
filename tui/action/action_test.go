package action

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// targets are selections of every sort, on a small lab.
func targets() map[string]Target {
	disk := lab.Disk{DiskID: lab.DiskID{Serial: "S3Z9", Bytes: 8 << 30}, Path: "/dev/sda", Contents: "GPT, 2 partitions"}
	vm := lab.Machine{ID: 1, Name: "vm-1", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:01"}, Virtual: &lab.Virtual{DiskBytes: 4 << 30}, Arms: []lab.Arm{{DiskID: lab.DiskID{Serial: "carte-1", Bytes: 4 << 30}}}}
	nuc := lab.Machine{ID: 2, Name: "nuc-1", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:02"}, Inventory: &lab.Inventory{Disks: []lab.Disk{disk}}}
	new := lab.Machine{ID: 3, Standing: lab.Unknown, MACs: []lab.MAC{"52:54:00:00:00:03"}}
	img := lab.Image{Name: "debian", Kind: "system", Form: lab.FormDisk, Latest: 2}
	v1 := lab.Version{Image: "debian", Number: 1, Bytes: 1 << 30, Stored: 1 << 20}
	v2 := lab.Version{Image: "debian", Number: 2, Bytes: 1 << 30, Stored: 1 << 10}
	st := lab.Stack{Name: "hpt", Layers: []lab.Ref{{Name: "debian"}}}
	boot := func(id int64, s lab.State) lab.Boot {
		return lab.Boot{ID: id, Machine: 1, State: s, Order: id, Plan: lab.Plan{Stack: "hpt"}}
	}
	s := lab.Snapshot{
		Machines: map[int64]lab.Machine{1: vm, 2: nuc, 3: new},
		Images:   map[string]lab.Image{"debian": img},
		Versions: map[string]lab.Version{"debian@1": v1, "debian@2": v2},
		Stacks:   map[string]lab.Stack{"hpt": st},
		Boots:    map[int64]lab.Boot{1: boot(1, lab.Done), 2: boot(2, lab.Working), 3: boot(3, lab.Queued), 4: boot(4, lab.Queued), 5: boot(5, lab.Queued)},
	}
	return map[string]Target{
		"nothing":  {Snapshot: s},
		"no lab":   {},
		"virtual":  {Snapshot: s, Machine: vm, Boot: s.Boots[2], Text: "on"},
		"metal":    {Snapshot: s, Machine: nuc, Text: "S3Z9", Confirm: "nuc-1"},
		"unknown":  {Snapshot: s, Machine: new, Text: "nuc-2"},
		"over":     {Snapshot: s, Machine: vm, Boot: s.Boots[1], Text: "hpt"},
		"waiting":  {Snapshot: s, Machine: vm, Boot: s.Boots[3], Text: "nuc-1"},
		"waiting2": {Snapshot: s, Machine: vm, Boot: s.Boots[4], Text: "off"},
		"image":    {Snapshot: s, Image: img, Text: "x"},
		"version":  {Snapshot: s, Image: img, Version: v2, Text: "x debian", Confirm: "debian@2"},
		"stack":    {Snapshot: s, Stack: st, Text: "vm-1"},
		"setting":  {Snapshot: s, Machine: vm, Text: "note=it's here"},
	}
}

func TestTableIsComplete(t *testing.T) {
	ids, words := map[string]bool{}, map[string]bool{}
	for _, a := range Table {
		switch {
		case ids[a.ID] || words[a.Words]:
			t.Errorf("%s (%s) is in the table twice", a.ID, a.Words)
		case a.ID == "" || a.Words == "" || a.Help == "" || a.Command == nil || len(a.Where) == 0:
			t.Errorf("%s lacks id, words, help, command or place", a.ID)
		case a.Danger >= Interrupts && a.Loses == nil:
			t.Errorf("%s is of tier %d and does not say what is lost", a.ID, a.Danger)
		case (a.Danger == Destroys) != (a.Confirm != nil):
			t.Errorf("%s: tier %d and the name to type do not go together", a.ID, a.Danger)
		case a.Choices != nil && a.Ask == nil:
			t.Errorf("%s has choices and no question", a.ID)
		}
		ids[a.ID], words[a.Words] = true, true
		for name, target := range targets() {
			if ok, why := a.Can(target); !ok && why == "" {
				t.Errorf("%s cannot be done to %q and does not say why", a.ID, name)
			}
			if c := a.Command(target); c != "carte" && !strings.HasPrefix(c, "carte ") {
				t.Errorf("%s on %q: command %q does not begin with carte", a.ID, name, c)
			}
			if tier := a.Tier(target); tier > a.Danger {
				t.Errorf("%s on %q has tier %d, more than its %d", a.ID, name, tier, a.Danger)
			}
			a.Question(target)
			a.Options(target)
		}
	}
}

// A letter means one thing: no action hides a moving key, and where two actions share a key at a place, at most one of
// them can be done.
func TestKeysDoNotClash(t *testing.T) {
	var moving []string
	for _, a := range Table {
		if a.Moves() {
			moving = append(moving, a.Keys...)
		}
	}
	for _, must := range []string{"h", "j", "k", "l", "g", "G", "n", "N"} {
		if !slices.Contains(moving, must) {
			t.Errorf("no action moves with %s", must)
		}
	}
	for _, a := range Table {
		for _, k := range a.Keys {
			if !a.Moves() && slices.Contains(moving, k) {
				t.Errorf("%s takes the moving key %s", a.ID, k)
			}
		}
	}
	for _, p := range Places {
		for name, target := range targets() {
			takes := map[string]string{}
			for _, a := range At(p) {
				if ok, _ := a.Can(target); !ok {
					continue
				}
				for _, k := range a.Keys {
					if takes[k] != "" {
						t.Errorf("%s on %q: key %s means %s and %s", p, name, k, takes[k], a.ID)
					}
					takes[k] = a.ID
				}
			}
		}
	}
}

func TestEveryVerbIsReachable(t *testing.T) {
	reached := map[string]bool{}
	for _, a := range Table {
		if a.Verb == nil {
			continue
		}
		for _, target := range targets() {
			if v, err := a.Verb(target); err == nil {
				name := lab.VerbName(v)
				if name == "" {
					t.Errorf("%s says a verb that is not in the lab's table", a.ID)
				}
				reached[name] = true
			}
		}
	}
	for _, name := range lab.VerbNames() {
		if !reached[name] {
			t.Errorf("no action says %s", name)
		}
	}
}

func TestTiers(t *testing.T) {
	all := targets()
	for _, c := range []struct {
		id, target, text string
		want             int
	}{
		{"machine.power", "virtual", "on", Reversible},
		{"machine.power", "virtual", "off", Interrupts},
		{"machine.power", "metal", "off", Reversible},
		{"machine.arm", "metal", "S3Z9", Destroys},
		{"machine.arm", "virtual", "carte-1", Reversible},
		{"machine.forget", "metal", "", Destroys},
		{"image.rm", "image", "", Destroys},
		{"queue.rm", "waiting", "", Reversible},
		{"boot.stop", "virtual", "", Interrupts},
	} {
		a, ok := ByID(c.id)
		target := all[c.target]
		target.Text = c.text
		if got := a.Tier(target); !ok || got != c.want {
			t.Errorf("%s %s on %s has tier %d, want %d", c.id, c.text, c.target, got, c.want)
		}
	}
}

func TestByKeyAndWords(t *testing.T) {
	all := targets()
	for _, c := range []struct {
		place       Place
		key, target string
		want        string
	}{
		{Machines, "a", "unknown", "machine.adopt"},
		{Machines, "a", "virtual", "machine.add"},
		{Queue, "x", "waiting", "queue.rm"},
		{Queue, "x", "virtual", "boot.stop"},
		{Images, "a", "image", "image.import"},
		{Log, "j", "nothing", "move.down"},
	} {
		if a, _ := ByKey(c.place, c.key, all[c.target]); a.ID != c.want {
			t.Errorf("%s on %s, %s: %s, want %s", c.key, c.place, c.target, a.ID, c.want)
		}
	}
	if a, rest, _ := ByWords(Machines, "boot stop"); a.ID != "boot.stop" || rest != "" {
		t.Errorf(":boot stop is %s %q", a.ID, rest)
	}
	if a, rest, _ := ByWords(Machines, " boot hpt"); a.ID != "boot.queue" || rest != "hpt" {
		t.Errorf(":boot hpt is %s %q", a.ID, rest)
	}
	if _, _, ok := ByWords(Machines, "bootleg"); ok {
		t.Error(":bootleg is something")
	}
}

func TestMovesInTheQueue(t *testing.T) {
	all := targets()
	for _, c := range []struct{ id, target, want string }{
		{"queue.down", "waiting", "carte queue mv 3 --before 5"},
		{"queue.down", "waiting2", "carte queue mv 4 --last"},
		{"queue.up", "waiting2", "carte queue mv 4 --before 3"},
		{"machine.set", "setting", `carte machine set vm-1 'note=it'\''s here'`},
	} {
		a, _ := ByID(c.id)
		if got := a.Command(all[c.target]); got != c.want {
			t.Errorf("%s: %s, want %s", c.id, got, c.want)
		}
	}
	up, _ := ByID("queue.up")
	if ok, why := up.Can(all["waiting"]); ok || why != "boot 3 is the next one already" {
		t.Errorf("queue.up of the first: %v %q", ok, why)
	}
}

func TestParseImport(t *testing.T) {
	for text, want := range map[string]lab.Import{
		"/x/debian.img.zst": {Name: "debian", Kind: "system", Form: lab.FormDisk, File: "/x/debian.img.zst"},
		"a.ext4.gz root":    {Name: "root", Kind: "system", Form: lab.FormTree, File: "a.ext4.gz"},
	} {
		if _, got, err := ParseImport(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseImport(%q) = %+v, %v", text, got, err)
		}
	}
	for file, want := range map[string]string{
		"Root FS.tar": "root-fs", "vmlinuz-6.1.0-56-cloud-amd64": "vmlinuz-6.1.0-56-cloud-amd64", "/a/rootfs-1.2.tar.gz": "rootfs-1.2", "rootfs-1.3.tgz": "rootfs-1.3",
		"linux-image-6.1.0-56-amd64_6.1.176-1_amd64.deb": "linux-image-6.1.0-56-amd64-6.1.176-1", "debian.raw.zst": "debian", ".img": "", "my.dir/": "my.dir",
	} {
		if got := NameByFile(file); got != want {
			t.Errorf("NameByFile(%q) = %q, want %q", file, got, want)
		}
	}
	for _, text := range []string{"", "a b c", ".img"} {
		if _, got, err := ParseImport(text); err == nil {
			t.Errorf("ParseImport(%q) = %+v", text, got)
		}
	}
}
