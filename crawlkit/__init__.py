"""crawlkit: an asyncio crawler toolkit whose crawls cannot be lost."""

__version__ = "0.1.0"
