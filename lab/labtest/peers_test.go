package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"carte/lab"
)

// BenchmarkPeers does the same work with carte and with the tools that people use for it, in the same run and in turns,
// and prints one table. It needs CARTE_BENCH_IMAGES, a folder that testdata/bench-images filled, and testdata/need bench.
// CARTE_BENCH_REPS is how often each is done, 3 when it is not said; the middle one counts.
//
// Every image is in the kernel's cache when a tool begins, and what was written is on the disk when it is counted as
// done: tools that do not see to that are followed by sync(1). The peers read local files or, rsync, the loopback; carte
// reads over HTTP on the loopback from another process, and reads back what it wrote, which none of the others does.
// desync is not among them: it is no Debian package, and its module could not be had when this was written.
func BenchmarkPeers(b *testing.B) {
	images := os.Getenv("CARTE_BENCH_IMAGES")
	if images == "" {
		b.Skip("no images: make bench-peers IMAGES=DIR makes them and runs this")
	}
	r := &races{TB: b, images: images, reps: 3}
	if n, err := strconv.Atoi(os.Getenv("CARTE_BENCH_REPS")); err == nil && n > 0 {
		r.reps = n
	}
	dir, err := os.MkdirTemp(images, ".peers.")
	if err != nil {
		b.Fatal(err)
	}
	r.dir = dir
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := place(r.dir); err != nil {
		b.Fatal(err)
	}
	r.program = r.path("carte")
	before := load()
	for b.Loop() {
		r.all()
	}
	r.print()
	fmt.Printf("load before %s, after %s, of other processes and these; %d repetitions\n", before, load(), r.reps)
}

// all is the table of issue 3, from the top.
func (r *races) all() {
	s := &stores{races: r, have: map[string]bool{}}
	s.firstImport()
	s.variantImport()
	s.allSix()
	address, server, _ := shareOf(r, r.program, r.path("carte-0"))
	r.address = address
	r.flashEmpty()
	r.flashVariant()
	r.flashAged()
	r.flashSame()
	r.sweep()
	r.memory(server)
}

// stores are where tools keep images.
type stores struct {
	*races
	have map[string]bool // tool and image that are stored in the tool's first store
}

// tool is how a tool makes a store and puts an image into it; $1 is the image's file, $2 the store, $3 a name.
type tool struct{ name, empty, put string }

var tools = []tool{
	{"bmaptool+zstd", `mkdir "$2"`, `bmaptool -q create "$1" -o "$2/$3.bmap"; zstd -q -T0 "$1" -o "$2/$3.zst"`},
	{"casync", `mkdir "$2"`, `casync make --store="$2/store" "$2/$3.caibx" "$1"`},
	{"restic", `restic -q init -r "$2"`, `restic -q backup -r "$2" "$1"`},
	{"borg", `borg init -e none "$2"`, `borg create -C zstd,1 "$2::$3" "$1"`},
}

// store puts an image into a tool's store, once.
func (s *stores) store(t tool, image string, rep int) (x spent) {
	s.Helper()
	at := s.path(fmt.Sprintf("%s-%d", t.name, rep))
	if key := t.name + " " + image; rep == 0 && s.have[key] {
		return x
	} else if rep == 0 {
		s.have[key] = true
	}
	before := int64(0)
	if _, err := os.Stat(at); err != nil {
		s.shell(t.empty, "", at)
	} else {
		before = weigh(s, at)
	}
	s.warm(s.image(image))
	x, _ = s.shell(t.put, s.image(image), at, image)
	x.fetched, x.written = weigh(s, at)-before, -1
	return x
}

// carteStore is the same with carte.
func (s *stores) carteStore(image string, rep int) (x spent) {
	s.Helper()
	at := s.path(fmt.Sprintf("carte-%d", rep))
	before := int64(0)
	if _, err := os.Stat(at); err == nil {
		before = weigh(s, at, "reserve")
	}
	s.warm(s.image(image))
	var doc struct {
		New int64 `json:"new_stored_bytes"`
	}
	x = s.carte(&doc, "--state", at, "image", "import", s.image(image), "--name", "debian", "--form", "tree")
	s.have["carte "+image] = true
	x.fetched, x.written = weigh(s, at, "reserve")-before, -1
	return x
}

