"""``python -m crawlkit.testing --pages 20000``: the generated site, served until it is stopped."""

from __future__ import annotations

import argparse

from .generated import generated_site
from .site import serve


def main() -> None:
    """Serve a generated site in this process."""
    parser = argparse.ArgumentParser(
        prog="python -m crawlkit.testing",
        description="Serve a site of generated pages on loopback and print its URL.",
    )
    parser.add_argument("--pages", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--links", type=int, default=20, help="links on a page (default 20)")
    parser.add_argument("--size", type=int, default=10_000, help="bytes of a page (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="other links and prices (default 0)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    serve(generated_site(**vars(parser.parse_args()), log=False))


if __name__ == "__main__":
    main()
