"""A crawl goes on where its host and the host's disk are gone; see `tests.faults.migration`."""

from __future__ import annotations

import random
import socket
import subprocess
from pathlib import Path

import pytest

from .faults.migration import CUT_OFF, KILL, MIRRORS, POSTGRES, TERMINATE, TRIGGERS, Check
from .faults.network import Host, Network


@pytest.mark.timeout(600)
def test_a_crawl_is_carried_to_a_host_that_never_saw_its_disk(tmp_path: Path) -> None:
    """By each trigger, and by none at all: nothing is lost, nothing is there twice."""
    seed = random.randrange(10**6)
    homes = list(MIRRORS)
    random.Random(seed).shuffle(homes)
    moves = [(homes[n % len(homes)], trigger) for n, trigger in enumerate(TRIGGERS)]
    done = Check(seed).run(tmp_path, moves, lanes=3)
    assert [finding for move in done for finding in move.wrong] == [], f"seed {seed}"


@pytest.mark.needs("postgresql")
@pytest.mark.timeout(600)
def test_a_crawl_in_postgresql_goes_on_on_another_host(tmp_path: Path) -> None:
    """Also where the first one was lost without a word, and its worker's lease has to run out."""
    seed = random.randrange(10**6)
    moves = [(POSTGRES, trigger) for trigger in (TERMINATE, KILL, CUT_OFF)]
    done = Check(seed, pages=60).run(tmp_path, moves, lanes=3)
    assert [finding for move in done for finding in move.wrong] == [], f"seed {seed}"


def test_each_host_of_a_check_has_a_name_and_a_network_of_its_own(tmp_path: Path) -> None:
    """Else a dead process would be found out at once, where only its lease may tell."""
    with Network(tmp_path) as network:
        hosts = [network.host(), network.host()]
        if not network.has_namespaces:
            assert "no namespaces" in network.what
            return
        for host in hosts:
            said = subprocess.run([*host.on, "hostname"], capture_output=True, text=True)
            assert said.stdout.strip() == host.name
        assert _answers(hosts[0])
        hosts[0].cut_off()
        assert not _answers(hosts[0])
        assert _answers(hosts[1])


def _answers(host: Host) -> bool:
    """Whether it says at least that nothing listens there."""
    try:
        socket.create_connection((host.address, 9), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True
