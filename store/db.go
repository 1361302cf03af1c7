package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"carte/lab"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is the lab's catalogue and history in one SQLite file: a lab.Book. What Save acknowledged survives a power cut. Its methods may be called from
// any goroutine; they take turns.
type DB struct {
	sql   *sql.DB
	file  string
	cards string // folder of the versions' cards (rebuild.go); empty: none are kept

	room func(error) bool // makes room if that error came from a full disk (reserve.go); may be nil
}

// OpenDB opens the catalogue, makes it where there is none, readable by its owner only, and brings an older one up to date. A catalogue that a newer
// carte made is lab.ErrRefused, a file that is none is lab.ErrDamaged; neither is changed. Close it.
func OpenDB(ctx context.Context, file string) (*DB, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("open the catalogue: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600) // SQLite gives its own files the permissions of this one
	if err != nil {
		return nil, fmt.Errorf("open the catalogue: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the catalogue: %w", err)
	}
	uri := url.URL{Scheme: "file", Path: file, RawQuery: "_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"}
	db, err := sql.Open("sqlite", uri.String())
	if err != nil {
		return nil, fmt.Errorf("open the catalogue %s: %w", file, err)
	}
	db.SetMaxOpenConns(1)
	d := &DB{sql: db, file: file}
	if err := d.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the catalogue %s: %w", file, d.explain(err)), db.Close())
	}
	return d, nil
}

// Close closes the file.
func (d *DB) Close() error { return d.sql.Close() }

// migrate runs the migrations that the file has not seen. Its user_version counts those that it has.
func (d *DB) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	return d.tx(ctx, func(tx *sql.Tx) error {
		var have int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
			return err
		}
		if have > len(files) {
			return fmt.Errorf("it was made by a newer carte (schema %d, this one knows %d); nothing was changed; use that carte: %w", have, len(files), lab.ErrRefused)
		}
		for i, name := range files[have:] {
			text, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", have+i+1)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// tx runs f in one transaction: all of it, or, on an error, nothing.
func (d *DB) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.sql.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing; when f panics it frees the one connection
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// explain says in a person's words what SQLite says in its own.
func (d *DB) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	if isFull(err) {
		return fmt.Errorf("the disk under %s is full; free some space: %w", filepath.Dir(d.file), err)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("the file is broken (%v); stop carte, keep a copy of it, and put a backup in its place, or move it away, then images are found again and machines are not: %w", err, lab.ErrDamaged)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("another program holds the catalogue (%v); close it: %w", err, lab.ErrBusy)
	}
	return err
}

// Check has SQLite look through the whole file. lab.ErrDamaged: something in it does not fit together.
func (d *DB) Check(ctx context.Context) error {
	var said string
	if err := d.sql.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("check the catalogue: %w", d.explain(err))
	}
	if said != "ok" {
		return fmt.Errorf("check the catalogue %s: %s; stop carte, keep a copy of it, and put a backup in its place: %w", d.file, said, lab.ErrDamaged)
	}
	return nil
}

// Backup writes a copy of the catalogue as it is now to a file that must not exist yet. Work goes on meanwhile.
func (d *DB) Backup(ctx context.Context, file string) (err error) {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("backup to %s: the file is there already; name another: %w", file, lab.ErrBusy)
	}
	beside := file + temporary
	f, err := os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // VACUUM INTO takes an empty file and keeps its permissions
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(fmt.Errorf("backup to %s: %w", file, err), os.Remove(beside))
		}
	}()
	if _, err := d.sql.ExecContext(ctx, "VACUUM INTO ?", beside); err != nil {
		return d.explain(err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(beside, file); err != nil { // unlike a rename it never replaces a file
		return err
	}
	return errors.Join(os.Remove(beside), syncDir(filepath.Dir(file)))
}

// millis is how a time is written in a column; the zero time is NULL.
func millis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}
