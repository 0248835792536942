"""The tables of a run in PostgreSQL, one schema a run.

They hold what those of SQLite hold, in the same shape, but for what many workers would write at the
same time. A transaction that changes a row keeps all others from it until its end, so: what each
commit of each worker touches has a row for each worker (counters, errors); what is claimed stands
in small tables of its own (claims, shares), so that a bundle is written once and deleted once; and
`seen` is only ever added to.

Rows that are shared are locked in one order, so that no two transactions wait for each other:
the worker's own, `seen` by key, documents by key, hosts by id, shares, what was of a worker that
left by name. Who reads documents and merges them in the same transaction comes to the rows too
early: it takes `ALONE` first, and all others who merge them `BESIDE`, before any row but their own.
"""

from __future__ import annotations

FORMAT = 1
"""The version of the tables."""
MARK = "crawlkit"
"""What `run.application` says."""

# Rows that are written over and over: room for the new version on the same page, and a vacuum that
# comes early and does not dawdle.
_HOT = (
    "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 200, "
    "autovacuum_analyze_scale_factor = 0.5, autovacuum_vacuum_cost_delay = 0"
)
# Rows that come and go: what is dead must not lie in the way of those who look for the first.
_QUEUE = (
    "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500, "
    "autovacuum_vacuum_cost_delay = 0"
)

TABLES = f"""
CREATE TABLE run (
    id int PRIMARY KEY CHECK (id = 1),
    application text NOT NULL,
    format int NOT NULL,
    -- Which text the functions of this schema have, as a hash.
    routines text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Who has said that the crawl is finished: a worker's epoch, and which of its calls.
    finished_by text
);

-- Who writes the run. The row is the fence: without it, nothing is committed.
CREATE TABLE workers (
    epoch bigint PRIMARY KEY,
    name text NOT NULL UNIQUE,
    machine text NOT NULL, pid int NOT NULL, started text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    until timestamptz NOT NULL,
    -- The number of its connection. What comes late on one before that does nothing.
    connection int NOT NULL DEFAULT 0,
    is_idle boolean NOT NULL DEFAULT false,
    -- How many checkpoints it has committed, and what became of the last one.
    commits bigint NOT NULL DEFAULT 0,
    receipt text,
    -- No item that it will ever save has this number or a lower one.
    items_after bigint NOT NULL,
    -- The document in which it notes what it has in flight.
    note bigint NOT NULL
) WITH ({_HOT});

CREATE TABLE locks (name text PRIMARY KEY, worker bigint NOT NULL);

-- What a worker may still do of what all may do together. `call` is its last one, and `granted` the
-- answer.
CREATE TABLE allotments (
    worker bigint, name text, amount bigint NOT NULL, call bigint NOT NULL, granted bigint NOT NULL,
    PRIMARY KEY (worker, name)
) WITH ({_HOT});

-- What the parts save under their names. The key is a hash of the name, which may be long.
CREATE TABLE documents (
    key bigint PRIMARY KEY, name text NOT NULL, is_single boolean NOT NULL,
    version int NOT NULL, revision bigint NOT NULL DEFAULT 1, crc bigint NOT NULL,
    data text NOT NULL
) WITH ({_HOT});
CREATE INDEX documents_loaded ON documents (key) WHERE NOT is_single;

-- Kind 0 adds up, 1 keeps the smallest value, 2 the largest; one that was imported has kind 0 and
-- is one value of all. Worker 0 has what was of workers that are gone.
CREATE TABLE counters (
    worker bigint, name text COLLATE "C", kind int, value double precision NOT NULL,
    PRIMARY KEY (worker, name, kind)
) WITH ({_HOT});
CREATE INDEX counters_of_run ON counters (name) WHERE name !~ '/';
CREATE TABLE errors (
    worker bigint, key bigint, kind text NOT NULL, place text NOT NULL, message text NOT NULL,
    count bigint NOT NULL, first_at double precision NOT NULL, last_at double precision NOT NULL,
    examples text NOT NULL, PRIMARY KEY (worker, key)
) WITH ({_HOT});

-- `free` is how many of its shares nobody has. `best` is the highest priority and `due` the
-- earliest time among the bundles that nobody has claimed. `rest_at` and `rest_delay` are how it is
-- paced; `is_orphan` is set from when its worker was given up until it is claimed.
CREATE TABLE hosts (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    free int NOT NULL DEFAULT 16,
    best bigint, due double precision,
    rest_at double precision NOT NULL DEFAULT 0, rest_delay double precision NOT NULL DEFAULT 0,
    is_orphan boolean NOT NULL DEFAULT false
) WITH (fillfactor = 80, {_QUEUE});
CREATE INDEX hosts_best ON hosts (best DESC, id) WHERE best IS NOT NULL AND free > 0;
CREATE INDEX hosts_due ON hosts (due) WHERE due IS NOT NULL AND free > 0;

-- Which worker has how much of a host. `rest_at` and `rest_delay` are what another worker has said
-- about the host, until it is told.
CREATE TABLE shares (
    host int, worker bigint, shares int NOT NULL,
    rest_at double precision, rest_delay double precision,
    PRIMARY KEY (host, worker)
) WITH ({_HOT});
CREATE INDEX shares_worker ON shares (worker);

-- What was ever enqueued.
CREATE TABLE seen (host int, fingerprint bigint, PRIMARY KEY (host, fingerprint))
    WITH (autovacuum_vacuum_insert_scale_factor = 0.2);

-- What is still to do: up to 50 requests of one host and priority in a row, as a JSON array. Bit i
-- of `gone` is set once request i has left. `crc` is the sum of the requests' checksums.
CREATE TABLE bundles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host int NOT NULL, priority bigint NOT NULL, due double precision NOT NULL,
    size int NOT NULL, gone bigint NOT NULL DEFAULT 0, crc bigint NOT NULL, requests text NOT NULL
) WITH ({_QUEUE});
CREATE INDEX bundles_ready ON bundles (host, priority DESC, id) WHERE due = 0;
CREATE INDEX bundles_waiting ON bundles (host, due) WHERE due > 0;

-- The bundles that a worker has claimed; `gone` is in here as long as it has.
CREATE TABLE claims (
    bundle bigint PRIMARY KEY, worker bigint NOT NULL, host int NOT NULL, gone bigint NOT NULL
) WITH ({_HOT});
CREATE INDEX claims_worker ON claims (worker, host);

-- What became of requests; and of links that were not enqueued.
CREATE TABLE outcomes (
    host int, fingerprint bigint, is_link boolean NOT NULL,
    outcome text NOT NULL, at double precision NOT NULL, url text NOT NULL,
    handler text, status int, duration double precision, retries int NOT NULL,
    error text, detail text, request text, PRIMARY KEY (host, fingerprint)
);
CREATE INDEX outcomes_not_handled ON outcomes (outcome) WHERE outcome <> 'handled';

CREATE TABLE items (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL, url text NOT NULL, handler text NOT NULL,
    crc bigint NOT NULL, data text NOT NULL
);
"""

