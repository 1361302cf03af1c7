// Command demo is the one program of carte's demo system: the first process of a tree that carte makes by itself. It
// measures three small things of the machine, says them in the words that carte listens for on the console, and switches
// the machine off.
//
// It knows nothing of carte but those words (lab.ParseSaying); any program in any language can do the same.
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// rounds is how often everything is measured, and spell for how long each time.
const (
	rounds = 3
	spell  = 300 * time.Millisecond
)

// measures is what is measured: how often per second something can be done, or how long it takes.
var measures = []struct {
	name, unit, what string
	run              func(time.Duration) float64
}{
	{"syscalls_per_second", "1/s", "system calls", syscalls},
	{"page_fault_seconds", "s", "time of a page fault", pageFault},
	{"copy_bytes_per_second", "B/s", "memory copied", copyMemory},
}

func main() {
	mounts()
	say("")
	say("This is carte's demo system: %s on %s with %s.", release(), runtime.GOARCH, cpus(runtime.NumCPU()))
	say("It came over the network, lies on this machine's disk, and nothing here was installed by hand.")
	say("::carte ready")
	best := make([]float64, len(measures))
	for round := 1; round <= rounds; round++ {
		for i, m := range measures {
			v := m.run(spell)
			best[i] = better(m.unit, best[i], v)
			say("round %d of %d: %-22s %12.4g %s", round, rounds, m.what, v, m.unit)
		}
	}
	for i, m := range measures {
		say("::carte metric %s=%.6g %s", m.name, best[i], m.unit)
	}
	say("::carte done")
	off()
}

// say writes one whole line with one call, so that the kernel's own lines cannot come in between.
func say(format string, args ...any) {
	os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n")
}

// better keeps the least disturbed of two measurements: the shorter time, the higher rate.
func better(unit string, a, b float64) float64 {
	switch {
	case a == 0:
		return b
	case unit == "s":
		return min(a, b)
	}
	return max(a, b)
}

// mounts adds what whoever started us has not mounted.
func mounts() {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		var here, above unix.Stat_t
		if unix.Stat(m.at, &here) == nil && unix.Stat("/", &above) == nil && here.Dev != above.Dev {
			continue
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			say("%s is not mounted: %v; the demo goes on without", m.at, err)
		}
	}
}

func cpus(n int) string {
	if n == 1 {
		return "one CPU"
	}
	return fmt.Sprint(n, " CPUs")
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "an unknown kernel"
	}
	text := func(b []byte) string { return string(b[:slices.Index(b, 0)]) }
	return text(u.Sysname[:]) + " " + text(u.Release[:])
}

// syscalls counts the cheapest system call there is, which measures the way into the kernel and back.
func syscalls(d time.Duration) float64 {
	const batch = 1000
	n, began := 0, time.Now()
	for time.Since(began) < d {
		for range batch {
			unix.Getpid()
		}
		n += batch
	}
	return float64(n) / time.Since(began).Seconds()
}

// pageFault touches fresh memory, a page at a time, and returns the seconds that one touch takes.
func pageFault(d time.Duration) float64 {
	const size = 8 << 20
	page, n, began := os.Getpagesize(), 0, time.Now()
	for time.Since(began) < d {
		b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return 0
		}
		unix.Madvise(b, unix.MADV_NOHUGEPAGE) // else one fault brings 2 MiB; a kernel without huge pages refuses
		for i := 0; i < size; i += page {
			b[i] = 1
		}
		n += size / page
		unix.Munmap(b) // it was mapped a moment ago
	}
	return time.Since(began).Seconds() / float64(n)
}

// copyMemory copies blocks that do not fit the first caches.
func copyMemory(d time.Duration) float64 {
	from, to := make([]byte, 4<<20), make([]byte, 4<<20)
	n, began := 0, time.Now()
	for time.Since(began) < d {
		n += copy(to, from)
	}
	return float64(n) / time.Since(began).Seconds()
}

// off switches the machine off. Where that fails it waits: a first process that ends takes the kernel with it.
func off() {
	if os.Getpid() != 1 {
		return // tried out in a terminal
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	say("the machine could not be switched off: %v", err)
	for {
		time.Sleep(time.Hour)
	}
}
