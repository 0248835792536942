"""Places: where a mirror is kept. Each can do one thing that matters: create what is not there.

Of two machines that create the same name, one is told that the other was first. This is what keeps
two of them from going on with one run; it is called a conditional put (``If-None-Match: *``) where
the place is an object store, and a hard link where it is a directory.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ...errors import UsageError
from ..files import sync_names

BUCKETS = ("s3", "gs", "az")
"""Schemes of object stores."""

ABANDONED = 24 * 3600.0
"""Seconds after which nobody is writing a file any more that was not finished."""


class Place(Protocol):
    """Where a mirror is kept. Every method may raise `OSError`: it cannot be reached."""

    address: str

    def names(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`, which ends with a slash; sorted."""

    def get(self, name: str) -> bytes:
        """What is under a name.

        Raises:
            FileNotFoundError: Nothing.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` under a name, whole or not at all; `False` where something is there."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove names, of which some may be gone already."""


def place_of(address: str) -> Place:
    """The place behind an address: a directory, ``file://``, or ``s3://bucket/path``.

    Raises:
        UsageError: There is no such kind of place, or what it needs is not installed.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        return Directory(address, address)
    if scheme == "file":
        return Directory(address, unquote(urlsplit(address).path))
    if scheme in BUCKETS:
        return Bucket(address)
    raise UsageError(
        f"no mirror can be at {address!r}; name a directory, or an address such as s3://bucket/run"
    )


class Directory:
    """A directory, on a disk that outlives the machine: a network file system, as a rule.

    Args:
        address: What the user calls it.
        path: The directory; it is made where there is none.
    """

    def __init__(self, address: str, path: str) -> None:
        self.address = address
        self.path = Path(path)

    def names(self, prefix: str) -> list[str]:  # noqa: D102 - documented in Place
        top = self.path / prefix
        try:
            found = [path for path in top.rglob("*") if path.is_file()]
        except FileNotFoundError:
            return []
        names = (path.relative_to(self.path).as_posix() for path in found)
        return sorted(name for name in names if not name.endswith(".new"))

    def get(self, name: str) -> bytes:  # noqa: D102
        return (self.path / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:  # noqa: D102
        target = self.path / name
        # mkdir makes parents with the usual mode; what they hold is for the owner only.
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_names(target.parent.parent)
        draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, target)  # unlike a rename, it never takes the place of another
            except FileExistsError:
                return False
            sync_names(target.parent)
            return True
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def delete(self, names: Iterable[str]) -> None:  # noqa: D102
        parents = set()
        for name in names:
            path = self.path / name
            path.unlink(missing_ok=True)
            parents.add(path.parent)
        long_ago = time.time() - ABANDONED
        for draft in self.path.rglob("*.new"):
            with contextlib.suppress(OSError):
                if draft.stat().st_mtime < long_ago:
                    draft.unlink()  # of a machine that was killed
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()  # the last file of a snapshot takes its directory along


class Bucket:
    """A bucket of an object store, or a part of it. Its keys come from the environment.

    Args:
        address: As in ``s3://bucket/path``.
    """

    def __init__(self, address: str) -> None:
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError:
            raise UsageError(
                f"a mirror at {address} needs obstore; install it with: pip install 'crawlkit[s3]'"
            ) from None
        self.address = address
        self._obstore = obstore
        self._errors: Any = exceptions
        # An endpoint in clear text is what a user has set, as for a store of their own.
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        options: dict[str, Any] = {
            "client_options": {"timeout": "60s", "connect_timeout": "5s"},
            # What fails is tried again with the next shipment.
            "retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=10)},
        }
        if endpoint.startswith("http://"):
            options["client_options"]["allow_http"] = True
        try:
            self._store: Any = store.from_url(address, **options)
        except (exceptions.BaseError, ValueError) as error:
            raise UsageError(f"no mirror can be at {address!r}: {_first_line(error)}") from None

    def names(self, prefix: str) -> list[str]:  # noqa: D102
        with self._translated():
            found = self._obstore.list(self._store, prefix.rstrip("/"))
            return sorted(entry["path"] for entries in found for entry in entries)

    def get(self, name: str) -> bytes:  # noqa: D102
        with self._translated():
            return bytes(self._obstore.get(self._store, name).bytes())

    def create(self, name: str, data: bytes) -> bool:  # noqa: D102
        try:
            with self._translated():
                self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except FileExistsError:
            return False
        return True

    def delete(self, names: Iterable[str]) -> None:  # noqa: D102
        paths = list(names)
        if paths:
            with self._translated():
                self._obstore.delete(self._store, paths)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except FileNotFoundError:
            raise
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            raise FileExistsError from None
        except self._errors.BaseError as error:
            raise OSError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Why a bucket does not do what it was asked for."""
    told = _first_line(error)
    if "169.254.169.254" not in told:
        return told
    # Where no keys are set, obstore asks the machine for those of its role.
    return (
        "there are no keys for it in the environment, such as AWS_ACCESS_KEY_ID and "
        f"AWS_SECRET_ACCESS_KEY, and the machine gives none ({told})"
    )


def _first_line(error: Exception) -> str:
    """What obstore says, without the debugging output that it adds in further lines."""
    return str(error).partition("\n")[0]
