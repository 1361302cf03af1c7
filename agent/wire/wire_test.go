package wire

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"carte/lab"
)

func TestBase(t *testing.T) {
	for server, want := range map[string]string{
		"https://10.0.0.1:8443/": "https://10.0.0.1:8443", "http://10.0.0.1:80": "", "https://": "", "10.0.0.1:8443": "", "ftp://a": "",
	} {
		if got, err := Base(server, false); got != want || (want == "") != errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%q: %q, %v", server, got, err)
		}
	}
	if got, err := Base("http://10.0.0.1:80", true); got != "http://10.0.0.1:80" || err != nil {
		t.Errorf("plain: %q, %v", got, err)
	}
}

// No way of writing https:// leads to a client that trusts anybody.
func TestNothingIsTrustedWithoutPin(t *testing.T) {
	for _, base := range []string{"https://a:1", "HTTPS://a:1", "Https://a:1"} {
		if _, err := Client(base, "", &http.Transport{}); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%s: %v", base, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
		kind       error
	}{
		{403, `{"error":{"message":"not yours: refused"}}`, "not yours", lab.ErrRefused},
		{404, "nothing there\n", "nothing there", lab.ErrNotFound},
		{404, "", "words of the status", lab.ErrNotFound},
		{499, "stopped", "the server is away: stopped", ErrAway},
		{500, "", "the server is away: words of the status", ErrAway},
		{502, strings.Repeat("x", 10<<10), "the server is away: " + strings.Repeat("x", 4<<10), ErrAway},
	} {
		err := Refusal(c.status, "words of the status", strings.NewReader(c.body))
		if !errors.Is(err, c.kind) || !strings.HasPrefix(err.Error(), c.want) || len(err.Error()) > 5<<10 {
			t.Errorf("%d %.40q: %v, want %s", c.status, c.body, err, c.want)
		}
	}
}

func TestReply(t *testing.T) {
	var reply lab.Reply
	for _, err := range []error{Reply(strings.NewReader(`{"wants":`), &reply), Reply(iotest.ErrReader(errors.New("reset")), nil)} {
		if !errors.Is(err, ErrAway) {
			t.Error(err)
		}
	}
	if err := Reply(strings.NewReader("no JSON, and nobody asks"), nil); err != nil {
		t.Error(err)
	}
}

// The pauses grow to the longest, and no further; what fails for good, or is enough, ends it.
func TestPatiently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		err := Patiently(t.Context(), time.Second, 4*time.Second, func() error { return Away(errors.New("nobody")) }, func(error) bool { n++; return n == 11 })
		if took := time.Since(began); !errors.Is(err, ErrAway) || took < 35*time.Second/2 || took > 3*35*time.Second/2 { // 1, 2, 4, 4, …
			t.Errorf("%v after %v", err, took)
		}
		err = Patiently(t.Context(), time.Second, time.Second, func() error { return lab.ErrDenied }, nil)
		if err != lab.ErrDenied {
			t.Error(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("called back")
		err = Patiently(ctx, time.Second, time.Second, func() error { return Away(nil) }, func(error) bool { cancel(why); return false })
		if err != why {
			t.Error(err)
		}
	})
}
