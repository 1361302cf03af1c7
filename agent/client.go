package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"carte/agent/wire"
	"carte/lab"
	"carte/lab/chunk"
)

// errAnswered is wrapped, beside wire.ErrAway, when a server did answer the request before it failed.
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
	base, err := wire.Base(o.Server, o.Plain)
	if err != nil {
		return nil, fmt.Errorf("%s=%w", lab.ArgServer, err)
	}
	c := &client{base: base, http: o.HTTP, key: wire.Key(), token: o.Token, voice: v, pause: o.Interval / 8}
	if c.http == nil {
		c.http, err = wire.Client(base, o.Pin, &http.Transport{MaxIdleConnsPerHost: fetchers + 1, ReadBufferSize: 64 << 10})
	}
	return c, err
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
		return c.once(ctx, http.MethodPost, path, body, func(r io.Reader) error { return wire.Reply(r, reply) })
	})
}

// Manifest fetches the manifest with that root and of that size, and proves that it is the one.
func (c *client) Manifest(ctx context.Context, root chunk.ID, size int64) (m chunk.Manifest, err error) {
	most := int64(64 + len(root)*chunk.Count(size))
	err = c.patiently(ctx, "manifest", tries, func(ctx context.Context) error {
		return c.once(ctx, http.MethodGet, lab.PathManifest+root.String(), nil, func(r io.Reader) error {
			b, err := io.ReadAll(io.LimitReader(r, most+1))
			if err != nil {
				return wire.Away(err)
			}
			if m, err = chunk.Decode(b); err == nil && (m.Root() != root || m.Size != size) {
				err = fmt.Errorf("root %v, %d bytes, want %v, %d bytes", m.Root(), m.Size, root, size)
			}
			if err != nil {
				return fmt.Errorf("%w: %w, %w", wire.ErrAway, errAnswered, err)
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
			if n > 0 && errors.Is(err, wire.ErrAway) {
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
				return wire.Away(err)
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
// kind; everything that may pass by itself wraps wire.ErrAway.
func (c *client) once(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	watchdog := time.AfterFunc(wire.Stall, cut)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if len(body) > 0 {
		req.Body = wire.Sent(bytes.NewReader(body), watchdog, wire.Stall)
	}
	if path != lab.PathClaim {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return wire.Away(err)
	}
	watchdog.Stop()
	defer resp.Body.Close()
	in := alive{resp.Body, watchdog, wire.Stall}
	if resp.StatusCode == http.StatusOK {
		err = read(in)
	} else {
		err = wire.Refusal(resp.StatusCode, resp.Status, in)
	}
	if errors.Is(err, wire.ErrAway) {
		return fmt.Errorf("%w, %w", err, errAnswered)
	}
	if err == nil {
		io.CopyN(io.Discard, in, 1) // the end of the body, so that the connection is kept
	}
	return err
}

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
