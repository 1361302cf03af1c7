package shim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	"carte/lab"
)

// What waits for the server, at most. Sayings are promises, the rest is for the eye: it goes first, the oldest before.
const (
	maxPlain   = 2000
	maxSayings = 20000
	maxLine    = 1000      // bytes; the rest of a line is cut off
	maxBatch   = 200       // lines of one report
	batchBytes = 100 << 10 // and their bytes, which JSON may make six times as many; see lab.MaxMessage
)

// A line waits for the server.
type line struct {
	text string
	n    int64 // its place among all lines
}

// lines are what waits for the server, in order.
type lines struct {
	mu             sync.Mutex
	n              int64
	plain, sayings []line
	lost           int // lines that were dropped since the last batch that arrived
	more           chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

// add puts a line behind the others.
func (q *lines) add(text string) {
	text = short(text)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n++
	if isSaying(text) {
		q.sayings = append(q.sayings, line{text, q.n})
	} else {
		q.plain = append(q.plain, line{text, q.n})
	}
	q.drop(&q.plain, maxPlain)
	q.drop(&q.sayings, maxSayings)
	if len(q.plain)+len(q.sayings) >= maxBatch {
		select {
		case q.more <- struct{}{}:
		default:
		}
	}
}

func (q *lines) drop(of *[]line, most int) {
	if n := len(*of) - most; n > 0 {
		*of = (*of)[n:] // what is appended later moves the rest
		q.lost += n
	}
}

// batch returns what the next report carries, and a mark for sent.
func (q *lines) batch() (texts []string, mark mark) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := 0
	if q.lost > 0 {
		texts = append(texts, fmt.Sprintf("carte: %d lines were dropped, the server was not there or too slow for them", q.lost))
		mark.lost = q.lost
	}
	p, s := q.plain, q.sayings
	for len(texts) < maxBatch && size < batchBytes && len(p)+len(s) > 0 {
		from := &p
		if len(p) == 0 || len(s) > 0 && s[0].n < p[0].n {
			from = &s
		}
		texts = append(texts, (*from)[0].text)
		size += len((*from)[0].text)
		mark.n = (*from)[0].n
		*from = (*from)[1:]
	}
	return texts, mark
}

// A mark is how far a batch went.
type mark struct {
	n    int64
	lost int
}

// sent forgets a batch that has arrived.
func (q *lines) sent(m mark) {
	q.mu.Lock()
	defer q.mu.Unlock()
	upTo := func(l line) bool { return l.n <= m.n }
	q.plain = slices.DeleteFunc(q.plain, upTo)
	q.sayings = slices.DeleteFunc(q.sayings, upTo)
	q.lost = max(q.lost-m.lost, 0)
}

// waiting says how many lines the server has not got.
func (q *lines) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.plain) + len(q.sayings)
}

// takeSayings takes out the sayings, for another way to the server.
func (q *lines) takeSayings() (all []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.sayings {
		all = append(all, l.text)
	}
	q.sayings = nil
	return all
}

// isSaying says whether a line speaks to carte.
func isSaying(text string) bool {
	if !strings.Contains(text, "carte") { // most lines by far
		return false
	}
	_, ok, _ := lab.ParseSaying(lab.Clean(text))
	return ok
}

func short(text string) string {
	if len(text) > maxLine {
		text = text[:maxLine]
	}
	return strings.TrimRight(text, "\r\n")
}

// A splitter is a writer that hands on whole lines. What is longer than maxLine is cut, and the rest of that line left out.
type splitter struct {
	to   func(string)
	part []byte
	rest bool // the line was handed on already
}

func (s *splitter) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		piece := b
		if end >= 0 {
			piece = b[:end]
		}
		if !s.rest {
			s.part = append(s.part, piece[:min(len(piece), maxLine-len(s.part))]...)
		}
		full := !s.rest && len(s.part) == maxLine
		if end >= 0 && !s.rest || full {
			s.flush()
		}
		s.rest = (s.rest || full) && end < 0
		if end < 0 {
			break
		}
		b = b[end+1:]
	}
	return all, nil
}

// flush hands on what has no end of line.
func (s *splitter) flush() {
	s.to(string(s.part))
	s.part = s.part[:0]
}
