"""Politeness: what sites ask of crawlers, and how fast they are asked."""
