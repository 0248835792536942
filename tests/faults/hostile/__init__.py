"""The table of hostile and broken servers: ``python -m tests.faults.hostile`` plays all of it."""
