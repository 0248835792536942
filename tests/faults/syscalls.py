"""Failing one system call of a process: the N-th that changes the files of a run.

The kernel itself stops the process before each such call and asks here what to do, through user
notifications of seccomp (seccomp_unotify(2), Linux 5.5): go on, fail with an error, or die. So the
calls are those that SQLite and Python make in earnest, whichever library they come from.

Why not the usual ways: strace counts the calls of each thread for itself, and a crawl writes from
three; an LD_PRELOAD library counts them all, and has to be compiled. This counts over all threads,
needs neither a compiler nor a tracer, and costs some 0.1 ms for each call.

What it does not see are writes to mapped memory: those to SQLite's index of the log (-shm), which
is made anew from the log whenever no process uses it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = {
    # Those of a file that is open, by its descriptor.
    "write": (1, 0),
    "pwrite64": (18, 0),
    "writev": (20, 0),
    "pwritev": (296, 0),
    "fsync": (74, 0),
    "fdatasync": (75, 0),
    "ftruncate": (77, 0),
    "fallocate": (285, 0),
    # Those of a name: which argument it is.
    "open": (2, 0),
    "openat": (257, 1),
    "truncate": (76, 0),
    "rename": (82, 0),
    "renameat": (264, 1),
    "renameat2": (316, 1),
    "unlink": (87, 0),
    "unlinkat": (263, 1),
    "mkdir": (83, 0),
    "mkdirat": (258, 1),
}
"""The calls that change files: their number on x86-64, and the argument that names the file."""

_NAMES = {number: name for name, (number, _) in _CALLS.items()}
_BY_DESCRIPTOR = frozenset(list(_CALLS)[:8])
_FLAGS = {"open": 1, "openat": 2}
"""Opening a file changes something where it may create it; the argument that says so."""

_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_SECCOMP = 317
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_NO_NEW_PRIVILEGES = 38
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_CONTINUE = 1
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("<QII iIQ6Q")
_RESPONSE = struct.Struct("<QqiI")
_SECTOR = 512

CAN_FAIL = platform.system() == "Linux" and platform.machine() == "x86_64"
"""Whether this machine is one on which calls can be made to fail."""


@dataclass(frozen=True)
class Fault:
    """What happens at one call.

    Attributes:
        at: Which one, counted from 1.
        error: The ``errno`` that it fails with; 0 to kill the process instead.
        is_lasting: Whether all later ones fail too.
        is_torn: Killed in the middle of it, with half of what was to be written in the file.
    """

    at: int
    error: int = 0
    is_lasting: bool = False
    is_torn: bool = False


@dataclass
class Trace:
    """What a process did.

    Attributes:
        code: Its exit code; negative for a signal.
        calls: Those that it made, such as ``pwrite64 run.sqlite3-wal``.
        struck: How many of them were made to fail.
    """

    code: int = 0
    calls: list[str] = field(default_factory=list)
    struck: int = 0


def run(work: Callable[[], None], root: Path, fault: Fault | None, *, longest: float) -> Trace:
    """Do `work` in a child process, and let its N-th call on a file under `root` fail.

    Args:
        work: What the child does. It ends with an exit code of its own, or with 0.
        root: The directory of the files.
        fault: What happens; nothing by default.
        longest: Seconds after which the child is killed.

    Raises:
        TimeoutError: The child did not end.
        OSError: The kernel cannot do it.
    """
    ours, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _be_watched(its, work)  # does not return
    its.close()
    trace = Trace()
    try:
        with ours:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            raise OSError(errno.ENOSYS, "seccomp's user notifications cannot be used here")
        _watch(pid, descriptors[0], root, fault, trace, time.monotonic() + longest)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        trace.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return trace


# -- the child ------------------------------------------------------------------------------------


def _be_watched(parent: socket.socket, work: Callable[[], None]) -> None:
    code = 70
    try:
        descriptor = _install()
        socket.send_fds(parent, [b"."], [descriptor])
        # The parent's copy has to be the only one: the child's calls fail if the parent dies.
        os.close(descriptor)
        parent.close()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _install() -> int:
    """Have the kernel report the calls of this process; the descriptor on which it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(_filter())
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog
    given = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    header = ctypes.create_string_buffer(given, len(given))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    descriptor = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, header)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(descriptor)


