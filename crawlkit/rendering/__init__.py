"""Rendering: pages that a browser makes."""
