"""An engine's sidecar: what it holds, and that it belongs to the engine beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_files import write_engine

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.engine_record import EngineRecord, sidecar_path


def test_a_sidecar_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, record = write_engine(tmp_path)
    assert sidecar_path(path) == tmp_path / "net.engine.json"
    assert EngineRecord.load(path) == record


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"There is no engine .*net\.engine"):
        EngineRecord.load(tmp_path / "net.engine")


def test_an_engine_without_its_sidecar_is_refused(tmp_path: Path) -> None:
    path, _ = write_engine(tmp_path)
    sidecar_path(path).unlink()
    with pytest.raises(DmcpError, match=r"has no sidecar net\.engine\.json"):
        EngineRecord.load(path)


def test_another_engine_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path, _ = write_engine(tmp_path)
    path.write_bytes(b"another")
    with pytest.raises(DmcpError, match="is not the engine its sidecar tells of"):
        EngineRecord.load(path)


@pytest.mark.parametrize("field", ["layers", "engine_digest", "batches"])
def test_a_sidecar_that_lacks_a_field_is_refused(tmp_path: Path, field: str) -> None:
    path, _ = write_engine(tmp_path)
    content = json.loads(sidecar_path(path).read_text())
    del content[field]
    sidecar_path(path).write_text(json.dumps(content))
    with pytest.raises(DmcpError, match=f"lacks or misstates '{field}'"):
        EngineRecord.load(path)


def test_a_truncated_sidecar_is_refused(tmp_path: Path) -> None:
    path, _ = write_engine(tmp_path)
    sidecar_path(path).write_text(sidecar_path(path).read_text()[:40])
    with pytest.raises(DmcpError, match="is not readable as the JSON of an engine"):
        EngineRecord.load(path)
