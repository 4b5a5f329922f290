"""Forward passes that look dynamic: what is traced, what leaves the graph, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import difference
from dynamic_nets import (
    BEFORE,
    BETWEEN,
    MACS,
    OPTIONAL,
    SHAPE,
    Before,
    Between,
    FirstAlone,
    TwoConvs,
    WithAuxiliary,
    trace,
)
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet

WIDTHS = {"first": 4, "second": 6}


def pictures(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def check_chain(network: Network, widths: dict[str, int]) -> nn.Module:
    """Checks that supernet, model and sliced network agree, and returns the last."""
    assert {group.name: group.prunable for group in network.groups} == dict.fromkeys(widths, True)
    model, images = network.model.eval(), pictures()
    dense = slice_network(network, widths).eval()
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), model(images))
        assert difference(dense(images), Supernet(network)(images, widths)) < 1e-5
    assert NetworkCost(network).full_macs == MACS
    assert NetworkCost(network).params(widths) == sum(p.numel() for p in dense.parameters())
    return dense


@pytest.mark.parametrize(
    ("kind", "between"),
    [*((Before, between) for between in BEFORE), *((Between, between) for between in BETWEEN)],
    ids=lambda value: value.__name__,
)
def test_shapes_that_python_asks_for_are_traced(kind: type[Between], between: Any) -> None:
    network = trace(kind(between))
    assert not network.opaque
    assert network.graph_reason is None
    check_chain(network, WIDTHS)


@pytest.mark.parametrize("net", OPTIONAL, ids=lambda net: net.__name__)
def test_optional_arguments_keep_their_defaults(net: type[nn.Module]) -> None:
    check_chain(trace(net()), WIDTHS)


def test_a_head_that_nothing_uses_leaves_the_graph() -> None:
    network = trace(FirstAlone())
    assert network.dropped == ("inner.scale", "inner.mask.0", "inner.mask.1", "inner.mask.3")
    assert set(network.layers) == {"inner.first", "inner.second", "inner.head"}
    dense = check_chain(network, {f"inner.{name}": width for name, width in WIDTHS.items()})
    assert list(dense.state_dict()) == [
        f"inner.{layer}.{kind}"
        for layer in ("first", "second", "head")
        for kind in ("weight", "bias")
    ]


def test_what_writes_in_place_stays_where_its_target_lives() -> None:
    def clipped(net: Any, x: Tensor) -> Tensor:
        part = x[:, :, 2:]
        part.clamp_(max=0.1)
        return x

    network = trace(Between(clipped))
    images = pictures()
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model.eval()(images))
        assert difference(network.model(images), TwoConvs.forward(network.model, images)) > 1e-3  # type: ignore[arg-type]


def test_a_condition_on_channels_keeps_them_and_says_why() -> None:
    def exactly(net: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == 8
        return x

    (group,) = [g for g in trace(Between(exactly)).groups if not g.prunable]
    assert group.name == "first"
    assert "a condition on sizes in its forward pass was True when it was traced" in group.reason


def test_another_size_of_image_that_takes_another_way_is_found_at_once() -> None:
    def halved(net: Any, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if x.shape[-1] > 12 else x

    network = trace(Before(halved))
    assert Supernet(network)(pictures()).shape == (3, 5)
    with pytest.raises(ValueError, match="a condition on sizes"):
        Supernet(network)(pictures()[..., :12])


def by_value(net: Any, x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def by_item(net: Any, x: Tensor) -> Tensor:
    return x * float(x.amax().item())


def by_image(net: Any, x: Tensor) -> Tensor:
    return torch.stack([x[i] for i in range(x.shape[0])])


class NeedsMask(TwoConvs):
    def forward(self, x: Tensor, mask: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        return self.late(self.early(x) * mask) * scale


class OnlyLarge(TwoConvs):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] >= 200, "pictures of 200 pixels and more"
        return super().forward(x)


class OnlyGrey(TwoConvs):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, 2, 1)


class Nowhere(TwoConvs):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not written yet")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: Between(by_value), "depends on values of a tensor: move that part into a subm"),
        (lambda: Between(by_item), "depends on values of a tensor"),
        (lambda: Before(by_image), "its Python code counts the images of a batch: move that part"),
        (NeedsMask, "NeedsMask needs mask, scale beside its images: give what it needs default"),
        (
            OnlyLarge,
            r"3x16x16 input \(pictures of 200.*but it does on 3x224x224: give --input 3x224x224",
        ),
        (OnlyGrey, "give --input 1x16x16"),
        (Nowhere, r"3x16x16 input \(not written yet\), nor on squares that were tried"),
    ],
)
def test_what_cannot_be_traced_is_said_in_a_sentence(
    model: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(DmcpError, match=words) as caught:
        trace(model())
    assert "\n" not in str(caught.value)


def test_a_part_that_depends_on_data_is_opaque_in_a_submodule() -> None:
    class Submodule(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return by_value(self, x)

    net = Between(lambda net, x: net.part(x))
    net.part = Submodule()
    network = trace(net)
    assert network.opaque == {"part": "its control flow depends on values of a tensor"}


def test_tracing_leaves_attributes_and_buffers_as_they_were() -> None:
    def counts(net: Any, x: Tensor) -> Tensor:
        net.calls, net.last = net.calls + 1, x
        net.mean.add_(1)
        return x if net.training else x + 0

    net = Between(counts)
    before, mean = set(net.__dict__), net.mean.clone()
    trace(net)
    assert (set(net.__dict__), net.calls) == (before, 0)
    assert torch.equal(net.mean, mean)
    assert "len" not in TwoConvs.forward.__globals__
    assert "training" not in nn.Module.__dict__


def test_what_hangs_on_the_mode_follows_it() -> None:
    def dropped(net: Any, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.5 if net.training else 0.0, net.training)
        if net.training:
            x = net.drop(F.dropout2d(x, 0.5))
        return x

    network = trace(Between(dropped).train())
    assert network.only_in_training == ()
    dense = check_chain(network, WIDTHS)
    images, supernet = pictures(), Supernet(network)
    for net in (supernet, dense, network.model):
        assert torch.equal(net.eval()(images), net(images))
        assert difference(net.train()(images), net(images)) > 1e-3
    torch.manual_seed(0)
    expected = network.model(images)
    torch.manual_seed(0)
    assert torch.equal(supernet(images), expected)


def test_a_head_in_training_alone_makes_the_dense_network_its_graph() -> None:
    network = trace(WithAuxiliary())
    assert network.only_in_training == ("auxiliary",)
    assert network.graph_reason == "in training alone it calls auxiliary"
    dense = check_chain(network, WIDTHS).train()
    assert "auxiliary.weight" not in dense.state_dict()
    images = pictures()
    assert dense(images).shape == (3, 5)
    assert difference(dense(images), dense(images)) > 1e-3  # its dropout


def drop_path(net: Any, x: Tensor) -> Tensor:
    if not net.training:
        return x
    return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)


@pytest.mark.parametrize(
    ("between", "without"),
    [
        (lambda net, x: x.square() if net.training else x, ("square",)),
        (lambda net, x: x + (x if net.training else 0), ("add",)),
        (drop_path, ("getattr_1", "getitem", "new_empty", "bernoulli_", "mul")),
    ],
)
def test_operations_without_weights_in_training_alone_leave_the_class(
    between: Any, without: tuple[str, ...]
) -> None:
    network = trace(Between(between))
    assert network.left_out == without
    assert network.graph_reason is None
    dense = check_chain(network, WIDTHS).train()
    assert type(dense) is Between
    assert dense(pictures()).shape == (3, 5)


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda net, x: x * net.scale if net.training else x, "in training alone it calls scale"),
        (lambda net, x: net.drop(net.twin(x)) if net.training else x, "it calls twin"),
    ],
)
def test_weights_read_in_training_alone_make_the_dense_network_its_graph(
    between: Any, words: str
) -> None:
    net = Between(between)
    net.scale, net.twin = nn.Parameter(torch.ones(8, 1, 1)), nn.Conv2d(8, 8, 1)
    network = trace(net)
    assert words in (network.graph_reason or "")
    check_chain(network, WIDTHS)


def test_several_outputs_in_training_alone_make_the_dense_network_its_graph() -> None:
    class Both(TwoConvs):
        def forward(self, x: Tensor) -> Any:
            early = self.early(x)
            return (self.late(early), early) if self.training else self.late(early)

    network = trace(Both())
    assert network.only_in_training == ("output",)
    assert check_chain(network, WIDTHS).train()(pictures()).shape == (3, 5)


def test_a_training_pass_that_cannot_be_traced_is_no_error() -> None:
    network = trace(Between(lambda net, x: by_value(net, x) if net.training else x))
    check_chain(network, WIDTHS)


def flip(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.flip(1)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_layer_with_a_hook_is_opaque_and_says_so(layer: str) -> None:
    net = TwoConvs()
    net.get_submodule(layer).register_forward_hook(flip)
    network = trace(net)
    images = pictures()
    assert NetworkCost(network).full_macs == MACS
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model(images))
    pinned = {group.name: group.reason for group in network.groups if not group.prunable}
    expected = {} if layer == "first" else {"first": "second (Conv2d) has a hook, which may do an"}
    assert {name: (reason or "")[:43] for name, reason in pinned.items()} == {
        name: reason[:43] for name, reason in expected.items()
    }


def test_hooks_of_the_network_itself_are_traced() -> None:
    net = TwoConvs()
    net.register_forward_pre_hook(lambda module, args: (args[0] - 0.5,))
    net.register_forward_hook(lambda module, args, output: 2 * output)
    check_chain(trace(net), WIDTHS)


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")
@pytest.mark.parametrize("normed", [weight_norm, nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_computed_by_a_hook_or_a_parametrization_stay_whole(normed: Any) -> None:
    net = TwoConvs()
    normed(net.second)
    network = trace(net)
    assert [group.prunable for group in network.groups] == [False]
    with torch.no_grad():
        assert torch.equal(Supernet(network)(pictures()), network.model.eval()(pictures()))


def test_a_forward_of_the_object_itself_is_traced() -> None:
    net = TwoConvs()
    net.forward = lambda x: net.late(net.early(x) * 2)  # type: ignore[method-assign]
    network = trace(net)
    with torch.no_grad():
        assert torch.equal(Supernet(network)(pictures()), net(pictures()))


class Cached(TwoConvs):
    """Keeps what it computed for the next time, in a dictionary of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale.sum()
        return super().forward(x * self.cache["scale"])


def test_what_a_forward_pass_keeps_is_not_left_from_the_tracer() -> None:
    network = trace(Cached())
    assert network.model.cache == {}
    check_chain(network, WIDTHS)


class Doubled(TwoConvs):
    """Adds every value to itself, so that there are 2^40 ways back to the input."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(40):
            x = (x + x) / 2
        return super().forward(x) if x.shape[-1] > 1 else x


def test_values_that_are_read_many_times_are_looked_at_once() -> None:
    check_chain(trace(Doubled()), WIDTHS)
