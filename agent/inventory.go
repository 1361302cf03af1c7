package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// inventory says what the machine is made of. What a machine does not tell is left empty; only its disks must be known.
func (h host) inventory() (lab.Inventory, error) {
	disks, err := h.disks()
	if err != nil {
		return lab.Inventory{}, err
	}
	inv := lab.Inventory{
		Vendor:   h.line("class/dmi/id/sys_vendor"),
		Product:  h.line("class/dmi/id/product_name"),
		Serial:   h.line("class/dmi/id/product_serial"),
		UUID:     strings.ToLower(h.line("class/dmi/id/product_uuid")),
		Firmware: lab.BIOS,
		NUMA:     max(1, h.numaNodes()),
		Disks:    disks,
		NICs:     h.nics(),
	}
	if _, err := os.Stat(filepath.Join(h.sys, "firmware/efi")); err == nil {
		inv.Firmware = lab.UEFI
	}
	h.cpu(&inv)
	h.memory(&inv)
	return inv, nil
}

func (h host) numaNodes() int {
	nodes, _ := filepath.Glob(filepath.Join(h.sys, "devices/system/node/node[0-9]*")) // the pattern is good
	return len(nodes)
}

// cpu reads /proc/cpuinfo: a block of "key : value" lines for each thread. A core is known by its socket and its number
// there; machines that number neither have one core a thread.
func (h host) cpu(inv *lab.Inventory) {
	b, err := os.ReadFile(filepath.Join(h.proc, "cpuinfo"))
	if err != nil {
		return
	}
	cores := map[string]bool{}
	for block := range strings.SplitSeq(string(b), "\n\n") {
		values := map[string]string{}
		for line := range strings.Lines(block) {
			k, v, _ := strings.Cut(line, ":")
			values[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
		if _, ok := values["processor"]; !ok {
			continue
		}
		inv.Threads++
		if inv.CPU == "" {
			inv.CPU = clean(values["model name"])
		}
		if core, ok := values["core id"]; ok {
			cores[values["physical id"]+" "+core] = true
		}
	}
	inv.Cores = len(cores)
	if inv.Cores == 0 {
		inv.Cores = inv.Threads
	}
}

var memTotal = regexp.MustCompile(`(?m)^MemTotal: +(\d+) kB$`)

func (h host) memory(inv *lab.Inventory) {
	b, err := os.ReadFile(filepath.Join(h.proc, "meminfo"))
	if m := memTotal.FindSubmatch(b); err == nil && m != nil {
		kB, _ := strconv.ParseInt(string(m[1]), 10, 64) // digits
		inv.MemoryBytes = kB << 10
	}
}

// nics lists network cards: interfaces that a device is behind.
func (h host) nics() []lab.NIC {
	entries, _ := os.ReadDir(filepath.Join(h.sys, "class/net")) // a machine without network support has none
	nics := []lab.NIC{}
	for _, e := range entries {
		dir := filepath.Join("class/net", e.Name())
		if _, err := os.Stat(filepath.Join(h.sys, dir, "device")); err != nil {
			continue
		}
		mac, err := lab.ParseMAC(h.line(dir, "address"))
		if err != nil {
			continue
		}
		nic := lab.NIC{MAC: mac, Name: e.Name(), Mbps: -1, Link: h.line(dir, "carrier") == "1"}
		if driver, err := os.Readlink(filepath.Join(h.sys, dir, "device/driver")); err == nil {
			nic.Driver = filepath.Base(driver)
		}
		if speed, err := strconv.Atoi(h.line(dir, "speed")); err == nil && speed > 0 {
			nic.Mbps = speed
		}
		nics = append(nics, nic)
	}
	slices.SortFunc(nics, func(a, b lab.NIC) int { return strings.Compare(a.Name, b.Name) })
	return nics
}
