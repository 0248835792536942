"""Workers: who writes a run, for how long what they have is theirs, and what they share.

A worker is a row. It is there from when the worker opens the run until it closes it or is given up,
and nothing is committed without it: whoever deletes it fences its worker. Its epoch is a random
number, so that it is not met again in a run that was begun anew under the same name.

Time is the server's, so that machines whose clocks differ agree about who was silent for too long.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import Connection

from ..base import Allotment
from .columns import Texts
from .tables import BEST_OF, DUE_OF, IN_GRANT

FENCED = "CK001"
"""SQLSTATE: the worker's row is gone."""
LOST = "CK002"
"""SQLSTATE: the server has lost commits of this worker, or its claims."""
SILENCE = 0.4
"""Share of a lease after which a worker that is not heard of is in trouble."""

CONNECTION = "crawlkit.connection"
"""The setting that says which connection of its worker a session is."""

# Whether a worker's row is not taken over by a later connection of its: of one that was lost, the
# server may still have a statement before it, whose worker has looked by then what it has. A
# session that is none of a worker's, or of one that does not number them, is not asked.
IS_LATEST = (
    f"connection <= coalesce(nullif(current_setting('{CONNECTION}', true), '')::int, connection)"
)
# What a function of a worker begins with: its row, locked until the end of the transaction.
FENCE = f"""
    PERFORM FROM workers WHERE epoch = _me AND {IS_LATEST} FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}';
    END IF;
"""

