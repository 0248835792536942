"""The live page over a crawl or a run, and the report on one."""
