"""Servers that give notice: a platform's websocket, and the metadata services of three clouds.

Each speaks the documented protocol and nothing else: what asks in a wrong way gets the error that
the real one gives. ``python -m tests.notices`` serves all of them; ``/-/announce`` makes them say
that the machine goes, ``/-/calm`` that it stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import WSMsgType, web

from crawlkit.testing import Site

MACHINE = "crawler-7"
"""The name of this machine, on Azure."""


class Notices(Site):
    """A platform and three clouds at one address.

    Attributes:
        left: Seconds that the machine has, once it is announced that it goes.
        messages: What the platform's websocket sends to whoever connects; each text once.
        mishap: Called with each websocket in place of sending `messages`.
        connections: How many websockets there were.
        token: The token of IMDSv2 that holds.
        tokens: How many were given out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.left = 60.0
        self.gone_at: float | None = None
        self.rebalance = False
        self.maintenance = "NONE"
        self.events: list[dict[str, Any]] | None = None
        self.messages: list[str] = []
        self.mishap: Callable[[web.WebSocketResponse], Any] | None = None
        self.connections = 0
        self.token = ""
        self.tokens = 0
        self._changed = asyncio.Event()

    def announce(self, left: float | None = None) -> None:
        """Say that the machine goes; call it in the site's own event loop, or through its URL."""
        self.gone_at = time.time() + (self.left if left is None else left)
        self._changed.set()

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/-/announce":
            self.announce(float(request.query.get("left", self.left)))
            return web.Response(text="announced")
        if path == "/-/calm":
            self.gone_at = None
            self._changed.clear()
            return web.Response(text="calm")
        if path == "/events":
            return await self._platform(request)
        if path.startswith("/latest/"):
            return self._aws(request)
        if path.startswith("/computeMetadata/"):
            return await self._gcp(request)
        if path.startswith("/metadata/"):
            return self._azure(request)
        return web.Response(status=404)

    # -- the platform -----------------------------------------------------------------------------

    async def _platform(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        if self.mishap is not None:
            await self.mishap(socket)
            return socket
        for message in self.messages:
            await socket.send_str(message)
        changed = asyncio.ensure_future(self._changed.wait())
        closed = asyncio.ensure_future(_closed(socket))
        await asyncio.wait({changed, closed}, return_when=asyncio.FIRST_COMPLETED)
        if self.gone_at is not None and not socket.closed:
            await socket.send_str(event("migrating", timeRemainingSecs=self.gone_at - time.time()))
        await asyncio.wait({closed})
        changed.cancel()
        return socket

    # -- AWS --------------------------------------------------------------------------------------

    def _aws(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/latest/api/token":
            if request.method != "PUT":
                return web.Response(status=405)
            ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                return web.Response(status=400)
            self.tokens += 1
            self.token = f"token-{self.tokens}=="
            return web.Response(text=self.token)
        if not self.token or request.headers.get("X-aws-ec2-metadata-token") != self.token:
            return web.Response(status=401)
        if request.path == "/latest/meta-data/spot/instance-action" and self.gone_at is not None:
            at = datetime.fromtimestamp(self.gone_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return web.json_response({"action": "terminate", "time": at})
        if request.path == "/latest/meta-data/events/recommendations/rebalance" and self.rebalance:
            return web.json_response({"noticeTime": "2026-01-01T00:00:00Z"})
        return web.Response(status=404)

    # -- Google Cloud -----------------------------------------------------------------------------

    async def _gcp(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403)
        name = request.path.removeprefix("/computeMetadata/v1/instance/")
        if name not in ("preempted", "maintenance-event"):
            return web.Response(status=404, headers={"Metadata-Flavor": "Google"})
        if request.query.get("wait_for_change") == "true":
            end = time.monotonic() + float(request.query.get("timeout_sec", 3600))
            while request.query.get("last_etag") == _etag(self._gcp_value(name)):
                if time.monotonic() > end:
                    break
                await asyncio.sleep(0.01)
        value = self._gcp_value(name)
        headers = {"Metadata-Flavor": "Google", "ETag": _etag(value)}
        return web.Response(text=value, headers=headers)

    def _gcp_value(self, name: str) -> str:
        if name == "preempted":
            return "FALSE" if self.gone_at is None else "TRUE"
        return self.maintenance

    # -- Azure ------------------------------------------------------------------------------------

    def _azure(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Metadata") != "true":
            return web.Response(status=400)
        if request.path == "/metadata/instance/compute/name":
            return web.Response(text=MACHINE)
        if request.path != "/metadata/scheduledevents":
            return web.Response(status=404)
        if request.query.get("api-version") != "2020-07-01":
            return web.Response(status=400)
        events = self.events
        if events is None:
            events = [] if self.gone_at is None else [scheduled("Preempt", self.gone_at)]
        return web.json_response({"DocumentIncarnation": 1, "Events": events})


def scheduled(kind: str, at: float | None, *machines: str) -> dict[str, Any]:
    """A scheduled event of Azure."""
    when = "" if at is None else format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)
    return {
        "EventId": "f020ba2e-3bc0-4c40-a10b-86575a9eabd5",
        "EventStatus": "Started" if at is None else "Scheduled",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": list(machines or (MACHINE,)),
        "NotBefore": when,
        "Description": "Virtual machine is going away",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
    }


def event(name: str, **data: Any) -> str:
    """A message of the platform."""
    return json.dumps({"name": name, "createdAt": "2026-01-01T00:00:00.000Z", "data": data})


def _etag(value: str) -> str:
    return f"{sum(value.encode()):016x}"


async def _closed(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type == WSMsgType.ERROR:
            break


async def _serve(host: str) -> None:
    async with Notices(host=host) as notices:
        print(notices.url("").rstrip("/"), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.notices", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    asyncio.run(_serve(parser.parse_args().host))


if __name__ == "__main__":
    main()
