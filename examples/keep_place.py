"""A plain asyncio program that keeps its place. There is no crawler in it, only a `Job`.

    python examples/keep_place.py README.md

It counts the words of a file, slowly, a line at a time. Stop it with Ctrl-C, SIGTERM or kill -9
and start it again: it goes on at its line, and no line is counted twice or left out.
"""

import asyncio
import logging
import sys
from pathlib import Path

from crawlkit import Job


async def count_words(lines: list[str]) -> None:
    async with Job("runs/keep_place") as job:
        place = job.state.setdefault("place", 0)
        print(f"from line {place + 1} of {len(lines)}")
        for line in lines[place:]:
            if job.is_stopping:
                break  # leaving the block saves everything and exits with 75: start me again
            await asyncio.sleep(0.05)  # here a real program would fetch, convert, upload ...
            # Two changes and no `await` in between: a checkpoint has both of them, or neither.
            job.state["words"] = job.state.get("words", 0) + len(line.split())
            job.state["place"] += 1
    print(f"{job.state['words']} words in {len(lines)} lines")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(count_words(Path(sys.argv[1]).read_text().splitlines()))
