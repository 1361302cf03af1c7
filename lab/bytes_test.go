package lab

import (
	"errors"
	"testing"
)

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "512": 512, "4G": 4 << 30, "4g": 4 << 30, "1.5G": 3 << 29, "256M": 256 << 20, "4GiB": 4 << 30, "2Ti": 2 << 40,
		"4GB": 4e9, "4 GB": 4e9, "1.5 kB": 1500, "10B": 10,
	} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "G", "-1", "4X", "4Gx", "1.5", "1..2G", "9999999T", "4 G B", "1e3"} {
		if got, err := ParseBytes(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseBytes(%q) = %d, %v", s, got, err)
		}
	}
}

func TestParseBytesSaysWhatIsWrong(t *testing.T) {
	_, err := ParseBytes("-5M")
	wantError(t, "-5M", err, ErrInvalid, `size "-5M": a size is not negative`)
}

func FuzzParseBytes(f *testing.F) {
	f.Add("4G")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); err == nil && n < 0 {
			t.Errorf("ParseBytes(%q) = %d", s, n)
		}
	})
}
