from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from training_tasks import Said

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.checkpoint import Checkpoint, Checkpoints, drop_previous
from dmcp_deploy.training.task import load_optimizer, optimizer_tensors
from dmcp_deploy.training.weights import save_tensors

TENSORS = {
    "weights": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "alphas": torch.tensor([0.1, 1 / 3], dtype=torch.float64),
    "batches": torch.tensor(7),
    "strided": torch.arange(8.0).reshape(2, 4).t(),
}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "checkpoints" / "search.safetensors"
    Checkpoint(12, "run-a", TENSORS).save(path)
    return path


def refusal(path: Path, token: str = "run-a") -> str:
    with pytest.raises(DmcpError) as caught:
        Checkpoint.load(path, token)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_what_is_saved_is_loaded_bit_for_bit(path):
    loaded = Checkpoint.load(path, "run-a")
    assert loaded is not None
    assert (loaded.step, loaded.token) == (12, "run-a")
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_a_file_there_is_no_checkpoint(tmp_path):
    assert Checkpoint.load(tmp_path / "none.safetensors", "run-a") is None


def test_another_runs_checkpoint_is_refused(path):
    assert "belongs to a run with other settings" in refusal(path, "run-b")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert "is damaged" in refusal(path)


def test_a_checkpoint_with_other_bytes_is_refused(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "is damaged (its digest is another)" in refusal(path)


def test_what_is_no_checkpoint_is_refused(path):
    path.write_bytes(b"not a safetensors file, whatever its name")
    assert "is damaged" in refusal(path)
    save_tensors(TENSORS, path)
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("head", ["[]", "{}", "no json", '{"step": 1, "token": "run-a"}'])
def test_a_head_without_its_fields_is_refused(path, head):
    save_tensors(TENSORS, path, {"dmcp-deploy": head})
    assert "is damaged" in refusal(path)


def test_another_releases_format_is_refused(path):
    head = {"step": 1, "token": "run-a", "schema_version": 99}
    save_tensors(TENSORS, path, {"dmcp-deploy": json.dumps(head)})
    assert "schema version 99" in refusal(path)


def test_a_failed_save_leaves_the_checkpoint_before(path, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("dmcp_deploy.training.weights.save_file", fail)
    with pytest.raises(DmcpError, match="No space left"):
        Checkpoint(13, "run-a", TENSORS).save(path)
    loaded = Checkpoint.load(path, "run-a")
    assert loaded is not None
    assert loaded.step == 12
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class TestGenerations:
    @pytest.fixture
    def newest(self, tmp_path) -> Path:
        """The newest of three checkpoints."""
        path = tmp_path / "checkpoints" / "search.safetensors"
        for step in (1, 2, 3):
            Checkpoints(path, "run-a").save(step, tensors_at(step))
        return path

    def test_two_are_kept(self, newest):
        assert loaded_step(newest) == (3, [])
        names = ["search.safetensors", "search.safetensors.previous"]
        assert sorted(file.name for file in newest.parent.iterdir()) == names
        drop_previous(newest.parent)
        assert [file.name for file in newest.parent.iterdir()] == names[:1]
        assert loaded_step(newest) == (3, [])

    def test_without_files_there_is_none(self, tmp_path):
        assert Checkpoints(tmp_path / "none.safetensors", "run-a").load() is None
        drop_previous(tmp_path / "none")

    def test_a_damaged_newest_gives_way_with_a_sentence(self, newest):
        newest.write_bytes(newest.read_bytes()[:50])
        step, (told,) = loaded_step(newest)
        assert step == 2
        assert str(newest) in told
        assert "is damaged (Error while deserializing" in told
        assert told.endswith(": the one before it is taken, of step 2.")

    def test_a_missing_newest_gives_way_with_a_sentence(self, newest):
        newest.unlink()  # between two renames there is none
        step, (told,) = loaded_step(newest)
        assert (step, "is missing: the one before it" in told) == (2, True)

    def test_a_damaged_newest_does_not_push_out_the_one_before(self, newest):
        newest.write_bytes(b"torn")
        checkpoints = Checkpoints(newest, "run-a")
        checkpoints.load()
        checkpoints.save(3, tensors_at(3))
        assert loaded_step(newest) == (3, [])
        newest.write_bytes(b"torn again")
        step, _ = loaded_step(newest)
        assert step == 2

    def test_where_both_are_damaged_both_are_named(self, newest):
        for path in (newest, before(newest)):
            path.write_bytes(b"torn")
        with pytest.raises(DmcpError, match=r"is damaged .*previous is damaged .*delete both"):
            loaded_step(newest)
        newest.unlink()
        with pytest.raises(DmcpError, match=r"is missing, and .*previous is damaged"):
            loaded_step(newest)

    def test_a_damaged_one_alone_is_refused(self, newest):
        drop_previous(newest.parent)
        newest.write_bytes(b"torn")
        with pytest.raises(DmcpError, match=r"is damaged .*: delete it to start this stage again"):
            loaded_step(newest)

    def test_the_one_before_must_be_of_the_same_run(self, newest):
        newest.write_bytes(b"torn")
        with pytest.raises(DmcpError, match="belongs to a run with other settings"):
            Checkpoints(newest, "run-b").load()

    def test_a_full_disk_leaves_both(self, newest, monkeypatch):
        def fail(*args: object, **kwargs: object) -> None:
            raise SafetensorError("No space left on device")

        monkeypatch.setattr("dmcp_deploy.training.weights.save_file", fail)
        with pytest.raises(DmcpError, match="No space left"):
            Checkpoints(newest, "run-a").save(4, tensors_at(4))
        assert len(list(newest.parent.iterdir())) == 2
        assert loaded_step(newest) == (3, [])
        newest.unlink()
        assert loaded_step(newest)[0] == 2

    def test_what_a_killed_process_left_half_written_goes(self, newest):
        part = newest.parent / ".search.next.safetensors.abc.part"
        part.write_bytes(b"half")
        Checkpoints(newest, "run-a").save(4, tensors_at(4))
        assert not part.exists()


def tensors_at(step: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((4,), float(step))}


def before(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def loaded_step(path: Path) -> tuple[int, list[str]]:
    """Returns the step whose whole checkpoint is loaded, and what is said of it."""
    said = Said()
    found = Checkpoints(path, "run-a", said).load()
    assert found is not None
    assert torch.equal(found.tensors["weights"], tensors_at(found.step)["weights"])
    return found.step, said.lines


def trained() -> tuple[nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.SGD) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 3, 4, 4)).square().sum().backward()
    optimizer.step()


def test_an_optimiser_goes_on_as_if_it_had_never_stopped(tmp_path):
    (model, optimizer), (other, restored) = trained(), trained()
    path = tmp_path / "state.safetensors"
    Checkpoint(1, "t", optimizer_tensors(optimizer, "optimizer")).save(path)
    restored.state.clear()
    loaded = Checkpoint.load(path, "t")
    assert loaded is not None
    load_optimizer(restored, loaded.tensors, "optimizer")
    for _ in range(3):
        step(model, optimizer)
        step(other, restored)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_momenta_take_the_memory_order_of_their_parameters(tmp_path):
    model, optimizer = trained()
    tensors = {k: v.contiguous() for k, v in optimizer_tensors(optimizer, "optimizer").items()}
    load_optimizer(optimizer, tensors, "optimizer")
    kernel = model[0].weight
    momentum = optimizer.state[kernel]["momentum_buffer"]
    assert momentum.stride() == kernel.stride()
    assert momentum.data_ptr() != tensors["optimizer.0.momentum_buffer"].data_ptr()


def test_optimisers_of_one_file_are_told_apart_by_their_prefix():
    _, optimizer = trained()
    one, two = (optimizer_tensors(optimizer, name) for name in ("optimizer", "alpha_optimizer"))
    assert not one.keys() & two.keys()
    doubled = {name: 2 * tensor for name, tensor in two.items()}
    before = {name: tensor.clone() for name, tensor in one.items()}
    load_optimizer(optimizer, {**one, **doubled}, "optimizer")
    after = optimizer_tensors(optimizer, "optimizer")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_fresh_optimiser_has_no_state():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0, momentum=0.9)
    assert optimizer_tensors(optimizer, "optimizer") == {}
    load_optimizer(optimizer, {}, "optimizer")
    assert not optimizer.state_dict()["state"]
