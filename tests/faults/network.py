"""Hosts: network namespaces that reach each other, with a directory each for a disk.

Each has a name of its own, too, so that no process takes those of another host for its neighbours.

Where namespaces cannot be made (no root, no iproute2, a container that may not), a host is a
directory and its processes share the network of this machine; `Network.what` says which it is.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from ..blocks import Closes


class Host:
    """A machine of a test.

    Attributes:
        name: Its name.
        address: Its IP address.
        on: The command with which something is run there.
        disk: Its disk.
        cable: The end of its cable that is not in it, if it has one.
    """

    def __init__(
        self, name: str, address: str, on: tuple[str, ...], disk: Path, cable: str = ""
    ) -> None:
        self.name = name
        self.address = address
        self.on = on
        self.disk = disk
        self.cable = cable
        disk.mkdir(parents=True)

    def cut_off(self) -> None:
        """Pull its plug: nobody hears anything of it from now on, and no goodbye either.

        Nothing happens where it shares the network of this machine.
        """
        if self.cable:
            _ip("link", "set", self.cable, "down")

    def destroy(self) -> None:
        """It burns down: its disk is gone, and its network."""
        shutil.rmtree(self.disk, ignore_errors=True)
        self.disconnect()

    def disconnect(self) -> None:
        """Take its network away."""
        if self.cable:
            # A namespace is there for as long as a connection in it has something left to say.
            _ip("link", "del", self.cable)
            _ip("netns", "del", self.name)


class Network(Closes):
    """Hosts that reach each other, and are reached from here.

    Args:
        directory: Where their disks are.

    Attributes:
        has_namespaces: Whether hosts are network namespaces.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._hosts: list[Host] = []
        # Of this process, so that several tests may run at once.
        self._bridge = f"ck{os.getpid() % 10**7}"
        self._net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.has_namespaces = self._begin()

    @property
    def what(self) -> str:
        """What a host is here."""
        if self.has_namespaces:
            return "hosts are network namespaces"
        return "no namespaces can be made here: hosts are directories and processes of one machine"

    def _begin(self) -> bool:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        _sweep()
        probe = f"{self._bridge}-probe"
        if not _ip("netns", "add", probe):
            return False
        _ip("netns", "del", probe)
        return (
            _runs(*_called(probe), "true")
            and _ip("link", "add", self._bridge, "type", "bridge")
            and _ip("addr", "add", f"{self._net}.254/24", "dev", self._bridge)
            and _ip("link", "set", self._bridge, "up")
        )

    def host(self) -> Host:
        """A new host."""
        number = next(self._numbers)
        name = f"{self._bridge}-{number}"
        if not self.has_namespaces:
            host = Host(name, "127.0.0.1", (), self._directory / name)
        else:
            here, there = f"{self._bridge}h{number}", f"e{number}"
            address, on = f"{self._net}.{number}", ("ip", "netns", "exec", name, *_called(name))
            host = Host(name, address, on, self._directory / name, here)
            self._hosts.append(host)
            for command in (
                ("netns", "add", name),
                ("link", "add", here, "type", "veth", "peer", "name", there, "netns", name),
                ("link", "set", here, "master", self._bridge, "up"),
                ("-n", name, "addr", "add", f"{address}/24", "dev", there),
                ("-n", name, "link", "set", there, "up"),
                ("-n", name, "link", "set", "lo", "up"),
            ):
                if not _ip(*command):
                    raise RuntimeError(f"'ip {' '.join(command)}' has failed")
        return host

    def close(self) -> None:
        """Take all of it away."""
        if self.has_namespaces:
            for host in self._hosts:
                host.disconnect()
            _ip("link", "del", self._bridge)
        self._hosts.clear()


def _sweep() -> None:
    """Remove what tests have left behind that were killed."""
    for what, arguments in (
        ("netns", ("netns", "list")),
        ("link", ("-br", "link", "show", "type", "veth")),
        ("link", ("-br", "link", "show", "type", "bridge")),
    ):
        listed = subprocess.run(
            ["ip", *arguments], capture_output=True, text=True, check=False
        ).stdout
        for name in re.findall(r"^ck\d+(?:[-h]\d+)?\b", listed, re.MULTILINE):
            pid = re.split("[-h]", name[2:])[0]
            if not Path(f"/proc/{pid}").exists():
                _ip(what, "del", name)


def _called(name: str) -> tuple[str, ...]:
    """The command with which something is run on a machine of that name."""
    return ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name)


def _ip(*arguments: str) -> bool:
    return _runs("ip", *arguments)


def _runs(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False
