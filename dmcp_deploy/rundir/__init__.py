"""What lies in a run directory, and what was asked of it."""
