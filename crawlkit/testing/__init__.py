"""What tests of a crawler need: sites on loopback, a store that fails, a network that is not there.

`handle` runs a handler over a saved page. `Site` serves a few pages, `generated_site` any number
of them, and `crawlkit.testing.shop` holds a whole small shop. `FaultyStore` fails when it is told
to. `FakeFetcher` answers from a dict, and `ManualClock` stands still until it is moved.
"""

from .fakes import FakeFetcher, ManualClock
from .faults import FaultyStore
from .generated import expected_items, generated_site
from .handling import Handled, handle
from .site import Hit, Site

__all__ = [
    "FakeFetcher",
    "FaultyStore",
    "Handled",
    "Hit",
    "ManualClock",
    "Site",
    "expected_items",
    "generated_site",
    "handle",
]
