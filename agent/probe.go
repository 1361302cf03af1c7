package agent

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"carte/lab/chunk"
	"carte/lab/layout"
)

// probed is how much is read at the beginning and the end of a disk, and at the beginning of a partition.
const probed = 1 << 20

// contents says in words what is on a disk: "" when its first and last MiB are blank, else such as
// `GPT with 2 partitions: vfat, ext4 "root"`. A disk that cannot be read holds something for all that is known.
func contents(r io.ReaderAt, size int64) string {
	t, err := layout.ReadTable(r, size)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	if t.Kind != "" {
		return describe(r, size, t)
	}
	words := inside(r, 0, size)
	if words == "blank" && blankAt(r, max(0, size-probed), size) {
		return ""
	}
	if words == "blank" || words == "unknown" {
		return "data of an unknown kind"
	}
	return words
}

// inside says what lies between two places of a disk.
func inside(r io.ReaderAt, off, end int64) string {
	x, err := layout.Identify(r, off, end-off)
	switch {
	case err != nil:
		return "unreadable"
	case x.Type != "" && clean(x.Label) != "":
		return fmt.Sprintf("%s %q", x.Type, clean(x.Label))
	case x.Type != "":
		return x.Type
	case blankAt(r, off, min(end, off+probed)):
		return "blank"
	}
	return "unknown"
}

// blankAt reports whether there are only zeros between two places, at most probed bytes from one another. What cannot be
// read is not blank.
func blankAt(r io.ReaderAt, off, end int64) bool {
	b := aligned(int(max(0, min(probed, end-off))))
	n, err := r.ReadAt(b, off)
	return (err == nil || err == io.EOF) && chunk.IsZero(b[:n])
}

func describe(r io.ReaderAt, size int64, t layout.Table) string {
	const most = 8
	name := strings.ToUpper(t.Kind)
	switch {
	case t.Backup:
		name += " (only its copy)"
	case t.Kind == "gpt" && t.Note != "" && len(t.Parts) == 0:
		return name + ", damaged"
	}
	var words []string
	n := 0
	for _, p := range t.Parts {
		if p.Type == layout.TypeExtended { // what is in it comes by itself
			continue
		}
		if n++; n <= most {
			words = append(words, inside(r, p.Off, min(size, p.Off+p.Bytes)))
		} else if n == most+1 {
			words = append(words, "…")
		}
	}
	switch n {
	case 0:
		return name + " without partitions"
	case 1:
		return name + " with 1 partition: " + words[0]
	default:
		return fmt.Sprintf("%s with %d partitions: %s", name, n, strings.Join(words, ", "))
	}
}

// clean makes what a device or a disk says about itself fit for a line of text.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
