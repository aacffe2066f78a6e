package reports

import (
	"context"
	"database/sql"
	"fmt"
)

// schemaVersion is PRAGMA user_version of a database. Each change of the schema raises it, and adds to upgrade what brings
// a database of the version before up to date.
const schemaVersion = 3

// upgrade brings a database of an earlier version up to date.
func upgrade(ctx context.Context, tx *sql.Tx, version int) error {
	if version < 2 {
		if err := upgradeTo2(ctx, tx); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "DROP INDEX IF EXISTS machine_name;"+indexes3)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
	return err
}

// upgradeTo2 adds the step that failed and the traffic to each boot, and what the last boot says to each machine. There
// were forms of version 1 that have a part of it already. The traffic of the boots that are kept stays 0.
func upgradeTo2(ctx context.Context, tx *sql.Tx) error {
	text, figure := "TEXT NOT NULL DEFAULT ''", "INTEGER NOT NULL DEFAULT 0"
	for _, c := range []struct {
		table, kind string
		columns     []string
	}{
		{"machine", text, []string{"result", "mode", "channel", "release"}},
		{"machine", figure, []string{"duration", "starts", "faults", "disk", "servers", "neighbours"}},
		{"boot", text, []string{"step"}},
		{"boot", figure, []string{"sources", "faults", "disk", "servers", "neighbours"}},
	} {
		for _, column := range c.columns {
			if err := addColumn(ctx, tx, c.table, column, c.kind); err != nil {
				return err
			}
		}
	}
	_, err := tx.ExecContext(ctx, `
		DROP INDEX IF EXISTS machine_result;
		DROP INDEX IF EXISTS machine_release;`+indexes2+`
		UPDATE machine SET (result, mode, channel, release, duration, starts) = (
			SELECT result, mode, channel, release, duration, starts FROM boot WHERE machine = machine.id ORDER BY `+newestFirst+` LIMIT 1)
		WHERE boots > 0`)
	return err
}