ADDED = "ALTER TABLE workers ADD COLUMN IF NOT EXISTS connection int NOT NULL DEFAULT 0"
"""For tables of this version that were made without it. Who knows nothing of it is not hindered."""
IS_ADDED = """
SELECT FROM pg_attribute WHERE attrelid = 'workers'::regclass AND attname = 'connection'
"""
"""A row, where they have it."""

_LOCK = "pg_advisory_xact_lock{how}({key} # hashtext(current_schema()))"
ALONE, BESIDE = _LOCK.replace("{how}", ""), _LOCK.replace("{how}", "_shared")
"""Keep others, or those who keep others, from merging the document of a key until the end of the
transaction. Of several, by key."""

IN_GRANT = "replace({name}, ' ', chr(31))"
"""A counter's name as it stands in that of a grant, between spaces: a pattern may hold some."""

# What of a host nobody has claimed. Their place in a statement decides which state they see: it has
# to begin after the host's row was locked.
BEST_OF = """(
    SELECT b.priority FROM bundles b
    WHERE b.host = {host} AND b.due = 0
        AND NOT EXISTS (SELECT FROM claims c WHERE c.bundle = b.id)
    ORDER BY b.priority DESC, b.id LIMIT 1
)"""
DUE_OF = """(
    SELECT b.due FROM bundles b
    WHERE b.host = {host} AND b.due > 0
        AND NOT EXISTS (SELECT FROM claims c WHERE c.bundle = b.id)
    ORDER BY b.due LIMIT 1
)"""
