package main

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestLogIsInWords(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(&plain{also: &out}).With("machine", "vm-1")
	log.Info("power: vm-1 cycle: on", "err", nil)
	log.Warn("no answer", "err", errors.New("the plug\nis out"), "tries", 3)
	log.Debug("nobody reads this")
	want := "power: vm-1 cycle: on, machine vm-1\nwarning: no answer, machine vm-1: the plug; is out, tries 3\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
