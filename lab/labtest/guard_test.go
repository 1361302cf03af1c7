package labtest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carte/agent"
	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
)

func insecure() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
}

// Every guard refuses with its sentence, through the real server and the real agent, and the disk stays as it was.
func TestDiskGuards(t *testing.T) {
	const size = 16 << 20
	for _, c := range []struct {
		what string
		mess func(t *testing.T, b *labtest.Bench, name string, sim *labtest.Sim)
		want string
	}{
		{"wrong serial number", func(_ *testing.T, _ *labtest.Bench, _ string, sim *labtest.Sim) { sim.Disk.Serial = "ANOTHER" }, "is not there"},
		{"another size", func(_ *testing.T, _ *labtest.Bench, _ string, sim *labtest.Sim) { sim.Disk.Bytes += 512 }, "is not there"},
		{"two disks that match", func(t *testing.T, _ *labtest.Bench, _ string, sim *labtest.Sim) {
			twin := sim.Disk
			twin.File = filepath.Join(t.TempDir(), "twin")
			if _, err := labtest.NewDisk(twin.File, twin.Serial, size); err != nil {
				t.Fatal(err)
			}
			sim.More = append(sim.More, twin)
		}, "exactly one must"},
		{"removable", func(_ *testing.T, _ *labtest.Bench, _ string, sim *labtest.Sim) { sim.Disk.Removable = true }, "is removable"},
		{"foreign contents", func(_ *testing.T, _ *labtest.Bench, _ string, sim *labtest.Sim) {
			sim.Disk.Contents = `GPT with 3 partitions: vfat, ext4 "thesis"`
		}, "holds something that carte did not write"},
		{"disarmed while it waits", func(t *testing.T, b *labtest.Bench, name string, sim *labtest.Sim) {
			labtest.Say(t, b, lab.ArmDisk{Machine: name, Disk: sim.Disk.Serial, Disarm: true})
		}, "no disk is armed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := labtest.New(t, netboot.Config{})
			labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(2<<20, 1))
			sim := labtest.Metal(t, b, 0, size)
			scribble(t, sim.Disk.File, 1000, 3<<20)
			before := labtest.FileRoot(t, sim.Disk.File, size)
			name := nameOf(t, b, sim)
			// The boot is queued while all is well and the machine changes afterwards: the last guard is the one tested.
			id := labtest.Boot(t, b, "deb", name)
			c.mess(t, b, name, sim)
			off, _ := labtest.On(t, sim)
			boot := labtest.Over(t, b, id)
			off()
			if boot.State != lab.Failed || !strings.Contains(boot.Reason, c.want) || !strings.Contains(boot.Reason, "nothing was written") {
				t.Errorf("boot is %s: %q; want failed with %q", boot.State, boot.Reason, c.want)
			}
			for _, d := range append(sim.More, sim.Disk) {
				blank := d.File != sim.Disk.File
				if got := labtest.FileRoot(t, d.File, size); !blank && got != before {
					t.Errorf("the disk changed")
				} else if blank && !allZero(t, d.File) {
					t.Errorf("the other disk was written")
				}
			}
		})
	}
}

func allZero(t *testing.T, file string) bool {
	t.Helper()
	return labtest.FileRoot(t, file, 16<<20) == chunk.Manifest{Size: 16 << 20, IDs: make([]chunk.ID, 64)}.Root()
}

// What can be known early is refused when the boot is queued.
func TestQueueGuards(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "big", lab.FormDisk, labtest.Image(20<<20, 1))
	sim := labtest.Metal(t, b, 0, 16<<20)
	name := nameOf(t, b, sim)
	for _, c := range []struct {
		what  string
		setup []lab.Verb
		verb  lab.Verb
		kind  error
		want  string
	}{
		{"too small, with the shortfall", nil, lab.Queue{Machine: name, Stack: "big"}, lab.ErrRefused, " bytes) too small for big"},
		{"unknown stack", nil, lab.Queue{Machine: name, Stack: "bug"}, lab.ErrNotFound, "big"},
		{"unknown machine", nil, lab.Queue{Machine: "sim-zz", Stack: "big"}, lab.ErrNotFound, name},
		{"unarmed", []lab.Verb{lab.ArmDisk{Machine: name, Disk: sim.Disk.Serial, Disarm: true}}, lab.Queue{Machine: name, Stack: "big"}, lab.ErrRefused, "machine arm"},
		{"arming what is not there", nil, lab.ArmDisk{Machine: name, Disk: "NOPE"}, lab.ErrNotFound, sim.Disk.Serial},
	} {
		labtest.Say(t, b, c.setup...)
		if _, err := b.Say(t.Context(), c.verb); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %v with %q", c.what, err, c.kind, c.want)
		}
	}
}

// An unknown machine is seen at once, waits, and gets nothing until it is adopted or ignored.
func TestStrangerWaits(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	disk, err := labtest.NewDisk(filepath.Join(t.TempDir(), "disk"), "S", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	var held atomic.Int64
	sim := &labtest.Sim{MAC: "02:00:00:00:77:01", Disk: disk, Boot: b.URL, Interval: 20 * time.Millisecond}
	sim.Said = func(script string) {
		if strings.Contains(script, "unknown machine") && !strings.Contains(script, "kernel ") {
			held.Add(1)
		}
	}
	labtest.On(t, sim)
	s := labtest.Until(t, b, "the stranger", func(s lab.Snapshot) bool { _, err := s.Find(string(sim.MAC)); return err == nil })
	m, err := s.Find(string(sim.MAC))
	if err != nil || m.Standing != lab.Unknown || len(m.Code()) != 4 {
		t.Fatalf("the stranger is %+v (%v)", m, err)
	}
	labtest.Until(t, b, "three loops", func(s lab.Snapshot) bool { return s.Live[m.ID].Asked >= 3 })
	if held.Load() < 2 {
		t.Errorf("it was held %d times", held.Load())
	}
	if _, err := b.Say(t.Context(), lab.Queue{Machine: string(sim.MAC), Stack: "x"}); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("queueing for a stranger: %v", err)
	}
	labtest.Say(t, b, lab.Adopt{Machine: string(sim.MAC), Name: "nuc-1"})
	labtest.Until(t, b, "its inventory", func(s lab.Snapshot) bool { return s.Machines[m.ID].Inventory != nil })
}

