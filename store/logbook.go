package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"carte/lab"
)

// The log of all machines is kept in log.jsonl, a line of JSON each, so that a crash can be explained after it. It is a
// help and no record: lines are not synced, and when the file is full the older half is dropped.
const (
	logFile    = "log.jsonl"
	logOldFile = "log.1.jsonl"
	maxLogFile = 8 << 20 // bytes; there are at most two such files
	recalled   = 1 << 20 // bytes of the newest file's end that are read again
)

// logbook appends lines. Append is called by one goroutine at a time.
type logbook struct {
	dir  string
	f    *os.File
	size int64
}

func openLogbook(dir string) (*logbook, error) {
	b := &logbook{dir: dir}
	return b, b.open()
}

func (b *logbook) open() error {
	f, err := os.OpenFile(filepath.Join(b.dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	b.size, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(fmt.Errorf("open the log: %w", err), f.Close())
	}
	b.f = f
	return nil
}

// Append writes one line. A log that cannot be written must not stop the lab: the line is then in memory only.
func (b *logbook) Append(l lab.Line) {
	text, err := json.Marshal(l)
	if err != nil {
		panic("BUG: a log line has no JSON: " + err.Error())
	}
	if b.f == nil || b.size > maxLogFile && b.turn() != nil {
		return
	}
	n, _ := b.f.Write(append(text, '\n'))
	b.size += int64(n)
}

// turn begins a new file and keeps the old one beside it.
func (b *logbook) turn() error {
	err := errors.Join(b.f.Close(), os.Rename(filepath.Join(b.dir, logFile), filepath.Join(b.dir, logOldFile)))
	b.f = nil
	if err != nil {
		return err
	}
	return b.open()
}

func (b *logbook) Close() error {
	if b.f == nil {
		return nil
	}
	return b.f.Close()
}

// recall reads the newest lines of a folder's log, oldest first. Lines that a crash has cut are left out.
func recall(dir string) ([]lab.Line, error) {
	var text []byte
	for _, name := range []string{logOldFile, logFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		text = append(text, b...)
	}
	text = text[max(0, len(text)-recalled):]
	var lines []lab.Line
	for _, row := range bytes.Split(text, []byte("\n")) {
		var l lab.Line
		if json.Unmarshal(row, &l) == nil && !l.At.IsZero() {
			l.Text = lab.Clean(l.Text)
			lines = append(lines, l)
		}
	}
	return lines, nil
}
