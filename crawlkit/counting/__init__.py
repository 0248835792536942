"""What statistics consist of: counters, durations, errors in groups, lives, samples."""
