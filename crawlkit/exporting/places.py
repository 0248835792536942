"""Places: where a file is written to, so that it appears whole or not at all.

A path of this machine is written beside its place and then moved there. Any other address is for
fsspec, whose transactions do the same where the far side can: an upload is completed, or a name
given, once all is written.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # where it does not exist, nobody is kept from exporting twice at a time
    fcntl = None  # type: ignore[assignment]

from ..errors import CrawlkitError, OptionError, one_line
from ..stores.files import check_replaceable, sync_names

if TYPE_CHECKING:
    from collections.abc import Iterator


class Places:
    """Files that appear together, at the end of ``with``; none of them where it fails.

    with Places() as places:
        places.open("items.csv").write(b"...")
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._systems: dict[int, Any] = {}

    def __enter__(self) -> Places:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def open(self, address: str) -> IO[bytes]:
        """A new file for `address`, a path or a URL.

        Raises:
            CrawlkitError: It cannot be written.
            OptionError: It is a URL that nothing here understands.
        """
        try:
            if is_remote(address):
                return self._open_remote(address)
            return self._stack.enter_context(_replacing(Path(address)))
        except OSError as error:
            raise unwritable(address, error) from None

    def _open_remote(self, address: str) -> IO[bytes]:
        try:
            import fsspec  # here, as it is an extra and few need it
        except ImportError:
            raise OptionError(no_fsspec(address)) from None
        try:
            system, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise OptionError(f"{address} cannot be written to: {one_line(error)}") from None
        if id(system) not in self._systems:
            self._systems[id(system)] = system
            self._stack.enter_context(_transaction(system))
        file: IO[bytes] = self._stack.enter_context(system.open(path, "wb"))
        return file


def is_remote(address: str) -> bool:
    """Whether an address is a URL, not a path of this machine."""
    return "://" in address


def no_fsspec(address: str) -> str:
    """What is said where an address needs fsspec, and it is not installed."""
    return f"{address} needs fsspec; install it with pip install 'crawlkit[remote]'"


def unwritable(address: str, error: Exception) -> CrawlkitError:
    """The error for an address that cannot be written."""
    reason = getattr(error, "strerror", None) or one_line(error)
    return CrawlkitError(f"{address} cannot be written: {reason}; choose another file")


@contextmanager
def _transaction(system: Any) -> Iterator[None]:
    # A transaction belongs to its file system, which fsspec shares within a process.
    with system.transaction:
        yield


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when all went well."""
    check_replaceable(path)
    path = path.resolve()  # what a symbolic link points at is replaced, not the link
    # Under one name, so that the next export writes over what a killed process has left.
    part = path.with_name(f".{path.name}.part")
    with _locked(part) as file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_names(path.parent)


def _locked(part: Path) -> IO[bytes]:
    """The file at `part`, for this process alone."""
    while True:
        file = open(part, "ab")  # noqa: SIM115 - the caller closes it
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another export may have ended since it was opened, which made it the whole file.
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise CrawlkitError(
                f"{part.with_name(part.name[1:-5])} is being written by another process; wait for "
                "it, or choose another file"
            ) from None
        except BaseException:
            file.close()
            raise
        file.close()
