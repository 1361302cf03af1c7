package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// What UEFI starts is in variables of the firmware (UEFI 2.10, section 3.3): BootOrder, 16-bit numbers, and for each a BootXXXX
// with its description. A file of efivarfs is 4 bytes of attributes and the value, and is written at once.
const (
	efiVars   = "/sys/firmware/efi/efivars"
	efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiKept   = 0x7 // kept, seen by boot services, seen at run time
)

// efiEntry is one of the things that firmware can start.
type efiEntry struct {
	number  uint16
	active  bool
	name    string
	network bool
}

// networkWords are in the descriptions that firmware gives to its network cards.
var networkWords = regexp.MustCompile(`(?i)\b(pxe|ipv4|ipv6|http|network|lan|ethernet)`)

// bootEntries shows and changes the order.
func (sh *repairShell) bootEntries(_ context.Context, out io.Writer, words []string) error {
	dir, err := mountEFI()
	if err != nil {
		return err
	}
	all, order, err := readEntries(dir)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		if order, err = newOrder(all, order, words); err != nil {
			return err
		}
		if err := writeOrder(dir, order); err != nil {
			return err
		}
		fmt.Fprintf(out, "written; the firmware follows it from its next start on\n")
	}
	for i, n := range order {
		fmt.Fprintf(out, "%3d. %s\n", i+1, entryWords(all, n))
	}
	for _, e := range all {
		if !slices.Contains(order, e.number) {
			fmt.Fprintf(out, "  -  %s\n", entryWords(all, e.number))
		}
	}
	return nil
}

func entryWords(all []efiEntry, n uint16) string {
	i := slices.IndexFunc(all, func(e efiEntry) bool { return e.number == n })
	if i < 0 {
		return fmt.Sprintf("%04X  (there is no such entry)", n)
	}
	off := ""
	if !all[i].active {
		off = "  (off)"
	}
	return fmt.Sprintf("%04X  %s%s", n, lab.Clean(all[i].name), off)
}

// mountEFI shows the firmware's variables.
func mountEFI() (string, error) {
	if _, err := os.Stat(filepath.Dir(efiVars)); err != nil {
		return "", fmt.Errorf("this machine was started by BIOS, which keeps no boot entries: %w", lab.ErrInvalid)
	}
	if err := unix.Mount("efivarfs", efiVars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && err != unix.EBUSY {
		return "", fmt.Errorf("the kernel does not show the firmware's variables: %w", err)
	}
	return efiVars, nil
}

// readEntries reads all boot entries, by their numbers, and the order.
func readEntries(dir string) (all []efiEntry, order []uint16, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range names {
		word, ok := strings.CutSuffix(x.Name(), efiGlobal)
		if !ok || !strings.HasPrefix(word, "Boot") || len(word) != 8 {
			continue
		}
		n, err := strconv.ParseUint(word[4:], 16, 16)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, x.Name()))
		if err != nil {
			return nil, nil, err
		}
		all = append(all, parseEntry(uint16(n), b))
	}
	slices.SortFunc(all, func(a, b efiEntry) int { return int(a.number) - int(b.number) })
	b, err := os.ReadFile(filepath.Join(dir, "BootOrder"+efiGlobal))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	for i := 4; i+1 < len(b); i += 2 {
		order = append(order, binary.LittleEndian.Uint16(b[i:]))
	}
	return all, order, nil
}

// parseEntry reads an EFI_LOAD_OPTION behind the attributes of its variable.
func parseEntry(n uint16, b []byte) efiEntry {
	e := efiEntry{number: n}
	if len(b) < 10 {
		return e
	}
	e.active = binary.LittleEndian.Uint32(b[4:])&1 != 0
	var text []uint16
	for i := 10; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		text = append(text, u)
	}
	e.name = string(utf16.Decode(text))
	e.network = networkWords.MatchString(e.name)
	return e
}

// newOrder is the order that the words ask for. network-first is what carte needs: the network's entries before all others, which
// keep their order.
func newOrder(all []efiEntry, order []uint16, words []string) ([]uint16, error) {
	there := func(n uint16) bool { return slices.ContainsFunc(all, func(e efiEntry) bool { return e.number == n }) }
	switch {
	case len(words) == 1 && words[0] == "network-first":
		for _, e := range all {
			if e.network && !slices.Contains(order, e.number) {
				order = append(order, e.number)
			}
		}
		order = slices.DeleteFunc(slices.Clone(order), func(n uint16) bool { return !there(n) })
		isNet := func(n uint16) int {
			if slices.ContainsFunc(all, func(e efiEntry) bool { return e.number == n && e.network }) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(order, func(a, b uint16) int { return isNet(a) - isNet(b) })
		return order, nil
	case len(words) == 2 && words[0] == "order":
		var want []uint16
		for word := range strings.SplitSeq(words[1], ",") {
			n, err := strconv.ParseUint(word, 16, 16)
			if err != nil || !there(uint16(n)) || slices.Contains(want, uint16(n)) {
				return nil, fmt.Errorf("%q is no boot entry, or comes twice; nothing was changed: %w", word, lab.ErrInvalid)
			}
			want = append(want, uint16(n))
		}
		return want, nil
	}
	return nil, fmt.Errorf("boot-entries, boot-entries network-first, or boot-entries order 0001,0000: %w", lab.ErrInvalid)
}

// writeOrder writes BootOrder. efivarfs keeps what it does not know from being changed by a slip; BootOrder is known.
func writeOrder(dir string, order []uint16) error {
	if len(order) == 0 {
		return fmt.Errorf("an order of nothing starts nothing: %w", lab.ErrInvalid)
	}
	b := binary.LittleEndian.AppendUint32(nil, efiKept)
	for _, n := range order {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	f, err := os.OpenFile(filepath.Join(dir, "BootOrder"+efiGlobal), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
