"""An S3 server on loopback, in a process of its own: moto's, which knows conditional puts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

from .blocks import Closes

BUCKET = "crawls"


class S3Server(Closes):
    """The server, with one bucket.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        command: What stands before the command, as to run it elsewhere.

    Attributes:
        url: Where it is.
        environment: What a process needs to know to find it, and to be let in.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, command: tuple[str, ...] = ()):
        if not port:
            with socket.socket() as probe:
                probe.bind((host, 0))
                port = probe.getsockname()[1]
        self.url = f"http://{host}:{port}"
        program = [sys.executable, "-W", "ignore", "-m", "moto.server"]
        self._process = subprocess.Popen(
            [*command, *program, "-H", host, "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, ask: tuple[str, ...] = ()) -> None:
        """Wait until it listens, and make the bucket.

        Args:
            ask: What stands before a command that reaches the server; none where this process does.
        """
        deadline = time.monotonic() + 60
        while not self._made(ask):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no S3 server at {self.url}")
            time.sleep(0.1)

    def _made(self, ask: tuple[str, ...]) -> bool:
        url = f"{self.url}/{BUCKET}"
        if ask:
            code = (
                "import sys, urllib.request as u; "
                f"u.urlopen(u.Request({url!r}, method='PUT'), timeout=5)"
            )
            done = subprocess.run([*ask, sys.executable, "-c", code], capture_output=True)
            return done.returncode == 0
        try:
            urlopen(Request(url, method="PUT"), timeout=5).close()
        except (URLError, OSError):
            return False
        return True

    def environ(self) -> Mapping[str, str]:
        """The environment of a process that uses it."""
        return {**os.environ, **self.environment}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
