package lab

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes writes a size as a person reads it, in powers of 1000.
func Bytes(n int64) string {
	const units = "kMGTP"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.5 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if f < 99.95 {
		return fmt.Sprintf("%.1f %cB", f, units[i])
	}
	return fmt.Sprintf("%.0f %cB", f, units[i])
}

// exactly is Bytes, with the very number beside it where that says more.
func exactly(n int64) string {
	if n < 1000 {
		return Bytes(n)
	}
	return fmt.Sprintf("%s (%d bytes)", Bytes(n), n)
}

// ParseBytes reads a size in bytes: 4G, 4Gi and 4GiB are powers of 1024, as is usual for disks of virtual machines;
// 4GB and "4 GB" are powers of 1000; a bare number is bytes.
func ParseBytes(s string) (int64, error) {
	wrong := func(why string) (int64, error) {
		return 0, fmt.Errorf("size %q: %s; as in 4G (1024^3 bytes), 512M or 4GB (1000^3 bytes): %w", s, why, ErrInvalid)
	}
	t := strings.TrimSpace(s)
	end := strings.IndexFunc(t, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(t)
	}
	switch {
	case strings.HasPrefix(t, "-"):
		return wrong("a size is not negative")
	case end == 0:
		return wrong("it does not begin with a number")
	}
	n, err := strconv.ParseFloat(t[:end], 64)
	if err != nil {
		return wrong(fmt.Sprintf("%q is not a number", t[:end]))
	}
	unit := strings.ToLower(strings.TrimSpace(t[end:]))
	base, rest := 1024.0, unit
	power := 0
	if unit != "" && unit != "b" {
		if power = strings.IndexByte("kmgt", unit[0]) + 1; power == 0 {
			return wrong(fmt.Sprintf("%q is not a unit", strings.TrimSpace(t[end:])))
		}
		rest = unit[1:]
	}
	switch rest {
	case "", "i", "ib":
	case "b":
		base = 1000
	default:
		return wrong(fmt.Sprintf("%q is not a unit", strings.TrimSpace(t[end:])))
	}
	f := n * math.Pow(base, float64(power))
	switch {
	case f > 1<<60:
		return wrong("it is larger than any disk")
	case f != math.Trunc(f):
		return wrong("it is not a whole number of bytes")
	}
	return int64(f), nil
}
