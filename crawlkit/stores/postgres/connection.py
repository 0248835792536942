"""A connection to PostgreSQL, and what its errors mean to the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import psycopg
from psycopg import Connection, conninfo, sql

from ...errors import (
    StoreDamagedError,
    StoreError,
    StoreFencedError,
    StoreVersionError,
    StoreWriteError,
    UsageError,
)
from .address import Address
from .columns import Texts, register

OLDEST = 13
"""The oldest server that is taken."""

# A server that is cut off without a word is given up after some ten seconds.
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
LOCK_TIMEOUT = 10_000
"""Milliseconds for which a statement waits for another transaction, before it is tried again."""

# What is set for the role or the database is meant for others, and would be in the way.
SETTINGS = {
    "client_encoding": "UTF8",
    "lock_timeout": str(LOCK_TIMEOUT),
    # A statement is as long as what it has to do; who waits for a lock in it has a limit.
    "statement_timeout": "0",
    # Who has waited for a row looks at what is there then.
    "default_transaction_isolation": "read committed",
    # Times come back as they were written, to the last bit.
    "extra_float_digits": "1",
}

_NO_PASSWORD = re.compile(r"password authentication failed|no password supplied", re.I)
_NO_DATABASE = re.compile(r'database "[^"]*" does not exist', re.I)
_NO_ROLE = re.compile(r'role "[^"]*" does not exist', re.I)
_READ_ONLY = re.compile(r"session is read-only|server is in hot standby mode", re.I)
_FULL = re.compile(r"too many (?:clients|connections)|remaining connection slots", re.I)

READ_ONLY = "25006"
"""SQLSTATE: the server takes no writes."""


def connect(
    address: Address, *, application: str = "crawlkit", writing: bool = False
) -> Connection[Any]:
    """Connect to the database of an address; the run's schema is the one where names are found.

    Args:
        address: The address.
        application: What the server's owner sees of who this is.
        writing: Of several servers, take the one that can be written.

    Raises:
        UsageError: It is no address.
        StoreError: There is no connection; the message says why and what to do.
    """
    try:
        given = conninfo.conninfo_to_dict(address.server)
    except psycopg.Error as error:
        raise UsageError(
            f"{address.shown} is no address of PostgreSQL ({_text(error)}); "
            "write postgresql://user@host:port/database#RUN"
        ) from None
    settings = {"application_name": application, **_NETWORK, **given}
    if writing:
        settings.setdefault("target_session_attrs", "read-write")
    try:
        connection = psycopg.connect("", autocommit=True, **cast(dict[str, Any], settings))
    except psycopg.Error as error:
        raise _refused(address, error) from None
    try:
        _prepare(connection, address)
    except psycopg.Error as error:
        connection.close()
        raise translated(error, address, writing=False) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: Connection[Any], address: Address) -> None:
    version = connection.info.server_version // 10_000
    if version < OLDEST:
        raise StoreError(
            f"the server of {address.shown} is PostgreSQL {version}, and crawlkit needs "
            f"PostgreSQL {OLDEST} or later; use a newer one"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"the database of {address.shown} has the encoding {encoding}; "
            "make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    register(connection)
    place = "pg_catalog" if address.run is None else _quoted(connection, address.schema)
    configure(connection, {**SETTINGS, "search_path": place})


def _quoted(connection: Connection[Any], name: str) -> str:
    return sql.Identifier(name).as_string(connection)


def configure(connection: Connection[Any], settings: Mapping[str, str]) -> None:
    """Make settings for a session."""
    connection.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s, %s) n (name, value)",
        (Texts(settings), Texts(settings.values())),
    )


def run_names(connection: Connection[Any]) -> list[str]:
    """The runs of a database, by name."""
    rows = connection.execute(
        "SELECT substr(nspname, 10) FROM pg_namespace WHERE nspname LIKE 'crawlkit\\_%' ORDER BY 1"
    )
    return [name for (name,) in rows]


# -- errors -----------------------------------------------------------------------------------


def is_lost(connection: Connection[Any], error: Exception) -> bool:
    """Whether the connection went, so that it is not known what became of the statement."""
    if connection.closed or connection.broken:
        return True
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "").startswith(
        ("08", "57P")
    )


def _refused(address: Address, error: psycopg.Error) -> StoreError:
    text = _text(error)
    if _NO_PASSWORD.search(text):
        return StoreError(
            f"{address.shown} refuses the password; put the right one into PGPASSWORD, "
            "~/.pgpass or the address"
        )
    if _NO_DATABASE.search(text):
        return StoreError(
            f"there is no such database: {address.shown}; make it with 'createdb', or correct "
            "the address"
        )
    if _NO_ROLE.search(text):
        return StoreError(
            f"there is no such user: {address.shown}; make it with 'createuser', or correct the "
            "address"
        )
    if _READ_ONLY.search(text):
        return _read_only(address, text)
    if _FULL.search(text):
        return StoreWriteError(
            f"{address.shown} takes no more connections ({text}); each worker and each reader has "
            "one: raise the server's max_connections or the role's limit, or start fewer"
        )
    return StoreWriteError(
        f"cannot connect to {address.shown}: {text}; see that the server runs and takes "
        "connections from here"
    )


def _read_only(address: Address, text: str) -> StoreError:
    return StoreWriteError(
        f"{address.shown} takes no writes ({text}); put the primary into the address, or all "
        "servers of which one is it, as in host1,host2, or see why it is read-only"
    )


def translated(error: psycopg.Error, address: Address, *, writing: bool) -> StoreError:
    """The error for the user: one line, with what to do."""
    where, text, state = address.shown, _text(error), error.sqlstate or ""
    what = "write" if writing else "read"
    if state == "53100" or state == "54000":
        return StoreWriteError(
            f"cannot {what} {where}: {text}; make room on the server's disk, nothing is lost"
        )
    if state == READ_ONLY:
        return _read_only(address, text)
    if state == "55P03":
        return StoreWriteError(
            f"cannot {what} {where}: somebody locks its tables or rows for longer than "
            f"{LOCK_TIMEOUT // 1000} s ({text}); pg_stat_activity says who"
        )
    if state in ("26000", "42P05"):
        return StoreError(
            f"the sessions of {where} do not last ({text}); a pooler in front of the server has "
            "to keep them: with PgBouncer, pool_mode = session"
        )
    if state == "42501":
        return StoreError(
            f"may not {what} {where}: {text}; have its owner grant it (see 'Rights' in the "
            "documentation of stores)"
        )
    if state in ("3F000", "42P01", "42883", "42703"):
        return StoreFencedError(
            f"the tables of the run in {where} are gone or were changed ({text}); somebody began "
            "it anew, removed it or took the right to it"
        )
    if state.startswith(("XX001", "XX002", "22", "23")):
        return StoreDamagedError(
            f"{where} does not hold what was written, or cannot take it ({text}); see 'crawlkit "
            "check', put back a backup, or start anew with 'run --fresh'"
        )
    return StoreWriteError(f"cannot {what} {where}: {text}; see that the server is well")


def _text(error: Exception) -> str:
    """What the server or libpq has said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removesuffix(".") if lines else type(error).__name__


def version_error(address: Address, found: int, known: int) -> StoreVersionError:
    """The error for a run that another version of crawlkit has written."""
    if found > known:
        return StoreVersionError(
            f"the run in {address.shown} was written by a newer crawlkit (format {found}, this "
            f"one reads up to {known}); upgrade crawlkit, or choose another run"
        )
    return StoreVersionError(
        f"the run in {address.shown} was written by an older crawlkit (format {found}, this one "
        f"reads {known}); finish it with that one, or start anew with 'run --fresh'"
    )
