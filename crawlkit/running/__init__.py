"""What a job is made of."""
