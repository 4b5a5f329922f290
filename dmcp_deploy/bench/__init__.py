"""Measurement: timing, records, comparison, gates."""
