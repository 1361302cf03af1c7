package cli

import (
	"context"
	"fmt"
	"testing"

	"carte/lab"
)

// What a flash has left is said beside the error.
func TestFlashLeft(t *testing.T) {
	for _, tt := range []struct {
		err        error
		from, want string
	}{
		{fmt.Errorf("x.raw holds a part of deb@1; the same command goes on from there: %w", context.Canceled), "",
			"interrupted; x.raw holds a part of deb@1; the same command goes on from there"},
		{fmt.Errorf("desk does not answer: %w; x.raw holds a part of it", lab.ErrUnreachable), "https://desk/t#p",
			"desk does not answer: not reachable; x.raw holds a part of it; start the share again (carte image serve) and use its new address"},
		{fmt.Errorf("no room: %w", lab.ErrRefused), "https://desk/t#p", "no room"},
	} {
		if got := words(leftBy(tt.err, tt.from)); got != tt.want {
			t.Errorf("words = %q, want %q", got, tt.want)
		}
	}
}
