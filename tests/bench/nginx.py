"""A real nginx on loopback that serves a directory, with nothing of its own outside of another."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS = 5
PATIENCE = 10.0
"""Seconds that nginx has to start, and to stop."""

CONFIG = """
{user}
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log;
worker_processes 1;
{affinity}
events {{ worker_connections 512; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    open_file_cache max=10000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        charset utf-8;
    }}
}}
"""


@contextmanager
def nginx(root: Path, home: Path, *, core: int | None = None) -> Iterator[str]:
    """Serve the files under `root` while the block runs; gives ``http://127.0.0.1:port``.

    Args:
        root: The directory to serve.
        home: An empty directory for nginx's own files.
        core: The core that nginx is to run on.

    Raises:
        RuntimeError: nginx did not start; the message is what it said.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed: apt-get install nginx")
    for _ in range(ATTEMPTS):
        port = _free_port()
        config = home / "nginx.conf"
        config.write_text(
            CONFIG.format(
                # Started by root, it would read the files as somebody else, who may not be let in.
                user="user root;" if os.getuid() == 0 else "",
                affinity="" if core is None else f"worker_cpu_affinity {1 << core:b};",
                home=home,
                port=port,
                root=root,
            )
        )
        log = home / "error.log"
        log.unlink(missing_ok=True)
        with open(home / "output", "w") as output:
            process = subprocess.Popen(
                [program, "-c", config, "-p", home, "-e", log], stdout=output, stderr=output
            )
        try:
            if _answers(port, process):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Somebody else may have taken the port in between; then the next one.
        if "Address already in use" not in log.read_text():
            break
    raise RuntimeError(f"nginx did not start: {(home / 'output').read_text().strip()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether nginx has come up; it has not if it ends or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            # It may be another server that answers there.
            return process.poll() is None
    return False