// addColumn does nothing if the column is there.
func addColumn(ctx context.Context, tx *sql.Tx, table, column, kind string) error {
	var there bool
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?", table, column).Scan(&there)
	if err == nil && !there {
		_, err = tx.ExecContext(ctx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", table, column, kind))
	}
	return err
}

// indexes2 are the indexes of what the last boots say, since version 2.
const indexes2 = `
CREATE INDEX IF NOT EXISTS machine_result ON machine (accepted, result, last_seen);
CREATE INDEX IF NOT EXISTS machine_last ON machine (last_seen);
CREATE INDEX IF NOT EXISTS machine_release ON machine (release, last_seen);
CREATE INDEX IF NOT EXISTS machine_running ON machine (accepted, channel, release, result);
CREATE INDEX IF NOT EXISTS machine_mode ON machine (mode, last_seen);
CREATE INDEX IF NOT EXISTS machine_duration ON machine (duration, last_seen);
CREATE INDEX IF NOT EXISTS machine_starts ON machine (starts, last_seen);
CREATE INDEX IF NOT EXISTS machine_faults ON machine (faults, last_seen);
`

// indexes3 are those of version 3: host names are found and ordered without regard to case.
const indexes3 = `
CREATE INDEX IF NOT EXISTS machine_name ON machine (hostname COLLATE NOCASE, last_seen);
`

// schema makes the tables. Times are milliseconds since 1970, 0 for none. room counts the keys, the boots and their
// bytes that are kept of unverified (0) and accepted (1) keys; triggers keep it right.
const schema = `
CREATE TABLE machine (
	id         INTEGER PRIMARY KEY,
	key        TEXT NOT NULL UNIQUE,
	accepted   INTEGER NOT NULL DEFAULT 0,
	accepted_at INTEGER NOT NULL DEFAULT 0,
	origin     TEXT NOT NULL,
	first_seen INTEGER NOT NULL,
	last_seen  INTEGER NOT NULL,
	ephemeral  INTEGER NOT NULL,
	machine_id TEXT NOT NULL,
	hostname   TEXT NOT NULL,
	arch       TEXT NOT NULL,
	groups     TEXT NOT NULL,
	recipient  TEXT NOT NULL,
	result     TEXT NOT NULL DEFAULT '',
	mode       TEXT NOT NULL DEFAULT '',
	channel    TEXT NOT NULL DEFAULT '',
	release    TEXT NOT NULL DEFAULT '',
	duration   INTEGER NOT NULL DEFAULT 0,
	starts     INTEGER NOT NULL DEFAULT 0,
	faults     INTEGER NOT NULL DEFAULT 0,
	disk       INTEGER NOT NULL DEFAULT 0,
	servers    INTEGER NOT NULL DEFAULT 0,
	neighbours INTEGER NOT NULL DEFAULT 0,
	boots      INTEGER NOT NULL DEFAULT 0,
	bytes      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX machine_seen ON machine (accepted, last_seen);
CREATE INDEX machine_origin ON machine (accepted, origin);` + indexes2 + indexes3 + `CREATE TABLE boot (
	id       INTEGER PRIMARY KEY AUTOINCREMENT,
	machine  INTEGER NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
	boot_id  TEXT NOT NULL,
	received INTEGER NOT NULL,
	sent     INTEGER NOT NULL,
	started  INTEGER NOT NULL,
	address  TEXT NOT NULL,
	result   TEXT NOT NULL,
	error    TEXT NOT NULL,
	step     TEXT NOT NULL DEFAULT '',
	mode     TEXT NOT NULL,
	channel  TEXT NOT NULL,
	release  TEXT NOT NULL,
	number   INTEGER NOT NULL,
	duration INTEGER NOT NULL,
	starts   INTEGER NOT NULL,
	avoided  TEXT NOT NULL,
	sources    INTEGER NOT NULL,
	faults     INTEGER NOT NULL,
	disk       INTEGER NOT NULL,
	servers    INTEGER NOT NULL,
	neighbours INTEGER NOT NULL,
	document BLOB NOT NULL,
	UNIQUE (machine, boot_id)
);
CREATE INDEX boot_newest ON boot (machine, received);
CREATE INDEX boot_oldest ON boot (received);
CREATE TABLE room (
	accepted INTEGER PRIMARY KEY,
	machines INTEGER NOT NULL DEFAULT 0,
	boots    INTEGER NOT NULL DEFAULT 0,
	bytes    INTEGER NOT NULL DEFAULT 0
);
INSERT INTO room (accepted) VALUES (0), (1);
CREATE TRIGGER machine_made AFTER INSERT ON machine BEGIN
	UPDATE room SET machines = machines + 1 WHERE accepted = NEW.accepted;
END;
CREATE TRIGGER machine_gone BEFORE DELETE ON machine BEGIN
	DELETE FROM boot WHERE machine = OLD.id;
	UPDATE room SET machines = machines - 1 WHERE accepted = OLD.accepted;
END;
CREATE TRIGGER machine_moved AFTER UPDATE OF accepted ON machine BEGIN
	UPDATE room SET machines = machines - 1, boots = boots - OLD.boots, bytes = bytes - OLD.bytes WHERE accepted = OLD.accepted;
	UPDATE room SET machines = machines + 1, boots = boots + NEW.boots, bytes = bytes + NEW.bytes WHERE accepted = NEW.accepted;
END;
CREATE TRIGGER boot_made AFTER INSERT ON boot BEGIN
	UPDATE machine SET boots = boots + 1, bytes = bytes + length(NEW.document) WHERE id = NEW.machine;
	UPDATE room SET boots = boots + 1, bytes = bytes + length(NEW.document) WHERE accepted = (SELECT accepted FROM machine WHERE id = NEW.machine);
END;
CREATE TRIGGER boot_gone AFTER DELETE ON boot BEGIN
	UPDATE machine SET boots = boots - 1, bytes = bytes - length(OLD.document) WHERE id = OLD.machine;
	UPDATE room SET boots = boots - 1, bytes = bytes - length(OLD.document) WHERE accepted = (SELECT accepted FROM machine WHERE id = OLD.machine);
END;
`
