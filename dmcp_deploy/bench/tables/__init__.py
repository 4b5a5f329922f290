"""Latency tables: made from probe networks, and what they predict."""
