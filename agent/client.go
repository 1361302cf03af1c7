package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"carte/agent/shim"
	"carte/lab"
	"carte/lab/chunk"
)

// stall is how long a server may send nothing before a request counts as cut.
const stall = 20 * time.Second

// errAway is wrapped by errors that say: the server could not be reached, was cut off, or is in trouble itself. Asking
// again helps.
var errAway = errors.New("the server is away")

// errAnswered is wrapped, beside errAway, when a server did answer the request before it failed.
var errAnswered = errors.New("it answered first")

// A client asks the server. Each call is repeated, with pauses that grow, for as long as the server is away; a server
// may be restarted at any time. It may be used from any number of goroutines after claim.
type client struct {
	base  string
	http  *http.Client
	key   string // ours, made here, never on a disk
	token string
	voice *voice
	lost  lost          // what the server asks for
	pause time.Duration // the first between two tries; it grows to 40 of them
}

// newClient checks where the server is and how it is known.
func newClient(o Options, v *voice) (*client, error) {
	u, err := url.Parse(o.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && o.Plain) {
		return nil, fmt.Errorf("%s=%q is not https://ADDRESS:PORT: %w", lab.ArgServer, o.Server, lab.ErrInvalid)
	}
	raw := make([]byte, 32)
	rand.Read(raw) // never fails; see crypto/rand
	c := &client{base: strings.TrimRight(o.Server, "/"), http: o.HTTP, key: hex.EncodeToString(raw), token: o.Token, voice: v, pause: o.Interval / 8}
	if c.http != nil {
		return c, nil
	}
	config, err := shim.Pinned(o.Pin)
	if err != nil && u.Scheme == "https" {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
			TLSClientConfig:     config,
			TLSHandshakeTimeout: 15 * time.Second,
			MaxIdleConnsPerHost: fetchers + 1,
			DisableCompression:  true,
			ReadBufferSize:      64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// claim redeems the token.
func (c *client) claim(ctx context.Context, inv lab.Inventory) (o lab.Orders, err error) {
	return o, c.say(ctx, "claim", lab.PathClaim, lab.Claim{Token: c.token, Key: c.key, Inventory: inv}, &o)
}

// report tells the server and returns what it replied.
func (c *client) report(ctx context.Context, r lab.Report) (reply lab.Reply, err error) {
	err = c.say(ctx, "report", lab.PathReport, r, &reply)
	c.lost.hear(reply.Wants)
	return reply, err
}

func (c *client) say(ctx context.Context, what, path string, message, reply any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return c.patiently(ctx, what, forever, func(ctx context.Context) error {
		return c.once(ctx, http.MethodPost, path, body, func(r io.Reader) error {
			b, err := io.ReadAll(io.LimitReader(r, lab.MaxMessage))
			if err != nil {
				return away(err)
			}
			if err := json.Unmarshal(b, reply); err != nil {
				return away(fmt.Errorf("its reply is cut off or not JSON: %w", err))
			}
			return nil
		})
	})
}

// Manifest fetches the manifest with that root and of that size, and proves that it is the one.
func (c *client) Manifest(ctx context.Context, root chunk.ID, size int64) (m chunk.Manifest, err error) {
	most := int64(64 + len(root)*chunk.Count(size))
	err = c.patiently(ctx, "manifest", tries, func(ctx context.Context) error {
		return c.once(ctx, http.MethodGet, lab.PathManifest+root.String(), nil, func(r io.Reader) error {
			b, err := io.ReadAll(io.LimitReader(r, most+1))
			if err != nil {
				return away(err)
			}
			if m, err = chunk.Decode(b); err == nil && (m.Root() != root || m.Size != size) {
				err = fmt.Errorf("root %v, %d bytes, want %v, %d bytes", m.Root(), m.Size, root, size)
			}
			if err != nil {
				return fmt.Errorf("%w: %w, %w", errAway, errAnswered, err)
			}
			return nil
		})
	})
	if err != nil {
		return chunk.Manifest{}, fmt.Errorf("manifest %v: %w", root, err)
	}
	return m, nil
}

// Chunks implements Source. What a cut connection has brought is kept; only the rest is asked for again.
func (c *client) Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	for got < len(ids) && err == nil {
		err = c.patiently(ctx, "chunks", tries, func(ctx context.Context) error {
			n, err := c.chunks(ctx, ids[got:], each)
			got += n
			if n > 0 && errors.Is(err, errAway) {
				return nil // it goes on; begin to count anew
			}
			return err
		})
	}
	return got, err
}

// chunks asks once for chunks, at most lab.MaxChunksAsked, and hands each over in its stored form, unchecked but for its
// name. got counts those that each took without an error; stored is valid until each returns.
func (c *client) chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	body := make([]byte, 0, len(ids)*len(chunk.ID{}))
	for _, id := range ids {
		body = append(body, id[:]...)
	}
	err = c.once(ctx, http.MethodPost, lab.PathChunks, body, func(r io.Reader) error {
		var buf []byte
		for _, want := range ids {
			id, stored, err := chunk.ReadFrame(r, buf)
			switch {
			case errors.Is(err, chunk.ErrDamaged):
				return err
			case err != nil:
				return away(err)
			case id != want:
				return fmt.Errorf("chunk %v came where %v was asked for: %w", id, want, chunk.ErrDamaged)
			}
			if err := each(id, stored); err != nil {
				return err
			}
			got++
			buf = stored[:0]
		}
		return nil
	})
	return got, err
}

