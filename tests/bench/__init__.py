"""The benchmark: crawlkit beside other ways to crawl the same pages. Run ``python -m tests.bench``.

`workloads` says what is crawled, `servers` serves it, `peers` has one file for each contestant,
`measure` runs one of them in a process of its own, and `report` makes the table.
"""
