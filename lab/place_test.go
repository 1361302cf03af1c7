package lab

import (
	"errors"
	"testing"
)

// Files are mounted where neither the kernel nor carte has its own.
func TestCheckPlace(t *testing.T) {
	for place, want := range map[string]error{
		"": nil, "/": nil, "/home/me": nil, "/carted": nil, ProjectPlace: nil, "/process": nil,
		"/carte": ErrInvalid, "/carte/out": ErrInvalid, "/proc/x": ErrInvalid, "/sys": ErrInvalid, "/dev/shm": ErrInvalid, "/run": ErrInvalid, "home": ErrInvalid,
	} {
		if err := checkPlace("x", place); !errors.Is(err, want) || err != nil && want == nil {
			t.Errorf("%q: %v, want %v", place, err, want)
		}
	}
}
