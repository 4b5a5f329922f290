"""The time of single layers: profiles, roofline, comparison."""
