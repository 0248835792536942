"""Sources of events from outside."""
