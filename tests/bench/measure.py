"""One crawl, measured: a process of its own on a core of its own, and the server on another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from .items import Digest, digest
from .nginx import nginx
from .peers import PEERS, Task
from .workloads import Shop, Workload

ROOT = Path(__file__).parents[2]
PYTHON_DOCS = Path("/usr/share/doc/python3.11/html")


class BenchError(Exception):
    """A run that gives no number: the message says why and what to do."""


@dataclass(frozen=True)
class Site:
    """What is being served.

    Attributes:
        start_url: Where to begin.
        sites: ``http://host:port`` of its hosts.
        items: The digest of what a crawl must find; `None` where nobody knows it beforehand.
        environment: What a crawler's environment needs besides, so that it finds the hosts.
        pid: The process that serves them, where it is one of ours.
    """

    start_url: str
    sites: tuple[str, ...]
    items: Digest | None = None
    environment: dict[str, str] = field(default_factory=dict)
    pid: int | None = None


@dataclass(frozen=True)
class Measured:
    """What one crawl took.

    CPU and memory are those that the system counted for the whole process, from its start to its
    end, threads included.

    Attributes:
        seconds: From the start of the process to its end.
        cpu_seconds: User and system time.
        startup_cpu_seconds: How much of it was Python's start and imports.
        peak_memory: Bytes of resident memory, the most that it ever had.
        items: The digest of what it found.
    """

    seconds: float
    cpu_seconds: float
    startup_cpu_seconds: float
    peak_memory: int
    items: Digest

    @property
    def pages(self) -> int:
        """How many pages gave an item."""
        return self.items.number


@dataclass(frozen=True)
class Cores:
    """The cores to run on, by number; `None` where processes cannot be bound to one."""

    crawler: int | None
    server: int | None

    @classmethod
    def pick(cls) -> Cores:
        """Two different ones of those that this process may use, where there are two."""
        if not hasattr(os, "sched_setaffinity"):
            return cls(None, None)
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[-1], usable[0])


@contextmanager
def serve(workload: Workload, pages: int, cores: Cores) -> Iterator[Site]:
    """Serve the pages of a workload while the block runs.

    Raises:
        BenchError: Something is missing that it needs.
    """
    if workload.is_on_disk:
        with _serve_files(workload, pages, cores) as site:
            yield site
        return
    spec = {
        "pages": workload.pages(pages),
        "size": workload.size,
        "links": workload.links,
        "hosts": workload.hosts,
        "names": workload.hosts > 1 and has_names(),
        "core": cores.server,
    }
    command = [sys.executable, "-m", "tests.bench.server", json.dumps(spec)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise BenchError("the server did not start; what it said stands above")
            ready = json.loads(line)
            sites = tuple(ready["sites"])
            with tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home:
                names = _names(sites, ready["addresses"], Path(home)) if spec["names"] else {}
                items = Digest(*ready["items"])
                yield Site(ready["start_url"], sites, items, names, server.pid)
        finally:
            server.terminate()


def has_names() -> bool:
    """Whether hosts can have names here: by Debian's libnss-wrapper, without the system's help."""
    try:
        CDLL("libnss_wrapper.so")
    except OSError:
        return False
    return True


def _names(sites: Sequence[str], addresses: Sequence[str], home: Path) -> dict[str, str]:
    """The environment in which the hosts of `sites` are found under their names."""
    file = home / "hosts"
    hosts = (site.split("/")[2].partition(":")[0] for site in sites)
    file.write_text("".join(f"{ip} {name}\n" for ip, name in zip(addresses, hosts, strict=True)))
    return {
        "LD_PRELOAD": "libnss_wrapper.so",
        "NSS_WRAPPER_HOSTS": str(file),
        "NSS_WRAPPER_MAX_HOSTENTS": str(2 * len(sites)),
    }


@contextmanager
def _serve_files(workload: Workload, pages: int, cores: Cores) -> Iterator[Site]:
    is_docs = workload.share is None
    if is_docs and not (PYTHON_DOCS / "index.html").exists():
        raise BenchError(
            f"the workload {workload.name} needs Debian's documentation of Python: "
            "apt-get install python3.11-doc nginx, or leave it out with --workloads"
        )
    with tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home:
        root = PYTHON_DOCS if is_docs else Path(home, "shop")
        try:
            with nginx(root, Path(home), core=cores.server) as site:
                if is_docs:
                    yield Site(f"{site}/index.html", (site,))
                else:
                    # Only now is it known what the pages are to call their host.
                    shop = Shop(workload.pages(pages), workload.size, workload.links, (site,))
                    _write(shop, root)
                    yield Site(shop.url(0), shop.sites, digest(shop.items()))
        except RuntimeError as error:
            raise BenchError(str(error)) from None


def _write(shop: Shop, root: Path) -> None:
    """Write the pages of a shop into files."""
    (root / "products").mkdir(parents=True)
    for number in range(shop.pages):
        file = root / (shop.path(number).lstrip("/") or "index.html")
        file.write_text(shop.html(number))


def measure(
    name: str,
    workload: Workload,
    site: Site,
    *,
    concurrency: int,
    core: int | None,
    options: Mapping[str, Any] | None = None,
) -> Measured:
    """Crawl the site once with a peer.

    Args:
        name: The peer.
        workload: What the site is.
        site: Where it is.
        concurrency: Requests in flight.
        core: The core to run on, or `None`.
        options: For the peer, besides its own.

    Raises:
        BenchError: It failed, or did not find what it had to.
    """
    peer = PEERS[name]
    with tempfile.TemporaryDirectory(prefix=f"crawlkit-bench-{name}-") as directory:
        file = Path(directory, "task.json")
        work = Path(directory, "work")
        work.mkdir()
        task = Task(
            start_url=site.start_url,
            sites=site.sites,
            fields=workload.fields,
            concurrency=concurrency,
            directory=str(work),
            core=core,
            options={**peer.options, **(options or {})},
        )
        task.write(file)
        command = [sys.executable, "-m", "tests.bench.peers", name, str(file)]
        started = perf_counter()
        process = subprocess.Popen(command, cwd=work, env=_environment() | site.environment)
        # Of this one process, where getrusage(RUSAGE_CHILDREN) has the sum and peak of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise BenchError(f"{name} ended with {process.returncode}; its words stand above")
        measured: dict[str, Any] = json.loads((work / "measured.json").read_text())
        found = subprocess.run(
            [*command, "--items"], cwd=work, env=_environment(), stdout=subprocess.PIPE, check=True
        )
        result = Measured(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            startup_cpu_seconds=measured["startup_cpu"],
            peak_memory=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            items=Digest(*json.loads(found.stdout)),
        )
    if site.items is not None and result.items != site.items:
        raise BenchError(
            f"{name} found {result.items.number} items of {site.items.number}, or other ones; "
            "what it took does not count"
        )
    return result


def _environment() -> dict[str, str]:
    """The environment, without what makes Python slower or different, but with the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT)}
