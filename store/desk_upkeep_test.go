package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// importAs imports bytes as a disk's image.
func importAs(t *testing.T, d *Desk, name string, b []byte) lab.Version {
	t.Helper()
	got, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: name, Kind: "system", Form: lab.FormDisk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got.Version
}

func TestDeskCollects(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	collect := func(dry bool) lab.Collected {
		t.Helper()
		got, err := d.Collect(t.Context(), dry)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	say := func(verbs ...lab.Verb) {
		t.Helper()
		for _, v := range verbs {
			if _, err := d.Say(t.Context(), v); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := importAs(t, d, "deb", noise(600_000, 1))
	w := importAs(t, d, "old", noise(600_000, 2))
	if got := collect(false); got.Bytes != 0 || got.Manifests != 0 || got.Young != 0 {
		t.Errorf("all is needed: %+v", got)
	}
	// A tree that is none is refused, and its manifest is left.
	_, err := d.Import(t.Context(), bytes.NewReader(noise(300_000, 3)), lab.Import{Name: "tree", Kind: "system", Form: lab.FormTree}, nil)
	if !errors.Is(err, lab.ErrInvalid) {
		t.Fatal(err)
	}
	if got := collect(false); got.Manifests != 1 || got.Chunks != 2 {
		t.Errorf("after a refused tree: %+v", got)
	}
	// A plan that waits refers to its version, whatever else does.
	say(lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{}}, lab.PutStack{Stack: lab.Stack{Name: "deb", Layers: []lab.Ref{{Name: "deb"}}}},
		lab.Queue{Stack: "deb", Machine: "vm-1"}, lab.RemoveStack{Name: "deb"})
	roots, err := d.referenced(t.Context())
	if err != nil || !roots[v.Root] || !roots[w.Root] || len(roots) != 2 {
		t.Errorf("referenced: %v, %v", roots, err)
	}
	if err := d.State.DB.Save(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Say(t.Context(), lab.RemoveImage{Ref: lab.Ref{Name: "deb"}, Confirm: "deb"}); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("an image that waits to be booted was removed: %v", err)
	}
	say(lab.RemoveImage{Ref: lab.Ref{Name: "old"}, Confirm: "old"})
	dry := collect(true)
	if err := d.Verify(t.Context(), v.Ref(), nil); err != nil || dry.Manifests != 1 || !d.State.Chunks.Has(mustManifest(t, d, w.Root).IDs[0]) {
		t.Errorf("dry: %+v, %v", dry, err)
	}
	if got := collect(false); got.Bytes != dry.Bytes || got.Chunks != 3 {
		t.Errorf("%+v, dry %+v", got, dry)
	}
	if err := d.Verify(t.Context(), v.Ref(), nil); err != nil {
		t.Error(err)
	}
	if got, err := d.Fsck(t.Context(), nil); err != nil || len(got.Broken) != 0 || got.Chunks != 3 {
		t.Errorf("fsck: %+v, %v", got, err)
	}
}

func mustManifest(t *testing.T, d *Desk, root chunk.ID) chunk.Manifest {
	t.Helper()
	m, err := d.State.Chunks.Manifest(root)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCollectKilled runs itself again as a process that imports, removes and collects without end, and kills that with SIGKILL at random moments of
// its collections. Every version that is there afterwards is whole.
func TestCollectKilled(t *testing.T) {
	if dir := os.Getenv(toBeKilled); dir != "" {
		collecting(t, dir)
		return
	}
	rounds := kills(40)
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(12, uint64(time.Now().UnixNano())))
	versions := map[string]string{}
	collections := 0
	for round := range rounds {
		which, n := r.IntN(6), 0
		untilKilled(t, dir, 20*time.Second, func(kill *time.Timer, word, rest string) bool {
			switch word {
			case "collect":
				collections++
				if n++; n > which {
					kill.Reset(time.Duration(r.IntN(12_000)) * time.Microsecond)
				}
			case "version":
				ref, root, _ := strings.Cut(rest, " ")
				versions[ref] = root
			case "going":
				delete(versions, rest)
			default:
				return false
			}
			return true
		})
		wholeAfterKill(t, dir, versions, nil)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d kills in %d collections; %d versions are there and whole", rounds, collections, len(versions))
}

// collecting works until it is killed. Its images share chunks, so that packs are written anew.
func collecting(t *testing.T, dir string) {
	d := hold(t, dir)
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(s.LastFact)))
	for n := s.LastFact; ; n++ {
		var b []byte
		for range 3 {
			b = append(b, noise(chunk.Size, r.Uint64N(8))...)
		}
		b = append(b, noise(chunk.Size+77, uint64(n)<<20+uint64(os.Getpid()))...)
		v := importAs(t, d, fmt.Sprint("image-", n%4), b)
		fmt.Println("version", v.Ref(), v.Root)
		if s, err = d.Watch(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		for _, x := range s.Versions {
			if len(s.Versions) < 6 || r.IntN(2) == 0 || len(s.VersionsOf(x.Image)) < 2 {
				continue
			}
			ref := x.Ref()
			fmt.Println("going", ref)
			if _, err := d.Say(t.Context(), lab.RemoveImage{Ref: ref, Confirm: ref.String()}); err != nil {
				t.Fatal(err)
			}
			break
		}
		fmt.Println("collect")
		if _, err := d.Collect(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
}
