"""The command line: typed options, one library call, what it made."""
