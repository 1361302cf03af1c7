package action

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"carte/lab"
)

// command joins words into a shell command, quoting those that a POSIX shell would change.
func command(words ...string) string {
	for i, w := range words {
		words[i] = Quote(w)
	}
	return strings.Join(words, " ")
}

// Quote writes a word so that a POSIX shell reads it as it is.
func Quote(w string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@,+%", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !safe(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// ParseSize reads a size in bytes: 4G, 4Gi and 4GiB are powers of 1024, as is usual for disks of virtual machines;
// 4GB and "4 GB" are powers of 1000; a bare number is bytes.
func ParseSize(s string) (int64, error) {
	wrong := func(why string) (int64, error) {
		return 0, fmt.Errorf("size %q: %s; as in 4G (1024^3 bytes), 512M or 4GB (1000^3 bytes): %w", s, why, lab.ErrInvalid)
	}
	t := strings.TrimSpace(s)
	end := strings.IndexFunc(t, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(t)
	}
	if end == 0 {
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
