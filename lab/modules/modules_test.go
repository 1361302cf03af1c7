package modules

import (
	"strings"
	"testing"
	"testing/fstest"
)

// files are some files of a directory of modules.
func files(all map[string]string) fstest.MapFS {
	dir := fstest.MapFS{}
	for name, text := range all {
		dir[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return dir
}

// wants fails unless names and modaliases lead to these modules, in this order.
func wants(t *testing.T, s *Set, names, aliases, want string) {
	t.Helper()
	files, err := s.Wanted(strings.Fields(names), strings.Fields(aliases))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, Name(f))
	}
	if strings.Join(got, " ") != want {
		t.Errorf("%s %s needs %v, want %s", names, aliases, got, want)
	}
}

// What a device or a name needs is found in depmod's lists, each module behind those that it needs, and once.
func TestWanted(t *testing.T) {
	s, err := Open(files(map[string]string{
		"modules.builtin": "kernel/drivers/virtio/virtio.ko\n",
		"modules.dep": "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\nkernel/fs/jbd2/jbd2.ko.xz: kernel/lib/crc16.ko.xz\nkernel/lib/crc16.ko.xz:\n" +
			"kernel/crypto/crc32c_generic.ko.xz:\nkernel/drivers/net/r8169.ko.xz:\nkernel/drivers/net/phy/realtek.ko.xz:\nkernel/drivers/usb/usb-storage.ko.xz:\n",
		"modules.alias": "# Aliases extracted from modules themselves.\nalias crc32c crc32c_generic\nalias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\n" +
			"alias mdio:0000000000011100110010????????????? realtek\nalias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n",
		"modules.softdep": "softdep ext4 pre: crc32c\nsoftdep r8169 pre: realtek\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, s, "ext4", "", "crc16 jbd2 crc32c_generic ext4")
	wants(t, s, "crc32c virtio nothing", "", "crc32c_generic")
	wants(t, s, "", "pci:v000010ECd00008168sv00001043sd00008505bc02sc00i00", "realtek r8169")
	wants(t, s, "", "usb:v0781p5567d0126dc00dsc00dp00ic08isc06ip50in00 pci:v00008086d00001237", "usb_storage")
	wants(t, s, "jbd2 ext4", "", "crc16 jbd2 crc32c_generic ext4")
}

// Without the lists, the modules themselves say the same.
func TestWantedWithoutLists(t *testing.T) {
	all := map[string]string{"modules.builtin": "kernel/drivers/virtio/virtio.ko\n"}
	for name, m := range madeUp {
		all[name] = string(module(m))
	}
	s, err := Open(files(all))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, s, "ext4", "", "crc16 jbd2 crc32c_generic ext4")
	wants(t, s, "", "virtio:d00000002v00001AF4", "virtio_ring virtio_blk")
}

// Modules that are packed and that nobody has listed are refused with what helps, and what is no module by its name.
func TestOpenRefuses(t *testing.T) {
	if _, err := Open(files(map[string]string{"kernel/fs/ext4.ko.xz": "packed"})); err == nil || !strings.Contains(err.Error(), "depmod") {
		t.Errorf("error %v", err)
	}
	if _, err := Open(files(map[string]string{"kernel/drivers/block/loop.ko": "no ELF"})); err == nil || !strings.Contains(err.Error(), "loop.ko") {
		t.Errorf("error %v", err)
	}
}
