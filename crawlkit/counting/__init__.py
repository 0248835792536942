"""What statistics consist of: durations, errors in groups, lives, samples."""
