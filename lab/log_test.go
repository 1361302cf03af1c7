package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                        "plain",
		"a\tb":                         "a b",
		"a\r\nb\x00\x07\x7f":           "ab",
		"\x1b[1;31mred\x1b[0m":         "red",
		"\x1b]0;title\x07after":        "after",
		"\x1b]8;;http://x\x1b\\link":   "link",
		"\x1bPq#0\x1b\\x":              "x",
		"\x1b(B\x1b[mtext":             "text",
		"\x1b7x\x1b8":                  "x",
		"\x1b":                         "",
		"\x1b[":                        "",
		"\x1b]unended":                 "",
		"caf\u00e9 \u65e5\u672c":       "caf\u00e9 \u65e5\u672c",
		"\u202eevil\u2066\u200b\ufeff": "evil",
		"\u0085\u009b31m":              "31m",
		"bad\xff\xfe":                  "bad\uFFFD\uFFFD",
		long(maxLine, "x"):             long(maxLine, "x"),
		long(maxLine+1, "x"):           long(maxLine-3, "x") + "…",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%.40q) = %.40q, want %.40q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"\x1b[31m", "\x1b]0;x\x07", "\x1b\x1b\x1b", "\u202e", "\xff", "\x1b\xc3\xa9", long(maxLine, "\xff")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := Clean(s)
		if len(out) > maxLine || !utf8.ValidString(out) {
			t.Errorf("%d bytes, valid UTF-8: %v", len(out), utf8.ValidString(out))
		}
		for _, r := range out {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Errorf("%q lets %q through", s, r)
			}
		}
		if Clean(out) != out {
			t.Errorf("%q cleaned twice is %q", out, Clean(out))
		}
		if firstControl(out) >= 0 {
			t.Errorf("%q is clean and not allowed", out)
		}
	})
}

func TestTail(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const n = keptLines + 100
	for i := range n {
		b.Log(Line{Machine: int64(i % 2), Source: "serial", Text: fmt.Sprint(i + 1)})
	}
	lines, next, lost, err := b.Tail(ctx, Tail{Max: 3})
	if err != nil || next != n || lost != 0 || len(lines) != 3 || lines[0].Text != fmt.Sprint(n-2) || lines[2].Seq != n {
		t.Errorf("the newest: %+v %d %d %v", lines, next, lost, err)
	}
	lines, _, lost, _ = b.Tail(ctx, Tail{After: 40})
	if lost != 60 || len(lines) != keptLines || lines[0].Seq != 101 {
		t.Errorf("after 40: %d lines from %d, %d lost", len(lines), lines[0].Seq, lost)
	}
	lines, _, _, _ = b.Tail(ctx, Tail{Machine: 1, After: n - 10})
	if len(lines) != 5 || strings.HasSuffix(lines[0].Text, "0") {
		t.Errorf("of one machine: %+v", lines)
	}
	if lines, _, _, _ := b.Tail(ctx, Tail{After: n}); len(lines) != 0 {
		t.Errorf("%d lines newer than the newest", len(lines))
	}
	got := make(chan []Line)
	go func() {
		lines, _, _, _ := b.Tail(ctx, Tail{Machine: 1, After: n, Wait: true})
		got <- lines
	}()
	b.Log(Line{Machine: 2, Text: "for another"})
	b.Log(Line{Machine: 1, Text: "\x1b[2Jfor him"})
	if lines := <-got; len(lines) != 1 || lines[0].Text != "for him" || lines[0].At.IsZero() {
		t.Errorf("waited for %+v", lines)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, _, err := b.Tail(cancelled, Tail{After: n + 2, Wait: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}
