"""What differs between a network's forward passes in training and in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dmcp_deploy.network.call import module_path
from dmcp_deploy.network.dead_code import may_hold

#: Functions that do nothing in evaluation mode -> the place of their argument `training`.
DROPOUTS: Mapping[Any, int] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout), 2),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), 2),
}
_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def by_mode(training: bool, in_training: Any, in_evaluation: Any) -> Any:
    """Returns one of two arguments of an operation, by the mode of the module around it."""
    return in_training if training else in_evaluation


@contextmanager
def noted_readers() -> Iterator[set[nn.Module]]:
    """Yields the modules whose mode is asked for within the context, as they are added."""
    readers: set[nn.Module] = set()

    def read(module: nn.Module) -> bool:
        try:
            training: bool = module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None
        readers.add(module)
        return training

    def write(module: nn.Module, training: bool) -> None:
        module.__dict__["training"] = training

    # A property of the class goes before the attribute of the object.
    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield readers
    finally:
        del nn.Module.training


@dataclass(frozen=True)
class Extra:
    """What a forward pass does in training mode alone.

    Attributes:
        weighted: Modules with tensors, and parameters, that it reads; "output" if it returns
            several things. A class that does so cannot be narrowed without them.
        plain: The other operations, where they are no dropout.
    """

    weighted: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


def follow_modes(graph: fx.Graph, training: fx.Graph, modules: Mapping[str, nn.Module]) -> Extra:
    """Lets the arguments of a graph's operations, and its dropouts, follow the mode.

    Args:
        graph: A network's graph in evaluation mode, changed in place.
        training: Its graph in training mode.
        modules: The network's modules by name.

    Returns:
        What is left, which only the graph in training mode does.
    """
    return _Merge(graph, training, modules).extra()


class _Merge:
    """Takes over into one graph what another has beside it."""

    def __init__(
        self, graph: fx.Graph, training: fx.Graph, modules: Mapping[str, nn.Module]
    ) -> None:
        self._graph, self._training, self._modules = graph, training, modules
        self._twins = _twins(graph, training)
        #: Copy of a node of the training graph -> the node that it stands behind.
        self._copies: dict[fx.Node, fx.Node] = {}

    def extra(self) -> Extra:
        """Returns what there is in the training graph alone, once all else is merged."""
        alone: list[fx.Node] = []
        otherwise: list[fx.Node] = []
        for node in self._training.nodes:
            twin = self._twins.get(node)
            if twin is None and not self._copy_dropout(node):
                alone.append(node)
            elif twin is not None and not self._merge(twin, node):
                otherwise.append(node)
        weighted = [str(node.target) for node in alone if may_hold(node, self._modules)]
        several = [
            n.name for n in otherwise if n.op == "output" and not isinstance(n.args[0], fx.Node)
        ]
        return Extra(
            tuple(dict.fromkeys(weighted or several)),
            tuple(node.name for node in alone or otherwise if node.op != "output"),
        )

    def _merge(self, twin: fx.Node, node: fx.Node) -> bool:
        """Returns whether a node's arguments are its twin's, as far as they can be made so."""
        same: list[bool] = []
        place = module_path(node)

        def merged(ours: Any, theirs: Any) -> Any:
            if isinstance(ours, fx.Node) or isinstance(theirs, fx.Node):
                known = self._twins.get(theirs) if isinstance(theirs, fx.Node) else None
                same.append(known is ours or self._copies.get(known) is ours)  # type: ignore[arg-type]
                return known if same[-1] else ours
            if isinstance(ours, tuple | list) and _alike(ours, theirs):
                return type(ours)(map(merged, ours, theirs))
            if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
                return {key: merged(ours[key], theirs[key]) for key in ours}
            if isinstance(ours, slice) and isinstance(theirs, slice):
                return slice(*map(merged, _ends(ours), _ends(theirs)))
            return ours if ours == theirs else self._chosen(twin, place, theirs, ours)

        args, kwargs = (
            merged(_plain(ours), _plain(theirs))
            for ours, theirs in ((twin.args, node.args), (twin.kwargs, node.kwargs))
        )
        twin.args, twin.kwargs = args, kwargs
        return all(same)

    def _chosen(self, before: fx.Node, place: str, in_training: Any, in_evaluation: Any) -> fx.Node:
        """Returns a new node that is one of two constants by the mode."""
        with self._graph.inserting_before(before):
            mode = self._mode(place)
            if (in_training, in_evaluation) == (True, False):
                return mode
            return self._graph.call_function(by_mode, (mode, in_training, in_evaluation))

    def _mode(self, place: str) -> fx.Node:
        return self._graph.create_node("get_attr", f"{place}.training" if place else "training")

    def _copy_dropout(self, node: fx.Node) -> bool:
        """Copies a node that does nothing in evaluation mode; returns whether it is one."""
        sources = node.all_input_nodes
        source = self._twins.get(sources[0]) if len(sources) == 1 else None
        if source is None or not self._is_dropout(node):
            return False
        with self._graph.inserting_after(source):
            copy = self._graph.node_copy(node, self._twins.__getitem__)
        if node.op == "call_function":
            with self._graph.inserting_before(copy):
                mode = self._mode(module_path(node))
            copy.args = copy.args[: DROPOUTS[node.target]]
            copy.kwargs = {**copy.kwargs, _training_name(node.target): mode}
        self._twins[node] = copy
        self._copies[copy] = self._copies.get(source, source)
        return True

    def _is_dropout(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._modules[str(node.target)], _DROPOUT_MODULES)
        return node.op == "call_function" and node.target in DROPOUTS


def _twins(graph: fx.Graph, training: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Returns training node -> evaluation node, for the operations that both have in one order."""
    ours, theirs = list(graph.nodes), list(training.nodes)
    left, right = ([(node.op, node.target) for node in nodes] for nodes in (ours, theirs))
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return {theirs[block.b + i]: ours[block.a + i] for block in blocks for i in range(block.size)}


def _plain(arguments: Any) -> Any:
    """Returns arguments in the containers of Python, not in torch.fx's immutable ones."""
    if isinstance(arguments, dict):
        return {key: _plain(value) for key, value in arguments.items()}
    if isinstance(arguments, list):
        return [_plain(value) for value in arguments]
    if type(arguments) is tuple:
        return tuple(map(_plain, arguments))
    return arguments


def _alike(ours: tuple[Any, ...] | list[Any], theirs: Any) -> bool:
    return type(ours) is type(theirs) and len(ours) == len(theirs)


def _ends(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step


def _training_name(target: Any) -> str:
    return "train" if target is torch.dropout else "training"
