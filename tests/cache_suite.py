"""The public suite of tests for HTTP caches, run against crawlkit's page cache in its HTTP mode.

::

    python -m tests.cache_suite

installs the npm package ``http-cache-tests`` (the suite of cache-tests.fyi) into a temporary
directory, runs all of it against `tests.cache_proxy`, and prints what was failed next to what the
suite's own results say of browsers. It takes half a minute, and needs Node, npm and its registry.

It fails where a rule (a *required* test) is not kept that a browser keeps. Rules for shared caches
are left out, as browsers leave them out: ours is a private one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "http-cache-tests@0.4.5"
CLIENT = "node-fetch@2"
"""What the suite's own command line asks with."""
DRIVER = Path(__file__).with_suffix(".mjs")
ON_LOOPBACK = """
import net from 'node:net'
const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port) { return listen.call(this, port, '127.0.0.1') }
"""
"""The suite's server would listen for the whole network."""

Results = dict[str, Any]
KINDS = {"required": "rules", "optimal": "optimal", "check": "behaviours"}


class NotHere(Exception):
    """The suite cannot be had."""


# -- what the results mean ----------------------------------------------------------------------


class Suite:
    """The tests, and the verdicts that results give.

    Args:
        tests: As `cache_suite.mjs` prints them.
    """

    def __init__(self, tests: list[dict[str, Any]]) -> None:
        self.tests = {test["id"]: test for test in tests}

    def verdict(self, results: Results, name: str) -> str:
        """``pass``, ``fail``, ``-`` where it was not run, or why it says nothing.

        As the suite's own pages have it: a test says nothing where one that it builds upon failed,
        or where its preparations did.
        """
        result = results.get(name)
        if result is None:
            return "-"
        if any(self.verdict(results, other) != "pass" for other in self.tests[name]["depends_on"]):
            return "depends"
        if result is True:
            return "pass"
        if result[0] == "Setup":
            return "retry" if result[1] == "retry" else "setup"
        return "fail"

    def count(self, results: Results, kind: str) -> Counter[str]:
        """How often each verdict was given, of the tests that are for private caches."""
        return Counter(
            self.verdict(results, name)
            for name, test in self.tests.items()
            if test["kind"] == kind and test["is_for_browsers"] and test["is_for_proxies"]
        )

    def missed(self, results: Results) -> list[str]:
        """The rules for private caches that were not seen to be kept."""
        return [
            name
            for name, test in self.tests.items()
            if test["kind"] == "required"
            and test["is_for_browsers"]
            and test["is_for_proxies"]
            and self.verdict(results, name) != "pass"
        ]

    def kept_by(self, browsers: dict[str, Results], name: str) -> list[str]:
        """The browsers that keep a rule."""
        return [
            browser
            for browser, results in browsers.items()
            if self.verdict(results, name) == "pass"
        ]


def table(suite: Suite, results: Results, browsers: dict[str, Results]) -> Iterator[str]:
    """What is printed."""
    caches = {"crawlkit": results, **browsers}
    yield f"{'':12}" + "".join(f"{cache:>14}" for cache in caches)
    for kind, label in KINDS.items():
        counts = [suite.count(found, kind) for found in caches.values()]
        cells = (f"{count['pass']} of {count.total()}" for count in counts)
        yield f"{label:12}" + "".join(f"{cell:>14}" for cell in cells)
    missed = suite.missed(results)
    yield ""
    yield f"rules that were not seen to be kept: {len(missed)}"
    for name in missed:
        kept = ", ".join(suite.kept_by(browsers, name)) or "no browser"
        result = results.get(name)
        why = suite.verdict(results, name)
        if why == "depends":
            why = f"builds upon {', '.join(suite.tests[name]['depends_on'])}"
        elif isinstance(result, list):
            why = result[1]
        yield f"  {name}: {why}; kept by {kept}"


# -- running it ---------------------------------------------------------------------------------


def install(directory: Path) -> None:
    """Put the suite into a directory.

    Raises:
        NotHere: There is no Node or npm, or the package cannot be had.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NotHere(f"{program} is not installed")
    (directory / "package.json").write_text('{"private": true, "type": "module"}')
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    npm(directory, "install", CLIENT, *quiet)
    # Its tarball alone: it depends on an npm of its own, which is old and which nobody needs.
    archive = npm(directory, "pack", PACKAGE, "--loglevel=error").split()[-1]
    with tarfile.open(directory / archive) as packed:
        packed.extractall(directory, filter="data")
    (directory / "package").rename(directory / "node_modules" / "http-cache-tests")
    shutil.copy(DRIVER, directory)
    (directory / "loopback.mjs").write_text(ON_LOOPBACK)


def npm(directory: Path, *arguments: str) -> str:
    """What npm prints."""
    try:
        done = subprocess.run(
            ["npm", *arguments], cwd=directory, capture_output=True, text=True, timeout=180
        )
    except subprocess.TimeoutExpired as error:
        raise NotHere("npm takes too long") from error
    if done.returncode:
        raise NotHere(f"npm {arguments[0]}: {(done.stderr or done.stdout).strip()[:500]}")
    return done.stdout.strip()


@contextlib.contextmanager
def listening(command: Sequence[str], **options: Any) -> Iterator[str]:
    """A server, for as long as it is needed; ``host:port`` as its first line says it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"istening on http://([^/\s]+)", line)
        if found is None:
            raise RuntimeError(f"{command[0]} said {line!r}")
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def run(directory: Path) -> dict[str, Any]:
    """Run the suite; what `cache_suite.mjs` prints.

    Rules that were missed get another try, as a machine that stands still for some seconds fails
    tests of how long something is fresh.
    """
    package = directory / "node_modules" / "http-cache-tests"
    environment = {
        **os.environ,
        "npm_config_protocol": "http",
        "npm_config_port": "0",
        "npm_config_pidfile": str(directory / "server.pid"),
    }
    server = ["node", "--import", str(directory / "loopback.mjs"), "server/server.mjs"]
    proxy = [sys.executable, "-m", "tests.cache_proxy", "--origin"]
    with (
        listening(server, cwd=package, env=environment) as origin,
        listening([*proxy, origin]) as address,
    ):
        found = drive(directory, address)
        missed = Suite(found["tests"]).missed(found["results"])
        if missed:
            found["results"] |= drive(directory, address, *missed)["results"]
    return found


def drive(directory: Path, proxy: str, *names: str) -> dict[str, Any]:
    """What the suite finds, in all or some of its tests."""
    command = ["node", "--no-warnings", DRIVER.name, f"http://{proxy}", *names]
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, check=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run it, print the table, and exit with 1 where a rule is broken that a browser keeps."""
    parser = argparse.ArgumentParser(prog="python -m tests.cache_suite", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write down all that was found")
    parser.add_argument(
        "--may-skip", action="store_true", help="exit with 0 where the suite cannot be had"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            install(Path(directory))
        except NotHere as error:
            print(f"skipped: {error}; the suite needs Node, npm and its registry")
            sys.exit(0 if given.may_skip else 1)
        found = run(Path(directory))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    suite, results, browsers = Suite(found["tests"]), found["results"], found["browsers"]
    print("\n".join(table(suite, results, browsers)))
    broken = [name for name in suite.missed(results) if suite.kept_by(browsers, name)]
    print(f"\nrules that a browser keeps and crawlkit does not: {' '.join(broken) or 'none'}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
