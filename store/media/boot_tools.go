package media

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"carte/lab"
)

// BootTools are what this computer has to make a disk start by itself: GRUB for BIOS, and for UEFI systemd's stub or GRUB.
type BootTools struct {
	mkimage string // grub-mkimage
	pc      string // folder with GRUB's modules and boot.img for BIOS
	efi     string // folder with GRUB's modules for UEFI; empty where the stub is used
	stub    string // systemd's stub; empty where GRUB is used
}

// Where distributions keep them.
var (
	grubFolders = []string{"/usr/lib/grub", "/usr/share/grub", "/usr/share/grub2", "/usr/lib/grub2"}
	stubFiles   = []string{"/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "/lib/systemd/boot/efi/linuxx64.efi.stub"}
)

// FindBootTools looks for them. lab.ErrRefused names everything that is missing, in one sentence, and the packages that bring it.
func FindBootTools() (t BootTools, err error) {
	var missing []string
	if t.mkimage, err = exec.LookPath("grub-mkimage"); err != nil {
		if t.mkimage, err = exec.LookPath("grub2-mkimage"); err != nil {
			missing = append(missing, "grub-common")
		}
	}
	for _, dir := range grubFolders {
		if there(dir, "i386-pc/boot.img") && there(dir, "i386-pc/ext2.mod") && t.pc == "" {
			t.pc = filepath.Join(dir, "i386-pc")
		}
		if there(dir, "x86_64-efi/ext2.mod") && t.efi == "" {
			t.efi = filepath.Join(dir, "x86_64-efi")
		}
	}
	for _, file := range stubFiles {
		if there(file, "") {
			t.stub, t.efi = file, ""
			break
		}
	}
	if t.pc == "" {
		missing = append(missing, "grub-pc-bin")
	}
	if t.stub == "" && t.efi == "" {
		missing = append(missing, "systemd-boot-efi")
	}
	if len(missing) > 0 {
		return t, fmt.Errorf("to make a disk start by itself this computer lacks %s: apt-get install --no-install-recommends %[1]s: %w", strings.Join(missing, " "), lab.ErrRefused)
	}
	return t, nil
}

func there(dir, name string) bool {
	st, err := os.Stat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular()
}

// grubModules are what GRUB needs to read a menu and a kernel from an ext4 in a GPT.
var grubModules = []string{"normal", "part_gpt", "ext2", "linux", "serial", "terminal", "configfile", "echo", "ls", "cat", "reboot"}

// grub makes one of GRUB's programs, which looks for its menu in the folder bootMenu of the third partition of the disk that it was started from.
func (t BootTools) grub(ctx context.Context, temp, format, modules string, more ...string) (b []byte, err error) {
	f, err := os.CreateTemp(temp, "grub-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	args := append([]string{"-d", modules, "-O", format, "-p", "(,gpt3)" + bootMenu, "-o", f.Name()}, append(more, grubModules...)...)
	if said, err := exec.CommandContext(ctx, t.mkimage, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s -O %s: %w: %s", filepath.Base(t.mkimage), format, err, lab.Clean(string(said)))
	}
	return os.ReadFile(f.Name())
}
