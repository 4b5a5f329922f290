"""A DMCP step done the way of the authors' release, in code of our own, to compare with.

What it keeps of the release: FP32, images and weights in contiguous (NCHW) order, every layer's
weight a slice of the shared one that autograd pads again, running statistics moved at every width,
a gate that transposes and concatenates the activations, and an architecture step that computes the
weights' gradients too. What it leaves out: its logging, its reductions over processes, its loader.
The widths are drawn by the caller, so that both ways compute the same networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import budget_loss
from dmcp_deploy.search.problem import SearchProblem

SMOOTHING = 0.1


class ReleaseWay:
    """The two steps of a search on a network of its own."""

    def __init__(self, problem: SearchProblem) -> None:
        """Takes the problem's network, which nothing else may use."""
        device = problem.precision.device
        self._problem, self._network = problem, problem.network
        self._model = problem.network.model.to(device).train()
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=4e-5
        )
        self._architecture = Architecture(
            problem.space, problem.limits, problem.recipe.transition, device
        )
        self._alphas = torch.optim.SGD([self._architecture.alphas], lr=0.01, momentum=0.9)

    def weight_step(self, batch: Batch, narrow: Sequence[Mapping[str, int]]) -> None:
        """Sums the gradients of the full network and of narrower ones, and moves the weights."""
        self._model.zero_grad()
        logits = self._run(batch.images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)
        loss.backward()  # type: ignore[no-untyped-call]
        figures, teacher = [loss.item()], logits.detach()
        for widths in narrow:
            student = F.log_softmax(self._run(batch.images, widths), dim=1)
            loss = F.kl_div(student, F.softmax(teacher, dim=1), reduction="batchmean")
            loss.backward()  # type: ignore[no-untyped-call]
            figures.append(loss.item())
        self._optimizer.step()

    def architecture_step(self, batch: Batch) -> None:
        """Moves the alphas by a loss whose gradient reaches the weights too."""
        self._model.zero_grad()
        self._alphas.zero_grad()
        logits = self._run(batch.images, gates=self._architecture.gates().float())
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)
        budget = budget_loss(self._architecture.expected_share())
        figures = [loss.item(), budget.item()]
        (0.1 * budget).backward()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(figure == figure for figure in figures)
        self._alphas.step()
        with torch.no_grad():
            self._architecture.alphas.clamp_(min=0.0)

    def _run(
        self,
        images: Tensor,
        widths: Mapping[str, int] | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        return _SlicedRun(self._network, widths or {}, gates).run(images)  # type: ignore[no-any-return]


class _SlicedRun(fx.Interpreter):
    """One forward pass over slices of the weights, or over all of them behind gates."""

    def __init__(self, network: Network, widths: Mapping[str, int], gates: Tensor | None) -> None:
        super().__init__(network.model, graph=network.graph)
        self._network, self._gates = network, gates
        self._kept = torch.ones(network.unit_count + 1, dtype=torch.int64)
        for group in network.prunable:
            end = group.first + group.units
            self._kept[group.first + widths.get(group.name, group.size) // group.unit : end] = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self._gates is None or n.name not in self._network.gates:
            return value
        units, axis = self._network.gates[n.name]
        assert axis == 1
        return _gated(value, self._gates[torch.from_numpy(units).to(value.device)])

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = reduce(getattr, target.split("."), self._network.model)
        layer = self._network.layers.get(target)
        if layer is None:
            return module(*args, **kwargs)
        cut = {name: self._slice(module, name, cuts) for name, cuts in layer.cuts.items()}
        return _apply(module, args[0], cut)

    def _slice(self, module: nn.Module, name: str, cuts: Sequence[tuple[int, Any]]) -> Tensor:
        tensor: Tensor = getattr(module, name)
        ends = [slice(None)] * tensor.ndim
        for dim, units in cuts:
            ends[dim] = slice(0, int(self._kept[torch.from_numpy(units)].sum()))
        return tensor[tuple(ends)]


def _gated(value: Tensor, gate: Tensor) -> Tensor:
    """Returns activations times their gates; the first tenth of the channels is always kept."""
    always = max(1, len(gate) // 10)
    swapped = value.transpose(0, 1).contiguous()
    rest = swapped[always:]
    rest = (rest.reshape(len(rest), -1) * gate[always:, None]).view(rest.size())
    return torch.cat([swapped[:always], rest]).transpose(0, 1).contiguous()


def _apply(module: nn.Module, x: Tensor, cut: Mapping[str, Tensor]) -> Tensor:
    weight, bias = cut["weight"], cut.get("bias")
    if isinstance(module, nn.Conv2d):
        groups = 1 if module.groups == 1 else len(weight) * module.groups // module.out_channels
        return F.conv2d(
            x,
            weight,
            bias,
            module.stride,
            module.padding,
            module.dilation,
            groups,  # type: ignore
        )
    if isinstance(module, nn.BatchNorm2d):
        mean, var = cut["running_mean"], cut["running_var"]
        return F.batch_norm(x, mean, var, weight, bias, True, module.momentum or 0.1, module.eps)
    assert isinstance(module, nn.Linear)
    return F.linear(x, weight, bias)
