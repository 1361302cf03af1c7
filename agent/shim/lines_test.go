package shim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"carte/lab"
)

func TestLinesAreBounded(t *testing.T) {
	q := newLines()
	for i := range 30000 {
		q.add(fmt.Sprintf("::carte metric a%d=1", i))
		q.add(strings.Repeat("\x01", 3000))
		q.add(fmt.Sprint("line ", i))
	}
	if n := q.waiting(); n != maxPlain+maxSayings {
		t.Fatalf("%d lines wait, want %d", n, maxPlain+maxSayings)
	}
	seen, sayings, last := 0, 0, ""
	for q.waiting() > 0 {
		texts, mark := q.batch()
		again, _ := q.batch()
		if strings.Join(texts, "\n") != strings.Join(again, "\n") {
			t.Fatal("what has not arrived is not said again")
		}
		if b, err := json.Marshal(lab.Report{Lines: texts}); err != nil || len(b) > lab.MaxMessage {
			t.Fatalf("a report of %d bytes, %v", len(b), err)
		}
		for i, text := range texts {
			if seen == 0 && i == 0 {
				if want := fmt.Sprint("carte: ", 60000-maxPlain+30000-maxSayings, " lines"); !strings.HasPrefix(text, want) {
					t.Errorf("first %q, want %q", text, want)
				}
			}
			if isSaying(text) {
				sayings++
			}
			last = text
		}
		seen += len(texts)
		q.sent(mark)
	}
	if sayings != maxSayings || seen != 1+maxPlain+maxSayings || last != "line 29999" {
		t.Errorf("%d lines, %d sayings, the last is %q", seen, sayings, last)
	}
}

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	text := "one\n\ntwo\n" + long + "\n" + long + long + "yz\nthree\nfour"
	for size := 1; size < 2500; size += 7 {
		var got []string
		s := &splitter{to: func(l string) { got = append(got, l) }}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			s.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		s.flush()
		if want := []string{"one", "", "two", long, long, "three", "four"}; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("in pieces of %d: %d lines, %.200q", size, len(got), got)
		}
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		s := &splitter{to: func(l string) {
			if len(l) > maxLine || strings.Contains(l, "\n") {
				t.Errorf("line of %d bytes", len(l))
			}
		}}
		for len(b) > 0 {
			n := min(max(size, 1), len(b))
			s.Write(b[:n])
			b = b[n:]
		}
	})
}