// corrupt serves chunks that are damaged a number of times.
type corrupt struct {
	netboot.ChunkSource
	left  atomic.Int64
	how   func([]byte) []byte
	spare chunk.ID // is sent as it is
}

func (c *corrupt) Stored(id chunk.ID) ([]byte, error) {
	b, err := c.ChunkSource.Stored(id)
	if err == nil && id != c.spare && c.left.Add(-1) >= 0 {
		b = c.how(append([]byte{}, b...))
	}
	return b, err
}

// later is a chunk source that is known only once the lab is open.
type later struct{ of func() netboot.ChunkSource }

func (l later) Manifest(root chunk.ID) (chunk.Manifest, error) { return l.of().Manifest(root) }
func (l later) Stored(id chunk.ID) ([]byte, error)             { return l.of().Stored(id) }

// A server that sends damaged or truncated chunks costs time, or the boot; never a wrong byte that counts as proven.
func TestDamagedChunks(t *testing.T) {
	for how, mangle := range map[string]func([]byte) []byte{
		"a flipped bit": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"truncated":     func(b []byte) []byte { return b[:len(b)/2+1] },
	} {
		for _, times := range []int64{2, 1 << 40} {
			t.Run(fmt.Sprint(how, " ", times), func(t *testing.T) {
				var b *labtest.Bench
				bad := &corrupt{ChunkSource: later{func() netboot.ChunkSource { return b.State.Chunks }}, how: mangle}
				bad.left.Store(times)
				b = labtest.New(t, netboot.Config{Chunks: bad})
				v := labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(5<<20, 1))
				m, err := b.State.Chunks.Manifest(v.Root)
				if err != nil {
					t.Fatal(err)
				}
				bad.spare = m.IDs[0] // the head, without which no byte is written
				sim := labtest.Metal(t, b, 0, 16<<20)
				id := labtest.Boot(t, b, "deb", nameOf(t, b, sim))
				off, _ := labtest.On(t, sim)
				boot := labtest.Over(t, b, id)
				off()
				s, err := b.Watch(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				holds := s.Machines[boot.Machine].Holds
				right := labtest.FileRoot(t, sim.Disk.File, v.Bytes) == v.Root
				switch {
				case times == 2 && (boot.State != lab.Done || !right):
					t.Errorf("after two damaged chunks the boot is %s: %s; disk right: %v", boot.State, boot.Reason, right)
				case times > 2 && (boot.State != lab.Failed || right || len(holds) != 1 || !holds[0].Dirty):
					t.Errorf("with damaged chunks only, the boot is %s: %s; the disk holds %+v", boot.State, boot.Reason, holds)
				case times > 2 && !strings.Contains(boot.Reason, "chunk"):
					t.Errorf("the reason does not name the chunk: %s", boot.Reason)
				}
			})
		}
	}
}

// A token is good for one claim, for its machine, until a later one is given out.
func TestTokens(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(1<<20, 1))
	sim := labtest.Metal(t, b, 0, 16<<20)
	labtest.Boot(t, b, "deb", nameOf(t, b, sim))
	script, err := b.Script(t.Context(), sim.MAC, "")
	if err != nil || script.Do != lab.ScriptAgent {
		t.Fatalf("%+v, %v", script, err)
	}
	again, err := b.Script(t.Context(), sim.MAC, "")
	if err != nil || again.Token != script.Token {
		t.Errorf("iPXE asked twice and got %q and %q (%v)", script.Token, again.Token, err)
	}
	_, api := b.Net.Addrs()
	claim := func(token string) error {
		o := agent.Options{Server: "https://" + api[0].String(), Token: token, HTTP: &http.Client{Transport: insecure()},
			Inventory: func() (lab.Inventory, error) { return lab.Inventory{}, nil }, Interval: time.Millisecond,
			OpenDisk: func(lab.DiskID) (agent.Disk, error) { return nil, errors.New("not to be opened") },
			Handover: func(context.Context, lab.Orders) error { return nil }}
		return agent.Run(t.Context(), o)
	}
	parts := strings.SplitN(script.Token, ".", 2)
	for what, token := range map[string]string{
		"another machine's": "999." + parts[1],
		"made up":           parts[0] + "." + strings.Split(parts[1], ".")[0] + "." + strings.Repeat("0", 32),
		"no token":          "x",
	} {
		if err := claim(token); !errors.Is(err, lab.ErrDenied) {
			t.Errorf("%s: %v, want denied", what, err)
		}
	}
	// The right one: this machine shows no disk at all, so the guard ends the boot; the token is used up by that.
	if err := claim(script.Token); err == nil {
		t.Error("a machine without the armed disk was handed over")
	}
	if err := claim(script.Token); !errors.Is(err, lab.ErrDenied) {
		t.Errorf("the token once more: %v, want denied", err)
	}
}
