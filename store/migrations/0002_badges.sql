-- What contract tests have proven of versions; a newer test of a version takes the place of an older one.
CREATE TABLE badges (
	ref  TEXT PRIMARY KEY,
	root TEXT NOT NULL,
	at   INTEGER NOT NULL,
	doc  TEXT NOT NULL,
	sum  TEXT NOT NULL
) STRICT;
