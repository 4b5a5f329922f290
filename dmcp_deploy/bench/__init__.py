"""Measurement: timing, environment, records, comparison."""

from dmcp_deploy.rooms import make_callable

make_callable(__name__)
