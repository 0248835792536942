"""Watching a crawl: metrics, traces, progress, and displays for notebooks."""
