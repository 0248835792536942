"""The crawler's own parts: what a request passes on its way, and what feeds and limits it."""
