"""One file per runtime: load an artifact, run it."""
