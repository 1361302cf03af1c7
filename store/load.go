package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// Load returns the lab as it was last saved. A row whose doc is not what its sum promises is lab.ErrDamaged, with its table and key, and nothing is
// loaded: a lab with a hole in it might boot the wrong thing.
func (d *DB) Load(ctx context.Context) (lab.Snapshot, error) {
	s := lab.Snapshot{
		Machines: map[int64]lab.Machine{}, Images: map[string]lab.Image{}, Versions: map[string]lab.Version{}, Stacks: map[string]lab.Stack{},
		Boots: map[int64]lab.Boot{}, Addresses: map[lab.MAC]lab.Address{}, Badges: map[string]lab.Badge{},
	}
	err := d.tx(ctx, func(tx *sql.Tx) error {
		return errors.Join(
			load(ctx, tx, "machines", "SELECT id, doc, sum FROM machines", s.Machines, func(m lab.Machine) int64 { return m.ID }),
			load(ctx, tx, "images", "SELECT name, doc, sum FROM images", s.Images, func(i lab.Image) string { return i.Name }),
			load(ctx, tx, "versions", "SELECT ref, doc, sum FROM versions", s.Versions, func(v lab.Version) string { return v.Ref().String() }),
			load(ctx, tx, "stacks", "SELECT name, doc, sum FROM stacks", s.Stacks, func(s lab.Stack) string { return s.Name }),
			load(ctx, tx, "boots", "SELECT id, doc, sum FROM boots", s.Boots, func(b lab.Boot) int64 { return b.ID }),
			load(ctx, tx, "addresses", "SELECT mac, doc, sum FROM addresses", s.Addresses, func(a lab.Address) lab.MAC { return a.MAC }),
			load(ctx, tx, "badges", "SELECT ref, doc, sum FROM badges", s.Badges, func(b lab.Badge) string { return b.Ref.String() }),
			last(ctx, tx, &s),
		)
	})
	if err != nil {
		return lab.Snapshot{}, fmt.Errorf("load the catalogue %s: %w", d.file, d.explain(err))
	}
	return s, nil
}

// last loads the highest numbers ever given. They stay when the row that had them is removed.
func last(ctx context.Context, tx *sql.Tx, s *lab.Snapshot) error {
	return tx.QueryRowContext(ctx, `SELECT
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'machines'), 0),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'boots'), 0),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'facts'), 0),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'metrics'), 0)`).
		Scan(&s.LastMachine, &s.LastBoot, &s.LastFact, &s.LastMetric)
}

// load fills a map with the rows of a query for key, doc and sum.
func load[K comparable, T any](ctx context.Context, tx *sql.Tx, table, query string, into map[K]T, keyOf func(T) K) error {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key, doc, sum string
		if err := rows.Scan(&key, &doc, &sum); err != nil {
			return err
		}
		var row T
		err := decode([]byte(doc), sum, &row)
		if err == nil && fmt.Sprint(keyOf(row)) != key {
			err = fmt.Errorf("it describes %v", keyOf(row))
		}
		if err != nil {
			return fmt.Errorf("table %s, row %s: %v; the disk under the catalogue may be failing: stop carte, keep a copy of the file, and put a backup in its place: %w", table, key, err, lab.ErrDamaged)
		}
		into[keyOf(row)] = row
	}
	return rows.Err()
}

func decode(doc []byte, sum string, row any) error {
	if got := chunk.Sum(doc).String(); got != sum {
		return fmt.Errorf("its content hashes to %.16s… and should hash to %.16s…", got, sum)
	}
	return json.Unmarshal(doc, row)
}

// Facts returns lines of the journal with a Seq greater than after, oldest first; at most max, or all with 0.
func (d *DB) Facts(ctx context.Context, after int64, max int) (facts []lab.Fact, err error) {
	err = d.list(ctx, func(scan func(...any) error) error {
		var f lab.Fact
		var at int64
		if err := scan(&f.Seq, &at, &f.Machine, &f.Boot, &f.Text); err != nil {
			return err
		}
		f.At = time.UnixMilli(at).UTC()
		facts = append(facts, f)
		return nil
	}, "SELECT seq, at, coalesce(machine,0), coalesce(boot,0), text FROM facts WHERE seq > ? ORDER BY seq LIMIT ?", after, limit(max))
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", d.explain(err))
	}
	return facts, nil
}

// Metrics returns every number that a boot reported, oldest first.
func (d *DB) Metrics(ctx context.Context, boot int64) (metrics []lab.Metric, err error) {
	err = d.list(ctx, func(scan func(...any) error) error {
		var m lab.Metric
		var at int64
		if err := scan(&m.Seq, &m.Boot, &m.Name, &m.Value, &m.Unit, &at); err != nil {
			return err
		}
		m.At = time.UnixMilli(at).UTC()
		metrics = append(metrics, m)
		return nil
	}, "SELECT seq, boot, name, value, unit, at FROM metrics WHERE boot = ? ORDER BY seq", boot)
	if err != nil {
		return nil, fmt.Errorf("read the metrics of boot %d: %w", boot, d.explain(err))
	}
	return metrics, nil
}

func (d *DB) list(ctx context.Context, each func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := d.sql.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func limit(max int) int {
	if max <= 0 {
		return -1
	}
	return max
}
