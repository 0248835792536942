"""Rendering: pages that a browser makes."""

from .fetcher import BrowserFetcher, RenderingFetcher

__all__ = ["BrowserFetcher", "RenderingFetcher"]