func (s *stores) firstImport() {
	var all []racer
	for _, t := range tools {
		all = append(all, racer{t.name, t.name != "borg", func(rep int) spent {
			x := s.store(t, "base", rep)
			if rep > 0 {
				os.RemoveAll(s.path(fmt.Sprintf("%s-%d", t.name, rep)))
			}
			return x
		}})
	}
	all = append(all, racer{"carte", false, func(rep int) spent {
		x := s.carteStore("base", rep)
		if rep > 0 {
			os.RemoveAll(s.path(fmt.Sprintf("carte-%d", rep)))
		}
		return x
	}})
	s.race("first import, 2 GiB", limit{of: "borg", times: 0.75}, all...)
}

func (s *stores) variantImport() {
	variant := func(rep int) string { return fmt.Sprintf("kernel-%d", 1+rep%4) }
	var all []racer
	for _, t := range tools {
		all = append(all, racer{t.name, t.name != "borg", func(rep int) spent { return s.store(t, variant(rep), 0) }})
	}
	all = append(all, racer{"carte", false, func(rep int) spent { return s.carteStore(variant(rep), 0) }})
	s.race("import of a kernel variant", limit{of: "borg", times: 0.35, stored: 12_300_000}, all...)
}

// six are the images in the order in which the lab numbers them.
var six = []string{"base", "kernel-1", "kernel-2", "kernel-3", "kernel-4", "aged"}

// ref is an image's version.
func ref(image string) string {
	for i, x := range six {
		if x == image {
			return fmt.Sprintf("debian@%d", i+1)
		}
	}
	panic("BUG: no image " + image)
}

// allSix stores what is missing, the aged one by a capture, and weighs the stores, indexes and all.
func (s *stores) allSix() {
	for _, image := range six[:5] {
		if !s.have["carte "+image] {
			s.carteStore(image, 0)
		}
	}
	s.capture()
	work := "all six stored, index included"
	for _, t := range tools {
		for _, image := range six {
			s.store(t, image, 0)
		}
		s.row(work, t.name, "", "", bytesOr(weigh(s, s.path(t.name+"-0"))), "", "", "", "")
		work = ""
	}
	n := weigh(s, s.path("carte-0"), "reserve")
	s.row(work, "carte", "", "", bytesOr(n), "", "500 MB stored", "", verdict(n > 500_000_000))
}

// peersOver are the tools that write a whole image, or what a map says of it, onto a target. The last of them may have a
// target that holds something; casync finds its own seed in it and then stops at a stale file handle.
func (r *races) peersOver(want func(rep int) string, target string, ready func(target string, rep int)) []racer {
	racerOf := func(name, line string, packed bool) racer {
		return racer{name, false, func(rep int) spent {
			image, at, store := want(rep), r.path(target+"-"+name), r.path("bmaptool+zstd-0")
			zst := filepath.Join(store, image+".zst")
			r.warm(zst)
			ready(at, rep)
			s, _ := r.shell(line+`; sync "$1"`, at, zst, filepath.Join(store, image+".bmap"), r.path("casync-0"), image)
			if packed {
				s.fetched = sizeOf(r, zst)
			}
			r.same(at, r.image(image))
			return s
		}}
	}
	return []racer{
		racerOf("zstd pipe", `zstd -q -dc "$2" | dd of="$1" bs=4M iflag=fullblock conv=notrunc status=none`, true),
		racerOf("casync", `casync extract --store="$4/store" "$4/$5.caibx" "$1"`, false),
		racerOf("bmaptool", `bmaptool -q copy --bmap "$3" "$2" "$1"`, true),
	}
}

