"""A real PostgreSQL for tests: one server a session, and a run of its own for each test.

It runs as a user that is not root, as it must; root becomes `postgres` for that. When the process
that has started it is gone, however it ended, so is the server.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_GUARD = """
read line
"$0/pg_ctl" -D "$1" -m immediate stop >/dev/null 2>&1
rm -rf "$2"
"""
_SETTINGS = """
fsync = off
full_page_writes = off
shared_buffers = 64MB
max_connections = 200
log_min_messages = warning
log_line_prefix = '%m [%p] '
lc_messages = 'C'
unix_socket_directories = ''
listen_addresses = '{host}'
"""
_ACCESS = """
host all crawl,limited samenet trust
host all all samenet scram-sha-256
"""


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, of the newest version that is installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(places, key=lambda path: int(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


class Server:
    """A server of its own.

    Args:
        place: A directory in which its data is to be; one of its own where there is none.
        settings: Lines for its configuration.
        host: The address to listen on.
        on: The command with which something is run where that address is, if that is elsewhere.
    """

    def __init__(
        self,
        place: Path | None = None,
        settings: str = "",
        *,
        host: str = "127.0.0.1",
        on: Sequence[str] = (),
    ) -> None:
        found = binaries()
        if found is None:
            raise RuntimeError("there is no PostgreSQL here: apt-get install postgresql")
        self._programs = found
        self.directory = Path(tempfile.mkdtemp(prefix="crawlkit-postgres-", dir=place))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.host = host
        self.port = _free_port()  # elsewhere every port is free
        self._on = on
        self._numbers = itertools.count(1)
        self.user = os.geteuid()
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            self.user = entry.pw_uid
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self._program(
            "initdb", "-U", "crawl", "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"{_SETTINGS.format(host=host)}port = {self.port}\n{settings}")
        (self.data / "pg_hba.conf").write_text(_ACCESS)
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, str(self._programs), str(self.data), str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            **self._user,
        )
        self.start()

    def address(
        self,
        run: str | None = None,
        *,
        user: str = "crawl",
        port: int = 0,
        database: str = "postgres",
        options: str = "",
    ) -> str:
        """The address of a run; a new one where none is named."""
        if run is None:
            run = f"test-{os.getpid()}-{next(self._numbers)}"
        return f"postgresql://{user}@{self.host}:{port or self.port}/{database}{options}#{run}"

    def execute(self, statement: str, run: str = "") -> list[Any]:
        """Do something as the database's owner, in the schema of a run; the rows, if any."""
        import psycopg  # it may not be there, and only tests that need a server come here

        with psycopg.connect(
            host=self.host, port=self.port, user="crawl", dbname="postgres", autocommit=True
        ) as connection:
            if run:
                connection.execute(f'SET search_path TO "crawlkit_{run.partition("#")[2] or run}"')
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._program("pg_ctl", "-w", "-s", "-l", str(self.log), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``smart``, ``fast`` or ``immediate``, which is a crash."""
        self._program("pg_ctl", "-w", "-s", "-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def become_standby_of(self, primary: Server) -> None:
        """Hold what `primary` holds, and wait for more, which never comes. Both are stopped."""
        settings = (self.data / "postgresql.conf").read_text()
        shutil.rmtree(self.data)
        subprocess.run(["cp", "-a", str(primary.data), str(self.data)], check=True, **self._user)
        (self.data / "postgresql.conf").write_text(settings)
        (self.data / "standby.signal").touch()

    def promote(self) -> None:
        """Have a standby take writes."""
        self._program("pg_ctl", "-w", "-s", "promote")

    def cpu(self) -> float:
        """Seconds of processor time that it has used so far, all its processes together."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        ticks = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status.parent.name) == postmaster:
                ticks += sum(map(int, fields[11:15]))  # with those of processes that have ended
            elif int(fields[1]) == postmaster:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it, and remove what it has written."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
            self._guard.wait()

    def _program(self, name: str, *arguments: str) -> None:
        command = [str(self._programs / name), "-D", str(self.data), *arguments]
        user = self._user
        if self._on:
            # It takes root to get there, and another user to run there.
            who = (f"--reuid={user['user']}", f"--regid={user['group']}", "--clear-groups")
            command, user = [*self._on, "setpriv", *who, *command], {}
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if name == "initdb" else subprocess.DEVNULL,
            cwd=self.directory,
            **user,
        )
        if done.returncode != 0:
            log = self.log.read_text()[-2000:] if self.log.exists() else ""
            raise RuntimeError(f"{name} failed: {(done.stderr or b'').decode()} {log}")


ASKS = (b"S", b"Q")
"""Types of the messages that ask for the answer to a statement, of several messages or of one."""
LATE = 1.0
"""Seconds by which a statement comes late to the server whose client has gone on long ago."""


class Line:
    """The line between a client and the server, which breaks when it is told to.

    Messages are counted as PostgreSQL's protocol frames them, from when `cut` is called.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut: dict[str, int] = {}
        self._lock = threading.Lock()
        self.cuts = 0
        self.statements = 0
        self.is_down = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, direction: str, after: int) -> None:
        """Break the line once so many messages went ``up`` to the server or ``down`` from it.

        With ``asked``, once the next statement but `after` has reached the server whole. With
        ``late``, for the client before that, and it reaches the server `LATE` seconds later.
        """
        with self._lock:
            self._cut = {direction: after}

    def mend(self) -> None:
        """Break it no more."""
        with self._lock:
            self._cut = {}

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._forward, args=(server, client, "down"))
            back.start()
            self._forward(client, server, "up")
            back.join()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        head = 0 if direction == "up" else 1  # the first message of a client has no type
        is_between = False  # of two statements of a client
        with contextlib.suppress(OSError), source.makefile("rb") as stream:
            while len(start := stream.read(head + 4)) == head + 4:
                rest = stream.read(int.from_bytes(start[head:], "big") - 4)
                head = 1
                if self._breaks(direction):
                    break
                if is_between and self._breaks("late"):
                    message = start + rest
                    while start[:1] not in ASKS and (start := stream.read(5)):
                        message += start + stream.read(int.from_bytes(start[1:], "big") - 4)
                    source.shutdown(socket.SHUT_RDWR)
                    time.sleep(LATE)
                    target.sendall(message)
                    break
                target.sendall(start + rest)
                is_between = direction == "up" and start[:1] in ASKS
                if is_between:
                    self.statements += 1
                    if self._breaks("asked"):
                        break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _breaks(self, direction: str) -> bool:
        with self._lock:
            if direction not in self._cut:
                return False
            self._cut[direction] -= 1
            if self._cut[direction] >= 0:
                return False
            self._cut = {}
            self.cuts += 1
            return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Tablespace:
    """A place for tables that can be filled to the last byte.

    Attributes:
        name: Its name in PostgreSQL.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(server: Server, *, megabytes: int) -> Iterator[Tablespace]:
    """A tablespace on a file system of its own, which only root can make."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a small file system")
    path = server.directory / "small"
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)], check=True
    )
    try:
        place = path / "tables"
        place.mkdir()
        os.chown(place, server.user, -1)
        server.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        yield Tablespace("small", path)
        server.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


@functools.cache
def server() -> Server:
    """The server of this session."""
    made = Server()
    atexit.register(made.close)
    return made


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to that")
        time.sleep(0.02)


def terminate(process: subprocess.Popen[Any]) -> None:
    """End a process that is still there, frozen or not."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