// once makes one request and hands the body of a good answer to read. An answer that refuses becomes an error of its
// kind; everything that may pass by itself wraps errAway.
func (c *client) once(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	watchdog := time.AfterFunc(stall, cut)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if len(body) > 0 {
		req.Body = io.NopCloser(flowing{bytes.NewReader(body), watchdog})
	}
	if path != lab.PathClaim {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return away(err)
	}
	watchdog.Stop()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, alive{resp.Body, watchdog, stall})
	}
	err = read(alive{resp.Body, watchdog, stall})
	if errors.Is(err, errAway) {
		return fmt.Errorf("%w, %w", err, errAnswered)
	}
	if err == nil {
		io.CopyN(io.Discard, alive{resp.Body, watchdog, stall}, 1) // the end of the body, so that the connection is kept
	}
	return err
}

func away(err error) error { return fmt.Errorf("%w: %w", errAway, err) }

// alive lets the watchdog watch only while bytes are waited for, not while a slow disk takes them.
type alive struct {
	r        io.Reader
	watchdog *time.Timer
	stall    time.Duration
}

func (a alive) Read(p []byte) (int, error) {
	a.watchdog.Reset(a.stall)
	defer a.watchdog.Stop()
	return a.r.Read(p)
}

// flowing keeps the watchdog quiet as long as the server takes bytes.
type flowing struct {
	r        io.Reader
	watchdog *time.Timer
}

func (f flowing) Read(p []byte) (int, error) {
	f.watchdog.Reset(stall)
	return f.r.Read(p)
}

// refusal turns an answer that is not 200 into an error of the kind that it stands for.
func refusal(resp *http.Response, body io.Reader) error {
	b, _ := io.ReadAll(io.LimitReader(body, 4<<10)) // what can be read of it is enough
	words := strings.TrimSpace(string(b))
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(b, &said) == nil && said.Error.Message != "" {
		words = said.Error.Message
	}
	if words == "" {
		words = resp.Status
	}
	for _, f := range lab.Failings {
		if f.HTTP == resp.StatusCode && f.HTTP < 499 {
			return fmt.Errorf("%s: %w", strings.TrimSuffix(words, ": "+f.Kind.Error()), f.Kind)
		}
	}
	return fmt.Errorf("%w: %s, %w", errAway, words, errAnswered)
}
