"""The recipes for Kubernetes and systemd are what those accept, and do what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from crawlkit import open_run
from crawlkit.cli import main
from crawlkit.testing import Site

PAGE = (Path(__file__).parent.parent / "docs" / "deploying.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (one for one in map(yaml.safe_load, blocks("yaml")) if one["kind"] == kind)
    return found


def unit() -> dict[str, str]:
    lines = blocks("ini")[0].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def grace_of(command: list[str]) -> float:
    assert command[:2] == ["crawlkit", "run"]
    verb = main.get_command(click.Context(main), "run")
    assert verb is not None
    options, _, _ = verb.make_parser(click.Context(verb)).parse_args(command[2:])
    return float(options["grace"])


@pytest.mark.parametrize("kind", ["Job", "StatefulSet"])
def test_the_grace_of_a_pod_is_longer_than_that_of_its_crawl(kind: str) -> None:
    pod = manifest(kind)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert all(isinstance(word, str) for word in container["command"])
    assert grace_of(container["command"]) + 5 <= pod["terminationGracePeriodSeconds"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    volumes = [*pod.get("volumes", []), *manifest(kind)["spec"].get("volumeClaimTemplates", [])]
    assert mounted == {volume.get("name") or volume["metadata"]["name"] for volume in volumes}


def test_a_job_starts_a_crawl_again_that_was_stopped_and_no_other_mistake() -> None:
    spec = manifest("Job")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    # What the API demands of a policy for failed pods.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    by_code: dict[int, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert 0 not in rule["onExitCodes"]["values"]
            by_code |= dict.fromkeys(rule["onExitCodes"]["values"], rule["action"])
    assert by_code == {2: "FailJob", 75: "Ignore"}


def test_the_unit_gives_a_crawl_time_and_starts_it_again() -> None:
    known = unit()
    command = shlex.split(known["ExecStart"])
    assert command.pop(0) == "/usr/bin/env"
    assert grace_of(command) + 5 <= float(known["TimeoutStopSec"])
    assert known["Restart"] == "on-failure"  # 75 and 1 are failures to systemd, 0 is none
    assert known["RestartPreventExitStatus"] == "2"
    assert "SuccessExitStatus" not in known


@pytest.mark.needs("systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "shop.service"
    path.write_text(blocks("ini")[0])
    done = subprocess.run(
        [shutil.which("systemd-analyze") or "", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "shop.service" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr


CRAWL = """
from crawlkit import Crawler

class Shop(Crawler):
    async def parse(self, page):
        page.save({"url": page.url})
        page.follow("a")
"""


@pytest.fixture
def slow_site(site: Site) -> Site:
    pages = [f"/{number}" for number in range(40)]
    for path in ("/", *pages):
        site.add_page(path, links=pages, delay=0.3)
    return site


def test_what_an_orchestrator_does_ends_with_75_then_0(slow_site: Site, tmp_path: Path) -> None:
    """SIGTERM as the first process of a container, the wait for its end, the next container."""
    (tmp_path / "shop.py").write_text(CRAWL)
    (container,) = manifest("Job")["spec"]["template"]["spec"]["containers"]
    places = {
        "shop.py": [str(tmp_path / "shop.py"), slow_site.url("/")],
        "/run/shop": [str(tmp_path / "node" / "run")],
        "s3://my-bucket/shop": [str(tmp_path / "bucket")],
    }
    words = [new for word in container["command"][1:] for new in places.get(word, [word])]
    command = [sys.executable, "-m", "crawlkit", *words]
    pod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while slow_site.hits() < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(30) == 75
    shutil.rmtree(tmp_path / "node")  # the next pod is on another node
    pod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert pod.wait(60) == 0
    with open_run(tmp_path / "node" / "run") as run:
        assert run.statistics.lives == 2
        assert len({item["url"] for item in run.items()}) == run.statistics.items_saved == 41
    assert slow_site.hits() <= 41
