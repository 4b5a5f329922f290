"""The latency table of a run's target, where several machines share the run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import table_ranks
from pipeline_table import SPEC, pipeline_table
from two_ranks import WORLD, on_two_ranks

from dmcp_deploy.artifact import digest_file


@pytest.mark.slow
def test_a_machine_that_has_no_table_gets_that_of_the_first(tmp_path: Path) -> None:
    table = tmp_path / table_ranks.TABLE
    pipeline_table().save(table)
    printed = on_two_ranks([sys.executable, table_ranks.__file__, tmp_path])
    assert printed == [f"{digest_file(table)} {SPEC.model}\n"] * WORLD
    for number in range(WORLD):
        (kept,) = (tmp_path / f"cache-{number}").rglob("*.json")
        assert kept.read_bytes() == table.read_bytes()
