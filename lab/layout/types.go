package layout

import "fmt"

// mbrType names a partition's type.
func mbrType(t byte) string {
	switch t {
	case 0xef:
		return TypeESP
	case 0x83:
		return "Linux"
	case 0x82:
		return "Linux swap"
	case 0x8e:
		return "Linux LVM"
	case 0x05, 0x0f, 0x85:
		return TypeExtended
	case 0x07:
		return "Windows"
	case 0x0b, 0x0c, 0x0e, 0x06, 0x04, 0x01:
		return "FAT"
	case 0xa5:
		return "FreeBSD"
	case 0xa6:
		return "OpenBSD"
	case 0xa9:
		return "NetBSD"
	case 0xfd:
		return "Linux RAID"
	case 0xee:
		return "protective"
	}
	return fmt.Sprintf("0x%02x", t)
}

var gptTypes = map[string]string{
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": TypeESP,
	"21686148-6449-6e6f-744e-656564454649": "BIOS boot",
	"0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
	"e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
	"a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
	"bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
	"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "data",
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": "Windows reserved",
	"516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
	"516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
	"516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
	"83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
}

// gptType names the type of the entry that begins in e.
func gptType(e []byte) string {
	t := guid(e)
	if t == guid(tailType[:]) {
		return TypeTail
	}
	if known, ok := gptTypes[t]; ok {
		return known
	}
	return t
}
