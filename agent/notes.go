package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// noteLine is what the machine image says of this boot; empty where there is none to say it.
func (w *work) noteLine() string {
	if w.Node == nil || w.orders.Tail.None() {
		return ""
	}
	return fmt.Sprintf("%s boot %d, stack %s, %s %v: %s\n",
		time.Now().UTC().Format(time.RFC3339), w.orders.Boot, w.orders.Stack, w.orders.Writes[0].Ref, w.orders.Writes[0].Root, w.moved().Words())
}

// notedBeside says that the line is for the shim to write, beside the system: mounting the machine image and giving it back is the
// longest part of a reset, and under carte's own kernel nothing is missing for it there. A system that ends at once may take such a
// line with it, so one that tells of something written is written before.
func (w *work) notedBeside() bool {
	m := w.moved()
	return w.orders.Start == lab.StartPivot && serves(w.orders) && m.Written+m.Zeroed == 0
}

// noted writes the line about this boot into the machine image, unless the shim does. No boot fails for a note.
func (w *work) noted(context.Context) error {
	line := w.noteLine()
	if line == "" || w.notedBeside() {
		return nil
	}
	node, err := w.Node(w.orders.Disk)
	if err == nil {
		err = note(node, w.orders, line, w.say)
	}
	if err != nil {
		w.say("%v", err)
	}
	return nil
}

// noteBeside writes a line into the machine image while the user's system runs, which never sees it mounted.
func noteBeside(o lab.Orders, line string, say func(format string, args ...any)) error {
	wrote := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its mounts with it
		wrote <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("mounts of its own: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("mounts of its own: %w", err)
			}
			node, err := here.nodeOf(o.Disk)
			if err != nil {
				return err
			}
			return note(node, o, line, say)
		}()
	}()
	return <-wrote
}

// notesMost is the length, in bytes, from which on the machine's notes are begun anew; the old ones are kept once.
const notesMost = 1 << 20

// note writes a line into the machine image of the orders' disk, whose device is node.
func note(node string, o lab.Orders, line string, say func(format string, args ...any)) error {
	began := time.Now()
	dir, back, err := mountMachine(node, o.Tail, o.Disk, say)
	if err != nil {
		return err
	}
	mounted := time.Since(began)
	err = addNote(filepath.Join(dir, "boots.log"), line)
	began = time.Now()
	if e := back(); e != nil || err != nil {
		return fmt.Errorf("note in the machine image: %w", errors.Join(err, e))
	}
	say("the machine image was mounted in %d ms and given back in %d ms", mounted.Milliseconds(), time.Since(began).Milliseconds())
	return nil
}

func addNote(path, line string) error {
	if st, err := os.Stat(path); err == nil && st.Size() > notesMost {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}
