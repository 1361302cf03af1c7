package labtest_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
)

// captureSteps are the requests that only a capture makes, as a halt calls them.
var captureSteps = []string{"v1/capture/lacks", "v1/capture/chunks", "v1/capture/manifest"}

// Whatever is cut off, and whoever is started anew, a capture ends with one version; the machine that died was one strike.
func TestCaptureCut(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(t *testing.T, b *labtest.Bench, h *halt, sim *labtest.Sim, off func())
		died bool
	}{
		{"answer lost", func(t *testing.T, b *labtest.Bench, h *halt, sim *labtest.Sim, off func()) { h.on() }, false},
		{"server restarted", func(t *testing.T, b *labtest.Bench, h *halt, sim *labtest.Sim, off func()) {
			b.Stop()
			b.Start(t)
			h.on()
		}, false},
		{"machine reset", func(t *testing.T, b *labtest.Bench, h *halt, sim *labtest.Sim, off func()) {
			off()
			sim.HTTP = nil
			labtest.On(t, sim)
		}, true},
	} {
		for _, at := range captureSteps {
			t.Run(c.what+" at "+at, func(t *testing.T) {
				b := labtest.New(t, netboot.Config{})
				v1 := labtest.Import(t, b, "deb", lab.FormDisk, disked(t, 40<<20, labtest.Image(30<<20, 1)))
				sim, name := labtest.Metal(t, b, 0, 64<<20), labtest.MetalName(0)
				bootOnce(t, b, sim, "deb")
				change(t, sim.Disk.File, 2<<20, labtest.Image(24<<20, 2)) // several batches
				id := queueCapture(t, b, lab.QueueCapture{Machine: name, Image: "deb"})
				h := newHalt(at, true)
				h.plug(sim)
				sim.Again = true
				off, _ := labtest.On(t, sim)
				h.wait(t)
				c.do(t, b, h, sim, off)
				x := labtest.Over(t, b, id)
				strikes := 0
				if c.died && at != "v1/capture/manifest" { // after that it was over
					strikes = 1
				}
				s := labtest.Now(t, b)
				v2 := s.Versions["deb@2"]
				if x.State != lab.Done || x.Strikes != strikes || x.Same || x.Captured != v2.Ref() || len(s.VersionsOf("deb")) != 2 || v2.Parent != v1.Number {
					t.Fatalf("boot is %s at attempt %d with %d strikes: %s; versions %+v", x.State, x.Attempt, x.Strikes, x.Reason, s.VersionsOf("deb"))
				}
				if err := b.Verify(t.Context(), v2.Ref(), nil); err != nil {
					t.Error(err)
				}
				need := storedIn(t, b, v1.Root, v2.Root)
				if x.Moved.Sent > need*12/10+9<<20 { // one batch may go twice
					t.Errorf("%d bytes were sent for %d", x.Moved.Sent, need)
				}
			})
		}
	}
}

// keyed remembers with which key a machine speaks.
type keyed struct {
	http.RoundTripper
	key chan string
}

func (k *keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	if key := r.Header.Get("Authorization"); key != "" {
		select {
		case k.key <- key:
		default:
		}
	}
	return k.RoundTripper.RoundTrip(r)
}

// standing turns a machine on until its boot stands at a step, and returns its agent's key.
func standing(t *testing.T, sim *labtest.Sim, at string) (key string, h *halt) {
	t.Helper()
	h = newHalt(at, false)
	k := &keyed{h, make(chan string, 1)}
	sim.HTTP = &http.Client{Transport: k}
	sim.Again = true
	labtest.On(t, sim)
	h.wait(t)
	return <-k.key, h
}

