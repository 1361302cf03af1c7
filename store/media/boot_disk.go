package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/layout"
)

// A BootDisk is a whole disk that starts by itself, from BIOS and from UEFI without secure boot: a GPT with an EFI system partition, a partition with GRUB
// for BIOS, and one root file system. It is made while it is read.
type BootDisk struct {
	io.ReaderAt
	Size  int64
	Notes []string // what was changed in the system so that it starts, or may be missed there
}

// bootMenu is the folder of GRUB's menu: one that no distribution writes to.
const bootMenu = "/boot/carte"

// BootOptions say what follows from no file. The same options, files and tools give the same bytes.
type BootOptions struct {
	Name    string // of the root file system, at most 16 bytes, and of the menu's entry
	Seed    [32]byte
	Cmdline string // added to root= and consoles
	Temp    string // folder for GRUB's programs
}

// id is one of the disk's identities.
func (o BootOptions) id(n byte) [16]byte {
	id := [16]byte(o.Seed[:16])
	id[15] ^= n
	id[6], id[8] = id[6]&0xf|0x80, id[8]&0x3f|0x80 // version 8, RFC 9562
	return id
}

// uuid is how an identity is written; mixed: one of a partition, which lies on the disk with its first three fields turned round.
func uuid(id [16]byte, mixed bool) string {
	if mixed {
		slices.Reverse(id[:4])
		slices.Reverse(id[4:6])
		slices.Reverse(id[6:8])
	}
	s := hex.EncodeToString(id[:])
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

// partType is a partition's type as it lies on the disk.
func partType(s string) (id [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		panic("BUG: partition type " + s)
	}
	copy(id[:], b)
	slices.Reverse(id[:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id
}

const (
	espAt     = 1 << 20
	coreBytes = 1 << 20 // of the partition with GRUB for BIOS
	espRoom   = 16 << 20
)

// Disk makes a disk of a merged system, which is changed on the way: its menu comes into it, and its fstab names the new root.
func (t BootTools) Disk(ctx context.Context, m *Merged, k BootKernel, opt BootOptions) (*BootDisk, error) {
	d := &BootDisk{}
	root := "UUID=" + uuid(opt.id(1), false)
	words := []string{"root=" + root, "rw"}
	if k.Initrd == "" { // the kernel itself knows partitions, and no file systems
		words[0] = "root=PARTUUID=" + uuid(opt.id(3), true)
		words = append(words, "rootwait", "rootfstype=ext4")
	}
	cmdline := strings.Join(append(words, opt.Cmdline), " ")
	if !strings.Contains(" "+opt.Cmdline, " console=") {
		cmdline = strings.Join(append(words, "console=tty0 console=ttyS0,115200", opt.Cmdline), " ")
	}
	cmdline = strings.TrimSpace(cmdline)
	if err := d.prepare(m, k, root, cmdline, opt); err != nil {
		return nil, err
	}
	fs, err := m.Build(TreeOptions{Label: opt.Name[:min(len(opt.Name), 16)], UUID: opt.id(1)})
	if err != nil {
		return nil, err
	}
	efi, err := t.efiProgram(ctx, k, cmdline, opt)
	if err != nil {
		return nil, err
	}
	esp, err := fat32(binary.LittleEndian.Uint32(opt.Seed[20:]), map[string]*io.SectionReader{"EFI/BOOT/BOOTX64.EFI": efi}, espRoom)
	if err != nil {
		return nil, err
	}
	core, err := t.grub(ctx, opt.Temp, "i386-pc", t.pc, "biosdisk")
	if err != nil {
		return nil, err
	}
	return d, d.lay(t, esp, core, fs, fs.Size, opt)
}

// prepare makes the system one that starts from this disk.
func (d *BootDisk) prepare(m *Merged, k BootKernel, root, cmdline string, opt BootOptions) error {
	for _, name := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		if err := m.Folder(name); err != nil {
			return err
		}
	}
	var initrd string
	if k.Initrd != "" {
		initrd = "\tinitrd " + m.real(k.Initrd) + "\n"
	}
	menu := fmt.Sprintf("set timeout=0\nserial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\nmenuentry '%s' {\n\tlinux %s %s\n%s}\n",
		strings.ReplaceAll(opt.Name, "'", ""), m.real(k.Path), strings.ReplaceAll(cmdline, "$", `\$`), initrd)
	if err := m.Put(bootMenu+"/grub.cfg", 0o644, []byte(menu)); err != nil {
		return err
	}
	old, ok := m.Text("/etc/fstab", 1<<20)
	if !ok {
		return nil
	}
	lines := strings.Split(string(old), "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		switch {
		case len(f) < 3 || strings.HasPrefix(f[0], "#"):
		case f[1] == "/":
			lines[i] = strings.Replace(line, f[0], root, 1)
			d.Notes = append(d.Notes, fmt.Sprintf("/etc/fstab: the root was %s and is %s", f[0], root))
		case strings.HasPrefix(f[0], "/dev/") || strings.Contains(f[0], "UUID=") || strings.HasPrefix(f[0], "LABEL="):
			d.Notes = append(d.Notes, fmt.Sprintf("/etc/fstab: %s at %s is not on this disk", f[0], f[1]))
		}
	}
	if text := strings.Join(lines, "\n"); text != string(old) {
		return m.Put("/etc/fstab", 0o644, []byte(text))
	}
	return nil
}

// efiProgram is what UEFI starts: kernel, initrd and command line behind systemd's stub, or GRUB, which reads the same menu as for BIOS.
func (t BootTools) efiProgram(ctx context.Context, k BootKernel, cmdline string, opt BootOptions) (*io.SectionReader, error) {
	if t.stub == "" {
		b, err := t.grub(ctx, opt.Temp, "x86_64-efi", t.efi, "efi_gop") // without a video driver it calls that an error on the serial line
		return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), err
	}
	stub, err := os.ReadFile(t.stub)
	if err != nil {
		return nil, err
	}
	parts := []section{textSection(".osrel", fmt.Sprintf("ID=carte\nNAME=%q\nVERSION_ID=%q\n", opt.Name, k.Release)), textSection(".cmdline", cmdline)}
	if k.initrd != nil {
		parts = append(parts, section{".initrd", k.initrd, k.initrd.Size()})
	}
	out, err := unified(stub, append(parts, section{".linux", k.kernel, k.kernel.Size()})...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.stub, err)
	}
	return io.NewSectionReader(out, 0, out.size), nil
}

