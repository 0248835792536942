"""``python -m crawlkit``: the same as ``crawlkit``."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main
    except KeyboardInterrupt:  # it takes a tenth of a second, in which one may think better of it
        sys.stderr.write("crawlkit: stopped\n")
        sys.exit(130)
    main(prog_name="python -m crawlkit")
