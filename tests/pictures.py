"""The pictures of the terminal in the docs, from real crawls: ``python -m tests.pictures``."""

from __future__ import annotations

import io
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from crawlkit.testing.shop import ShopSite

from .pseudoterminal import Terminal, watch

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PORT = 8000
COLUMNS = 84

CRAWLER = f"""\
from crawlkit import Crawler, Page

class Shop(Crawler):
    start_urls = ["http://127.0.0.1:{PORT}/"]

    async def parse(self, page: Page) -> None:
        page.follow("nav a", handler=self.parse_category)

    async def parse_category(self, page: Page) -> None:
        page.follow("article h3 a", handler=self.parse_product)
        page.follow("li.next a", handler=self.parse_category)

    async def parse_product(self, page: Page) -> None:
        page.save({{"title": page.css("h1::text").get(), "sku": page.css(".sku::text").get()}})
        # offers

    async def parse_offer(self, page: Page) -> None:
        page.save({{"price": page.css(".price::text").get()}})
"""

OFFERS = 'page.follow(".offers a", handler=self.parse_offer)'

# As rich's own, but for the font: nothing is fetched from elsewhere.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    """Make them all."""
    with ShopSite(port=PORT, slow=False), tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        watch(["-m", "crawlkit", "new", "shop", "--url", f"http://127.0.0.1:{PORT}/"], cwd=work)
        write("terminal-show", crawl(work, "--max-pages 2 --show", rows=40)[-1])
        (work / "shop.py").write_text(CRAWLER)
        frames = crawl(work, "--fresh --yes --max-pages 100 --set delay=0.2", rows=6)
        going = [frame for frame in frames if " left" in frame.plain]
        write("terminal-run", going[len(going) // 2])
        (work / "shop.py").write_text(CRAWLER.replace("# offers", OFFERS))
        write("terminal-end", crawl(work, "--fresh --yes --log-level error", rows=12)[-1])


def crawl(work: Path, options: str, *, rows: int) -> list[Text]:
    """What the terminal showed while the crawl lasted, below the command."""
    frames = []

    def look(terminal: Terminal) -> bool:
        frames.append(picture_of(terminal.screen))
        return False

    words = [Path(sys.executable).with_name("crawlkit"), "run", "shop.py", *options.split()]
    terminal = watch(words, cwd=work, columns=COLUMNS, rows=rows, interrupt=look)
    assert terminal.code == 0, terminal.text
    look(terminal)
    command = Text(f"$ crawlkit run shop.py {options}\n".replace(" --yes", ""), style="bold")
    return [command + Text("\n").join(frame.split("\n")) for frame in frames]


def picture_of(screen: pyte.Screen) -> Text:
    """The screen with its colours, without empty lines at the end."""
    lines = []
    for row in range(screen.lines):
        line = Text()
        letters = [screen.buffer[row][column] for column in range(screen.columns)]
        for (colour, bold), alike in groupby(letters, lambda letter: (letter.fg, letter.bold)):
            style = Style(color=_COLOURS.get(colour, colour), bold=bold)
            line.append("".join(letter.data for letter in alike), style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return Text("\n").join(lines)


def write(name: str, text: Text) -> None:
    """Write one picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, highlight=False, no_wrap=True, overflow="crop")
    svg = console.export_svg(title="", code_format=FORMAT, unique_id="t")
    ElementTree.fromstring(svg)
    (IMAGES / f"{name}.svg").write_text(svg)
    print(f"{name}.svg: {len(svg):,} bytes")


_COLOURS = {"brown": "yellow", "default": "default"}


if __name__ == "__main__":
    main()
