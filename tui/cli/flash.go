package cli

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
)

// Movers lay images onto files and devices of this computer, and take them from there. hear is told how far it is, say
// what a person may want to know meanwhile.
type Movers struct {
	Flash   func(ctx context.Context, from lab.Source, o lab.Flash, hear func(lab.Progress), say func(string)) (lab.Flashed, error)
	Capture func(ctx context.Context, to lab.Depot, c lab.Capture, bases []lab.Version, hear func(lab.Progress), say func(string)) (lab.Flashed, lab.Imported, error)
}

func (c *call) flashCommands() []entry {
	var o lab.Flash
	var p lab.Capture
	var v lab.QueueCapture
	var base, from string
	var wait waiting
	return []entry{
		{
			use: "flash IMAGE --to FILE", help: "lay an image onto a file or device of this computer",
			long:    "Lay an image, IMAGE or IMAGE@3, onto a file or a block device of this computer, with what agents do on machines: read what is there, write what differs, read that back. What is mounted, attached or too small is refused. What is blank, or holds known versions of the image and nothing else, is written over; anything else, and what is removable, needs its path once more. Interrupted, the same command goes on. --from takes the image from the lab of another folder, or from what carte image serve shares on another computer.",
			example: "  carte flash debian --to /tmp/disk.img\n  carte flash debian@3 --to /dev/sdx --confirm /dev/sdx\n  carte flash debian --to /dev/sdx --from 'https://desk:40123/TOKEN#PIN'",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&o.To, "to", "", "file or device (needed); a file is made, or extended")
				f.Var(notEmpty{&from, "URL|DIR"}, "from", "where the image is: the address of a share, or another lab's folder (default: this lab)")
				f.StringVar((*string)(&o.Strategy), "strategy", string(lab.Auto), "auto, full (write all that is used) or differential (read first)")
				f.StringVar((*string)(&o.Check), "verify", string(lab.CheckAlways), "read back what was written: always, sampled or never")
				f.BoolVar(&o.Grow, "grow", false, "on a larger disk or file, the last partition and its ext4 take the room there is (root)")
				f.StringVar(&o.Confirm, "confirm", "", "the path, once more")
			},
			run: func(ctx context.Context, args []string) error {
				ref, err := lab.ParseRef(args[0])
				if err != nil {
					return err
				}
				if o.To == "" {
					return fmt.Errorf("where to? --to FILE or --to DEVICE: %w", lab.ErrInvalid)
				}
				return c.withSource(ctx, from, ref, func(s lab.Source, v lab.Version, known []lab.Version) error {
					o.Version, o.Known = v, known
					return c.flash(ctx, s, o, from)
				})
			},
		},
		{
			use: "capture IMAGE", help: "make the disk of a machine, or a file or device of this computer, the next version of an image", action: "boot.capture",
			long:    "Make what a disk holds the next version of IMAGE: with --machine the disk of a machine, by its agent when it next boots from the network; with --from a file or a block device of this computer. The machine is restarted for it, and a system that runs there is cut off as with a power cut: shut it down first. The disk is only read; only chunks that the lab lacks travel; interrupted, no version is made. The same bytes again store nothing.",
			example: "  carte capture debian --machine nuc-1 --message 'new kernel' --wait\n  carte capture debian --from /tmp/disk.img",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&v.Machine, "machine", "", "the machine whose disk it is")
				f.StringVar(&v.Disk, "disk", "", "serial number, WWN or path of its disk (default: the one that carte wrote last, or the only one)")
				wait.flags(f, "with --machine: wait until the capture has reached a rung, or without a word is done", "5m")
				f.Lookup("wait").NoOptDefVal = string(lab.Done)
				f.StringVar(&p.From, "from", "", "file or device of this computer")
				f.StringVar(&base, "base", "", "version that it was made from: 3, or IMAGE@3 (default: what the machine's disk was flashed with, else the newest)")
				f.StringVar(&p.Message, "message", "", "what is new in this version")
				f.StringVar(&p.Kind, "kind", "", "of a new image: machine, system, user, project or temporary (default: as what the disk was flashed with, else system)")
				f.StringVar((*string)(&p.Form), "form", "", "of a new image: disk or tree (default: as what the disk was flashed with, else disk)")
			},
			run: func(ctx context.Context, args []string) error {
				switch {
				case v.Machine != "" && p.From != "":
					return fmt.Errorf("of a machine or of this computer? --machine and --from exclude one another: %w", lab.ErrInvalid)
				case v.Machine != "":
					v.Image, v.Kind, v.Form, v.Message = args[0], p.Kind, p.Form, p.Message
					return c.captureOf(ctx, v, base, wait)
				case p.From == "":
					return fmt.Errorf("where from? --machine NAME, --from FILE or --from DEVICE: %w", lab.ErrInvalid)
				case v.Disk != "" || wait != waiting{}:
					return fmt.Errorf("--disk, --wait and --timeout are for --machine: %w", lab.ErrInvalid)
				}
				p.Name, p.File = args[0], p.From
				return c.withDepot(ctx, func(d lab.Depot) error { return c.capture(ctx, d, p, base) })
			},
		},
	}
}

