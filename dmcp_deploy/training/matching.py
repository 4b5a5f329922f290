"""Whether named tensors are a network's weights, and what may be left out of them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmcp_deploy.network.aliases import names_of_tensors, tensors_of
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.heads import head_tensors
from dmcp_deploy.training.renaming import Renamed, renamings, translations
from dmcp_deploy.training.weight_files import Stored
from dmcp_deploy.training.weights import misfits, versions_of

#: Why tensors are left out.
OTHER_CLASSES = "made for other classes"
NO_HEAD = "not in the file, random"
COUNTERS = "counters"
AUXILIARY = "auxiliary heads"
AROUND = "not this network's"

#: The ends of names under which modules and tools count, or note how often they have averaged.
_COUNTERS = ("total_ops", "total_params", "n_averaged", "num_batches_tracked")
_AUXILIARY = re.compile(r"(^|\.)aux", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """Tensors under a network's names, and how they fit.

    Attributes:
        place: Where they lie in the file.
        tensors: Name in the network -> tensor, without what is left out.
        flaws: What does not fit, in words; none for weights that can be taken.
        left_out: Why -> names.
        agreeing: How many are there, and of the right shape.
    """

    place: str
    tensors: Mapping[str, Tensor]
    flaws: Sequence[str]
    left_out: Mapping[str, Sequence[str]]
    agreeing: int


class Matcher:
    """Compares named tensors with a network's."""

    def __init__(self, network: Network) -> None:
        """Takes the network as it is now."""
        self._network, self._state = network, tensors_of(network.model)
        self._head, self._names = head_tensors(network), names_of_tensors(network.model)

    def matches(self, stored: Stored) -> list[Match]:
        """Returns what fits of the tensors in one place of a file, else the least misfit.

        Names alone are changed first; where that does not help, the model's library and its
        modules are asked, which know the names of older releases.
        """
        given = list(renamings(stored, self._state))
        plain = [self._judge(each, each.tensors) for each in given]
        fitting = [match for match in plain if not match.flaws]
        usable = [each for each in given if not _unusable(self._state, each.tensors)]
        return fitting or self._translated(usable) or [max(plain, key=lambda m: m.agreeing)]

    def contradictions(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Returns where two names of one tensor stand for different values, in words."""
        return [
            f"{name} and {other} are one tensor in the network, and two in the file"
            for name, names in self._names.items()
            for other in names[1:]
            if name < other and name in tensors and other in tensors
            if not _same(tensors[name], tensors[other])
        ]

    def _translated(self, given: Sequence[Renamed]) -> list[Match]:
        for translate in translations(self._network):
            for each in given:
                tensors = translate(each.tensors)
                if tensors is not None:
                    match = self._judge(each, tensors)
                    if not match.flaws:
                        return [match]
        return []

    def _judge(self, given: Renamed, tensors: Mapping[str, Tensor]) -> Match:
        left_out: dict[str, list[str]] = {}
        flaws: list[str] = []
        for name, text in misfits(self._network.model, tensors):
            reason = self._excuse(name, tensors)
            if reason is None:
                flaws.append(text)
            else:
                left_out.setdefault(reason, []).append(name)
        skipped = {name for names in left_out.values() for name in names}
        flaws += _unusable(self._state, _without(tensors, skipped))
        for name in given.around:
            left_out.setdefault(COUNTERS if _is_counter(name) else AROUND, []).append(name)
        agreeing = sum(n in tensors and tensors[n].shape == t.shape for n, t in self._state.items())
        return Match(given.place, _without(tensors, skipped), flaws, left_out, agreeing)

    def _excuse(self, name: str, tensors: Mapping[str, Tensor]) -> str | None:
        """Returns why a tensor that does not fit may be left out; None if it may not."""
        if name not in self._state:
            counter = COUNTERS if _is_counter(name) else None
            return AUXILIARY if _AUXILIARY.search(name) else counter
        if name not in self._head:
            return None
        if name not in tensors:
            return None if self._head & tensors.keys() else NO_HEAD
        return OTHER_CLASSES if tensors[name].shape[1:] == self._state[name].shape[1:] else None


def _unusable(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns which tensors are no numbers that the network's can be set to, in words."""
    known = [name for name in tensors if name in state]
    reasons = ((name, _why_unusable(tensors[name], state[name])) for name in known)
    return [f"{name} holds {reason}" for name, reason in reasons if reason]


def _why_unusable(tensor: Tensor, wanted: Tensor) -> str | None:
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return "quantized numbers, sparse ones or none, where plain ones are needed"
    if not wanted.is_floating_point():
        return None
    if not tensor.is_floating_point():
        return f"{tensor.dtype} where {wanted.dtype} is needed"
    if wanted.isfinite().all() and not tensor.float().isfinite().all():
        return "values that are not numbers, or infinite: take weights from before that"
    return None


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool((one == other).all()))


def _without(tensors: Mapping[str, Tensor], skipped: set[str]) -> Mapping[str, Tensor]:
    kept = OrderedDict((name, t) for name, t in tensors.items() if name not in skipped)
    kept._metadata = versions_of(tensors)  # type: ignore[attr-defined]
    return kept