ROUTINES = f"""
CREATE OR REPLACE FUNCTION join_run(
    _epoch bigint, _name text, _machine text, _pid int, _started text, _lease float8, _note bigint
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _earlier bigint;
BEGIN
    -- Of several that come at the same time each finds the one before it.
    PERFORM pg_advisory_xact_lock(hashtext(current_schema()), hashtext(_name));
    -- Who comes back under a name takes what it had at once.
    SELECT epoch INTO _earlier FROM workers WHERE name = _name FOR UPDATE;
    IF _earlier = _epoch THEN
        RETURN; -- it has joined, and the answer got lost
    END IF;
    IF FOUND THEN
        PERFORM leave_run(_earlier, true);
    END IF;
    INSERT INTO workers (epoch, name, machine, pid, started, until, items_after, note)
    SELECT _epoch, _name, _machine, _pid, _started,
        clock_timestamp() + make_interval(secs => _lease), items_so_far(), _note;
END $$;

CREATE OR REPLACE FUNCTION items_so_far() RETURNS bigint LANGUAGE sql AS $$
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM items_number_seq
$$;

-- Take from a worker what it has claimed, but for some bundles.
CREATE OR REPLACE FUNCTION let_go(_who bigint, _kept bigint[], _orphan boolean)
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _hosts int[];
BEGIN
    _hosts := ARRAY(
        SELECT host FROM claims WHERE worker = _who AND bundle <> ALL (_kept)
        UNION SELECT s.host FROM shares s WHERE s.worker = _who AND NOT EXISTS (
            SELECT FROM claims c WHERE c.worker = _who AND c.host = s.host
        )
    );
    PERFORM FROM hosts WHERE id = ANY (_hosts) ORDER BY id FOR NO KEY UPDATE;
    UPDATE bundles b SET gone = c.gone FROM claims c
    WHERE c.worker = _who AND c.bundle <> ALL (_kept) AND b.id = c.bundle AND b.gone <> c.gone;
    DELETE FROM claims WHERE worker = _who AND bundle <> ALL (_kept);
    WITH freed AS (
        DELETE FROM shares s WHERE s.worker = _who AND NOT EXISTS (
            SELECT FROM claims c WHERE c.worker = _who AND c.host = s.host
        )
        RETURNING s.host, s.shares
    )
    UPDATE hosts h SET free = h.free + f.shares, is_orphan = h.is_orphan OR _orphan,
        -- Nobody knows when a worker that is given up has asked it last.
        rest_at = CASE WHEN _orphan
            THEN greatest(h.rest_at, extract(epoch FROM clock_timestamp()) + h.rest_delay)
            ELSE h.rest_at END
    FROM freed f WHERE h.id = f.host;
    UPDATE hosts h SET best = {BEST_OF.format(host="h.id")}, due = {DUE_OF.format(host="h.id")}
    WHERE h.id = ANY (_hosts);
END $$;

-- Take everything from a worker, and its row. What it counted is kept.
CREATE OR REPLACE FUNCTION leave_run(_who bigint, _orphan boolean)
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- What it has asked for on a connection that it has lost may still be under way.
    PERFORM FROM workers WHERE epoch = _who FOR UPDATE;
    DELETE FROM documents WHERE key = (SELECT note FROM workers WHERE epoch = _who);
    PERFORM let_go(_who, '{{}}', _orphan);
    DELETE FROM locks WHERE worker = _who;
    DELETE FROM allotments WHERE worker = _who;
    WITH own AS (DELETE FROM counters WHERE worker = _who RETURNING name, kind, value)
    INSERT INTO counters SELECT 0, name, kind, value FROM own ORDER BY name, kind
    ON CONFLICT (worker, name, kind) DO UPDATE SET value = CASE excluded.kind
        WHEN 0 THEN counters.value + excluded.value
        WHEN 1 THEN least(counters.value, excluded.value)
        ELSE greatest(counters.value, excluded.value)
    END;
    WITH own AS (DELETE FROM errors WHERE worker = _who RETURNING *)
    INSERT INTO errors
    SELECT 0, key, kind, place, message, count, first_at, last_at, examples FROM own ORDER BY key
    ON CONFLICT (worker, key) DO UPDATE SET
        count = errors.count + excluded.count,
        first_at = least(errors.first_at, excluded.first_at),
        last_at = greatest(errors.last_at, excluded.last_at),
        examples = CASE errors.examples WHEN '[]' THEN excluded.examples
            ELSE errors.examples END;
    DELETE FROM workers WHERE epoch = _who;
    PERFORM pg_notify(current_schema(), '');
END $$;

CREATE OR REPLACE FUNCTION reap(_who bigint, _is_dead boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- One that is just committing is alive, and one that is just being given up is seen to.
    PERFORM FROM workers
    WHERE epoch = _who AND (_is_dead OR until < clock_timestamp()) FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM leave_run(_who, true);
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION extend(_me bigint, _lease float8) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    UPDATE workers SET until = clock_timestamp() + make_interval(secs => _lease),
        items_after = items_so_far()
    WHERE epoch = _me AND {IS_LATEST};
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION release(_me bigint, _kept bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    {FENCE}
    PERFORM let_go(_me, _kept, false);
    PERFORM pg_notify(current_schema(), '');
END $$;

CREATE OR REPLACE FUNCTION try_lock(_me bigint, _name text) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    {FENCE}
    INSERT INTO locks (name, worker) VALUES (_name, _me) ON CONFLICT (name) DO NOTHING;
    RETURN EXISTS (SELECT FROM locks WHERE name = _name AND worker = _me);
END $$;

CREATE OR REPLACE FUNCTION unlock(_me bigint, _name text) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM locks WHERE name = _name AND worker = (
        SELECT epoch FROM workers WHERE epoch = _me AND {IS_LATEST}
    );
    IF FOUND THEN
        PERFORM pg_notify(current_schema(), '');
    END IF;
END $$;

-- `_call` is new for each call, and the same where the answer to one got lost.
CREATE OR REPLACE FUNCTION finish(_me bigint, _call bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _mark text := _me || '/' || _call;
BEGIN
    {FENCE}
    UPDATE run SET finished_by = _mark WHERE finished_by IS NULL OR finished_by = _mark;
    IF FOUND THEN
        PERFORM pg_notify(current_schema(), '');
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE OR REPLACE FUNCTION allot(
    _me bigint, _call bigint, _names text[], _most bigint, _wanted bigint,
    OUT granted bigint, OUT is_spent boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _grant text := array_to_string(ARRAY(
        SELECT {IN_GRANT.format(name="name")} FROM unnest(_names) WITH ORDINALITY n (name, place)
        ORDER BY place
    ), ' ');
    _done bigint;
    _out bigint;
    _mine allotments;
BEGIN
    {FENCE}
    PERFORM pg_advisory_xact_lock(hashtext(current_schema()), hashtext(_grant));
    -- In one statement: a commit moves pages from what is granted to what is done, and one between
    -- two statements would have its pages in neither.
    SELECT
        (SELECT coalesce(sum(c.value), 0)
         FROM (SELECT epoch FROM workers UNION ALL SELECT 0) w
         JOIN counters c ON c.worker = w.epoch AND c.name = ANY (_names) AND c.kind = 0),
        (SELECT coalesce(sum(amount), 0) FROM allotments WHERE name = _grant)
    INTO _done, _out;
    is_spent := _done >= _most;
    SELECT * INTO _mine FROM allotments WHERE worker = _me AND name = _grant;
    IF _mine.call = _call THEN
        granted := _mine.granted;
        RETURN;
    END IF;
    granted := CASE
        WHEN _wanted < 0 THEN greatest(_wanted, -coalesce(_mine.amount, 0))
        ELSE greatest(0, least(_wanted, _most - _done - _out))
    END;
    INSERT INTO allotments VALUES (_me, _grant, granted, _call, granted)
    ON CONFLICT (worker, name) DO UPDATE SET
        amount = allotments.amount + excluded.granted,
        call = excluded.call, granted = excluded.granted;
    IF granted < 0 THEN
        PERFORM pg_notify(current_schema(), '');
    END IF;
END $$;
"""