// withDepot is with, for a lab that hands out chunks.
func (c *call) withDepot(ctx context.Context, do func(lab.Depot) error) error {
	return c.with(ctx, func(d desk) error {
		depot, ok := d.Desk.(lab.Depot)
		if !ok || c.host.Movers.Flash == nil {
			return fmt.Errorf("this lab hands out no chunks: %w", lab.ErrInvalid)
		}
		return do(depot)
	})
}

// progress shows one rung after another on a meter.
func (c *call) progress(what string) (hear func(lab.Progress), end func()) {
	m := c.meter(what, 0)
	rung := lab.Rung("")
	return func(p lab.Progress) {
		if p.Rung != rung {
			rung = p.Rung
			m.end()
			m = c.meter(fmt.Sprintf("%s, %s", what, rung), 0)
		}
		if p.Of > 0 {
			m.toOf(p.Done, p.Of)
		}
	}, func() { m.end() }
}

// leftBy says of a flash that did not end what is to be known beside the error. from is where the image was.
func leftBy(err error, from string) error {
	switch {
	case errors.Is(err, context.Canceled):
		return &kept{err, lab.Words(err)}
	case strings.Contains(from, "://") && errors.Is(err, lab.ErrUnreachable):
		return &kept{err, "start the share again (carte image serve) and use its new address"}
	}
	return err
}

func (c *call) flash(ctx context.Context, d lab.Source, o lab.Flash, from string) error {
	return c.confirmed(o.Confirm, func(typed string) error {
		o.Confirm = typed
		hear, end := c.progress("flash " + o.Version.Ref().String())
		done, err := c.host.Movers.Flash(ctx, d, o, hear, c.remark(end))
		end()
		if err != nil {
			return leftBy(err, from)
		}
		result := fmt.Sprintf("%s in %s: %s read, %s fetched, %s written, %s zeroed; %s, %s were predicted", done.Path, took(done.Seconds),
			lab.Bytes(done.Read), lab.Bytes(done.Fetched), lab.Bytes(done.Written), lab.Bytes(done.Zeroed), done.Strategy, took(done.Predicted))
		if done.Same {
			result = fmt.Sprintf("%s held it already: %s read in %s, nothing written", done.Path, lab.Bytes(done.Read), took(done.Seconds))
		}
		return c.moved(done, result)
	})
}

// remark says something beside the data, below the meter.
func (c *call) remark(end func()) func(string) {
	return func(line string) {
		end()
		if !c.json {
			c.note("%s", lab.Clean(line))
		}
	}
}

func (c *call) capture(ctx context.Context, d lab.Depot, p lab.Capture, base string) error {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if ref, err := lab.ParseRef(p.Name); err != nil || ref.Version != 0 {
		return fmt.Errorf("%q: a capture makes the next version of an image; its name has no version, --base says what it was made from: %w", p.Name, lab.ErrInvalid)
	}
	have, bases := s.Images[p.Name], []lab.Version{}
	if v, err := s.Version(lab.Ref{Name: p.Name}); err == nil {
		bases = append(bases, v)
	}
	if base != "" {
		v, err := baseOf(s, p.Name, base)
		if err != nil {
			return err
		}
		p.Base, bases = v.Number, append(bases, v)
	}
	p.Kind = or(p.Kind, or(have.Kind, "system"))
	p.Form = lab.Form(or(string(p.Form), or(string(have.Form), string(lab.FormDisk))))
	if me, err := user.Current(); err == nil {
		p.Author = me.Username
	}
	hear, end := c.progress("capture " + p.Name)
	done, got, err := c.host.Movers.Capture(ctx, d, p, bases, hear, c.remark(end))
	end()
	if err != nil {
		return err
	}
	result := fmt.Sprintf("%s from %s, %s, %s sent in %s", lab.Bytes(done.Total), done.Path, or(got.Version.Found, "nothing known inside"), lab.Bytes(done.Sent), took(done.Seconds)) + mended(got)
	if done.Same {
		result = already(got)
	}
	return c.moved(done, result)
}

// baseOf reads 3 or IMAGE@3.
func baseOf(s lab.Snapshot, name, base string) (lab.Version, error) {
	text := base
	if base[0] >= '0' && base[0] <= '9' {
		text = name + "@" + base
	}
	ref, err := lab.ParseRef(text)
	if err == nil && (ref.Name != name || ref.Version == 0) {
		err = fmt.Errorf("it is not a version of %s: %w", name, lab.ErrInvalid)
	}
	if err != nil {
		return lab.Version{}, fmt.Errorf("--base %s: %w", base, err)
	}
	return s.Version(ref)
}

// moved shows what was moved.
func (c *call) moved(done lab.Flashed, result string) error {
	ref := lab.Ref{Name: done.Image, Version: done.Version}.String()
	return c.show(list{doc: done, names: []string{ref}, rows: [][]string{{ref, result}}})
}
