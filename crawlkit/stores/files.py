"""Files that take the place of others, and names of files that outlive a loss of power."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def check_replaceable(path: Path) -> None:
    """See that a file may take the place of what is there.

    A device or a pipe, such as ``/dev/stdout``, would be one no longer, for the whole machine.

    Raises:
        OSError: Something is there that is no file.
    """
    if path.exists() and not path.is_file():
        is_directory = path.is_dir()
        reason = os.strerror(errno.EISDIR) if is_directory else "it is a device or a pipe"
        raise OSError(errno.EISDIR if is_directory else errno.EINVAL, reason, str(path))


def sync_names(directory: Path) -> None:
    """Wait until the disk has the names in a directory, as after one was given to a new file.

    Raises:
        OSError: It cannot be done.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
