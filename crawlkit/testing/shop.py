"""A small shop on loopback: what the quickstart crawls, and a rewarding site for tests.

Twelve categories of one to three pages, 120 products, and almost 400 offers of sellers. An offer
names its product only by a link, so that the offers of one product share its data. As in life, some
pages are slow, some fail once or twice before they work, and a few are broken for good.

``python -m crawlkit.testing.shop`` serves it alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from .site import Site, serve, simple_page

_CATALOGUE = {
    "Lamps": "reading lamp,desk lamp,floor lamp,pendant,lantern,night light,wall lamp",
    "Chairs": "armchair,stool,rocking chair,desk chair,bench,folding chair,deck chair,footstool",
    "Tables": "writing desk,side table,dining table,workbench,tea table,trestle table,console",
    "Shelves": "bookcase,wall shelf,magazine rack,plant stand,shoe rack,ladder shelf,cabinet",
    "Rugs": "wool rug,runner,door mat,bath mat,round rug,kilim,picnic blanket,play mat",
    "Kettles": "kettle,whistling kettle,gooseneck kettle,travel kettle,teapot,coffee pot,moka pot",
    "Knives": "paring knife,bread knife,chef's knife,oyster knife,peeler,cleaver,herb scissors",
    "Pans": "frying pan,saucepan,wok,casserole,griddle,milk pan,roasting tin,steamer",
    "Notebooks": "notebook,sketchbook,diary,address book,music book,logbook,index cards",
    "Pens": "fountain pen,ballpoint,pencil set,brush pen,marker set,drafting pencil,ink bottle",
    "Bags": "rucksack,tote bag,satchel,bicycle bag,toiletry bag,lunch bag,laptop sleeve",
    "Garden": "trowel,watering can,pruning shears,bird feeder,seed box,hand fork,garden twine",
}
_MAKERS = "Alder Birch Cray Dover Elm Fenwick Garnet Hollin Ivory Juniper Kestrel Linden"
_MATERIALS = "oak steel brass linen slate ash copper cork enamel leather walnut glass"
_SELLERS = (
    "Harbour Street Stores,Old Mill Trading,Nine Elms Supply,Corner & Co.,The Second Shelf,"
    "Rook Lane,Northgate Home,Tinker & Daughters,Saltmarsh Goods,Well Kept"
)
_CONDITIONS = ("new", "new", "new", "used", "refurbished")
_ON_A_PAGE = 5

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
nav ul, ul.products { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem; }
article { border: 1px solid #ddd; border-radius: 8px; padding: 1rem; }
.price { font-weight: bold; } footer { color: #777; margin-top: 3rem; }
"""


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the shop."""

    number: int
    category: str
    title: str
    maker: str
    material: str

    @property
    def sku(self) -> str:
        """The article number."""
        return f"FF-{self.number:04}"

    @property
    def path(self) -> str:
        """Where its page is."""
        return f"/product/{self.number}-{_slug(self.title)}"


@dataclass(frozen=True, slots=True)
class Offer:
    """What one seller asks for one product."""

    number: int
    product: Product
    seller: str
    condition: str
    cents: int
    days: int

    @property
    def price(self) -> str:
        """The price in euros, as it stands on the page."""
        return f"{self.cents // 100}.{self.cents % 100:02}"

    @property
    def path(self) -> str:
        """Where its page is."""
        return f"/offer/{self.number}"


class ShopSite(Site):
    """The shop. It is the same shop each time: products, prices and faults follow from `seed`.

    Args:
        port: Port to listen on; 0 takes a free one.
        slow: Whether some pages take their time (0.2 to 1 s).
        faults: Whether some pages fail once or twice, and a few for good.
        seed: Another shop for another number.
        log: Whether `requests` keeps every request.

    Attributes:
        products: Every product.
        offers: Every offer, those whose page is broken for good included.
        broken: Paths of the pages that never work.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        slow: bool = True,
        faults: bool = True,
        seed: int = 1,
        log: bool = True,
    ) -> None:
        super().__init__(port=port, log=log)
        chance = random.Random(seed)
        self.products = list(_products(chance))
        self.offers = list(_offers(chance, self.products))
        self.broken: set[str] = set()
        self._add_front()
        for product in self.products:
            self.add_page(product.path, self._product(product))
        for offer in self.offers:
            self.add_page(offer.path, _offer(offer))
        self._add_trouble(chance, slow=slow, faults=faults)

    @property
    def offers_to_find(self) -> list[Offer]:
        """The offers that a crawl finds: those whose page works, at the latest at the third try."""
        return [offer for offer in self.offers if offer.path not in self.broken]

    def _add_front(self) -> None:
        self.add_page("/style.css", _STYLE, headers={"Content-Type": "text/css"})
        welcome = "<p>Good things for the house, from people who use them.</p>"
        self.add_page("/", _layout("Fern &amp; Finch", welcome))
        for category in _CATALOGUE:
            products = [p for p in self.products if p.category == category]
            pages = range(1, (len(products) - 1) // _ON_A_PAGE + 2)
            for page in pages:
                shown = products[(page - 1) * _ON_A_PAGE : page * _ON_A_PAGE]
                html = _category(category, shown, page, last=page == pages[-1])
                self.add_page(_category_path(category, page), html)

    def _product(self, product: Product) -> str:
        offers = [offer for offer in self.offers if offer.product is product]
        rows = "\n".join(
            f'<li><a href="{offer.path}">{escape(offer.seller)}</a> '
            f'<span class="price">€ {offer.price}</span></li>'
            for offer in offers
        )
        return _layout(
            escape(product.title),
            f'<ol class="breadcrumb"><li>Home</li><li>{product.category}</li></ol>\n'
            f'<dl>\n<dt>Maker</dt><dd class="maker">{product.maker}</dd>\n'
            f'<dt>Material</dt><dd class="material">{product.material}</dd>\n'
            f'<dt>Article number</dt><dd class="sku">{product.sku}</dd>\n</dl>\n'
            f'<h2>{len(offers)} offers</h2>\n<ul class="offers">\n{rows}\n</ul>',
        )

    def _add_trouble(self, chance: random.Random, *, slow: bool, faults: bool) -> None:
        troubled = chance.sample(self.offers, 60)
        for offer in troubled[:36]:
            self._change(offer, delay=chance.uniform(0.2, 1.0) if slow else 0.0)
        if not faults:
            return
        for offer in troubled[36:48]:
            self._change(offer, fail_times=1)
        for offer in troubled[48:54]:
            self._change(offer, fail_times=2)
        for offer in troubled[54:56]:
            self._change(offer, fail_times=1, fail_status=503, retry_after=1)
        for offer in troubled[56:59]:
            self._break(offer, 404, "This offer is no longer there")
        self._break(troubled[59], 500, "Something went wrong on our side")

    def _change(self, offer: Offer, **trouble: Any) -> None:
        self.add_page(offer.path, _offer(offer), **trouble)

    def _break(self, offer: Offer, status: int, message: str) -> None:
        self.broken.add(offer.path)
        self.add_page(offer.path, simple_page(message, ()), status=status)


def _products(chance: random.Random) -> Iterator[Product]:
    number = 0
    for index, (category, names) in enumerate(_CATALOGUE.items()):
        made = [(maker, name) for maker in _MAKERS.split() for name in names.split(",")]
        # Between 7 and 13 of a category, so that some have two pages and some three; 120 in all.
        for maker, name in chance.sample(made, 10 + (-1) ** index * (index // 2 % 4)):
            number += 1
            yield Product(
                number, category, f"{maker} {name}", maker, chance.choice(_MATERIALS.split())
            )


def _offers(chance: random.Random, products: list[Product]) -> Iterator[Offer]:
    number = 1000
    for product in products:
        cents = chance.randrange(900, 24_000)
        for seller in chance.sample(_SELLERS.split(","), chance.choice((2, 3, 3, 3, 4, 5))):
            number += 1
            asked = cents * chance.randrange(80, 125) // 100
            condition, days = chance.choice(_CONDITIONS), chance.randrange(1, 9)
            yield Offer(number, product, seller, condition, asked, days)


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def _category_path(category: str, page: int) -> str:
    path = f"/category/{category.lower()}"
    return path if page == 1 else f"{path}?page={page}"


def _category(category: str, products: list[Product], page: int, *, last: bool) -> str:
    cards = "\n".join(
        f'<li><article><h3><a href="{product.path}">{escape(product.title)}</a></h3>'
        f"<p>{product.material}, by {product.maker}</p></article></li>"
        for product in products
    )
    pager = ""
    if page > 1:
        pager += (
            f'<li class="previous"><a href="{_category_path(category, page - 1)}">back</a></li>'
        )
    if not last:
        pager += f'<li class="next"><a href="{_category_path(category, page + 1)}">more</a></li>'
    return _layout(
        category, f'<ul class="products">\n{cards}\n</ul>\n<ul class="pager">{pager}</ul>'
    )


def _offer(offer: Offer) -> str:
    return _layout(
        f"Offer {offer.number}",
        f'<p>For the <a class="product" href="{offer.product.path}">product {offer.product.sku}</a>'
        f'</p>\n<dl>\n<dt>Seller</dt><dd class="seller">{escape(offer.seller)}</dd>\n'
        f'<dt>Condition</dt><dd class="condition">{offer.condition}</dd>\n'
        f'<dt>Price</dt><dd class="price">€ {offer.price}</dd>\n'
        f'<dt>Delivery</dt><dd class="delivery">{offer.days} days</dd>\n</dl>',
    )


def _layout(title: str, main: str) -> str:
    """A whole page; `title` and `main` are HTML."""
    categories = "\n".join(
        f'<li><a href="{_category_path(category, 1)}">{category}</a></li>'
        for category in _CATALOGUE
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} - Fern &amp; Finch</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><a href="/">Fern &amp; Finch</a></header>
<nav><ul>
{categories}
</ul></nav>
<main>
<h1>{title}</h1>
{main}
</main>
<footer>Fern &amp; Finch is a shop that crawlkit serves to itself. Nothing is for sale.</footer>
</body>
</html>
"""


def main() -> None:
    """Serve the shop in this process until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m crawlkit.testing.shop",
        description="Serve a small shop on loopback and print its URL.",
    )
    parser.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    parser.add_argument("--calm", action="store_true", help="no slow and no failing pages")
    chosen = parser.parse_args()
    shop = ShopSite(port=chosen.port, slow=not chosen.calm, faults=not chosen.calm, log=False)
    serve(shop)


if __name__ == "__main__":
    main()
