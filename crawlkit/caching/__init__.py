"""Caching: what the page cache is made of."""
