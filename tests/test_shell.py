"""The shell: one page at a prompt, asked as the crawler asks, and harmless whatever is on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from crawlkit.cli import main
from crawlkit.testing import Site

from .pseudoterminal import watch
from .test_terminal import EVIL, only_prints

CRAWLER = """\
from crawlkit import Crawler

class Shop(Crawler):
    headers = {"X-Shop": "yes"}
    output = "items.jsonl"

    def on_start(self):
        self.prefix = "a "

    async def parse(self, page):
        page.follow("a", handler=self.parse_product)

    async def parse_product(self, page):
        page.save({"title": self.prefix + page.css("h1::text").get()})
"""


@pytest.fixture(autouse=True)
def pages(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    site.add_page("/", "<h1>Front</h1> <a href='/lamp'>Lamp</a> <a href='http://x.test/'>X</a>")
    site.add_page("/lamp", "<h1>Lamp</h1>")
    site.add_page("/evil", f"<h1>{EVIL}</h1>")
    return site


def shell(*words: object, **given: Any) -> Result:
    return CliRunner().invoke(main, ["shell", *map(str, words)], **given)


def told(*words: object, **given: Any) -> str:
    result = shell(*words, **given)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_code_is_run_on_the_page_and_its_value_printed(site: Site) -> None:
    assert told(site.url("/"), "-c", 'css("h1::text").get()') == "Front\n"
    assert json.loads(told(site.url("/"), "-c", 'xpath("//a/text()").getall()')) == ["Lamp", "X"]
    assert told(site.url("/"), "-c", "page") == f"<Page 200 {site.url('/')}>\n"
    assert told(site.url("/"), "-c", "page.text") == "".join(
        ["<h1>Front</h1> <a href='/lamp'>Lamp</a> <a href='http://x.test/'>X</a>", "\n"]
    )
    assert told(site.url("/"), "-c", "None") == ""


def test_code_that_comes_through_a_pipe_is_run_and_may_go_to_other_pages(site: Site) -> None:
    code = "print(response.status)\nfetch('/lamp')\nprint(css('h1::text').get(), request.url)\n"
    assert told(site.url("/"), input=code) == f"200\nLamp {site.url('/lamp')}\n"


def test_follow_tells_what_would_be_followed(site: Site) -> None:
    code = "[(r.url, r.handler, r.priority) for r in follow('a', priority=3)]"
    assert json.loads(told(site.url("/"), "-c", code)) == [
        [site.url("/lamp"), "parse", 3],
        ["http://x.test/", "parse", 3],
    ]


def test_a_status_that_is_a_failure_in_a_crawl_is_a_page_here(site: Site) -> None:
    assert told(site.url("/none"), "-c", "page.status") == "404\n"


def test_it_asks_as_the_crawler_does_and_tries_its_handlers(site: Site) -> None:
    Path("shop.py").write_text(CRAWLER)
    text = told(site.url("/"), "--crawler", "shop.py", "-c", "handle()")
    assert f"follow  1 link for parse_product\n    {site.url('/lamp')}\n" in text
    assert "skip    1 link by scope\n    http://x.test/\n" in text
    text = told(site.url("/lamp"), "--crawler", "shop.py", "-c", "handle('parse_product')")
    assert 'item\n    title  "a Lamp"\n' in text
    assert site.requests[-1].headers["X-Shop"] == "yes"
    assert [path.name for path in Path().iterdir() if path.suffix] == ["shop.py"]
    assert not Path("runs").exists()


def test_a_page_in_the_page_cache_is_not_fetched_again_unless_it_is_to_be(site: Site) -> None:
    told(site.url("/lamp"), "-c", "page")
    assert not Path("runs").exists()  # looking at a page leaves nothing behind
    Path("runs/.cache").mkdir(parents=True)
    for _ in range(3):
        assert told(site.url("/lamp"), "-c", "css('h1::text').get()") == "Lamp\n"
    assert site.hits("/lamp") == 2
    told(site.url("/lamp"), "--fresh", "-c", "page")
    assert site.hits("/lamp") == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["shop.example"], 2, "it has no scheme; begin it with https:// or http://"),
        (["http://127.0.0.1:9/"], 1, "no connection to 127.0.0.1:9"),
        (["SITE", "-c", "css('['"], 1, "the code fails: "),
        (["SITE", "-c", "1 +"], 1, "the code fails: SyntaxError"),
        (["SITE", "-c", "fetch('mailto:x')"], 2, "leads nowhere; give an http or https URL"),
        (["SITE", "-c", "handle('prase')"], 2, "has no handler 'prase'"),
        (["SITE", "--crawler", "shpo.py"], 2, "there is no file shpo.py"),
    ],
)
def test_what_goes_wrong_is_one_line(site: Site, words: list[str], code: int, message: str) -> None:
    result = shell(*(site.url("/") if word == "SITE" else word for word in words))
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert message in line


def test_a_prompt_has_the_page_and_no_page_steers_the_terminal(site: Site, tmp_path: Path) -> None:
    lines = [
        "css('h1::text').get()",
        "raise ValueError(page.text)",
        "fetch('mailto:x')",
        "fetch('/lamp')",
        "css('h1::text').get() * 2",
    ]
    terminal = watch(
        # Python's own prompt, also where IPython is installed.
        [
            "-c",
            "import sys; sys.modules['IPython'] = None; import crawlkit.cli as cli; cli.main()",
            "shell",
            site.url("/evil"),
        ],
        cwd=tmp_path,
        env={"TERM": "dumb"},
        type_in="".join(f"{line}\n" for line in [*lines, "exit()"]).encode(),
        timeout=20,
    )
    assert terminal.code == 0, terminal.raw
    assert f"200 {site.url('/evil')}  text/html" in terminal.text
    assert 'css("h1::text").get()' in terminal.text
    assert r"red\x1b[31m c1\x9b2J bidi\u202e" in terminal.text
    assert "'mailto:x' leads nowhere; give an http or https URL" in terminal.text
    assert "ValueError: <h1>red" in terminal.text
    assert "'LampLamp'" in terminal.text
    assert only_prints(terminal.text.replace("\r", ""))


def test_ipython_is_the_prompt_where_it_is_installed(site: Site, tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="needs IPython: pip install ipython")
    terminal = watch(
        ["-m", "crawlkit", "shell", site.url("/lamp")],
        cwd=tmp_path,
        env={"TERM": "dumb", "IPYTHONDIR": str(tmp_path / "ipython"), "PROMPT_TOOLKIT_NO_CPR": "1"},
        type_in=b"css('h1::text').get() * 2\nfetch('/')\npage.css('h1::text').get() * 2\nexit\n",
    )
    assert terminal.code == 0, terminal.raw
    assert "In [1]" in terminal.text
    assert "'LampLamp'" in terminal.text
    assert "'FrontFront'" in terminal.text


@pytest.mark.needs("chromium")
def test_a_page_can_be_made_by_a_browser(site: Site) -> None:
    pytest.importorskip("playwright", reason="needs Playwright: pip install 'crawlkit[browser]'")
    site.add_page("/made", "<script>document.title = 'made'</script>")
    assert told(site.url("/made"), "--render", "-c", "css('title::text').get()") == "made\n"
