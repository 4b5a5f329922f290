"""Search methods: one file each, from a SearchProblem to a channel plan."""
