package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"carte/lab"
	"carte/lab/chunk"
)

// Save writes the changes in one transaction, in their order: the same that lab applies to memory. On an error nothing was written.
// On a full disk it takes from the reserve.
func (d *DB) Save(ctx context.Context, changes []lab.Change) error {
	err := d.write(ctx, changes)
	if d.room != nil && d.room(err) {
		err = d.write(ctx, changes)
	}
	return err
}

func (d *DB) write(ctx context.Context, changes []lab.Change) error {
	undo, err := d.writeCards(changes)
	if err != nil {
		return err
	}
	err = d.tx(ctx, func(tx *sql.Tx) error {
		for _, c := range changes {
			if err := save(ctx, tx, c); err != nil {
				return fmt.Errorf("save %T: %w", c, err)
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(d.explain(err), undo())
	}
	d.dropCards(changes)
	return nil
}

func save(ctx context.Context, tx *sql.Tx, c lab.Change) error {
	switch c := c.(type) {
	case lab.Machine:
		return put(ctx, tx, c, `INSERT INTO machines (id, name, standing, macs, power, parked, since, doc, sum) VALUES (?,?,?,?,?,?,?,?,?)
			ON CONFLICT (id) DO UPDATE SET name=excluded.name, standing=excluded.standing, macs=excluded.macs, power=excluded.power,
			parked=excluded.parked, since=excluded.since, doc=excluded.doc, sum=excluded.sum`,
			c.ID, c.Name, string(c.Standing), spaced(c.MACs), c.Power.Driver, c.Parked, c.Since.UnixMilli())
	case lab.Image:
		return put(ctx, tx, c, `INSERT INTO images (name, kind, form, latest, since, doc, sum) VALUES (?,?,?,?,?,?,?)
			ON CONFLICT (name) DO UPDATE SET kind=excluded.kind, form=excluded.form, latest=excluded.latest, since=excluded.since,
			doc=excluded.doc, sum=excluded.sum`,
			c.Name, c.Kind, string(c.Form), c.Latest, c.Since.UnixMilli())
	case lab.Version: // never changes: a second row of that name is an error
		return put(ctx, tx, c, `INSERT INTO versions (ref, image, number, root, bytes, stored_bytes, at, doc, sum) VALUES (?,?,?,?,?,?,?,?,?)`,
			c.Ref().String(), c.Image, c.Number, c.Root.String(), c.Bytes, c.Stored, c.At.UnixMilli())
	case lab.Stack:
		return put(ctx, tx, c, `INSERT INTO stacks (name, layers, since, doc, sum) VALUES (?,?,?,?,?)
			ON CONFLICT (name) DO UPDATE SET layers=excluded.layers, since=excluded.since, doc=excluded.doc, sum=excluded.sum`,
			c.Name, spaced(c.Layers), c.Since.UnixMilli())
	case lab.Boot:
		return put(ctx, tx, c, `INSERT INTO boots (id, machine, stack, state, reason, attempt, queued, ended, doc, sum) VALUES (?,?,?,?,?,?,?,?,?,?)
			ON CONFLICT (id) DO UPDATE SET machine=excluded.machine, stack=excluded.stack, state=excluded.state, reason=excluded.reason,
			attempt=excluded.attempt, queued=excluded.queued, ended=excluded.ended, doc=excluded.doc, sum=excluded.sum`,
			c.ID, c.Machine, c.Plan.Stack, string(c.State), c.Reason, c.Attempt, c.Queued.UnixMilli(), millis(c.Ended))
	case lab.Address:
		return put(ctx, tx, c, `INSERT INTO addresses (mac, ip, until, doc, sum) VALUES (?,?,?,?,?)
			ON CONFLICT (mac) DO UPDATE SET ip=excluded.ip, until=excluded.until, doc=excluded.doc, sum=excluded.sum`,
			string(c.MAC), c.IP, c.Until.UnixMilli())
	case lab.Badge:
		return put(ctx, tx, c, `INSERT INTO badges (ref, root, at, doc, sum) VALUES (?,?,?,?,?)
			ON CONFLICT (ref) DO UPDATE SET root=excluded.root, at=excluded.at, doc=excluded.doc, sum=excluded.sum`,
			c.Ref.String(), c.Root.String(), c.At.UnixMilli())
	case lab.Fact:
		_, err := tx.ExecContext(ctx, `INSERT INTO facts (seq, at, machine, boot, text) VALUES (?,?,nullif(?,0),nullif(?,0),?)`,
			c.Seq, c.At.UnixMilli(), c.Machine, c.Boot, c.Text)
		return err
	case lab.Metric:
		_, err := tx.ExecContext(ctx, `INSERT INTO metrics (seq, boot, name, value, unit, at) VALUES (?,?,?,?,?,?)`,
			c.Seq, c.Boot, c.Name, c.Value, c.Unit, c.At.UnixMilli())
		return err
	case lab.Gone:
		return remove(ctx, tx, c)
	}
	panic(fmt.Sprintf("BUG: nowhere to save a %T", c))
}

// put runs a statement whose last two values are the row's doc and sum.
func put(ctx context.Context, tx *sql.Tx, row any, statement string, columns ...any) error {
	doc, err := encode(row)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, statement, append(columns, string(doc), chunk.Sum(doc).String())...)
	return err
}

// encode writes a row as the JSON of its tags, on one line, as it would be typed.
func encode(row any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(row); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

var removals = map[string]string{
	lab.TableMachines:  "DELETE FROM machines WHERE id = CAST(? AS INTEGER)",
	lab.TableImages:    "DELETE FROM images WHERE name = ?",
	lab.TableVersions:  "DELETE FROM versions WHERE ref = ?",
	lab.TableStacks:    "DELETE FROM stacks WHERE name = ?",
	lab.TableAddresses: "DELETE FROM addresses WHERE mac = ?",
}

func remove(ctx context.Context, tx *sql.Tx, g lab.Gone) error {
	statement, ok := removals[g.Table]
	if !ok {
		panic("BUG: nothing is removed from " + g.Table)
	}
	_, err := tx.ExecContext(ctx, statement, g.Key)
	return err
}

func spaced[T any](list []T) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = fmt.Sprint(x)
	}
	return strings.Join(words, " ")
}