// Bodies that are no chunks, no manifests, too long or of another's boot leave nothing and end nothing.
func TestCaptureHostile(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, disked(t, 8<<20, labtest.Image(5<<20, 1)))
	sim, other := labtest.Metal(t, b, 0, 16<<20), labtest.Metal(t, b, 1, 16<<20)
	bootOnce(t, b, sim, "deb")
	change(t, sim.Disk.File, 2<<20, []byte("changed"))
	id := queueCapture(t, b, lab.QueueCapture{Machine: labtest.MetalName(0), Image: "deb"})
	labtest.Boot(t, b, "deb", labtest.MetalName(1))
	key, h := standing(t, sim, "probe")
	flashing, _ := standing(t, other, "hash")

	raw := labtest.Image(chunk.Size, 7)
	good, absent := chunk.Sum(raw), chunk.Sum([]byte("nobody has this"))
	frame := func(id chunk.ID, stored []byte) []byte {
		var w bytes.Buffer
		if err := chunk.WriteFrame(&w, id, stored); err != nil {
			t.Fatal(err)
		}
		return w.Bytes()
	}
	whole := frame(good, chunk.Pack(nil, raw))
	manifest := func(size int64, ids ...chunk.ID) []byte { return chunk.Manifest{Size: size, IDs: ids}.Encode() }
	_, api := b.Net.Addrs()
	base := "https://" + api[0].String()
	// As agents do, it keeps its connections: to others the server says no without waiting for the rest, which a client may not see.
	client := insecure()
	client.DisableKeepAlives = false
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		what, path, key string
		body            []byte
		want            int
	}{
		{"no key", lab.PathTake, "", whole, 401},
		{"a key that nobody has", lab.PathTake, "Bearer 00", whole, 401},
		{"ids for a flash", lab.PathLacks, flashing, good[:], 401},
		{"chunks for a flash", lab.PathTake, flashing, whole, 401},
		{"a manifest for a flash", lab.PathKeep, flashing, manifest(7, absent), 401},
		{"half an id", lab.PathLacks, key, good[:9], 400},
		{"too many ids", lab.PathLacks, key, make([]byte, 32*(lab.MaxIDsSent+1)), 400},
		{"another content", lab.PathTake, key, frame(absent, chunk.Pack(nil, raw)), 422},
		{"no content", lab.PathTake, key, frame(absent, []byte{1, 2, 3}), 422},
		{"a long frame", lab.PathTake, key, append(absent[:len(absent):len(absent)], 255, 255, 255, 255), 422},
		{"rubbish", lab.PathTake, key, []byte("rubbish"), 400},
		{"a cut frame", lab.PathTake, key, append(bytes.Clone(whole), whole[:99]...), 400},
		{"too much", lab.PathTake, key, bytes.Repeat(whole, lab.MaxTaken/len(whole)+1), 400},
		{"a manifest of chunks that are not there", lab.PathKeep, key, manifest(7, absent), 404},
		{"a manifest of nothing", lab.PathKeep, key, manifest(0), 400},
		{"a manifest of more than the disk", lab.PathKeep, key, manifest(1<<30, make([]chunk.ID, 4096)...), 400},
		{"a cut manifest", lab.PathKeep, key, manifest(7, good)[:40], 400},
		{"no manifest", lab.PathKeep, key, bytes.Repeat([]byte("x"), 80), 400},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+c.path, bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.key != "" {
			req.Header.Set("Authorization", c.key)
		}
		resp, err := client.RoundTrip(req)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d %s, want %d", c.what, resp.StatusCode, text, c.want)
		}
	}
	if !b.State.Chunks.Has(good) || b.State.Chunks.Has(absent) {
		t.Errorf("the chunk that came whole is there: %v; the one that did not: %v", b.State.Chunks.Has(good), b.State.Chunks.Has(absent))
	}
	if s := labtest.Now(t, b); len(s.VersionsOf("deb")) != 1 || s.Boots[id].State != lab.Working || s.Boots[id].Strikes != 0 {
		t.Errorf("%+v; %+v", s.VersionsOf("deb"), s.Boots[id])
	}
	h.on()
	if x := labtest.Over(t, b, id); x.State != lab.Done || x.Captured != (lab.Ref{Name: "deb", Version: 2}) {
		t.Errorf("boot is %s: %s", x.State, x.Reason)
	}
}

// What was sent before a restart may be collected; it is then sent once more.
func TestCaptureCollected(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, disked(t, 8<<20, labtest.Image(5<<20, 1)))
	sim := labtest.Metal(t, b, 0, 16<<20)
	bootOnce(t, b, sim, "deb")
	change(t, sim.Disk.File, 2<<20, labtest.Image(2<<20, 3))
	id := queueCapture(t, b, lab.QueueCapture{Machine: labtest.MetalName(0), Image: "deb"})
	_, h := standing(t, sim, "v1/capture/chunks")
	b.Stop()
	b.Start(t)
	got, err := b.Collect(t.Context(), false)
	if err != nil || got.Chunks == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	h.on()
	x := labtest.Over(t, b, id)
	if x.State != lab.Done || x.Strikes != 0 || x.Captured.Version != 2 {
		t.Errorf("boot is %s with %d strikes: %s", x.State, x.Strikes, x.Reason)
	}
	if err := b.Verify(t.Context(), x.Captured, nil); err != nil {
		t.Error(err)
	}
}
