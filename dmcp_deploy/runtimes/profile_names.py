"""Which layer of a network a runtime's kernel computes, found by the kernel's name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmcp_deploy.onnxgraph.names import PRODUCTS, layer_nodes, producers_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

#: What the runtimes call kernels that compute convolutions and linear layers.
_MULTIPLYING = re.compile(
    r"conv(?!ert)|correlation|gemm|matmul|matrixmultiply|fullyconnected", re.IGNORECASE
)
#: What runtimes put round the name of an operator or of its output: ONNX Runtime's blocked
#: layout, its quantised and half-precision forms; TensorRT's compiler.
_DECORATION = re.compile(r"^Inserted\w*?Cast_|_nchwc$|_token_\d+$|/duplicated$|_nhwc$|_myl\d+_\d+$")


@dataclass(frozen=True)
class Kernel:
    """One executed kernel.

    Attributes:
        name: The runtime's name for it.
        kind: The runtime's type of it; "" where it tells none.
        parts: Names of the operators, or of their outputs, that it is fused of, as far as the
            runtime tells them.
        samples_ms: Its time in every run (see `profile.KernelTime`).
    """

    name: str
    kind: str
    parts: tuple[str, ...]
    samples_ms: tuple[float, ...] = ()


def layers_of_kernels(kernels: Sequence[Kernel], graph: GraphProto) -> list[str | None]:
    """Returns the name of the layer that each kernel computes; None if it computes none.

    A fused kernel is called by its layer, by the last operator fused with it or by that one's
    output. So the names are looked for first; what is called by something behind its layer then
    gets the nearest layer before that, which no other kernel has.
    """
    lookup = _Lookup(graph)
    operators = [lookup.nodes_of(kernel) for kernel in kernels]
    layers = [lookup.first_layer(nodes) for nodes in operators]
    left = {name for name in lookup.names if name not in layers}
    changed = True
    while changed:
        changed = False
        for index, nodes in enumerate(operators):
            before = lookup.before(nodes, left) if layers[index] is None else set()
            if len(before) == 1:
                (layers[index],) = before
                left -= before
                changed = True
    return layers


class _Lookup:
    """The operators of a graph by the names that runtimes may call them."""

    def __init__(self, graph: GraphProto) -> None:
        self._producers = producers_of(graph)
        self._by_name = dict(self._producers)
        for index, node in enumerate(graph.node):
            # What ONNX Runtime calls an operator without a name.
            self._by_name[node.name or f"{node.op_type}_{index}"] = node
        self._layers = {node.output[0]: name for node, name in layer_nodes(graph)}
        self.names = list(self._layers.values())

    def nodes_of(self, kernel: Kernel) -> list[NodeProto]:
        """Returns the operators that a kernel is fused of; none if it does not multiply."""
        if kernel.kind and not _MULTIPLYING.search(kernel.kind):
            return []
        nodes = (self._find(part) for part in (*kernel.parts, kernel.name))
        return [node for node in nodes if node is not None]

    def first_layer(self, nodes: Sequence[NodeProto]) -> str | None:
        """Returns the name of the first layer among operators; None if there is none."""
        return next((name for node in nodes if (name := self._layer(node)) is not None), None)

    def before(self, nodes: Sequence[NodeProto], wanted: set[str]) -> set[str]:
        """Returns those of the wanted layers from which a path without a layer leads here."""
        layers: set[str] = set()
        # A product of two activations is fused with no layer.
        ahead = [node for node in nodes if node.op_type not in PRODUCTS]
        seen = {node.output[0] for node in ahead}
        while ahead:
            inputs = ahead.pop().input
            for source in (self._producers[name] for name in inputs if name in self._producers):
                layer = self._layer(source)
                if layer is None and source.output[0] not in seen:
                    seen.add(source.output[0])
                    ahead.append(source)
                elif layer in wanted:
                    layers.add(str(layer))
        return layers

    def _layer(self, node: NodeProto) -> str | None:
        return self._layers.get(node.output[0])

    def _find(self, part: str) -> NodeProto | None:
        known = (name for name in _spellings(part) if name in self._by_name)
        return next((self._by_name[name] for name in known), None)


def _spellings(part: str) -> Iterator[str]:
    """Yields a name, then what is left of it as decorations and then last steps are taken off."""
    name, before = part, ""
    while name != before:
        yield name
        name, before = _DECORATION.sub("", name), name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
