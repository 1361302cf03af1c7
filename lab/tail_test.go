package lab

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestTailOf(t *testing.T) {
	const M, G = int64(1 << 20), int64(1 << 30)
	for _, tt := range []struct {
		name          string
		disk, setting int64
		want          DiskTail
	}{
		{"no disk", 0, TailDefault, DiskTail{}},
		{"less than its reserve", 5, TailDefault, DiskTail{}},
		{"less than its reserve, asked", 5, 128 * M, DiskTail{}},
		{"small disk", 1 * G, TailDefault, DiskTail{}},
		{"one MiB short of a tail", 1280*M - 1, TailDefault, DiskTail{}},
		{"the first with a tail", 1280 * M, TailDefault, DiskTail{1151 * M, 128 * M}},
		{"odd size", 10*G + 12345, TailDefault, DiskTail{10*G - 1*M - 1024*M, 1024 * M}},
		{"half a terabyte", 500_107_862_016, TailDefault, DiskTail{476_939*M - 16*G, 16 * G}},
		{"none", 100 * G, 0, DiskTail{}},
		{"too little", 100 * G, 128*M - 1, DiskTail{}},
		{"exact", 100 * G, 128 * M, DiskTail{100*G - 129*M, 128 * M}},
		{"rounded down", 100 * G, 3*G + 7, DiskTail{97*G - 1*M, 3 * G}},
		{"all of the disk", 129 * M, 128 * M, DiskTail{0, 128 * M}},
		{"more than the disk", 128 * M, 128 * M, DiskTail{}},
	} {
		if got := TailOf(tt.disk, tt.setting); got != tt.want {
			t.Errorf("%s: TailOf(%d, %d) = %+v, want %+v", tt.name, tt.disk, tt.setting, got, tt.want)
		}
	}
}

func TestTailFor(t *testing.T) {
	const M, G = int64(1 << 20), int64(1 << 30)
	deflt := TailOf(20*G, TailDefault)
	for _, tt := range []struct {
		name                string
		disk, setting, need int64
		want                DiskTail
		short               string // what an error has to say
	}{
		{"room for both", 20 * G, TailDefault, 10 * G, deflt, ""},
		{"up to its first byte", 20 * G, TailDefault, deflt.Offset, deflt, ""},
		{"gives way", 20 * G, TailDefault, deflt.Offset + 1, DiskTail{}, ""},
		{"asked, and room", 20 * G, 4 * G, 16*G - 1*M, TailOf(20*G, 4*G), ""},
		{"asked, one byte short", 20 * G, 4 * G, 16*G - 1*M + 1, DiskTail{}, "need 1 B more than the disk of 21.5 GB (21474836480 bytes) has (1.0 MB (1048576 bytes) stay"},
		{"asked, short by the reserve", 20 * G, 4 * G, 16 * G, DiskTail{}, "17.2 GB (17179869184 bytes) for images and a tail of 4.3 GB (4294967296 bytes) need 1.0 MB (1048576 bytes) more"},
		{"asked, more than the disk", 1 * G, 2 * G, 0, DiskTail{}, "a tail of 2.1 GB (2147483648 bytes) needs 1.1 GB (1074790400 bytes) more"},
		{"asked, no disk", 0, 128 * M, 0, DiskTail{}, "needs 134 MB (134217728 bytes) more than the disk of 0 B has"},
		{"none", 20 * G, 0, 20 * G, DiskTail{}, ""},
		{"less than the least", 20 * G, 100 * M, 20 * G, DiskTail{}, ""},
	} {
		got, err := TailFor(tt.disk, tt.setting, tt.need)
		if got != tt.want || (err != nil) != (tt.short != "") {
			t.Errorf("%s: TailFor = %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
		if err != nil && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.short)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.short)
		}
	}
}

// Whatever the disk and the setting: the tail lies on the disk, leaves the reserve, and its pieces lie in it side by side.
func TestTailLiesOnTheDisk(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	for range 20000 {
		disk, setting := r.Int64N(1<<r.IntN(45)), r.Int64N(1<<r.IntN(45))-1
		tail := TailOf(disk, setting)
		if tail.None() {
			if tail.Offset != 0 {
				t.Fatalf("no tail at %d", tail.Offset)
			}
			continue
		}
		m, mn := tail.Machine()
		c, cn := tail.Cache()
		ok := tail.Offset >= 0 && tail.Offset%tailUnit == 0 && tail.Bytes%tailUnit == 0 && tail.Bytes >= TailLeast && tail.End()+tailUnit <= disk &&
			disk-tail.End() < 2*tailUnit && m == tail.Offset && m+mn == c && cn > 0 && c+cn == tail.Header() && tail.Header()+TailHeader == tail.End()
		if !ok || setting >= 0 && tail.Bytes > setting || setting < 0 && tail.Bytes > min(disk/10, TailMost) {
			t.Fatalf("TailOf(%d, %d) = %+v", disk, setting, tail)
		}
	}
}

// Orders name the tail that the machine's setting gives, and none where the image needs the room.
func TestOrdersNameTheTail(t *testing.T) {
	for _, tt := range []struct {
		setting string
		want    DiskTail
		refused string
	}{
		{"auto", TailOf(4<<30, TailDefault), ""},
		{"none", DiskTail{}, ""},
		{"1G", TailOf(4<<30, 1<<30), ""},
		{"4000M", DiskTail{}, "make the tail smaller"},
	} {
		t.Run(tt.setting, func(t *testing.T) {
			b := newBench(t)
			m := b.machine("vm")
			disk := m.Virtual.DiskBytes
			if disk != 4<<30 {
				t.Fatalf("the disk of the bench has %d bytes", disk)
			}
			b.must(SetMachine{Machine: "vm", Values: map[string]string{"tail": tt.setting}})
			if tt.refused != "" {
				_, err := b.Say(t.Context(), Queue{Machine: "vm", Stack: "deb"})
				wantError(t, "a tail that takes all", err, ErrRefused, tt.refused)
				return
			}
			b.queue("vm", "deb")
			o := b.claim(b.script(vmMAC), 1, usual)
			if o.Tail != tt.want {
				t.Errorf("tail %+v, want %+v", o.Tail, tt.want)
			}
		})
	}
}

// A tail that no armed disk has room for is refused when it is set, and not with each boot.
func TestTailThatNoDiskHasRoomFor(t *testing.T) {
	b := newBench(t)
	set := func(machine, v string) SetMachine {
		return SetMachine{Machine: machine, Values: map[string]string{"tail": v}}
	}
	b.refused(set("vm", "10G"), ErrRefused, "disk ", " of vm", "a tail of 10.7 GB (10737418240 bytes) needs 6.4 GB (6443499520 bytes) more than the disk of 4.3 GB (4294967296 bytes) has", "tail=auto")
	if got := b.machine("vm").Tail; got != 0 {
		t.Errorf("the refused tail is set: %d", got)
	}
	b.must(set("vm", "1G"))
	if got, want := b.now().TailOn(b.machine("vm"), b.machine("vm").Arms[0].DiskID), TailOf(4<<30, 1<<30); got != want {
		t.Errorf("the tail comes to %+v, want %+v", got, want)
	}
	b.must(AddMachine{Name: "bare", MACs: []string{"52:54:00:00:00:07"}}) // no disk is armed: nobody can tell
	b.must(set("bare", "10G"))
	b.must(set("vm", "none"))
	if got := b.now().TailOn(b.machine("vm"), b.machine("vm").Arms[0].DiskID); !got.None() {
		t.Errorf("tail=none comes to %+v", got)
	}
}
