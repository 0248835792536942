"""Stand-ins for the network and the time of day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..clock import Clock
from ..fetching import MayFollow
from ..http.limits import Limits
from ..request import Request
from ..response import Response
from ..sessions import Session

Answer = str | bytes | Response | Exception
"""HTML, a whole response, or an error that is raised."""


class FakeFetcher:
    """A fetcher without a network: it answers from a dict.

    Where the dict has a list, its answers are given in turn, the last one from then on::

        FakeFetcher({
            "http://shop.example/": "<a href='/lamp'>A lamp</a>",
            "http://shop.example/lamp": [NetworkError("connection reset"), "<h1>A lamp</h1>"],
        })

    Args:
        answers: What is answered, by URL in canonical form. Other URLs get a 404.

    Attributes:
        requests: Every request that was made, in its order.
    """

    def __init__(self, answers: Mapping[str, Answer | Sequence[Answer]]) -> None:
        self.requests: list[Request] = []
        self._answers = {
            url: [answer] if isinstance(answer, str | bytes | Response | Exception) else [*answer]
            for url, answer in answers.items()
        }

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """The answer to `request`. Nothing redirects here, and no limit is met.

        Raises:
            Exception: The answer is an error.
        """
        self.requests.append(request)
        answers = self._answers.get(request.url)
        if not answers:
            return Response(url=request.url, status=404)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Response):
            return answer
        return Response(
            url=request.url,
            headers={"Content-Type": "text/html; charset=utf-8"},
            body=answer.encode() if isinstance(answer, str) else answer,
        )


class ManualClock(Clock):
    """A clock that stands still until it is told to go on.

    Args:
        start: The Unix time at which it stands first.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        super().__init__(wall=lambda: self._now, monotonic=lambda: self._now)

    def now(self) -> float:
        """Unix time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. A clock never goes back.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError("a clock never goes back")
        self._now += seconds
