"""In a real browser: the live page moves and steers, and no page's text becomes anything else."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
import pytest_asyncio

from crawlkit import Crawler, Page, Run, open_run
from crawlkit.dashboard.report import write_report
from crawlkit.dashboard.server import CrawlSource, Dashboard, RunSource
from crawlkit.rendering.browser import find_chromium
from crawlkit.testing import Site

from .test_steering import Pages, crawling, until

playwright = pytest.importorskip(
    "playwright.async_api", reason="needs Playwright: pip install 'crawlkit[browser]'"
)
if TYPE_CHECKING:
    from playwright.async_api import Browser
    from playwright.async_api import Page as Tab

# One browser for all of them, in one event loop: starting it takes seconds on a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("chromium")]

SIZES = [(390, 844), (1440, 900)]
GROUNDS: dict[Literal["light", "dark"], str] = {
    "light": "rgb(245, 247, 247)",
    "dark": "rgb(15, 21, 20)",
}
STATE = "document.getElementById('state').textContent"
VIEWS = ("overview", "errors", "requests", "items", "hosts")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with playwright.async_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        browser = await driver.chromium.launch(
            executable_path=find_chromium(None, own), chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[Tab]:
    """A tab, in which nothing may go wrong."""
    options = {"viewport": {"width": 1440, "height": 900}} | options
    context = await browser.new_context(**options)
    tab = await context.new_page()
    tab.set_default_timeout(60_000)
    wrong: list[str] = []
    tab.on("console", lambda said: wrong.append(said.text) if said.type != "log" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    await tab.goto(url)
    try:
        yield tab
        assert wrong == []
        assert len(context.pages) == 1
    except Exception as error:
        error.add_note(f"the page says {await tab.title()!r}; its console: {wrong}")
        raise
    finally:
        await context.close()


async def number(tab: Tab, tile: str) -> int:
    text = (
        await tab.locator(".tile", has=tab.get_by_text(tile, exact=True))
        .locator(".value")
        .inner_text()
    )
    return int(re.sub(r"\D", "", text) or 0)


async def becomes(tab: Tab, condition: str, arg: Any = None) -> None:
    """Wait for it by the clock, and not by frames: a busy machine may draw none for a minute."""
    await tab.wait_for_function(condition, arg=arg, polling=100)


async def state(tab: Tab, wanted: str) -> None:
    try:
        await becomes(tab, f"wanted => {STATE} === wanted", wanted)
    except Exception as error:
        error.add_note(f"it is {await tab.evaluate(STATE)}")
        raise


async def test_a_crawl_is_seen_moving_paused_continued_and_its_failures_tried_again(
    browser: Browser, site: Site
) -> None:
    paths = [f"/{n}" for n in range(3000)]
    site.add_page("/", links=paths)
    for path in paths:
        site.add_page(path, delay=0.2)  # it lasts longer than the slowest browser
    for path in paths[:4]:
        site.add_page(path, status=500)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    source = CrawlSource(crawler)
    async with (
        crawling(crawler),
        Dashboard(source) as page,
        opened(browser, page.url) as tab,
    ):
        await state(tab, "running")
        await becomes(
            tab, "() => Number(document.querySelectorAll('.tile .value')[1].textContent) > 5"
        )
        seen = await number(tab, "Done")
        await becomes(
            tab,
            "seen => Number(document.querySelectorAll('.tile .value')[1].textContent) > seen",
            arg=seen,
        )
        await becomes(tab, "() => document.querySelectorAll('.plot canvas').length === 4")

        await tab.get_by_role("button", name="Pause").click()
        await state(tab, "paused")
        assert crawler.is_paused
        await until(lambda: not crawler.queue.in_flight)
        hits = site.hits()

        await tab.get_by_role("link", name="Errors").click()
        group = tab.get_by_role("article", name="StatusError")
        await group.wait_for()
        assert "500" in await group.inner_text()
        for path in paths[:4]:
            site.add_page(path)
        await group.get_by_role("button", name="Try again").click()
        await tab.get_by_text("4 requests are back in the queue.").wait_for()
        assert site.hits() == hits

        await tab.get_by_role("button", name="More requests at once").click()
        await until(lambda: crawler.concurrency == 5)
        await tab.get_by_role("button", name="Go on").click()
        await state(tab, "running")
        await until(lambda: crawler.statistics.requests_failed == 0 and site.hits() > hits + 4)

        await tab.get_by_role("button", name="Save now").click()
        await tab.get_by_text("Everything is saved;").wait_for()
        await tab.get_by_role("button", name="Stop", exact=True).click()
        await tab.get_by_role("button", name="Let it run").click()
        assert not crawler.job.is_stopping
        await tab.get_by_role("button", name="Stop", exact=True).click()
        await tab.get_by_role("button", name="Stop it").click()
        await until(lambda: crawler.job.is_stopping)
        await tab.get_by_text("Stopping: what is in flight may finish").wait_for()
    source.close()


# -- hostile pages --------------------------------------------------------------------------------

EVIL = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<!--\u202e{{csrf}}'\"&amp;"
)


class Evil(Crawler):
    name = EVIL
    max_retries = 0
    obey_robots = False
    persist_interval = 0.05

    async def parse(self, page: Page) -> None:
        page.save({EVIL: EVIL, "url": "javascript:document.title='owned'", "html": page.text})
        page.follow("/fails", handler=self.fail)
        page.follow(f"/{EVIL}", handler=self.fail)

    async def fail(self, page: Page) -> None:
        raise RuntimeError(page.text)


async def evil_run(site: Site, path: Path) -> None:
    site.add_page("/", f"<title>{EVIL}</title>{EVIL}")
    site.add_page("/fails", EVIL)
    crawler = Evil(start_urls=[site.url("/")], store=path)
    crawler.on("requestFailed", lambda: crawler.statistics.error(ValueError(EVIL), EVIL, EVIL))
    await crawler.crawl()
    assert crawler.statistics.requests_failed


async def test_what_a_hostile_page_wrote_stays_text_on_the_live_page(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    await evil_run(site, tmp_path / "run")
    async with (
        Dashboard(RunSource(str(tmp_path / "run"))) as page,
        opened(browser, page.url) as tab,
    ):
        await state(tab, "finished")
        for view in VIEWS:
            await tab.evaluate("view => { location.hash = view }", view)
            if view in ("errors", "items"):
                await tab.get_by_text("onerror=").first.wait_for()
            if view == "requests":
                for outcome in ("handled", "failed"):
                    await tab.get_by_label("Outcome").select_option(outcome)
                    await tab.locator(".cards .tag").first.wait_for()
            assert await tab.title() != "owned"
            assert await tab.locator("main img, main script, [onerror]").count() == 0
            hrefs = await tab.eval_on_selector_all("a", "all => all.map(a => a.protocol)")
            assert set(hrefs) <= {"http:", "https:"}


async def test_what_a_hostile_page_wrote_stays_text_in_the_report(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    await evil_run(site, tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        write_report(run, tmp_path / "report.html")
    async with opened(browser, (tmp_path / "report.html").as_uri()) as tab:
        assert "owned" not in await tab.title()
        assert await tab.locator("img, script, [onerror]").count() == 0
        assert await tab.get_by_text("onerror=").count() > 2
        hrefs = await tab.eval_on_selector_all("a", "all => all.map(a => a.protocol)")
        assert set(hrefs) <= {"http:", "https:"}


async def test_a_saved_response_runs_nothing_and_loads_nothing(
    browser: Browser, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evil_run(site, tmp_path / "run")
    site.forget()
    loads = f"<img src={site.url('/x')}><link rel=stylesheet href={site.url('/x')}>"
    kept = SimpleNamespace(
        url=EVIL, status=200, headers=[], screenshot=None, is_cut=False, text=f"{loads}{EVIL}"
    )
    monkeypatch.setattr(Run, "specimen", lambda self, key: kept, raising=False)
    async with Dashboard(RunSource(str(tmp_path / "run"))) as page:
        context = await browser.new_context()
        tab = await context.new_page()
        for kind in ("page", "text"):
            await tab.goto(f"{page.url}specimen/any?as={kind}")
            assert await tab.title() != "owned"
            assert site.hits() == 0
            assert await tab.evaluate("window.origin") == ("null")
        await context.close()


async def test_another_site_cannot_steer_through_its_visitors_browser(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    site.add_page("/", links=["/slow"])
    site.add_page("/slow", delay=90)
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    source = CrawlSource(crawler)
    async with crawling(crawler), Dashboard(source) as page:
        target = f"{page.url}api/do/pause"
        async with Site() as elsewhere:
            elsewhere.add_page(
                "/",
                f"""<iframe name=f></iframe>
                <form id=form method=post target=f enctype=text/plain action={target}>
                <input name='{{"a":"' value='"}}'></form>
                <script>
                document.getElementById('form').submit();
                window.tried = Promise.allSettled([
                  fetch('{target}', {{method: 'POST', mode: 'no-cors', body: '{{}}'}}),
                  fetch('{target}', {{method: 'POST', headers: {{'X-CSRF-Token': 'x'}}}}),
                  fetch('{page.url}api/start'),
                ]).then(all => all.map(one => one.status));
                </script>""",
            )
            context = await browser.new_context()
            tab = await context.new_page()
            for host in ("127.0.0.1", "localhost"):  # another port, and another site
                await tab.goto(f"http://{host}:{elsewhere.port}/")
                # What was answered was a refusal, and no site may read any of it.
                tried = await tab.evaluate("window.tried")
                assert tried[1:] == ["rejected"] * 2
            await context.close()
        assert not crawler.is_paused
        crawler.job.stop(0.0)
    source.close()


async def test_the_token_is_given_once_and_the_page_works_from_then_on(
    browser: Browser, tmp_path: Path, site: Site
) -> None:
    site.add_page("/")
    await Pages(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    async with Dashboard(RunSource(str(tmp_path / "run")), "0.0.0.0:0") as page:
        port = int(page.url.partition("?")[0].rstrip("/").rpartition(":")[2])
        token = page.url.partition("?token=")[2]
        async with opened(browser, f"http://127.0.0.1:{port}/?token={token}") as tab:
            await state(tab, "finished")
            assert tab.url == f"http://127.0.0.1:{port}/"
            assert await tab.evaluate("document.cookie") == ""
            await tab.reload()
            await state(tab, "finished")


# -- for everyone ---------------------------------------------------------------------------------


async def test_the_page_fits_a_phone_and_a_desk_light_and_dark(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    await evil_run(site, tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        write_report(run, tmp_path / "report.html")
    async with (
        Dashboard(RunSource(str(tmp_path / "run"))) as page,
        opened(browser, page.url) as tab,
    ):
        await state(tab, "finished")
        await every_size(tab, VIEWS)
        await tab.goto((tmp_path / "report.html").as_uri())
        await every_size(tab, ("",))


async def every_size(tab: Tab, views: tuple[str, ...]) -> None:
    for view in views:
        await tab.evaluate("view => { location.hash = view }", view)
        await tab.locator("main > *").first.wait_for()
        for width, height in (*SIZES, (360, 640)):
            await tab.set_viewport_size({"width": width, "height": height})
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width, view
    for scheme, ground in GROUNDS.items():
        await tab.emulate_media(color_scheme=scheme)
        assert await tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground


async def test_everything_is_within_reach_of_the_keyboard(browser: Browser, site: Site) -> None:
    site.add_page("/", links=["/slow"])
    site.add_page("/slow", delay=90)
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    source = CrawlSource(crawler)
    async with (
        crawling(crawler),
        Dashboard(source) as page,
        opened(browser, page.url, reduced_motion="reduce") as tab,
    ):
        await state(tab, "running")
        names = []
        for _ in range(12):
            await tab.keyboard.press("Tab")
            names.append(
                await tab.evaluate(
                    "() => document.activeElement.getAttribute('aria-label') "
                    "?? (document.activeElement.labels?.[0] ?? document.activeElement).textContent"
                )
            )
            outline = await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", names[-1]
        assert [name.strip() for name in names] == [
            "Skip to the content",
            "Pause",
            "Save now",
            "Fewer requests at once",
            "At once",
            "More requests at once",
            "Stop",
            "Overview",
            "Errors",
            "Requests",
            "Items",
            "Hosts",
        ]
        await tab.locator("#pause").focus()
        await tab.keyboard.press("Enter")
        await state(tab, "paused")
        await tab.locator("#stop").focus()
        await tab.keyboard.press("Enter")
        await tab.get_by_role("dialog", name="Stop the crawl?").wait_for()
        await tab.keyboard.press("Escape")
        assert await tab.evaluate("document.activeElement.id") == "stop"
        assert not crawler.job.is_stopping
        unnamed = await tab.eval_on_selector_all(
            "button, input, select, [role=img], [role=region]",
            "all => all.filter(e => !e.getAttribute('aria-label') && !e.labels?.length "
            "&& !e.textContent.trim()).length",
        )
        assert unnamed == 0
        transition = await tab.evaluate(
            "getComputedStyle(document.querySelector('.progress span')).transitionDuration"
        )
        assert transition == "0s"
        crawler.job.stop(0.0)
    source.close()
