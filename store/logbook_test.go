package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

// What was logged before a crash is there after it, also for a command that runs no lab.
func TestLogSurvives(t *testing.T) {
	dir := t.TempDir()
	d := hold(t, dir)
	for i := range 5 {
		d.Log(lab.Line{Machine: 1, Source: "serial", Text: fmt.Sprintf("before the crash %d", i)})
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, logFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":6,"at":"2026-`); err != nil { // cut by the crash
		t.Fatal(err)
	}
	f.Close()

	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open(t.Context(), lab.Config{Book: s.DB, Now: time.Now, Secret: s.Secret, Still: true})
	if err != nil {
		t.Fatal(err)
	}
	still := &Desk{Lab: l, State: s, Still: true}
	lines, next, _, err := still.Tail(t.Context(), lab.Tail{Machine: 1})
	if err != nil || len(lines) != 5 || lines[4].Text != "before the crash 4" || next < 5 {
		t.Errorf("a still lab remembers %v, next %d (%v)", lines, next, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	d = hold(t, dir)
	defer d.State.Close()
	d.Log(lab.Line{Machine: 1, Source: "serial", Text: "after it"})
	lines, _, _, err = d.Tail(t.Context(), lab.Tail{Machine: 1})
	if err != nil || len(lines) != 6 || lines[5].Text != "after it" || lines[5].Seq <= lines[4].Seq {
		t.Errorf("the next lab remembers %v (%v)", lines, err)
	}
}

func TestLogTurns(t *testing.T) {
	dir := t.TempDir()
	b, err := openLogbook(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const n = 3 * maxLogFile / 4000
	for i := range n {
		b.Append(lab.Line{Seq: int64(i), At: at, Text: strings.Repeat("x", 3900)})
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{logFile, logOldFile} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() > maxLogFile+8192 {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
	lines, err := recall(dir)
	if err != nil || len(lines) == 0 || lines[len(lines)-1].Seq != n-1 {
		t.Errorf("%d lines recalled (%v)", len(lines), err)
	}
}
