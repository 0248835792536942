"""Several processes on one run of the embedded store."""
