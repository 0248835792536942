"""In a notebook a crawl shows where it stands, in one display; elsewhere it shows nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crawlkit import Crawler, Page, open_run
from crawlkit.errors import UsageError
from crawlkit.observing.notebook import Panel, is_notebook
from crawlkit.testing import Site

CELL = """\
from crawlkit import Crawler

class Shop(Crawler):
    max_retries = 0
    async def parse(self, page):
        page.save({"title": page.css("title::text").get()})
        page.follow("a")

statistics = await Shop(start_urls=[%r], store=%r).crawl()
assert statistics.items_saved == 2
"""


class Titles(Crawler):
    name = "<b>shop</b>"

    async def parse(self, page: Page) -> None:
        raise RuntimeError("<script>alert(1)</script>\x1b[2J")


class Display:
    def __init__(self) -> None:
        self.panels: list[Panel] = []

    def display(self, panel: Panel, *, display_id: bool) -> Display:
        self.panels.append(panel)
        return self

    def update(self, panel: Panel) -> None:
        self.panels.append(panel)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    """As in the kernel of a notebook."""
    shown = Display()
    kernel = SimpleNamespace(kernel=object())
    fake: Any = SimpleNamespace(get_ipython=lambda: kernel, display=shown)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    return shown


async def test_it_says_what_came_of_the_crawl_and_what_pages_wrote_stays_text(
    display: Display, site: Site, tmp_path: Path
) -> None:
    site.add_page("/")
    await Titles(start_urls=[site.url("/")], store=tmp_path, max_retries=0).crawl()
    first, *_, last = display.panels
    assert "run it again" not in repr(last)
    assert repr(first) == "<b>shop</b>: starting"
    text = repr(last)
    assert ": 0 pages, 0 items, 1 failed, 0 pending" in text
    assert "most errors: 1 x RuntimeError: <script>" in text
    assert text.replace("\n", "").isprintable()
    html = last._repr_html_()
    assert "<script" not in html
    assert "&lt;b&gt;shop&lt;/b&gt;" in html


async def test_a_display_that_fails_does_not_fail_the_crawl(
    display: Display, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_page("/")

    def broken(panel: Panel) -> None:
        raise OSError("the notebook is closed")

    monkeypatch.setattr(display, "update", broken)
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path, max_retries=0)
    await crawler.crawl()
    assert crawler.exit_code == 0


def test_there_is_no_notebook_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not is_notebook()
    in_terminal: Any = SimpleNamespace(get_ipython=lambda: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", in_terminal)
    assert not is_notebook()


async def test_run_in_a_running_loop_says_what_to_write_instead() -> None:
    with pytest.raises(UsageError, match=r"write 'await Titles\(...\).crawl\(\)' instead of run"):
        Titles(store="memory:").run()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own libraries
def test_a_real_notebook_shows_one_display_that_ends_with_the_result(
    site: Site, tmp_path: Path
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs pip install nbclient ipykernel")
    from nbformat.v4 import new_code_cell, new_notebook

    site.add_page("/", links=["/slow"])
    site.add_page("/slow", delay=1.3)  # there is a status every second
    cell = new_code_cell(CELL % (site.url("/"), str(tmp_path / "run")))
    notebook = new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert "<b>shop</b><br>finished after" in output.data["text/html"]
    assert ": 2 pages, 2 items, 0 failed, 0 pending" in output.data["text/plain"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own libraries
def test_a_cell_that_is_interrupted_goes_on_when_it_is_run_again(
    site: Site, tmp_path: Path
) -> None:
    manager = pytest.importorskip("jupyter_client.manager", reason="needs pip install ipykernel")
    for number in range(30):
        site.add_page(f"/{number}", links=[f"/{number + 1}"], delay=0.05)
    site.add_page("/30")
    cell = CELL.replace("assert statistics.items_saved == 2", "print(statistics.lives)")
    cell = cell % (site.url("/0"), str(tmp_path / "run"))
    kernel, client = manager.start_new_kernel(kernel_name="python3")
    try:
        # A kernel turns down what it is sent right after an error, unless it is asked not to.
        asked = client.execute(cell, stop_on_error=False)
        deadline = time.monotonic() + 30
        while site.hits() < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kernel.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != asked:
            pass
        assert reply["content"]["status"] == "error"
        with open_run(tmp_path / "run") as run:
            first = run.statistics
        assert 0 < first.requests_finished < 31
        printed: list[str] = []
        reply = client.execute_interactive(
            cell,
            timeout=30,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
        assert reply["content"]["status"] == "ok"
        assert "2\n" in printed
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    with open_run(tmp_path / "run") as run:
        assert run.statistics.items_saved == 31
    assert site.hits() <= 31 + 16  # at most those that were in flight are fetched again
