package qemu

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

// plain is a spec that is right; the tests change one thing each.
func plain(dir string) Spec {
	return Spec{
		Name: "vm-1", Dir: dir, Disk: 64 << 20, Memory: 1 << 30, CPUs: 1, Accel: "tcg", Serial: "carte-0001",
		MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1},
	}
}

func TestArgs(t *testing.T) {
	tools := Tools{Code: "/fw/code.fd", Vars: "/fw/vars.fd"}
	rows := []struct {
		name   string
		change func(*Spec)
		want   []string // each must be there, with its value
		not    []string // must not be part of any argument
	}{
		{"as it comes", func(*Spec) {}, []string{
			"-accel tcg,thread=single", "-smp 1", "-cpu max", "-m 1024", "-machine pc,graphics=off",
			"-netdev user,id=net,restrict=off", "-device virtio-net-pci,netdev=net,bootindex=1,mac=52:54:00:00:00:01",
			"-device virtio-blk-pci,drive=disk,bootindex=2,serial=carte-0001", "-device virtio-rng-pci",
		}, []string{"no-reboot", "romfile", "pflash", "-uuid", "-kernel"}},
		{"kvm", func(s *Spec) { s.Accel, s.CPUs = "kvm", 4 }, []string{"-accel kvm", "-cpu host", "-smp 4"}, []string{"tcg"}},
		{"memory is rounded up", func(s *Spec) { s.Memory = 512<<20 + 1 }, []string{"-m 513"}, nil},
		{"no disk", func(s *Spec) { s.Disk = 0 }, nil, []string{"disk"}},
		{"uefi", func(s *Spec) { s.UEFI = true }, []string{
			"-machine q35,graphics=off", "-drive if=pflash,format=raw,readonly=on,file=/fw/code.fd",
			"-drive if=pflash,format=raw,file=/d/efivars.fd",
		}, nil},
		{"boot script", func(s *Spec) { s.Boot = "http://10.0.2.2:8080/a,b" }, []string{"-netdev user,id=net,restrict=off,bootfile=http://10.0.2.2:8080/a,,b"}, nil},
		{"tap", func(s *Spec) { s.Wire.Tap = "tap0" }, []string{"-netdev tap,id=net,script=no,downscript=no,ifname=tap0"}, []string{"user,"}},
		{"socket", func(s *Spec) { s.Wire.Socket = os.Stdin }, []string{"-netdev dgram,id=net,local.type=fd,local.str=5"}, []string{"user,"}},
		{"firmware's own PXE", func(s *Spec) { s.ROM = ROMNone }, []string{"-device virtio-net-pci,netdev=net,bootindex=1,mac=52:54:00:00:00:01,romfile="}, nil},
		{"other ROM", func(s *Spec) { s.ROM = "/r" }, []string{"-device virtio-net-pci,netdev=net,bootindex=1,mac=52:54:00:00:00:01,romfile=/r"}, nil},
		{"folder with a comma", func(s *Spec) { s.Dir = "/a,b" }, []string{"-drive if=none,id=disk,format=raw,discard=unmap,file=/a,,b/disk.raw"}, nil},
		{"uuid", func(s *Spec) { s.UUID = "u" }, []string{"-uuid u"}, nil},
		{"kernel", func(s *Spec) { s.Kernel, s.Initrd, s.Cmdline = "k", "i", "c d" }, []string{"-kernel k", "-initrd i", "-append c d"}, nil},
	}
	for _, row := range rows {
		s := plain("/d")
		row.change(&s)
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		got := args(tools, s)
		for _, want := range row.want {
			option, value, _ := strings.Cut(want, " ")
			found := false
			for i := range len(got) - 1 {
				found = found || got[i] == option && got[i+1] == value
			}
			if !found {
				t.Errorf("%s: no %q in %q", row.name, want, got)
			}
		}
		for _, not := range row.not {
			if i := slices.IndexFunc(got, func(a string) bool { return strings.Contains(a, not) }); i >= 0 {
				t.Errorf("%s: %q is in %q", row.name, not, got[i])
			}
		}
	}
}

func TestCheck(t *testing.T) {
	rows := map[string]func(*Spec){
		"has no name":         func(s *Spec) { s.Name = "" },
		"has no folder":       func(s *Spec) { s.Dir = "" },
		"has no memory":       func(s *Spec) { s.Memory = 0 },
		"has half a sector":   func(s *Spec) { s.Disk = 513 },
		"has no CPU":          func(s *Spec) { s.CPUs = 0 },
		"has no card":         func(s *Spec) { s.MAC = nil },
		"has a group address": func(s *Spec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
		"has a long serial":   func(s *Spec) { s.Serial = strings.Repeat("x", 21) },
		"has no accelerator":  func(s *Spec) { s.Accel = "" },
		"has two wires":       func(s *Spec) { s.Wire = Wire{Tap: "t", Socket: os.Stdin} },
		"boots off its wire":  func(s *Spec) { s.Wire.Tap, s.Boot = "t", "http://x" },
		"has a long address":  func(s *Spec) { s.Boot = "http://" + strings.Repeat("x", 121) },
		"has a lonely initrd": func(s *Spec) { s.Initrd = "i" },
		"has a line break":    func(s *Spec) { s.Name = "a\nb" },
	}
	for name, change := range rows {
		s := plain(t.TempDir())
		change(&s)
		if _, err := New(Tools{}, s, nil); err == nil {
			t.Errorf("a machine that %s was accepted", name)
		}
	}
}
