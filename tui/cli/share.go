package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/lab/remote"
)

// knownBefore is how many other versions of an image are asked for, to know again what lies on a disk.
const knownBefore = 7

func (c *call) shareCommands() []entry {
	var listen string
	return []entry{{
		use: "image serve", help: "share the images with other computers, read-only",
		long:    "Share the images of this lab until it is interrupted: the address that is printed, whole, is the right to read them, and carte flash --from takes it. Nobody can change anything by it, or list what there is. On the loopback it speaks HTTP; on any other address TLS, which the part behind # proves.",
		example: "  carte image serve\n  carte image serve --listen 10.77.0.1:0",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&listen, "listen", "127.0.0.1:0", "address and port; port 0 takes a free one")
		},
		run: func(ctx context.Context, _ []string) error {
			return c.withDepot(ctx, func(d lab.Depot) error { return c.share(ctx, d, listen) })
		},
	}}
}

// share runs until it is interrupted, which is its proper end.
func (c *call) share(ctx context.Context, d lab.Depot, listen string) error {
	s := &remote.Share{Depot: d, Log: slog.New(slog.NewTextHandler(c.term.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	address, err := s.Listen(listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	doc := struct {
		URL string `json:"url"`
	}{address}
	if err := c.show(list{doc: doc, names: []string{address}, rows: [][]string{{address}}}); err != nil {
		return err
	}
	c.aside("whoever knows this address may read every image of the lab; Ctrl-C ends it")
	err = s.Run(ctx)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// withSource calls do with the place that has an image, its version, and other versions that may be on a disk already.
func (c *call) withSource(ctx context.Context, from string, ref lab.Ref, do func(lab.Source, lab.Version, []lab.Version) error) error {
	if strings.Contains(from, "://") {
		return c.withShared(ctx, from, ref, do)
	}
	there := *c
	if from != "" {
		there.state = from
		if _, err := os.Stat(filepath.Join(from, "lab.db")); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--from %s: there is no lab in it, and it is no address of a share: %w", from, lab.ErrNotFound)
		} else if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	return there.withDepot(ctx, func(d lab.Depot) error {
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return err
		}
		v, err := s.Version(ref)
		if err != nil {
			return err
		}
		return do(d, v, s.VersionsOf(ref.Name))
	})
}

func (c *call) withShared(ctx context.Context, from string, ref lab.Ref, do func(lab.Source, lab.Version, []lab.Version) error) (err error) {
	if c.host.Movers.Flash == nil {
		return fmt.Errorf("this carte cannot flash: %w", lab.ErrInvalid)
	}
	s, err := remote.ParseShare(from)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	v, err := s.Version(ctx, ref)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	known, err := s.Earlier(ctx, v, knownBefore)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	return do(s, v, known)
}
