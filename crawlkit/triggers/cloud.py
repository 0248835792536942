"""Cloud: the preemption notices of AWS, Google Cloud and Azure.

Each is a small poller of the metadata service that a virtual machine has at a fixed address.

- *AWS*: a spot instance is given notice two minutes before it is interrupted, in
  ``/latest/meta-data/spot/instance-action``; a rebalance recommendation may come earlier. The
  session token of IMDSv2 is used.
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
- *Google Cloud*: ``preempted`` says that a spot machine goes within 30 seconds, and
  ``maintenance-event`` that the host is to be maintained and the machine ended for it. Both are
  waited for with ``wait_for_change``.
  https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
- *Azure*: scheduled events, of which Preempt, Terminate, Reboot and Redeploy end the process.
  https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, NamedTuple

import aiohttp
import msgspec

from ..errors import one_line, printable
from .base import Preemption, Watched

log = logging.getLogger("crawlkit.triggers")

LEAD = 120.0
"""Seconds before the end at which a job is told to go: there is no use in stopping a quarter of an
hour early, only to be started again on the same machine."""
TIMEOUT = 5.0
"""Seconds for an answer; the metadata service is on the same host."""
MAX_ANSWER = 2**18
MOST_REST = 5.0
"""Seconds between two questions to a metadata service that does not answer."""


class Notice(NamedTuple):
    """That the machine is about to go.

    Attributes:
        what: What was announced, for the log.
        at: The Unix time at which it goes, where that is known.
    """

    what: str
    at: float | None = None


class Cloud(ABC):
    """Asks a metadata service whether this machine is about to go.

    Args:
        base: The service's address, where it is not the usual one.
        interval: Seconds between two questions.
        lead: Seconds before the end at which the job is told.
    """

    name: ClassVar[str]
    usual: ClassVar[str]
    paths: tuple[str, ...]

    def __init__(
        self, base: str | None = None, *, interval: float = 2.0, lead: float = LEAD
    ) -> None:
        self._base = (base or self.usual).rstrip("/")
        self._interval = interval
        self._lead = lead
        self._is_silent = False

    async def watch(self, job: Watched) -> None:
        """Ask until there is a notice, and tell `job` of it."""
        # No proxy and no redirect: the address is the machine's own.
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False
        ) as client:
            questions = [asyncio.create_task(self._ask(client, path)) for path in self.paths]
            try:
                done, _ = await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
                notice = done.pop().result()
            finally:
                for question in questions:
                    question.cancel()
        left = None if notice.at is None else max(0.0, notice.at - time.time())
        log.info(
            "%s takes this machine away (%s%s): finishing what runs, then saving",
            self.name,
            printable(notice.what),
            "" if left is None else f", in {left:.0f} s",
        )
        await job.migrate(left)

    async def _ask(self, client: aiohttp.ClientSession, path: str) -> Notice:
        rest = self._interval
        while True:
            try:
                notice = await self.look(client, path)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
                if not self._is_silent:
                    log.warning(
                        "%s's metadata service at %s gives no answer: %s; the crawl goes on, and "
                        "it is asked again",
                        self.name,
                        self._base,
                        one_line(error),
                    )
                    self._is_silent = True
                rest = min(2 * rest, MOST_REST)
            else:
                self._is_silent, rest = False, self._interval
                if notice is not None:
                    early = 0.0 if notice.at is None else notice.at - time.time() - self._lead
                    if early <= 0:
                        return notice
                    rest = min(rest, early)
            await asyncio.sleep(rest)

    @abstractmethod
    async def look(self, client: aiohttp.ClientSession, path: str) -> Notice | None:
        """Ask once; the notice, if there is one.

        Raises:
            ClientError, OSError, TimeoutError, ValueError, KeyError: There is no answer that can
                be understood.
        """

    async def get(
        self,
        client: aiohttp.ClientSession,
        path: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        timeout: float = TIMEOUT,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer, which may not be long."""
        async with client.request(
            method,
            f"{self._base}{path}",
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            body = b""
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise ValueError(f"more than {MAX_ANSWER} bytes")
            return response.status, response.headers, body


class Aws(Cloud):
    """Interruptions of AWS spot instances.

    Args:
        base: The metadata service's address, where it is not the usual one.
        rebalance: Whether to go already when AWS recommends it, which says that an interruption
            is likely.
        interval: Seconds between two questions.
        lead: Seconds before the end at which the job is told.
    """

    name = "AWS"
    usual = "http://169.254.169.254"

    ACTION = "/latest/meta-data/spot/instance-action"
    REBALANCE = "/latest/meta-data/events/recommendations/rebalance"

    def __init__(
        self,
        base: str | None = None,
        *,
        rebalance: bool = False,
        interval: float = 2.0,
        lead: float = LEAD,
    ) -> None:
        super().__init__(base, interval=interval, lead=lead)
        self.paths = (self.ACTION, self.REBALANCE) if rebalance else (self.ACTION,)
        self._token = ""
        self._tokens = asyncio.Lock()

    async def look(self, client: aiohttp.ClientSession, path: str) -> Notice | None:
        """404 says that all is well; 401 that the token is none any more."""
        for _ in range(2):
            token = await self._new_token(client)
            status, _, body = await self.get(client, path, {"X-aws-ec2-metadata-token": token})
            if status != 401:
                break
            self._token = ""
        if status == 404:
            return None
        if status != 200:
            raise ValueError(f"HTTP {status}")
        answer = _object(body)
        if path == self.REBALANCE:
            return Notice("rebalance recommendation")
        return Notice(f"spot instance {answer['action']}", _iso(str(answer["time"])))

    async def _new_token(self, client: aiohttp.ClientSession) -> str:
        async with self._tokens:
            if not self._token:
                status, _, body = await self.get(
                    client,
                    "/latest/api/token",
                    {"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
                    method="PUT",
                )
                if status != 200:
                    raise ValueError(f"HTTP {status} instead of a token")
                self._token = body.decode("ascii").strip()
            return self._token


class Gcp(Cloud):
    """Preemption and maintenance on Google Cloud."""

    name = "Google Cloud"
    usual = "http://metadata.google.internal"

    PREEMPTED = "/computeMetadata/v1/instance/preempted"
    MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"
    paths = (PREEMPTED, MAINTENANCE)

    WAIT = 60
    """Seconds after which a question is answered, change or no change."""
    LEFT = 30.0
    """Seconds that a preempted machine has."""

    def __init__(
        self, base: str | None = None, *, interval: float = 0.2, lead: float = LEAD
    ) -> None:
        # The service itself waits; this is for one that does not.
        super().__init__(base, interval=interval, lead=lead)
        self._etags: dict[str, str] = {}

    async def look(self, client: aiohttp.ClientSession, path: str) -> Notice | None:
        """The first answer is there at once; the next comes with a change."""
        etag = self._etags.get(path)
        query = f"?wait_for_change=true&timeout_sec={self.WAIT}&last_etag={etag}" if etag else ""
        status, headers, body = await self.get(
            client,
            path + query,
            {"Metadata-Flavor": "Google"},
            timeout=TIMEOUT + (self.WAIT if etag else 0),
        )
        if status != 200:
            raise ValueError(f"HTTP {status}")
        if headers.get("Metadata-Flavor") != "Google":
            raise ValueError("whoever answers there is not Google's metadata service")
        etag = headers.get("ETag", "").strip('"')
        self._etags[path] = etag if etag.isalnum() else ""
        value = body.decode("ascii", "replace").strip()
        if path == self.PREEMPTED and value == "TRUE":
            return Notice("preempted", time.time() + self.LEFT)
        if path == self.MAINTENANCE and value == "TERMINATE_ON_HOST_MAINTENANCE":
            return Notice("host maintenance")
        return None  # also for MIGRATE_ON_HOST_MAINTENANCE, which processes do not notice


class Azure(Cloud):
    """Scheduled events of Azure."""

    name = "Azure"
    usual = "http://169.254.169.254"

    EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    paths = (EVENTS,)

    ENDS = ("Preempt", "Terminate", "Reboot", "Redeploy")
    """Events that end the process; a Freeze of some seconds does not."""

    def __init__(
        self, base: str | None = None, *, interval: float = 2.0, lead: float = LEAD
    ) -> None:
        super().__init__(base, interval=interval, lead=lead)
        self._own_name: str | None = None

    async def look(self, client: aiohttp.ClientSession, path: str) -> Notice | None:
        """The events of all machines of a set come to each of them; ours have our name."""
        if self._own_name is None:
            status, _, body = await self.get(client, self.NAME, {"Metadata": "true"})
            self._own_name = body.decode("utf-8", "replace").strip() if status == 200 else ""
        status, _, body = await self.get(client, path, {"Metadata": "true"})
        if status != 200:
            raise ValueError(f"HTTP {status}")
        notices = [
            Notice(event["EventType"], _not_before(event))
            for event in _objects(_object(body).get("Events", []))
            if event.get("EventType") in self.ENDS and self._is_ours(event)
        ]
        return min(notices, key=lambda notice: notice.at or 0.0, default=None)

    def _is_ours(self, event: Mapping[str, Any]) -> bool:
        names = event.get("Resources")
        return not self._own_name or not isinstance(names, list) or self._own_name in names


def cloud(preemption: Preemption, base: str | None = None) -> Cloud:
    """What listens to the notices of a cloud."""
    match preemption:
        case "aws" | "aws-rebalance":
            return Aws(base, rebalance=preemption == "aws-rebalance")
        case "gcp":
            return Gcp(base)
        case "azure":
            return Azure(base)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _iso(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _not_before(event: Mapping[str, Any]) -> float | None:
    """When an event may begin; `None` where it has begun, as the text is empty then."""
    text = event.get("NotBefore")
    return parsedate_to_datetime(text).timestamp() if isinstance(text, str) and text else None
