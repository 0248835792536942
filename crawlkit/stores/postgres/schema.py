"""The schema of a run: made, looked at, thrown away."""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
from psycopg import Connection, sql

from ...errors import StoreError, StoreLockedError
from .address import Address
from .claims import ROUTINES as CLAIM_ROUTINES
from .connection import version_error
from .routine import ROUTINES as COMMIT_ROUTINES
from .tables import ADDED, FORMAT, IS_ADDED, MARK, TABLES
from .workers import ROUTINES as WORKER_ROUTINES
from .workers import Process, own_process

ROUTINES = WORKER_ROUTINES + CLAIM_ROUTINES + COMMIT_ROUTINES
FINGERPRINT = hashlib.sha256(ROUTINES.encode()).hexdigest()[:16]


def prepare(
    connection: Connection[Any], address: Address, *, fresh: bool = False, me: int = 0
) -> None:
    """Make the schema of a run where there is none, and see that it is ours where there is one.

    Args:
        connection: A connection to its database.
        address: The run's address.
        fresh: Throw away what it holds.
        me: The epoch of the worker that opens the run, and may have joined it before an answer got
            lost.

    Raises:
        StoreError: It cannot be made, or is not one of crawlkit's.
        StoreVersionError: Another version of crawlkit has made it.
        StoreLockedError: With `fresh`: it is being written.
    """
    if not fresh and look(connection, address):
        _renew_routines(connection)
        return
    with connection.transaction():
        # Workers that start together make it once.
        connection.execute(
            "SELECT pg_advisory_xact_lock(hashtext('crawlkit'), hashtext(%s))", (address.schema,)
        )
        if fresh:
            _discard(connection, address, me)
        elif look(connection, address):
            return
        _create(connection, address)


def look(connection: Connection[Any], address: Address) -> bool:
    """Whether there is such a run, in this version.

    Raises:
        StoreError: The schema holds something else.
        StoreVersionError: Another version of crawlkit has made it.
    """
    found = _format(connection, address)
    if found is not None and found != FORMAT:
        raise version_error(address, found, FORMAT)
    return found is not None


def _format(connection: Connection[Any], address: Address) -> int | None:
    """The version of the tables; ``None`` where there are none."""
    count, has_run, may_read = connection.execute(
        """
        SELECT count(c.oid), coalesce(bool_or(c.relname = 'run'), false),
            coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE')), true)
        FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
        WHERE n.nspname = %s
        """,
        (address.schema,),
    ).fetchone() or (0, False, True)
    if count == 0:
        return None
    if not may_read:
        raise StoreError(
            f"may not read {address.shown}: permission denied for schema {address.schema}; have "
            "its owner grant it (see 'Rights' in the documentation of stores)"
        )
    if has_run:
        try:
            row = connection.execute("SELECT application, format FROM run").fetchone()
        except psycopg.errors.UndefinedColumn:
            row = None
        if row is not None and row[0] == MARK:
            return int(row[1])
    raise StoreError(
        f"the schema {address.schema} of {address.shown} holds something that is not a run of "
        "crawlkit; choose another name for the run"
    )


def _create(connection: Connection[Any], address: Address) -> None:
    schema = sql.Identifier(address.schema)
    exists = connection.execute(
        "SELECT FROM pg_namespace WHERE nspname = %s", (address.schema,)
    ).fetchone()
    try:
        if exists is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        connection.execute(TABLES)
        connection.execute(ROUTINES)
    except psycopg.errors.InsufficientPrivilege as error:
        user, database = connection.info.user, connection.info.dbname
        text = str(error).splitlines()[0]
        raise StoreError(
            f"cannot make the run in {address.shown}: {text}; its owner has to say: "
            f'GRANT CREATE ON DATABASE "{database}" TO "{user}"'
        ) from None
    connection.execute(
        "INSERT INTO run (id, application, format, routines) VALUES (1, %s, %s, %s)",
        (MARK, FORMAT, FINGERPRINT),
    )


def _renew_routines(connection: Connection[Any]) -> None:
    """Have the functions be those of this crawlkit, whose tables are the same."""
    row = connection.execute("SELECT routines FROM run").fetchone()
    if row is not None and row[0] == FINGERPRINT:
        return
    with connection.transaction():
        # First of all, as a commit takes its worker's row before it takes that of the run. And not
        # where it is there: it would have to wait for all who read.
        if not connection.execute(IS_ADDED).fetchall():
            connection.execute(ADDED)
        connection.execute("SELECT FROM run FOR UPDATE")
        connection.execute(ROUTINES)
        connection.execute("UPDATE run SET routines = %s", (FINGERPRINT,))


def _discard(connection: Connection[Any], address: Address, me: int) -> None:
    found = _format(connection, address)
    if found is None:
        return
    if found == FORMAT:
        machine = own_process().machine
        names = [
            name
            for name, where, pid, started in connection.execute(
                "SELECT name, machine, pid, started FROM workers "
                "WHERE until > clock_timestamp() AND epoch <> %s ORDER BY name",
                (me,),
            )
            if where != machine or Process(where, pid, started).is_alive
        ]
        if names:
            raise StoreLockedError(
                f"the run in {address.shown} is being written by {', '.join(names[:5])}; "
                "stop them, or choose another name for the run"
            )
    connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(address.schema)))
