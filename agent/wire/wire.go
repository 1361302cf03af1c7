// Package wire is how what runs on a machine speaks to the server that it was told of: whom it trusts, what an answer means that is none, and how
// long it asks again. The agent and the shim beside a user's system both do it like this.
//
// The package refuses to know what is said, and builds wherever Go does.
package wire

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"carte/lab"
)

// Stall is how long a server may take nothing, and send nothing, before a request counts as cut.
const Stall = 20 * time.Second

// ErrAway is wrapped by errors that may pass by themselves: the server could not be reached, was cut off, or is in trouble. Asking again helps.
var ErrAway = errors.New("the server is away")

// Away makes err one that may pass by itself.
func Away(err error) error { return fmt.Errorf("%w: %w", ErrAway, err) }

// Base is the base URL of a server: https://ADDRESS:PORT, or http:// too where plain allows that.
func Base(server string, plain bool) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && plain) {
		return "", fmt.Errorf("%q is not https://ADDRESS:PORT: %w", server, lab.ErrInvalid)
	}
	return strings.TrimRight(server, "/"), nil
}

// Key makes a key, of 64 hexadecimal digits.
func Key() string {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails; see crypto/rand
	return hex.EncodeToString(raw)
}

// Client is one for the server at base, which it knows by its pin as Pinned does. It goes nowhere else, wherever it is sent. What t leaves out of
// DialContext and TLSHandshakeTimeout is filled in.
func Client(base, pin string, t *http.Transport) (*http.Client, error) {
	config, err := Pinned(pin)
	if err != nil && !strings.HasPrefix(base, "http:") {
		return nil, err
	}
	t.TLSClientConfig = config
	if t.DialContext == nil {
		t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}).DialContext
	}
	if t.TLSHandshakeTimeout == 0 {
		t.TLSHandshakeTimeout = 15 * time.Second
	}
	t.DisableCompression = true
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// Pinned trusts the one certificate whose SHA-256 is pin, 64 hexadecimal digits, and nothing else: no authority, no name, no date.
// The machine's clock may be wrong, and it has never seen an authority.
func Pinned(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("%s=%q is not a SHA-256 in hexadecimal digits: %w", lab.ArgPin, pin, lab.ErrInvalid)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, on every handshake
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			got := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return errors.New("who answers is not who this machine was told of: another certificate")
			}
			return nil
		},
	}, nil
}

// Sent is the body of a request that keeps the watchdog quiet as long as the server takes bytes; at the end of them it may take its time, of wait.
func Sent(body io.Reader, watchdog *time.Timer, wait time.Duration) io.ReadCloser {
	return io.NopCloser(flowing{body, watchdog, wait})
}

type flowing struct {
	r        io.Reader
	watchdog *time.Timer
	wait     time.Duration
}

func (f flowing) Read(p []byte) (n int, err error) {
	if n, err = f.r.Read(p); err != nil {
		f.watchdog.Reset(f.wait)
	} else {
		f.watchdog.Reset(Stall)
	}
	return n, err
}

// Reply reads a short answer, as JSON, to its end. A nil reply is read and forgotten.
func Reply(body io.Reader, reply any) error {
	b, err := io.ReadAll(io.LimitReader(body, lab.MaxMessage))
	if err != nil {
		return Away(err)
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(b, reply); err != nil {
		return Away(fmt.Errorf("its reply is cut off or not JSON: %w", err))
	}
	return nil
}

// Refusal turns an answer that is not 200 into an error of the kind that it stands for.
func Refusal(status int, words string, body io.Reader) error {
	b, _ := io.ReadAll(io.LimitReader(body, lab.MaxMessage)) // what can be read of it is enough
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(b, &said) == nil && said.Error.Message != "" {
		words = said.Error.Message
	} else if text := strings.TrimSpace(string(b[:min(len(b), 4<<10)])); text != "" {
		words = text
	}
	for _, f := range lab.Failings {
		if f.HTTP == status && f.HTTP < 499 {
			return fmt.Errorf("%s: %w", strings.TrimSuffix(words, ": "+f.Kind.Error()), f.Kind)
		}
	}
	return fmt.Errorf("%w: %s", ErrAway, words)
}

// Patiently repeats once until it succeeds, fails for good, or ctx ends, with pauses between that grow from the first to the longest. What passes by
// itself is told to away, which says whether that is enough.
func Patiently(ctx context.Context, first, longest time.Duration, once func() error, away func(error) (enough bool)) error {
	for pause := first; ; pause = min(2*pause, longest) {
		err := once()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, ErrAway) || away(err) {
			return err
		}
		if err := Sleep(ctx, pause/2+mrand.N(pause)); err != nil {
			return err
		}
	}
}

// Sleep waits, or returns the cause of ctx's end.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
