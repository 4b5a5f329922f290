"""Weights as people have saved them: taken whole, with a word on what was left out, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from weight_nets import Aliased, Legacy, Plain, Wrapped

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.heads import head_tensors
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.training.given_weights import load_given
from dmcp_deploy.training.weight_files import Stored, split_source, stored_weights

State = Mapping[str, Tensor]


def traced(model: nn.Module, side: int = 32) -> Network:
    return trace_network(model, NetworkSpec("test:net", 1.0, 3, (3, side, side)))


def trained(build: Callable[..., nn.Module] = Plain, classes: int = 3) -> nn.Module:
    torch.manual_seed(11)
    model = build(classes)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model


def prefixed(state: State, beginning: str) -> dict[str, Tensor]:
    return {beginning + name: tensor for name, tensor in state.items()}


def assert_taken(model: nn.Module, state: State, but: tuple[str, ...] = ()) -> None:
    ours = model.state_dict()
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[n], state[n]) for n in state if not n.startswith(but or ("-",)))


#: What people save beside a model's state, or in place of it.
CONTAINERS: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "tutorial": lambda s: {"epoch": 3, "model_state_dict": s, "loss": torch.tensor(0.5)},
    "nested": lambda s: {"run": {"states": {"generator": s}}, "seed": 1},
    "params": lambda s: {"params": s},
    "parallel": lambda s: {"net": prefixed(s, "module."), "acc": 91.0},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in parallel": lambda s: prefixed(s, "_orig_mod.module."),
    "parallel of compiled": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 0.1}},
    "any beginning": lambda s: prefixed(s, "student.encoder."),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("build", [Plain, Wrapped])
def test_weights_are_found_wherever_they_lie(
    build: Callable[..., nn.Module], name: str, suffix: str, tmp_path: Path
) -> None:
    state, path = trained(build).state_dict(), tmp_path / f"w{suffix}"
    content = CONTAINERS[name](state)
    if suffix == ".pth":
        torch.save(content, path)
    elif all(isinstance(value, Tensor) for value in content.values()):
        save_file(content, path)
    else:  # safetensors hold one flat dictionary
        return
    network = traced(build(3))
    assert load_given(network, stored_weights(path), path.name) == []
    assert_taken(network.model, state)


def test_a_network_that_is_wrapped_and_one_that_is_not_read_each_other() -> None:
    for one, other in ((Plain, Wrapped), (Wrapped, Plain)):
        network, state = traced(one(3)), trained(other).state_dict()
        load_given(network, [Stored("", state)], "w.pth")
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(network.model.eval()(images), trained(other).eval()(images))


def test_counters_of_profilers_and_averages_are_passed_over_and_told() -> None:
    state = trained().state_dict()
    counted = {
        **state,
        "total_ops": torch.zeros(1),
        "first.total_params": torch.zeros(1),
        "n_averaged": torch.tensor(7),
    }
    for file in (counted, {**prefixed(state, "module."), "n_averaged": torch.tensor(7)}):
        network = traced(Plain(3))
        (said,) = load_given(network, [Stored("", file)], "w.pth")
        assert "n_averaged" in said
        assert said.endswith("(counters)")
        assert_taken(network.model, state)


def test_old_files_lack_the_counters_of_batch_norms() -> None:
    state = {k: t for k, t in trained().state_dict().items() if "num_batches" not in k}
    network = traced(Plain(3))
    assert load_given(network, [Stored("", state)], "old.pth") == []
    assert torch.equal(network.model.first.weight, state["first.weight"])


def test_half_precision_is_read_into_full_precision() -> None:
    state = trained().state_dict()
    half = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
    network = traced(Plain(3))
    load_given(network, [Stored("", half)], "w.pth")
    assert network.model.first.weight.dtype == torch.float32
    assert torch.equal(network.model.first.weight, half["first.weight"].float())


@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("model", "ema.module")])
def test_of_averaged_and_raw_weights_the_averaged_are_taken_and_it_is_told(
    names: tuple[str, str],
) -> None:
    raw, averaged = trained().state_dict(), {k: 2 * t for k, t in trained().state_dict().items()}
    stored = [Stored(names[0], raw), Stored(names[1], averaged)]
    network = traced(Plain(3))
    (said,) = load_given(network, stored, "w.pth")
    assert f"averaged weights under {names[1]} are taken" in said
    assert f"--weights w.pth:{names[0]}" in said
    assert_taken(network.model, averaged)
    load_given(network, stored, "w.pth", names[0])
    assert_taken(network.model, raw)
    with pytest.raises(DmcpError, match=f"no weights under 'nowhere': they lie under {names[0]}"):
        load_given(network, stored, "w.pth", "nowhere")


def test_averaged_weights_beside_raw_ones_in_one_dictionary_are_told_apart() -> None:
    raw, averaged = trained().state_dict(), {k: 2 * t for k, t in trained().state_dict().items()}
    file = {**prefixed(raw, "online_model."), **prefixed(averaged, "ema_model.")}
    network = traced(Plain(3))
    said = load_given(network, [Stored("", file)], "w.pth")
    assert "under ema_model are taken; others lie under online_model" in said[0]
    assert_taken(network.model, averaged)


@pytest.mark.parametrize("head_first", [False, True])
def test_a_classifier_for_other_classes_stays_wherever_it_is_registered(head_first: bool) -> None:
    state = trained(lambda classes: Plain(classes, head_first), 10).state_dict()
    network = traced(Plain(3, head_first))
    before = network.model.head.weight.clone()
    (said,) = load_given(network, [Stored("", state)], "w.pth")
    assert said == "Left out of w.pth: head.bias, head.weight (made for other classes)"
    assert torch.equal(network.model.head.weight, before)
    assert torch.equal(network.model.second.weight, state["second.weight"])


def test_a_classifier_of_its_own_beside_a_backbone_with_a_beginning_is_found() -> None:
    state = trained().state_dict()
    file = {n if n.startswith("head.") else f"backbone.{n}": tensor for n, tensor in state.items()}
    network = traced(Plain(3))
    assert load_given(network, [Stored("", file)], "w.pth") == []
    assert_taken(network.model, state)


def test_a_backbone_without_a_classifier_leaves_the_network_its_own() -> None:
    state = {n: t for n, t in trained().state_dict().items() if not n.startswith("head.")}
    network = traced(Plain(3))
    before = network.model.head.weight.clone()
    assert load_given(network, [Stored("", state)], "w.pth") == [
        "Left out of w.pth: head.bias, head.weight (not in the file, random)"
    ]
    assert torch.equal(network.model.head.weight, before)
    assert torch.equal(network.model.first.weight, state["first.weight"])
    half = {**state, "head.weight": torch.zeros(3, 24)}
    with pytest.raises(DmcpError, match=r"it lacks head\.bias"):
        load_given(network, [Stored("", half)], "w.pth")


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("squeezenet1_1", {"classifier.1"}),
        ("vgg11_bn", {"classifier.6"}),
        ("densenet121", {"classifier"}),
    ],
)
def test_the_head_is_the_last_layer_of_the_graph(model: str, head: set[str]) -> None:
    network = traced(torchvision.models.get_model(model, num_classes=3), 64)
    assert {name.rpartition(".")[0] for name in head_tensors(network)} == head


def test_names_of_older_releases_are_read_as_the_library_reads_them() -> None:
    torch.manual_seed(0)
    state = torchvision.models.densenet121(num_classes=3).state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in state.items()
        if "num_batches" not in name
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = traced(torchvision.models.densenet121(num_classes=3), 64)
    load_given(network, [Stored("", prefixed(old, "module."))], "old.pth")
    ours = network.model.state_dict()
    assert all(torch.equal(ours[name], t) for name, t in state.items() if "num_batches" not in name)


def test_names_of_older_timm_releases_are_read_as_timm_reads_them() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("densenet121", num_classes=3).state_dict()
    old = {name.replace("norm1.", "norm.1."): tensor for name, tensor in state.items()}
    network = traced(timm.create_model("densenet121", num_classes=3), 64)
    (said,) = load_given(network, [Stored("", old)], "old.pth")
    assert said.endswith("(counters)"), "of batch norms, which the library does not rename"
    assert_taken(network.model, state)


@pytest.mark.parametrize("classes", [3, 10])
def test_names_of_older_releases_are_read_as_the_modules_read_them(classes: int) -> None:
    state = dict(trained(classes=classes).state_dict())
    state["conv2.weight"] = state.pop("second.weight")
    network = traced(Legacy(3))
    load_given(network, [Stored("", state)], "old.pth")
    assert torch.equal(network.model.second.weight, state["conv2.weight"])


def test_what_lies_around_the_network_in_a_file_is_left_out_and_told() -> None:
    state = trained().state_dict()
    file = {**prefixed(state, "model."), "loss.weight": torch.ones(3)}
    network = traced(Plain(3))
    assert load_given(network, [Stored("", file)], "w.ckpt") == [
        "Left out of w.ckpt: loss.weight (not this network's)"
    ]
    assert_taken(network.model, state)


def test_auxiliary_heads_are_left_out_and_told() -> None:
    torch.manual_seed(0)
    full = torchvision.models.googlenet(num_classes=3, init_weights=False, aux_logits=True)
    options = {"num_classes": 3, "init_weights": False, "aux_logits": False}
    network = traced(torchvision.models.googlenet(**options), 64)
    (said,) = load_given(network, [Stored("", full.state_dict())], "w.pth")
    assert said.endswith("(auxiliary heads)")
    assert torch.equal(network.model.fc.weight, full.fc.weight)


def test_two_names_of_one_tensor_must_agree() -> None:
    state = dict(trained(Aliased).state_dict())
    state["stem.0.weight"] = state["stem.0.weight"] + 1
    with pytest.raises(DmcpError, match=r"stem\.0\.weight.* are one tensor in the network"):
        load_given(traced(Aliased(3)), [Stored("", state)], "w.pth")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"first.weight": torch.zeros(9, 3, 3, 3)}, "first.weight is [9, 3, 3, 3] where"),
        ({"first.weight": None}, "it lacks first.weight"),
        ({"third.weight": torch.zeros(1)}, "the network has no third.weight"),
        ({"head.scale": torch.zeros(1)}, "the network has no head.scale"),
        ({"head.weight": torch.zeros(3, 9)}, "head.weight is [3, 9] where [3, 24]"),
        ({"second.weight": torch.zeros(10, 16, 3, 3)}, "second.weight is [10, 16, 3, 3] where"),
        (
            {"first.weight": None, "second.weight": None},
            "it lacks first.weight, and 1 more of the kind",
        ),
    ],
)
@pytest.mark.parametrize("beginning", ["", "module."])
def test_what_does_not_fit_is_refused_and_changes_nothing(
    change: dict[str, Tensor | None], complaint: str, beginning: str
) -> None:
    tensors = {n: t for n, t in {**trained().state_dict(), **change}.items() if t is not None}
    network = traced(Plain(3))
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    with pytest.raises(DmcpError) as caught:
        load_given(network, [Stored("", prefixed(tensors, beginning))], "w.pth")
    assert f"w.pth does not fit the network: {complaint}" in str(caught.value)
    assert_taken(network.model, before)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.clone().fill_(torch.nan), "first.weight holds values that are not numbers"),
        (lambda t: (t * 1e30).half(), "first.weight holds values that are not numbers"),
        (lambda t: t.to(torch.int8), "first.weight holds torch.int8 where torch.float32 is needed"),
        (lambda t: t.to_sparse(), "first.weight holds quantized numbers, sparse ones or none"),
        (lambda t: t.to("meta"), "first.weight holds quantized numbers, sparse ones or none"),
    ],
)
def test_what_are_no_numbers_for_a_weight_is_refused_and_changes_nothing(
    change: Callable[[Tensor], Tensor], complaint: str
) -> None:
    state = trained().state_dict()
    state["first.weight"] = change(state["first.weight"])
    network = traced(Plain(3))
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    with pytest.raises(DmcpError) as caught:
        load_given(network, [Stored("", state)], "w.pth")
    assert complaint in str(caught.value)
    assert_taken(network.model, before)


def test_the_format_of_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    state = trained().state_dict()
    torch.save(state, tmp_path / "w.safetensors")
    save_file(dict(state), tmp_path / "w.bin")
    for name in ("w.safetensors", "w.bin"):
        network = traced(Plain(3))
        load_given(network, stored_weights(tmp_path / name), name)
        assert_taken(network.model, state)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "is a page of the web"),
        (b'{"metadata": {}, "weight_map": {}}', "is JSON, as the index of several files is"),
        (b"PK\x03\x04 and no more", "is cut off: fetch or write it again"),
    ],
)
def test_files_of_another_kind_are_told_what_they_are(
    content: bytes, complaint: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DmcpError, match=complaint):
        stored_weights(tmp_path / name)


def test_a_container_that_holds_itself_is_looked_through_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": trained().state_dict()}
    content["trainer"] = {"checkpoint": content}
    torch.save(content, tmp_path / "w.pth")
    assert [stored.place for stored in stored_weights(tmp_path / "w.pth")] == ["model"]


def test_an_address_is_to_be_fetched() -> None:
    with pytest.raises(DmcpError, match=r"https://models\.test/w\.pth are an address: fetch the"):
        split_source("https://models.test/w.pth")