// lay puts everything where it goes, and GRUB's boot sector before it.
func (d *BootDisk) lay(t BootTools, esp *segments, core []byte, root io.ReaderAt, rootSize int64, opt BootOptions) error {
	coreAt := int64(espAt) + esp.size
	rootAt := coreAt + coreBytes
	d.Size = rootAt + roundMiB(rootSize) + 1<<20
	if len(core) < 512 || len(core) > coreBytes {
		return fmt.Errorf("GRUB's program for BIOS has %d bytes, and %d are the most: %w", len(core), coreBytes, lab.ErrInvalid)
	}
	head, at, backup, err := layout.Make(d.Size, 512, opt.id(0),
		layout.Entry{Off: espAt, Bytes: esp.size, Type: partType("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), UUID: opt.id(4), Name: "esp"},
		layout.Entry{Off: coreAt, Bytes: coreBytes, Type: partType("21686148-6449-6E6F-744E-656564454649"), UUID: opt.id(2), Name: "bios-boot"},
		layout.Entry{Off: rootAt, Bytes: rootSize, Type: partType("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), UUID: opt.id(3), Name: "root"})
	if err != nil {
		return err
	}
	sector, err := os.ReadFile(filepath.Join(t.pc, "boot.img"))
	if err != nil || len(sector) < 512 {
		return fmt.Errorf("GRUB's boot.img: %d bytes: %w", len(sector), err)
	}
	grubSectors(head, sector, core, coreAt/512)
	out := &segments{size: d.Size}
	out.put(0, head)
	for _, x := range esp.all {
		out.add(espAt+x.at, x.n, x.r)
	}
	out.put(coreAt, core)
	out.add(rootAt, rootSize, root)
	out.put(at, backup)
	d.ReaderAt = out
	return nil
}

// grubSectors is what grub-install does for a BIOS disk, as far as it concerns a disk that is no disk yet. Offsets: GRUB 2.06, include/grub/i386/pc/boot.h,
// and util/setup.c for what goes there. From byte 440 of the first sector on the partition table's lie.
func grubSectors(head, boot, core []byte, at int64) {
	le := binary.LittleEndian
	copy(head, boot[:440])
	le.PutUint64(head[0x5c:], uint64(at))
	head[0x66], head[0x67] = 0x90, 0x90 // trust the drive number that the firmware gives: the jump here is for floppies
	le.PutUint64(core[0x1f4:], uint64(at+1))
	le.PutUint16(core[0x1fc:], uint16((len(core)+511)/512-1))
	le.PutUint16(core[0x1fe:], 0x820)
}
