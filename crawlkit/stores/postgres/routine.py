"""The function that writes a checkpoint, and the rows that it is given.

It first checks that the worker is still there, and that this is its next commit: one whose answer
got lost is sent again, and applied once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..base import BUNDLE
from .columns import Bools, Column, Floats, Ints, Longs, Texts
from .tables import BESIDE, IN_GRANT
from .workers import FENCED, IS_LATEST, LOST

CHANGED = "CK004"
"""SQLSTATE: a document is not in the revision that was expected."""
STALE = "CK005"
"""SQLSTATE: it forgets a failure that is not there."""


class Table(NamedTuple):
    """Rows that a commit hands over: a parameter of the function for each column.

    Attributes:
        name: What the parameters begin with.
        columns: The columns and their kinds.
    """

    name: str
    columns: Mapping[str, type[Column]]

    @property
    def parameters(self) -> str:
        """For the head of the function."""
        types = {Bools: "bool", Ints: "int", Longs: "bigint", Floats: "float8", Texts: "text"}
        return ", ".join(
            f"_{self.name}_{column} {types[kind]}[]" for column, kind in self.columns.items()
        )

    @property
    def rows(self) -> str:
        """For a FROM clause: the rows, with their place in the order in which they came."""
        arrays = ", ".join(f"_{self.name}_{column}" for column in self.columns)
        return f"unnest({arrays}) WITH ORDINALITY AS n ({', '.join(self.columns)}, place)"

    @property
    def kinds(self) -> tuple[type[Column], ...]:
        """The kinds of the columns."""
        return tuple(self.columns.values())


ARRIVALS = Table(
    "arrivals",
    {
        "host": Ints, "fingerprint": Longs, "is_known": Bools, "priority": Longs, "due": Floats,
        "crc": Longs, "request": Texts,
    },
)  # fmt: skip
PARTLY = Table("partly", {"bundle": Longs, "gone": Longs})
EMPTIED = Table("emptied", {"bundle": Longs})
FORGET = Table("forget", {"host": Ints, "fingerprint": Longs, "at": Floats})
OUTCOMES = Table(
    "outcomes",
    {
        "host": Ints, "fingerprint": Longs, "is_link": Bools, "outcome": Texts, "at": Floats,
        "url": Texts, "handler": Texts, "status": Ints, "duration": Floats, "retries": Ints,
        "error": Texts, "detail": Texts, "request": Texts,
    },
)  # fmt: skip
ITEMS = Table("items", {"at": Floats, "url": Texts, "handler": Texts, "crc": Longs, "data": Texts})
DOCUMENTS = Table(
    "documents",
    {
        "key": Longs, "name": Texts, "is_single": Bools, "version": Ints, "crc": Longs,
        "data": Texts, "revision": Longs,
    },
)  # fmt: skip
COUNTERS = Table("counters", {"name": Texts, "kind": Ints, "value": Floats})
ERRORS = Table(
    "errors",
    {
        "key": Longs, "kind": Texts, "place": Texts, "message": Texts, "count": Longs,
        "first_at": Floats, "last_at": Floats, "examples": Texts,
    },
)  # fmt: skip
RESTS = Table("rests", {"host": Ints, "rest_at": Floats, "rest_delay": Floats})
SHARES = Table("shares", {"host": Ints, "shares": Ints})

TABLES = (
    ARRIVALS, PARTLY, EMPTIED, FORGET, OUTCOMES, ITEMS, DOCUMENTS, COUNTERS, ERRORS, RESTS, SHARES,
)  # fmt: skip

ROUTINES = f"""
CREATE OR REPLACE FUNCTION commit_checkpoint(
    _me bigint, _number bigint, _tag bigint, _lease float8, _at float8, _fresh bigint,
    {", ".join(table.parameters for table in TABLES)}
) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _commits bigint;
    _receipt text;
    _enqueued bigint := 0;
    _known bigint;
    _count bigint;
    _raised_host int[] := '{{}}';
    _raised_best bigint[] := '{{}}';
    _raised_due float8[] := '{{}}';
    _left int[] := '{{}}';
    _freed int[] := '{{}}';
    _told int[];
    _locked int[];
    _is_news boolean := false;
    _is_wanted boolean;
    _wanted text[] := '{{}}';
    _rests json;
