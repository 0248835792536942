"""Checks that interrupt a crawl in every way, and compare what it ends with.

``python -m tests.faults.kill --points 200`` and ``python -m tests.faults.notice --times 100``.
"""