class Silent(NamedTuple):
    """A worker that has work and was not heard of of late.

    Attributes:
        epoch: Its epoch.
        name: Its name.
        machine: The name of its machine; empty where that is not known.
        left: Seconds until it is given up.
    """

    epoch: int
    name: str
    machine: str
    left: float


def silent(connection: Connection[Any], epoch: int, within: float) -> list[Silent]:
    """Workers with work that are given up `within` so many seconds, unless they are heard of."""
    rows = connection.execute(
        "SELECT epoch, name, machine, extract(epoch FROM until - clock_timestamp())::float8 "
        "FROM workers w WHERE epoch <> %s AND until - clock_timestamp() BETWEEN interval '0' "
        "AND make_interval(secs => %s) AND EXISTS (SELECT FROM claims c WHERE c.worker = w.epoch) "
        "ORDER BY until",
        (epoch, within),
    )
    return [Silent(who, name, where.partition(" ")[0], gone) for who, name, where, gone in rows]


class Vigil:
    """Says for whom an idle worker waits, once for each.

    A worker that is alive is heard of three times in a lease, so one that was silent for longer is
    in trouble: its process is frozen, its line is cut, or its machine is gone.

    Args:
        lease: Seconds after which a worker is given up.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._told: set[int] = set()

    def lines(self, found: list[Silent]) -> Iterator[str]:
        """What is to be said of those who are silent now, and was not said before."""
        for who in found:
            if who.epoch in self._told:
                continue
            self._told.add(who.epoch)
            machine = f" of machine {who.machine}" if who.machine else ""
            yield (
                f"waiting for worker {who.name}{machine}, not heard of for "
                f"{self._lease - who.left:.0f} s; its work is taken over in {ceil(who.left)} s at "
                "the latest"
            )
        self._told.intersection_update(who.epoch for who in found)

    @property
    def within(self) -> float:
        """Of the lease of one who is silent for too long, so many seconds are left at most."""
        return self._lease * (1 - SILENCE)


class Process(NamedTuple):
    """A process, so that others on its machine can tell whether it is still there.

    Attributes:
        machine: Its machine, as it runs since its last start, and where its process ids count.
            Empty where that cannot be known.
        pid: Its process id.
        started: When it was started, in the machine's own count.
    """

    machine: str
    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether it runs, on this machine."""
        return _start_of(self.pid) == self.started


def own_process() -> Process:
    """This process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = ""  # no Linux: only time tells
    return Process(machine, os.getpid(), _start_of(os.getpid()))


def _start_of(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]  # one that nobody has waited for is dead, too


def dead(processes: Iterator[tuple[int, int, str]]) -> list[int]:
    """Of workers of this machine, as ``(epoch, pid, started)``, those whose process is gone."""
    return [epoch for epoch, pid, started in processes if not Process("", pid, started).is_alive]


class Ask(NamedTuple):
    """A call of `allot`: its number, and what it asks for."""

    call: int
    most: int
    wanted: int


class Grants:
    """What a worker asks for of what all may do together: each call is made once.

    One whose answer got lost, with the connection, is made again under its number before the next
    one with the same counters. Otherwise what it was granted would be nobody's as long as the
    worker lives, and the others would wait for it.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, ...], list[Ask]] = {}  # and not answered
        self._granted: dict[tuple[str, ...], int] = {}  # and not told

    def ask(
        self, connection: Connection[Any], epoch: int, counters: tuple[str, ...], ask: Ask
    ) -> Allotment:
        """Make a call, once more if it failed; its answer, with those of calls before it."""
        asked = self._asked.setdefault(counters, [])
        if ask not in asked:
            asked.append(ask)
        is_spent = False
        while asked:
            call, most, wanted = asked[0]
            row = connection.execute(
                "SELECT granted, is_spent FROM allot(%s, %s, %s, %s, %s)",
                (epoch, call, Texts(counters), most, wanted),
            ).fetchone()
            assert row is not None
            granted, is_spent = row
            self._granted[counters] = self._granted.get(counters, 0) + int(granted)
            asked.pop(0)
        return Allotment(self._granted.pop(counters), is_spent)


def new_epoch() -> int:
    """The epoch of a worker that begins."""
    return secrets.randbits(62) + 1


def default_name() -> str:
    """A worker's name where none is given: that of the machine, and a random part."""
    return f"{socket.gethostname()[:100]}-{secrets.token_hex(4)}"
