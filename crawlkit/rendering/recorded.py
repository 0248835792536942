"""RecordedFetcher: the browser, and what keeps the pages that it has made."""

from __future__ import annotations

from ..clock import Clock
from ..fetching import Fetcher, MayFollow
from ..http.limits import Limits
from ..http.recording import Document, Recorder
from ..request import Request
from ..response import Response
from ..sessions import Session


class RecordedFetcher(Fetcher):
    """A fetcher whose responses never were on the wire as they are, and are kept all the same.

    Args:
        fetcher: What makes them.
        recorder: What keeps them.
        clock: The run's clock.
    """

    def __init__(self, fetcher: Fetcher, recorder: Recorder, clock: Clock) -> None:
        self._fetcher = fetcher
        self._recorder = recorder
        self._clock = clock

    async def open(self) -> None:
        """Get ready."""
        await self._fetcher.open()

    async def close(self) -> None:
        """Give everything back."""
        await self._fetcher.close()

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """Fetch one request; see `Fetcher.fetch`."""
        at = self._clock.now()
        response = await self._fetcher.fetch(request, session, limits=limits, may_follow=may_follow)
        kind = response.headers.get("Content-Type", "application/octet-stream")
        await self._recorder.keep(Document(response.url, at, kind, response.body))
        return response
