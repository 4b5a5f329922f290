"""The computer: its environment, clocks, cores, boards, processes."""
