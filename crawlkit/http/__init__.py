"""HTTP: what stands between a request and the bytes of its response."""
