"""Search methods: one file each, from a SearchProblem to a channel plan."""

from dmcp_deploy.rooms import make_callable

make_callable(__name__)
