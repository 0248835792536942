"""Where a run in PostgreSQL is: ``postgresql://user@host:port/database#RUN``.

Everything before the ``#`` is what libpq takes. The password may stand in it, or better in
``PGPASSWORD`` or ``~/.pgpass``.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ...errors import UsageError

SCHEMES = ("postgresql://", "postgres://")
PREFIX = "crawlkit_"
MAX_NAME = 63 - len(PREFIX)
"""Bytes of a run's name: PostgreSQL cuts off what is longer, without a word."""

_PASSWORD = re.compile(r"(?<=://)([^/?#@:]*):[^/?#]*@")
_PASSWORD_OPTION = re.compile(r"(?<=[?&])((?:ssl)?password)=[^&#]*")


class Address(NamedTuple):
    """An address, taken apart.

    Attributes:
        server: The part for libpq, with the password if there is one.
        run: The run's name, where it is said.
    """

    server: str
    run: str | None

    @property
    def schema(self) -> str:
        """The schema of the run."""
        return f"{PREFIX}{self.run}"

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        return masked(str(self))

    def named(self, run: str) -> Address:
        """The same for a run.

        Raises:
            UsageError: A run cannot have such a name.
        """
        size = len(run.encode("utf-8", "replace"))
        if not run or "\0" in run or size > MAX_NAME:
            raise UsageError(
                f"a run in PostgreSQL cannot be called {run!r}; "
                f"give it a name of 1 to {MAX_NAME} bytes after the '#' of the address"
            )
        return Address(self.server, run)

    def __str__(self) -> str:
        return self.server if self.run is None else f"{self.server}#{quote(self.run)}"


def is_postgres(address: str) -> bool:
    """Whether an address is one of PostgreSQL."""
    return address.startswith(SCHEMES)


def parse(address: str) -> Address:
    """Take an address apart.

    Raises:
        UsageError: It has a name of a run that cannot be.
    """
    server, hash_sign, name = address.partition("#")
    found = Address(server, None)
    return found.named(unquote(name)) if hash_sign and name else found


def with_run(address: str, run: str) -> str:
    """The address of a store, of PostgreSQL's with the run's name where it says none."""
    if not is_postgres(address):
        return address
    found = parse(address)
    return str(found if found.run is not None else found.named(run))


def masked(address: str) -> str:
    """An address of any store as it may be shown: with a password masked."""
    if not is_postgres(address):
        return address
    return _PASSWORD_OPTION.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", address))
