-- Times are UTC unix milliseconds. A table of the lab has one row for each thing: the columns by which a person looks for it, then doc, the
-- thing itself as JSON, and sum, the BLAKE3-256 of doc in hex. Only doc is loaded; the columns beside it are made anew at every write.
-- AUTOINCREMENT so that a number that was once given is never given again.

CREATE TABLE machines (
	id       INTEGER PRIMARY KEY AUTOINCREMENT,
	name     TEXT NOT NULL,
	standing TEXT NOT NULL,
	macs     TEXT NOT NULL, -- separated by spaces
	power    TEXT NOT NULL, -- the driver
	parked   TEXT NOT NULL, -- why, or empty
	since    INTEGER NOT NULL,
	doc      TEXT NOT NULL,
	sum      TEXT NOT NULL
) STRICT;

CREATE TABLE images (
	name   TEXT PRIMARY KEY,
	kind   TEXT NOT NULL,
	form   TEXT NOT NULL,
	latest INTEGER NOT NULL,
	since  INTEGER NOT NULL,
	doc    TEXT NOT NULL,
	sum    TEXT NOT NULL
) STRICT;

CREATE TABLE versions (
	ref          TEXT PRIMARY KEY, -- name@3
	image        TEXT NOT NULL REFERENCES images(name),
	number       INTEGER NOT NULL,
	root         TEXT NOT NULL, -- names the manifest file
	bytes        INTEGER NOT NULL,
	stored_bytes INTEGER NOT NULL,
	at           INTEGER NOT NULL,
	doc          TEXT NOT NULL,
	sum          TEXT NOT NULL,
	UNIQUE (image, number)
) STRICT;

CREATE TABLE stacks (
	name   TEXT PRIMARY KEY,
	layers TEXT NOT NULL, -- separated by spaces
	since  INTEGER NOT NULL,
	doc    TEXT NOT NULL,
	sum    TEXT NOT NULL
) STRICT;

-- A boot outlives its machine: no foreign key.
CREATE TABLE boots (
	id      INTEGER PRIMARY KEY AUTOINCREMENT,
	machine INTEGER NOT NULL,
	stack   TEXT NOT NULL,
	state   TEXT NOT NULL,
	reason  TEXT NOT NULL,
	attempt INTEGER NOT NULL,
	queued  INTEGER NOT NULL,
	ended   INTEGER, -- NULL: not over
	doc     TEXT NOT NULL,
	sum     TEXT NOT NULL
) STRICT;
CREATE INDEX boots_machine ON boots (machine);

CREATE TABLE addresses (
	mac   TEXT PRIMARY KEY,
	ip    TEXT NOT NULL,
	until INTEGER NOT NULL,
	doc   TEXT NOT NULL,
	sum   TEXT NOT NULL
) STRICT;

-- The journal and the numbers that systems reported are only added to.
CREATE TABLE facts (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	at      INTEGER NOT NULL,
	machine INTEGER, -- NULL: of no machine
	boot    INTEGER, -- NULL: of no boot
	text    TEXT NOT NULL
) STRICT;

CREATE TABLE metrics (
	seq   INTEGER PRIMARY KEY AUTOINCREMENT,
	boot  INTEGER NOT NULL REFERENCES boots(id),
	name  TEXT NOT NULL,
	value REAL NOT NULL,
	unit  TEXT NOT NULL,
	at    INTEGER NOT NULL
) STRICT;
CREATE INDEX metrics_boot ON metrics (boot, seq);
