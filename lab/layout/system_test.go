package layout

import (
	"bytes"
	"fmt"
	"testing"
)

func TestIdentify(t *testing.T) {
	const n = 70 * mib
	type at struct {
		off  int
		text string
	}
	id := "\xca\x27\xe0\x01\x02\x03\x44\x05\x86\x07\x08\x09\x0a\x0b\x0c\x0d"
	const uuid = "ca27e001-0203-4405-8607-08090a0b0c0d"
	for _, c := range []struct {
		want string
		put  []at
	}{
		{`xfs "root" ` + uuid, []at{{0, "XFSB"}, {108, "root"}, {32, id}}},
		{`btrfs "home\x1b" ` + uuid, []at{{65536 + 64, "_BHRfS_M"}, {65536 + 299, "home\x1b"}, {65536 + 32, id}}},
		{"ntfs ", []at{{3, "NTFS    "}, {510, "\x55\xaa"}}},
		{"exfat ", []at{{3, "EXFAT   "}}},
		{"bitlocker ", []at{{3, "-FVE-FS-"}}},
		{"f2fs ", []at{{1024, "\x10\x20\xf5\xf2"}}},
		{"erofs ", []at{{1024, "\xe2\xe1\xf5\xe0"}}},
		{"squashfs ", []at{{0, "hsqs"}}},
		{`iso9660 "CD" `, []at{{32769, "CD001"}, {32808, "CD                  "}}},
		{"luks ", []at{{0, "LUKS\xba\xbe"}}},
		{"lvm ", []at{{512, "LABELONE"}}},
		{"lvm ", []at{{1536, "LABELONE"}}},
		{`linux raid "host:0" ` + uuid, []at{{4096, "\xfc\x4e\x2b\xa9"}, {4096 + 32, "host:0"}, {4096 + 16, id}}},
		{"linux raid ", []at{{n - 64<<10, "\xfc\x4e\x2b\xa9"}}},
		{"linux raid ", []at{{n - 8<<10, "\xfc\x4e\x2b\xa9"}}},
		{"hibernation ", []at{{4086, "S1SUSPEND"}}},
		{"zfs ", []at{{132 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}}},
		{"zfs ", []at{{200 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"}}},
		{"ufs ", []at{{65536 + 1372, "\x19\x01\x54\x19"}}},
		{"apfs ", []at{{32, "NXSB"}}},
		{"no known file system ", []at{{5000, "something"}}},
		{"no known file system ", nil},
	} {
		b := make([]byte, n)
		for _, p := range c.put {
			copy(b[p.off:], p.text)
		}
		x, err := Identify(bytes.NewReader(append(make([]byte, 512), b...)), 512, n)
		if got := fmt.Sprint(x, " ", x.UUID); err != nil || got != c.want && fmt.Sprintf("%s %s", x, x.UUID) != c.want || x.Off != 512 {
			t.Errorf("%#v, %v; want %s", x, err, c.want)
		}
		m := readMap(t, b)
		if y := m.Systems[0]; len(m.Free)+len(m.Stale) > 0 || y.Type != x.Type || y.Kept == "" || y.Used != n {
			t.Errorf("%s: %#v", c.want, m)
		}
	}
}
