"""The site of the docs: the shop, and what the how-to guides need besides it.

A login with a token in its form, pages behind it, a list by page numbers, an API by page and one by
cursor, a sitemap. What they say follows from the shop's products.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from crawlkit.testing.shop import ShopSite

USER, PASSWORD, TOKEN = "me", "secret", "t0ken"
SESSION = "shop_session=42"
PER_PAGE = 25


class DocsSite(ShopSite):
    """The shop of `crawlkit.testing.shop`, and more."""

    def __init__(self) -> None:
        super().__init__(slow=False)
        self._add_account()
        self._add_lists()
        self._add_sitemap()
        self._add_files()

    # -- behind a login -------------------------------------------------------------------------

    def _add_account(self) -> None:
        self.add_page("/login", self._login)
        self.add_page("/account", self._behind_login(self._account))
        for number in range(1, 6):
            self.add_page(
                f"/account/order/{number}",
                self._behind_login(lambda number=number: f"<h1>Order {number}</h1>"),
            )

    async def _login(self, request: web.BaseRequest) -> Any:
        if request.method == "POST":
            form = {name: values[0] for name, values in parse_qs(await request.text()).items()}
            if form == {"user": USER, "password": PASSWORD, "token": TOKEN}:
                headers = {"Location": "/account", "Set-Cookie": f"{SESSION}; Path=/"}
                return web.Response(status=302, headers=headers)
        return (
            f'<h1>Log in</h1><form method=post><input type=hidden name=token value="{TOKEN}">'
            '<input name=user><input name=password type=password></form><p class="login">please</p>'
        )

    def _behind_login(self, content: Any) -> Any:
        def answer(request: web.BaseRequest) -> Any:
            if SESSION in request.headers.get("Cookie", ""):
                return content()
            return web.Response(status=302, headers={"Location": "/login"})

        return answer

    def _account(self) -> str:
        orders = "".join(f'<li><a href="/account/order/{n}">Order {n}</a>' for n in range(1, 6))
        return f'<h1>Your account</h1><ul class="orders">{orders}</ul>'

    # -- lists ----------------------------------------------------------------------------------

    def _add_lists(self) -> None:
        pages = -(-len(self.products) // PER_PAGE)
        for page in range(1, pages + 1):
            shown = self.products[(page - 1) * PER_PAGE : page * PER_PAGE]
            rows = "".join(f'<li><a href="{product.path}">{product.title}</a>' for product in shown)
            more = f"<p>Page <b>{page}</b> of <b class=pages>{pages}</b></p>"
            self.add_page(f"/all?page={page}", f"<h1>All</h1><ul class=all>{rows}</ul>{more}")
            data: dict[str, Any] = {
                "products": [{"title": one.title, "sku": one.sku} for one in shown],
                "next": page + 1 if page < pages else None,
            }
            self.add_page(f"/api/products?page={page}", _json(data))
        self.add_page("/api/search", self._search)
        for product in self.products:
            data = {"sku": product.sku, "title": product.title, "maker": product.maker}
            self.add_page(f"/api/product/{product.sku}", _json(data))

    async def _search(self, request: web.BaseRequest) -> Any:
        start = int(json.loads(await request.text() or "{}").get("cursor") or 0)
        shown = self.products[start : start + PER_PAGE]
        more = start + PER_PAGE if start + PER_PAGE < len(self.products) else None
        return _json({"results": [one.sku for one in shown], "cursor": more})()

    def _add_sitemap(self) -> None:
        entries = "".join(
            f"<url><loc>{product.path}</loc>"
            f"<lastmod>{'2026-11-20' if product.number % 10 == 0 else '2025-01-01'}</lastmod></url>"
            for product in self.products
        )
        namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
        sitemap = f'<urlset xmlns="{namespace}">{entries}<url><loc>/</loc></url></urlset>'
        self.add_page("/sitemap.xml", sitemap, headers={"Content-Type": "application/xml"})

    def _add_files(self) -> None:
        numbers = range(1, 4)
        links = "".join(f'<li><a class=manual href="/manuals/{n}.pdf">{n}</a>' for n in numbers)
        self.add_page("/manuals", f"<h1>Manuals</h1><ul>{links}</ul>")
        for n in numbers:
            headers = {"Content-Type": "application/pdf"}
            self.add_page(
                f"/manuals/{n}.pdf", b"%PDF-1.4\n" + bytes(range(256)) * n, headers=headers
            )


def _json(data: Any) -> Any:
    return lambda request=None: web.json_response(data)