BEGIN
    SELECT commits, receipt INTO _commits, _receipt FROM workers
    WHERE epoch = _me AND {IS_LATEST} FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}';
    END IF;
    IF _commits = _number THEN
        RETURN _receipt; -- it was committed, and the answer got lost
    END IF;
    IF _commits <> _number - 1 THEN
        RAISE EXCEPTION 'lost' USING ERRCODE = '{LOST}';
    END IF;
    PERFORM {BESIDE.format(key="key")} FROM (
        SELECT key FROM {DOCUMENTS.rows} WHERE revision IS NOT NULL ORDER BY key
    ) merged;

    -- The queue: what is new, or comes back.
    IF cardinality(_arrivals_host) > 0 THEN
        WITH arrivals AS MATERIALIZED (SELECT * FROM {ARRIVALS.rows}),
        entered AS (
            INSERT INTO seen SELECT host, fingerprint FROM arrivals WHERE NOT is_known
            ORDER BY host, fingerprint ON CONFLICT DO NOTHING RETURNING host, fingerprint
        ),
        placed AS (
            SELECT a.*, row_number() OVER (
                PARTITION BY a.host, a.priority, a.due ORDER BY a.place
            ) - 1 AS number
            FROM arrivals a LEFT JOIN entered e USING (host, fingerprint)
            WHERE a.is_known OR e.host IS NOT NULL
        ),
        bundled AS (
            INSERT INTO bundles (host, priority, due, size, crc, requests)
            SELECT host, priority, due, count(*), sum(crc),
                '[' || string_agg(request, ',' ORDER BY place) || ']'
            FROM placed GROUP BY host, priority, due, number / {BUNDLE} ORDER BY min(place)
            RETURNING host, priority, due
        ),
        raised AS (
            SELECT host, max(priority) FILTER (WHERE due = 0) AS best,
                min(due) FILTER (WHERE due > 0) AS due
            FROM bundled GROUP BY host
        )
        SELECT (SELECT count(*) FROM entered), coalesce(array_agg(host), '{{}}'),
            coalesce(array_agg(best), '{{}}'), coalesce(array_agg(due), '{{}}')
        INTO _enqueued, _raised_host, _raised_best, _raised_due FROM raised;
        _is_news := cardinality(_raised_host) > 0;
    END IF;
    _known := _fresh - _enqueued;
    -- Not by requests that are dropped: the end by `max_pages` comes whether that is saved or not.
    IF _is_news OR _outcomes_outcome && ARRAY['handled', 'failed'] THEN
        UPDATE run SET finished_by = NULL WHERE finished_by IS NOT NULL;
    END IF;

    -- And what is done. The worker has looked that it has that.
    IF cardinality(_partly_bundle) > 0 THEN
        UPDATE claims c SET gone = n.gone FROM {PARTLY.rows}
        WHERE c.bundle = n.bundle AND c.worker = _me;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_partly_bundle) THEN
            RAISE EXCEPTION 'lost' USING ERRCODE = '{LOST}';
        END IF;
    END IF;
    IF cardinality(_emptied_bundle) > 0 THEN
        WITH done AS (
            DELETE FROM claims WHERE bundle = ANY (_emptied_bundle) AND worker = _me RETURNING host
        )
        SELECT count(*), array_agg(DISTINCT host) INTO _count, _left FROM done;
        IF _count <> cardinality(_emptied_bundle) THEN
            RAISE EXCEPTION 'lost' USING ERRCODE = '{LOST}';
        END IF;
        DELETE FROM bundles WHERE id = ANY (_emptied_bundle);
        _freed := ARRAY(
            SELECT l FROM unnest(_left) l
            WHERE NOT EXISTS (SELECT FROM claims c WHERE c.worker = _me AND c.host = l)
        );
    END IF;

    -- Outcomes and items.
    IF cardinality(_forget_host) > 0 THEN
        -- By key, so that two who want the same do not wait for each other.
        PERFORM FROM outcomes o JOIN {FORGET.rows} USING (host, fingerprint)
        ORDER BY host, fingerprint FOR UPDATE OF o;
        DELETE FROM outcomes o USING {FORGET.rows}
        WHERE o.host = n.host AND o.fingerprint = n.fingerprint
            AND o.outcome = 'failed' AND o.at = n.at;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_forget_host) THEN
            RAISE EXCEPTION 'stale' USING ERRCODE = '{STALE}';
        END IF;
    END IF;
    IF cardinality(_outcomes_host) > 0 THEN
        INSERT INTO outcomes (
            host, fingerprint, is_link, outcome, at, url, handler, status, duration, retries,
            error, detail, request
        )
        SELECT host, fingerprint, is_link, outcome, at, url, handler, status, duration, retries,
            error, detail, request
        FROM {OUTCOMES.rows} ORDER BY host, fingerprint
        ON CONFLICT (host, fingerprint) DO UPDATE SET
            is_link = excluded.is_link, outcome = excluded.outcome, at = excluded.at,
            url = excluded.url, handler = excluded.handler, status = excluded.status,
            duration = excluded.duration, retries = excluded.retries, error = excluded.error,
            detail = excluded.detail, request = excluded.request
        -- A link that was skipped says nothing about what is known already.
        WHERE NOT excluded.is_link;
    END IF;
    IF cardinality(_items_at) > 0 THEN
        INSERT INTO items (at, url, handler, crc, data)
        SELECT at, url, handler, crc, data FROM {ITEMS.rows} ORDER BY place;
    END IF;

    -- Counters and errors have rows of this worker's own.
    INSERT INTO counters (worker, name, kind, value)
    SELECT _me, name, kind,
        CASE kind WHEN 0 THEN sum(value) WHEN 1 THEN min(value) ELSE max(value) END
    FROM (
        SELECT name, kind, value FROM {COUNTERS.rows}
        UNION ALL SELECT 'requests_total', 0, _enqueued WHERE _enqueued <> 0
        UNION ALL SELECT 'requests_duplicate', 0, _known WHERE _known <> 0
    ) c GROUP BY name, kind
    ON CONFLICT (worker, name, kind) DO UPDATE SET value = CASE excluded.kind
        WHEN 0 THEN counters.value + excluded.value
        WHEN 1 THEN least(counters.value, excluded.value)
        ELSE greatest(counters.value, excluded.value)
    END;
    UPDATE allotments a SET amount = greatest(0, a.amount - d.done)
    FROM (
        SELECT a.name, sum(n.value) AS done FROM allotments a JOIN {COUNTERS.rows}
            ON n.kind = 0 AND {IN_GRANT.format(name="n.name")} = ANY (string_to_array(a.name, ' '))
        WHERE a.worker = _me GROUP BY a.name
    ) d
    WHERE a.worker = _me AND a.name = d.name AND d.done > 0;
    IF cardinality(_errors_key) > 0 THEN
        INSERT INTO errors
        SELECT _me, key, kind, place, message, count, first_at, last_at, examples
        FROM unnest({", ".join(f"_errors_{column}" for column in ERRORS.columns)})
            AS n ({", ".join(ERRORS.columns)})
        ON CONFLICT (worker, key) DO UPDATE SET
            count = errors.count + excluded.count,
            first_at = least(errors.first_at, excluded.first_at),
            last_at = greatest(errors.last_at, excluded.last_at),
            examples = (
                SELECT coalesce(json_agg(value), '[]')::text FROM (
                    SELECT value FROM json_array_elements_text(errors.examples::json) value
                    UNION SELECT value FROM json_array_elements_text(excluded.examples::json) value
                    LIMIT 5
                ) few
            );
    END IF;

    -- From here on, rows that others may want: the end is near.
    IF cardinality(_documents_key) > 0 THEN
        PERFORM FROM documents WHERE key = ANY (_documents_key) ORDER BY key FOR UPDATE;
        -- Revision 0 is none at all; without an expectation, the last writer counts.
        IF EXISTS (
            SELECT FROM {DOCUMENTS.rows} LEFT JOIN documents d ON d.key = n.key
            WHERE n.revision IS NOT NULL AND n.revision <> coalesce(d.revision, 0)
        ) THEN
            RAISE EXCEPTION 'changed' USING ERRCODE = '{CHANGED}';
        END IF;
        DELETE FROM documents d USING {DOCUMENTS.rows} WHERE d.key = n.key AND n.data IS NULL;
        INSERT INTO documents AS d (key, name, is_single, version, crc, data)
        SELECT key, name, is_single, version, crc, data FROM {DOCUMENTS.rows}
        WHERE data IS NOT NULL ORDER BY key
        ON CONFLICT (key) DO UPDATE SET
            version = excluded.version, crc = excluded.crc, data = excluded.data,
            revision = d.revision + 1;
        -- Two may have made one that was not there.
        IF EXISTS (
            SELECT FROM {DOCUMENTS.rows} JOIN documents d ON d.key = n.key
            WHERE n.revision = 0 AND d.revision <> 1
        ) THEN
            RAISE EXCEPTION 'changed' USING ERRCODE = '{CHANGED}';
        END IF;
    END IF;

    -- Also those of which others have said something: they say it with the host locked.
    _told := ARRAY(SELECT host FROM shares WHERE worker = _me AND rest_at IS NOT NULL);
    _locked := ARRAY(
        SELECT unnest(_raised_host) UNION SELECT unnest(_freed) UNION SELECT unnest(_told)
        UNION SELECT unnest(_rests_host) UNION SELECT unnest(_shares_host)
    );
    PERFORM FROM hosts WHERE id = ANY (_locked) ORDER BY id FOR NO KEY UPDATE;
    WITH gone AS (
        DELETE FROM shares WHERE worker = _me AND host = ANY (_freed) RETURNING host, shares
    ),
    cut AS (
        UPDATE shares s SET shares = n.shares
        FROM (
            SELECT n.host, n.shares, o.shares - n.shares AS given
            FROM {SHARES.rows} JOIN shares o ON o.host = n.host AND o.worker = _me
            WHERE n.host <> ALL (_freed) AND n.shares BETWEEN 0 AND o.shares - 1
        ) n
        WHERE s.host = n.host AND s.worker = _me RETURNING s.host, n.given
    ),
    change AS (
        SELECT host, max(best) AS best, min(due) AS due, sum(free) AS free,
            max(rest_at) AS rest_at, max(rest_delay) AS rest_delay
        FROM (
            SELECT host, best, due, 0 AS free, NULL::float8 AS rest_at, NULL::float8 AS rest_delay
            FROM unnest(_raised_host, _raised_best, _raised_due) AS n (host, best, due)
            UNION ALL SELECT host, NULL, NULL, shares, NULL, NULL FROM gone
            UNION ALL SELECT host, NULL, NULL, given, NULL, NULL FROM cut
            UNION ALL SELECT host, NULL, NULL, 0, rest_at, rest_delay FROM {RESTS.rows}
        ) c GROUP BY host
    ),
    changed AS (
        UPDATE hosts h SET
            best = greatest(h.best, c.best), due = least(h.due, c.due), free = h.free + c.free,
            rest_at = coalesce(c.rest_at, h.rest_at),
            rest_delay = coalesce(c.rest_delay, h.rest_delay)
        FROM change c WHERE h.id = c.host AND (
            c.free > 0 OR c.rest_at IS NOT NULL OR c.best > h.best OR c.due < h.due
            OR (h.best IS NULL AND c.best IS NOT NULL) OR (h.due IS NULL AND c.due IS NOT NULL)
        )
        RETURNING c.free
    )
    SELECT _is_news OR coalesce(bool_or(free > 0), false) INTO _is_news FROM changed;

    -- What others with shares of the same hosts have said about them, and what is said to them.
    IF cardinality(_rests_host) > 0 THEN
        UPDATE shares s SET rest_at = n.rest_at, rest_delay = n.rest_delay FROM {RESTS.rows}
        WHERE s.host = n.host AND s.worker <> _me;
    END IF;
    IF cardinality(_told) > 0 THEN
        WITH told AS (
            UPDATE shares s SET rest_at = NULL, rest_delay = NULL FROM shares o, hosts h
            WHERE s.worker = _me AND s.host = ANY (_told)
                AND o.host = s.host AND o.worker = _me AND h.id = s.host
            RETURNING h.name, o.rest_at, o.rest_delay
        )
        SELECT json_object_agg(name, json_build_array(rest_at, rest_delay)) INTO _rests FROM told;
    END IF;

    _is_wanted := EXISTS (SELECT FROM workers WHERE is_idle AND epoch <> _me);
    IF _is_wanted THEN
        _wanted := ARRAY(
            SELECT h.name FROM shares s JOIN hosts h ON h.id = s.host
            WHERE s.worker = _me AND s.shares > 1 AND h.free = 0
                AND (h.best IS NOT NULL OR h.due <= _at)
            ORDER BY h.id LIMIT 100
        );
        -- They are also told of the end.
        IF _is_news OR (cardinality(_left) > 0 AND NOT EXISTS (SELECT FROM bundles)) THEN
            PERFORM pg_notify(current_schema(), '');
        END IF;
    END IF;

    _receipt := json_build_object(
        'tag', _tag, 'enqueued', _enqueued, 'duplicates', _known,
        'wanted', _wanted, 'rests', _rests,
        'totals', (
            SELECT json_object_agg(name, value) FROM (
                SELECT name, CASE max(kind) WHEN 0 THEN sum(value) WHEN 1 THEN min(value)
                    ELSE max(value) END AS value
                FROM counters WHERE name !~ '/' GROUP BY name
            ) t
        )
    )::text;
    UPDATE workers SET commits = _number, receipt = _receipt, items_after = items_so_far(),
        until = clock_timestamp() + make_interval(secs => _lease)
    WHERE epoch = _me;
    RETURN _receipt;
END $$;
"""
