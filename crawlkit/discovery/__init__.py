"""What a crawl begins with, and which links it follows: seeds, sitemaps, scope."""
