"""Carry a crawl from one host to another whose disk it never saw, again and again.

``python -m tests.faults.migration`` makes hosts (network namespaces), one of them with the site and
with what the crawl is kept in: a PostgreSQL server, or an S3 server or a shared directory for its
mirror. A crawl begins on one host, is given notice by one trigger after the other, or is killed
without any, or cut off from its network before; that host and its disk are destroyed, and the crawl
ends on another one. Items, outcomes and statistics have to equal those of an undisturbed run.

In PostgreSQL, what a dead worker of another host had is free when its lease runs out. That is after
15 seconds by default, and after 2 here (``--set lease=2``), so that it does not take as long.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol
from urllib.request import urlopen

from crawlkit.triggers.lastmoment import EXIT_UNFINISHED
from crawlkit.triggers.usual import METADATA, PLATFORM

from ..postgres import Server as PostgresServer
from ..s3 import BUCKET, S3Server
from .command import Command, say
from .common import ROOT, Crawl, SiteProcess, Undisturbed, ended, happens, undisturbed
from .network import Host, Network
from .results import differences, result_of
from .rough import RoughCrawl

PAGES = 200
SLOW = (0.1, 0.6)
"""Seconds that the fastest and the slowest page take, while a crawl waits for its notice: a cloud
is asked every two seconds only."""
INTERVAL = 0.5
"""Seconds between two shipments to a mirror."""
GRACE = 10.0
LEASE = 2.0
"""Seconds without a sign of life after which others get what a worker has, in PostgreSQL."""

TERMINATE, KILL, CUT_OFF = "SIGTERM", "SIGKILL", "cut off"
UNANNOUNCED = (KILL, CUT_OFF)
TRIGGERS = (TERMINATE, "platform", "aws", "gcp", "azure", *UNANNOUNCED)


# -- what a crawl is kept in ----------------------------------------------------------------------


class Home(Protocol):
    """What a crawl is kept in, on the third host.

    Attributes:
        environment: What its processes need to know.
        most_again: Seconds of work that a kill without notice may cost, at most.
    """

    environment: Mapping[str, str]
    most_again: float

    def store(self, host: Host, name: str) -> Path | str:
        """The address of the run of this name, as seen from a host: ``--store``."""

    def options(self, name: str) -> Sequence[str]:
        """Further arguments of ``crawlkit run`` for it, the same on each host."""

    def close(self) -> None:
        """Take it away."""


class Mirrored:
    """The run is on the disk of the host that goes, and its mirror elsewhere."""

    most_again = 1.0 + INTERVAL

    def store(self, host: Host, name: str) -> Path | str:
        return host.disk / "crawl" / "run"


class SharedDirectory(Mirrored):
    """A mirror in a directory of the third host that the others have mounted."""

    def __init__(self, host: Host) -> None:
        self._disk = host.disk
        self.environment: Mapping[str, str] = {}

    def options(self, name: str) -> Sequence[str]:
        mirror = str(self._disk / "mirrors" / name)
        return ("--mirror", mirror, "--set", f"mirror_interval={INTERVAL}")

    def close(self) -> None:
        pass


class ObjectStore(Mirrored):
    """A mirror in an S3 server on the third host."""

    def __init__(self, host: Host) -> None:
        # In a namespace of its own every port is free, and cannot be looked for from here.
        port = 5000 if host.on else 0
        self._server = S3Server(host=host.address, port=port, command=host.on)
        try:
            self._server.make_bucket()
        except BaseException:
            self._server.close()
            raise
        self.environment: Mapping[str, str] = self._server.environment

    def options(self, name: str) -> Sequence[str]:
        mirror = f"s3://{BUCKET}/{name}"
        return ("--mirror", mirror, "--set", f"mirror_interval={INTERVAL}")

    def close(self) -> None:
        self._server.close()


class Database:
    """The run is in PostgreSQL on the third host, and nothing but items are on that which goes."""

    most_again = 1.0

    def __init__(self, host: Host) -> None:
        self._server = PostgresServer(host=host.address, on=host.on)
        self.environment: Mapping[str, str] = {}

    def store(self, host: Host, name: str) -> Path | str:
        return self._server.address(name)

    def options(self, name: str) -> Sequence[str]:
        return ("--set", f"lease={LEASE}")

    def close(self) -> None:
        self._server.close()


MIRRORS: dict[str, Callable[[Host], Home]] = {"s3": ObjectStore, "directory": SharedDirectory}
POSTGRES = "postgres"
HOMES: dict[str, Callable[[Host], Home]] = {**MIRRORS, POSTGRES: Database}


# -- notice ---------------------------------------------------------------------------------------


class NoticeServer:
    """The platform and the metadata services, on the third host."""

    def __init__(self, host: Host) -> None:
        self._process = subprocess.Popen(
            [*host.on, sys.executable, "-m", "tests.notices", "--host", host.address],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def announce(self, left: float) -> None:
        """Say that the machine goes in so many seconds."""
        urlopen(f"{self.url}/-/announce?left={left}", timeout=10).close()

    def calm(self) -> None:
        """Say nothing, to the next host."""
        urlopen(f"{self.url}/-/calm", timeout=10).close()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


# -- one move -------------------------------------------------------------------------------------


@dataclass
class Move:
    """One crawl that was carried from a host to another.

    Attributes:
        home: What it was kept in.
        trigger: How it was told, or that it was not, on each host but the last.
        asked: How many requests it had made on the hosts that are gone.
        left: Seconds from a notice to the end of the process, at most.
        again: Requests that were made once more.
        wrong: What is wrong.
        seconds: How long all of it took.
    """

    home: str
    trigger: str
    asked: int = 0
    left: float = 0.0
    again: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        verdict = "equal" if not self.wrong else "WRONG"
        line = (
            f"{self.home:<10} {self.trigger:<9} {self.asked:>5} asked, gone after "
            f"{self.left:5.2f} s, {self.again:>3} asked again, {self.seconds:5.1f} s: {verdict}"
        )
        return "\n".join([line, *(f"    {finding}" for finding in self.wrong)])


class Check:
    """Many moves.

    Args:
        seed: Which moments are chosen.
        tell: Called with each line of progress.
        pages: How many pages the site has.
        hops: From how many hosts each crawl is carried away, one after the other.
    """

    def __init__(
        self,
        seed: int,
        *,
        tell: Callable[[str], None] = print,
        pages: int = PAGES,
        hops: int = 1,
    ) -> None:
        self._hops = hops
        self._seed = seed
        self._tell = tell
        self._pages = pages

    def run(
        self, directory: Path, moves: Sequence[tuple[str, str]], *, lanes: int = 2
    ) -> list[Move]:
        """Make these moves, each a home and a trigger."""
        with ExitStack() as stack:
            network = stack.enter_context(Network(directory))
            self._tell(network.what)
            third = network.host()
            site = stack.enter_context(
                SiteProcess(
                    *("--pages", str(self._pages), "--slow", *map(str, SLOW)),
                    *("--host", third.address),
                    on=third.on,
                )
            )
            homes = {}
            for name in dict.fromkeys(home for home, _ in moves):
                homes[name] = HOMES[name](third)
                stack.callback(homes[name].close)
            whole = undisturbed(site, directory / "undisturbed", self._pages, hurry=True)
            self._tell(f"undisturbed: {whole.requests} requests, {whole.duration:.1f} s")

            def move(number: int) -> Move:
                home, trigger = moves[number]
                hosts = [network.host() for _ in range(self._hops + 1)]
                began = time.monotonic()
                done = Move(home, trigger)
                name = f"run-{number}"
                with ExitStack() as inner:
                    notices = NoticeServer(third)
                    inner.callback(notices.close)
                    rng = Random(f"{self._seed}/{number}")
                    _Carried(site, homes[home], whole, notices, name, rng).carry(done, *hosts)
                done.seconds = time.monotonic() - began
                self._tell(str(done))
                return done

            with ThreadPoolExecutor(lanes) as pool:
                return list(pool.map(move, range(len(moves))))


class _Carried:
    """One crawl that is carried from a host to another."""

    def __init__(
        self,
        site: SiteProcess,
        home: Home,
        whole: Undisturbed,
        notices: NoticeServer,
        name: str,
        rng: Random,
    ) -> None:
        self._site = site
        self._home = home
        self._whole = whole
        self._notices = notices
        self._name = name
        self._rng = rng

    def carry(self, move: Move, *hosts: Host) -> None:
        *others, last = hosts
        allowed = 0
        for number, host in enumerate(others):
            with self._crawl(host) as crawl:
                # A cloud is asked every two seconds only, so that a crawl must not be near its end.
                share = (number + self._rng.uniform(0.2, 0.8)) / (2 * len(others))
                at = self._leave(crawl, host, move, share)
                if (log := crawl.log.read_text()) and "Traceback" in log:
                    move.wrong.append(f"host {number + 1}: {log}")
            host.destroy()
            if move.wrong:
                return
            allowed += RoughCrawl.concurrency
            if move.trigger in UNANNOUNCED:
                since = at - self._home.most_again - 2.0  # on a machine that is busy
                asked = self._site.asked(self._name)
                allowed += sum(since < moment < at for moment, _, _ in asked)
        self._site.hurry(self._name)
        with self._crawl(last) as crawl:
            crawl.lives = len(others)
            code = ended(crawl.start(environment=self._home.environment))
            if code != 0:
                move.wrong.append(f"the last host ended with {code}: {crawl.log.read_text()}")
                return
            move.wrong += differences(self._whole.result, result_of(crawl)) + crawl.check()
            move.again = self._site.count(self._name)[0] - self._whole.requests
            if not 0 <= move.again <= allowed:
                move.wrong.append(f"{move.again} requests again, where {allowed} may be")

    def _crawl(self, host: Host) -> Crawl:
        options = ("--grace", str(GRACE), *self._home.options(self._name))
        crawl = Crawl(self._site, host.disk / "crawl", self._name, *options, on=host.on)
        crawl.store = self._home.store(host, self._name)
        return crawl

    def _leave(self, crawl: Crawl, host: Host, move: Move, share: float) -> float:
        """A life on a host that is about to go; the monotonic time of its notice.

        It comes when that share of all requests was made.
        """
        self._notices.calm()
        options: list[str] = []
        environment = dict(self._home.environment)
        if move.trigger == "platform":
            environment[PLATFORM] = self._notices.url.replace("http:", "ws:") + "/events"
        elif move.trigger not in (TERMINATE, *UNANNOUNCED):
            options += ["--preemption", move.trigger]
            environment[METADATA] = self._notices.url
        process = crawl.start(*options, environment=environment)
        wanted = share * self._whole.requests
        if not happens(process, lambda: self._site.count(self._name)[0] >= wanted, every=0.02):
            move.wrong.append(f"the host's crawl ended by itself: {crawl.log.read_text()}")
            return time.monotonic()
        at = time.monotonic()
        if move.trigger == TERMINATE:
            process.send_signal(signal.SIGTERM)
        elif move.trigger in UNANNOUNCED:
            if move.trigger == CUT_OFF:
                host.cut_off()
            process.send_signal(signal.SIGKILL)
        else:
            self._notices.announce(GRACE + 20)
        code = ended(process)
        move.left = max(move.left, time.monotonic() - at)
        move.asked = self._site.count(self._name)[0]
        expected = -signal.SIGKILL if move.trigger in UNANNOUNCED else EXIT_UNFINISHED
        if code != expected:
            move.wrong.append(f"the host's crawl ended with {code}: {crawl.log.read_text()}")
        return at


def main() -> int:
    """The command; 1 where anything is wrong."""
    command = Command("migration", __doc__)
    add = command.parser.add_argument
    add("--rounds", type=int, default=3, help="how often each move (default 3)")
    add("--homes", default=",".join(HOMES), help="what the crawl is kept in")
    add("--pages", type=int, default=PAGES, help="pages of the site")
    add("--hops", type=int, default=2, help="hosts that go, each time (default 2)")
    add("--lanes", type=int, default=2, help="moves at once (default 2)")
    command.begin()
    given = command.given
    check = Check(command.seed, tell=say, pages=given.pages, hops=given.hops)
    homes = given.homes.split(",")
    moves = [(home, trigger) for home in homes for trigger in TRIGGERS] * given.rounds
    done = check.run(command.directory, moves, lanes=given.lanes)
    wrong = sum(bool(move.wrong) for move in done)
    say(f"\n{len(done)} moves, {len(done) - wrong} equal, {command.seconds:.0f} s")
    return command.end(is_wrong=wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