// flashEmpty writes onto a file that is not there.
func (r *races) flashEmpty() {
	base := func(int) string { return "base" }
	gone := func(at string, _ int) { os.Remove(at) }
	all := r.peersOver(base, "empty", gone)
	r.shell(`partclone.ext4 -c -q -L "$1/partclone.log" -s "$2" -o - | zstd -q -T0 -o "$1/base.pc.zst"`, r.dir, r.image("base"))
	all = append(all, racer{"partclone", false, func(int) spent {
		os.Remove(r.path("pc.img"))
		r.warm(r.path("base.pc.zst"))
		s, _ := r.shell(`truncate -s 2G pc.img; zstd -q -dc base.pc.zst | partclone.restore -q -C -L partclone.log -s - -O pc.img; sync pc.img`)
		s.fetched = sizeOf(r, r.path("base.pc.zst"))
		os.Remove(r.path("pc.img"))
		return s
	}})
	carte := func(flags ...string) func(int) spent {
		return func(int) spent {
			at := r.path("empty-carte")
			os.Remove(at)
			r.warm()
			s, _ := r.flash(ref("base"), at, flags...)
			r.same(at, r.image("base"))
			return s
		}
	}
	all = append(all, racer{"carte", false, carte()})
	r.race("full flash to an empty target", limit{times: 0.6}, all...)
	r.race("  the same, not read back", limit{}, racer{"carte", false, carte("--verify", "never")})
}

// flashVariant goes to and fro between two kernels, each tool on a target of its own.
func (r *races) flashVariant() {
	to := func(rep int) string { return fmt.Sprintf("kernel-%d", 2-rep%2) }
	ready := func(at string, rep int) {
		if rep == 0 {
			r.refill(r.image("kernel-1"), at)
		}
		r.warm(at)
	}
	all := append(r.peersOver(to, "variant", ready)[2:], r.rsync(to, "variant", ready))
	all = append(all, racer{"carte", false, func(rep int) spent {
		at := r.path("variant-carte")
		if rep == 0 {
			r.laid("kernel-1", at)
		}
		r.warm(r.image(to(rep)), at)
		s, d := r.flash(ref(to(rep)), at)
		r.Logf("carte read %s, predicted %.2f s: %s", lab.Bytes(d.Read), d.Predicted, d.Why)
		r.same(at, r.image(to(rep)))
		return s
	}})
	r.race("kernel variant over another", limit{times: 0.25, fetched: 12_500_000, written: 12_500_000}, all...)
}

// flashAged lays the aged disk over the base, each time over a fresh one.
func (r *races) flashAged() {
	to := func(int) string { return "aged" }
	ready := func(at string, _ int) {
		r.refill(r.image("base"), at)
		r.warm(at)
	}
	all := append(r.peersOver(to, "variant", ready)[2:], r.rsync(to, "variant", ready))
	all = append(all, racer{"carte", false, func(rep int) spent {
		at := r.path("variant-carte")
		r.laid("base", at)
		r.warm(at)
		s, _ := r.flash(ref("aged"), at)
		r.same(at, r.image("aged"))
		return s
	}})
	r.race("aged version over the base", limit{times: 0.25, fetched: 32_000_000}, all...)
}

// rsync asks a daemon on the loopback.
func (r *races) rsync(to func(int) string, target string, ready func(string, int)) racer {
	port := r.rsyncd()
	return racer{"rsync -z", false, func(rep int) spent {
		at := r.path(target + "-rsync")
		r.warm(r.image(to(rep)))
		ready(at, rep)
		s, out := r.shell(`rsync --inplace -z -I --stats "rsync://127.0.0.1:$1/images/$2.img" "$3"; sync "$3"`, port, to(rep), at)
		s.fetched = numberIn(out, "Total bytes received: ")
		r.same(at, r.image(to(rep)))
		return s
	}}
}

// rsyncd serves the images until the bench ends, and returns its port.
func (r *races) rsyncd() string {
	addr := freePort(r)
	port := addr[len("127.0.0.1:"):]
	conf := r.path("rsyncd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "address = 127.0.0.1\nuse chroot = no\nuid = %d\ngid = %d\n[images]\npath = %s\nread only = yes\n", os.Getuid(), os.Getgid(), r.images), 0o600); err != nil {
		r.Fatal(err)
	}
	cmd := exec.Command("rsync", "--daemon", "--no-detach", "--config="+conf, "--port="+port, "--log-file="+r.path("rsyncd.log"))
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	again := time.NewTicker(10 * time.Millisecond) // another process; nothing here announces it
	defer again.Stop()
	for end := time.Now().Add(Patience); ; <-again.C {
		if exec.Command("rsync", "rsync://"+addr+"/").Run() == nil {
			return port
		}
		if time.Now().After(end) {
			r.Fatal("rsyncd does not answer")
		}
	}
}
