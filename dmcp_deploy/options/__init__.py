"""Every option, declared once: a field of a dataclass that the command line is made of too."""
