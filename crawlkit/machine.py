"""Machine: how much processor and memory this process may use, and how much of it is in use.

A container is told what it may use by control groups (cgroups), not by what the machine has: a
limit may stand at the process's own group or at any group above it. Both versions are read, where
the system has them. Where it has none, as on macOS and Windows, nothing is known and nothing
breaks.

The files and their meaning: the kernel's Documentation/admin-guide/cgroup-v2.rst and
Documentation/admin-guide/cgroup-v1/memory.rst, proc(5), cgroups(7).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

UNLIMITED = 2**60
"""Bytes from which a limit is none: version 1 writes the largest multiple of a page for that."""


class Memory(NamedTuple):
    """Memory of which there is only so much.

    Attributes:
        limit: Bytes that there may be.
        used: Bytes of them in use, by everyone they are shared with, without what the system would
            give up at once.
    """

    limit: int
    used: int


class Mount(NamedTuple):
    """Where a hierarchy of control groups can be seen.

    Attributes:
        point: The directory.
        root: The group that the directory shows; ``/`` but in some containers.
        controllers: What it controls; empty for version 2, which has one hierarchy for all.
    """

    point: PurePosixPath
    root: PurePosixPath
    controllers: frozenset[str]


# -- reading what the files say ---------------------------------------------------------------


def parse_groups(text: str) -> dict[str, PurePosixPath]:
    """The groups of a process by controller, from ``/proc/PID/cgroup``; ``""`` is version 2."""
    groups = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, found, path = rest.partition(":")
        if found and path.startswith("/"):
            for controller in controllers.split(","):
                groups[controller] = PurePosixPath(path)
    return groups


def parse_mounts(text: str) -> list[Mount]:
    """Where control groups are mounted, from ``/proc/PID/mountinfo``."""
    mounts = []
    for line in text.splitlines():
        before, found, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not found or len(fields) < 5 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        options = kind[2].split(",") if kind[0] == "cgroup" and len(kind) > 2 else ()
        mounts.append(
            Mount(_path(fields[4]), _path(fields[3]), frozenset(options) - {"rw", "ro", ""})
        )
    return mounts


def directories(
    groups: Mapping[str, PurePosixPath], mounts: Iterable[Mount], controller: str
) -> list[PurePosixPath]:
    """The directories whose limits hold for a process, its own group's first.

    Args:
        groups: The process's groups.
        mounts: Where groups are mounted.
        controller: ``memory`` or ``cpu`` for version 1, ``""`` for version 2.
    """
    own = groups.get(controller)
    if own is None:
        return []
    for mount in mounts:
        if controller in mount.controllers or (not controller and not mount.controllers):
            # In a container that sees its own group only, that group is the directory itself. What
            # lies outside of the mount is written with "..".
            inside = own.is_relative_to(mount.root) and ".." not in own.parts
            parts = own.relative_to(mount.root).parts if inside else ()
            return [mount.point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return []


def parse_bytes(text: str) -> int | None:
    """A limit in bytes; ``None`` where there is none."""
    try:
        value = int(text)
    except ValueError:
        return None  # "max", of version 2
    return value if 0 < value < UNLIMITED else None


def parse_quota(text: str) -> float | None:
    """Cores, from ``cpu.max`` (``"50000 100000"``); ``None`` where there is no limit."""
    quota, _, period = text.strip().partition(" ")
    try:
        cores = int(quota) / int(period or 100_000)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None  # -1 is no limit, in version 1


def parse_table(text: str) -> dict[str, int]:
    """Numbers by name, from ``memory.stat`` or ``/proc/meminfo``; kB are taken as bytes."""
    table = {}
    for name, value, unit in re.findall(r"^(\w+):?[ \t]+(\d+)( kB)?", text, re.MULTILINE):
        table[name] = int(value) * (1024 if unit else 1)
    return table


def _path(text: str) -> PurePosixPath:
    # Blanks are written as octal numbers, proc(5).
    return PurePosixPath(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text))


# -- the machine ------------------------------------------------------------------------------


class Machine:
    """What this process may use of the machine that it runs on.

    Limits are read anew each time: a container's can be changed while it runs.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        groups = parse_groups(self._read(root / "proc/self/cgroup") or "")
        mounts = parse_mounts(self._read(root / "proc/self/mountinfo") or "")
        self._v2 = self._inside(directories(groups, mounts, ""))
        self._memory_v1 = self._inside(directories(groups, mounts, "memory"))
        self._cpu_v1 = self._inside(directories(groups, mounts, "cpu"))

    def resident(self) -> int:
        """Resident memory of this process in bytes; 0 where the system does not tell."""
        fields = (self._read(self._root / "proc/self/statm") or "").split()
        return int(fields[1]) * self._page if len(fields) > 1 else 0

    def memory(self) -> Memory | None:
        """The memory that is nearest to its limit, of the machine or of a group on the way to it.

        ``None`` where the system does not tell.
        """
        return max(self._memories(), key=lambda one: one.used / one.limit, default=None)

    def cores(self) -> float:
        """Processor cores that this process may use: the least of quota, affinity and machine."""
        quotas = [
            quota
            for group in self._v2
            if (text := self._read(group / "cpu.max")) and (quota := parse_quota(text))
        ]
        for group in self._cpu_v1:
            text = self._read(group / "cpu.cfs_quota_us")
            period = self._read(group / "cpu.cfs_period_us")
            if text and period and (quota := parse_quota(f"{text.strip()} {period.strip()}")):
                quotas.append(quota)
        return min([float(_processors()), *quotas])

    def _memories(self) -> Iterator[Memory]:
        for group in self._v2:
            limits = [
                limit
                for name in ("memory.max", "memory.high")
                if (limit := parse_bytes(self._read(group / name) or ""))
            ]
            if limits:
                yield from self._used(group, min(limits), "memory.current", "inactive_file")
        for group in self._memory_v1:
            limit = parse_bytes(self._read(group / "memory.limit_in_bytes") or "")
            if limit:
                yield from self._used(group, limit, "memory.usage_in_bytes", "total_inactive_file")
        machine = parse_table(self._read(self._root / "proc/meminfo") or "")
        if machine.get("MemTotal") and "MemAvailable" in machine:
            total = machine["MemTotal"]
            yield Memory(total, max(0, total - machine["MemAvailable"]))

    def _used(self, group: Path, limit: int, name: str, reclaimable: str) -> Iterator[Memory]:
        usage = parse_bytes(self._read(group / name) or "")
        if usage is not None:
            # Pages of files that nobody has touched lately are given up before anyone is killed.
            # What is left is what Kubernetes calls the working set.
            table = parse_table(self._read(group / "memory.stat") or "")
            yield Memory(limit, max(0, usage - table.get(reclaimable, 0)))

    def _inside(self, found: Iterable[PurePosixPath]) -> list[Path]:
        """Those of the directories that exist, below the root."""
        paths = (self._root.joinpath(*directory.parts[1:]) for directory in found)
        return [path for path in paths if path.is_dir()]

    @staticmethod
    def _read(path: Path) -> str | None:
        try:
            # Not buffered: the files are short, and are read each second.
            with open(path, "rb", buffering=0) as file:
                return (file.readall() or b"").decode("utf-8", "replace")
        except OSError:
            return None


class Starving:
    """For how long a thread of this process was ready to run, and got no processor.

    From ``schedstat`` of Linux (Documentation/scheduler/sched-stats.rst).

    Args:
        thread: What the system calls it, as `threading.get_native_id` says.
        root: Where ``proc`` is found.
    """

    def __init__(self, thread: int, root: Path = Path("/")) -> None:
        try:
            # Read again and again, so it stays open.
            self._file = os.open(root / f"proc/self/task/{thread}/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def seconds(self) -> float:
        """Seconds of it, up to now; 0 where the system does not tell, or the thread has ended."""
        if self._file < 0:
            return 0.0
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) / 1e9
        except OSError:
            return 0.0

    def close(self) -> None:
        """Read no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _processors() -> int:
    """Processors that the process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # only some systems have it
        return os.cpu_count() or 1
