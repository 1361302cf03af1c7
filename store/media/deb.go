package media

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// debMagic begins an archive of ar(5), which a Debian package is: debian-binary, control.tar and data.tar, in this order (deb(5)). Other archives of ar, such as
// libraries, hold no system.
const debMagic = "!<arch>\ndebian-binary"

// openDeb gives the files that a package installs: the tar in it, packed as it is.
func openDeb(r io.Reader) (io.Reader, func() error, error) {
	if _, err := io.CopyN(io.Discard, r, 8); err != nil {
		return nil, nil, short(err)
	}
	for {
		var h [60]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil, nil, short(err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || size < 0 || string(h[58:]) != "`\n" {
			return nil, nil, fmt.Errorf("a member's header is %.20q", h[:])
		}
		if strings.HasPrefix(string(h[:16]), "data.tar") {
			return io.LimitReader(r, size), nil, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil { // members begin at even bytes
			return nil, nil, short(err)
		}
	}
}