def _filter() -> Iterator[bytes]:
    """A program of BPF: report the calls of `_CALLS`, and let all others pass.

    Of ``open`` those that may create a file; of the calls by descriptor none of those on the
    standard streams.
    """
    load, equal, above, any_of, ret = 0x20, 0x15, 0x25, 0x45, 0x06
    yield _bpf(load, 4)  # the architecture
    yield _bpf(equal, _ARCHITECTURE, yes=1)
    yield _bpf(ret, _ALLOW)
    for name, (number, _) in _CALLS.items():
        yield _bpf(load, 0)  # the number of the call
        yield _bpf(equal, number, no=4)
        if name in _FLAGS:
            yield _bpf(load, 16 + 8 * _FLAGS[name])
            yield _bpf(any_of, os.O_CREAT, no=1)
        elif name in _BY_DESCRIPTOR:
            yield _bpf(load, 16)
            yield _bpf(above, 2, no=1)
        else:
            yield _bpf(load, 0)
            yield _bpf(equal, number, no=1)
        yield _bpf(ret, _NOTIFY)
        yield _bpf(ret, _ALLOW)
    yield _bpf(ret, _ALLOW)


def _bpf(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


# -- the one who watches --------------------------------------------------------------------------


def _watch(
    pid: int, listener: int, root: Path, fault: Fault | None, trace: Trace, until: float
) -> None:
    """Answer the kernel until the process has ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    try:
        while True:
            events = poll.poll(max(0.0, until - time.monotonic()) * 1000)
            if not events:
                raise TimeoutError(f"process {pid} does not end")
            if not events[0][1] & select.POLLIN:
                return
            call = _Call.receive(listener)
            if call is None:  # killed before it could be asked about
                continue
            error = 0
            if (name := call.file_under(root)) is not None:
                trace.calls.append(f"{call.name} {name}")
                error = _strike(pid, call, fault, trace)
            call.answer(listener, error)
    finally:
        os.close(listener)


def _strike(pid: int, call: _Call, fault: Fault | None, trace: Trace) -> int:
    number = len(trace.calls)
    if fault is None or number < fault.at or (number > fault.at and not fault.is_lasting):
        return 0
    trace.struck += 1
    if fault.error == 0:
        if fault.is_torn:
            call.write_half()
        os.kill(pid, signal.SIGKILL)
    return fault.error


@dataclass(frozen=True)
class _Call:
    """A call that waits to be answered."""

    cookie: int
    thread: int
    name: str
    arguments: tuple[int, ...]

    @classmethod
    def receive(cls, listener: int) -> _Call | None:
        data = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, data)
        except FileNotFoundError:
            return None
        cookie, thread, _flags, number, _, _, *arguments = _NOTIFICATION.unpack(data)
        return cls(cookie, thread, _NAMES[number], tuple(arguments))

    def answer(self, listener: int, error: int) -> None:
        response = _RESPONSE.pack(self.cookie, 0, -error, 0 if error else _CONTINUE)
        try:
            fcntl.ioctl(listener, _ANSWER, response)
        except FileNotFoundError:
            pass  # killed meanwhile

    def file_under(self, root: Path) -> str | None:
        """The path of its file below `root`, if it is there."""
        try:
            if self.name in _BY_DESCRIPTOR:
                path = os.readlink(self._descriptor)
            else:
                path = self._text(self.arguments[_CALLS[self.name][1]])
        except OSError:
            return None
        inside = f"{root}/"
        return path.removeprefix(inside) if path.startswith(inside) else None

    def write_half(self) -> None:
        """Do what a process that dies in the middle of writing has done."""
        if self.name not in ("write", "pwrite64"):
            return
        if self.arguments[2] < _SECTOR:
            return  # all of it or nothing, on any disk and in the kernel's memory
        half = self._memory(self.arguments[1], self.arguments[2] // 2)
        offset = self.arguments[3]
        if self.name == "write":
            about = Path(f"/proc/{self.thread}/fdinfo/{self.arguments[0]}").read_text()
            offset = int(about.split()[1])
        with open(self._descriptor, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), half, offset)

    @property
    def _descriptor(self) -> str:
        return f"/proc/{self.thread}/fd/{self.arguments[0] & 0xFFFFFFFF}"

    def _memory(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)

    def _text(self, address: int) -> str:
        room = 4096 - address % 4096  # to the end of the page: what follows may not be there
        data = self._memory(address, room)
        if b"\0" not in data:
            data += self._memory(address + room, 4096)
        return os.fsdecode(data.partition(b"\0")[0])
