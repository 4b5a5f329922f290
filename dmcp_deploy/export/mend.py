"""INT8 that misses its tolerance: the layers at fault are found, and kept in FP32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.quantize import METHODS, name_nodes, quantized_layers
from dmcp_deploy.export.verify import Parity, compare_outputs, is_faithful
from dmcp_deploy.onnxgraph.file import read_onnx, write_onnx
from dmcp_deploy.onnxgraph.layers import layers_of
from dmcp_deploy.onnxgraph.names import layer_nodes
from dmcp_deploy.onnxgraph.shapes import shaped_graph

#: Each is found by as many judgements as the number of layers has bits, twice.
MOST_LAYERS = 5
#: Of the multiply-adds: with more of them in FP32, the network is hardly one in INT8.
MOST_MACS_SHARE = 0.25
#: The metadata of a file that name the layers kept in FP32.
FP32_KEY = "fp32_layers"
#: Images that the halves are judged by.
SAMPLE = 256

#: ONNX file -> how far its network is from the trained one, on a sample of images.
JudgeSample = Callable[[Path], Parity]


def mend_int8(
    source: Path, path: Path, judge: JudgeSample, method: str, reason: str
) -> dict[str, Any]:
    """Keeps in FP32 the few layers that take an INT8 network out of its tolerance.

    One is found after the other by bisection: half of the layers is quantised, the others are
    not, and the half that is further from the trained network is halved again.

    Args:
        source: The FP32 file.
        path: The file in INT8, as `quantize_int8` makes it for TensorRT; it is replaced.
        judge: Judges a file.
        method: How the ranges were found, for the message.
        reason: What is wrong with the file as it is, for the message.

    Returns:
        "mended": the names of the layers; their "mended_macs_share"; how many are "quantized".

    Raises:
        DmcpError: They would be too many, or hold too much of the work.
    """
    layers = _Layers(source, path, judge)
    kept: list[str] = []
    while not is_faithful(layers.parity(kept), "int8"):
        left = [name for name in layers.names if name not in kept]
        if len(kept) == MOST_LAYERS or not left:
            raise _hopeless(layers, kept, method, reason)
        kept.append(layers.worst(left))
        if layers.macs_share(kept) > MOST_MACS_SHARE:
            raise _hopeless(layers, kept, method, reason)
    layers.write(path, kept)
    return {
        "mended": layers.titles(kept),
        "mended_macs_share": layers.macs_share(kept),
        "quantized": len(layers.names) - len(kept),
    }


def sample_judge(
    run: Callable[[Path, Any], Any], batches: Callable[[], Any], reference: Any
) -> JudgeSample:
    """Returns a judge by the first images of those that a network is judged by.

    Args:
        run: (ONNX file, images) -> logits.
        batches: Calls give batches of (images, labels).
        reference: The trained network's logits on all of them, [M, classes].
    """
    images: list[Any] = []
    for batch, _ in batches():
        images.append(batch)
        if sum(map(len, images)) >= SAMPLE:
            break
    sample = np.concatenate(images)[:SAMPLE]
    return lambda path: compare_outputs(reference[: len(sample)], run(path, sample))


@dataclass
class _Layers:
    """The quantised layers of a file, any of which can be put back to FP32."""

    source: Path
    quantized: Path
    judge: JudgeSample

    def __post_init__(self) -> None:
        self._source, _ = read_onnx(self.source)
        name_nodes(self._source.graph)
        self._quantized = onnx.load_model(self.quantized)
        self.names = list(quantized_layers(self._quantized))
        shaped = shaped_graph(self.source)
        pairs = zip(layer_nodes(shaped.graph), layers_of(shaped), strict=True)
        self._layers = {str(node.output[0]): layer for (node, _), layer in pairs}
        self._outputs = {node.name: node.output[0] for node in self._source.graph.node}

    def parity(self, kept: Collection[str]) -> Parity:
        """Returns how far the network is with some layers kept in FP32."""
        trial = self.quantized.with_name(f"{self.quantized.name}.trial.onnx")
        try:
            self.write(trial, kept)
            return self.judge(trial)
        finally:
            trial.unlink(missing_ok=True)

    def worst(self, candidates: Sequence[str]) -> str:
        """Returns the layer that bisection ends at."""
        while len(candidates) > 1:
            middle = len(candidates) // 2
            halves = (candidates[:middle], candidates[middle:])
            candidates = min(halves, key=lambda half: self._snr_db(half))
        return candidates[0]

    def macs_share(self, kept: Collection[str]) -> float:
        """Returns the share of the multiply-adds that some layers hold."""
        macs = {output: layer.macs for output, layer in self._layers.items()}
        return sum(macs[self._outputs[name]] for name in kept) / max(1, sum(macs.values()))

    def titles(self, kept: Collection[str]) -> list[str]:
        """Returns what the network calls the layers of some operators."""
        return [self._layers[self._outputs[name]].name for name in kept]

    def write(self, path: Path, kept: Collection[str]) -> None:
        """Writes the network with some layers put back to FP32."""
        proto = _put_back(self._quantized, self._source, kept)
        props = {item.key: item.value for item in proto.metadata_props}
        if kept:
            props[FP32_KEY] = ",".join(self.titles(kept))
        helper.set_model_props(proto, props)
        write_onnx(proto, path)

    def _snr_db(self, quantized: Collection[str]) -> float:
        others = [name for name in self.names if name not in quantized]
        return self.parity(others).snr_db


def _put_back(quantized: ModelProto, source: ModelProto, kept: Collection[str]) -> ModelProto:
    """Returns a quantised graph some of whose layers read what they read in FP32."""
    result = ModelProto()
    result.CopyFrom(quantized)
    before = {node.name: node for node in source.graph.node}
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    graph = result.graph
    for node in graph.node:
        if node.name in kept:
            del node.input[:]
            node.input.extend(before[node.name].input)
    _drop_unread(graph)
    read = set(itertools.chain.from_iterable(node.input for node in graph.node))
    missing = read & stored.keys() - {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(stored[name] for name in sorted(missing))
    return result


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Removes conversions and tensors that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {value.name for value in graph.output}
        used = [node for node in graph.node if read.intersection(node.output)]
        if len(used) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(used)
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _hopeless(layers: _Layers, kept: Sequence[str], method: str, reason: str) -> DmcpError:
    others = " or ".join(name for name in METHODS if name != method)
    return DmcpError(
        f"{reason.rstrip('.')}; with {', '.join(layers.titles(kept))} left in fp32"
        f" ({layers.macs_share(kept):.0%} of the multiply-adds) it is still not near enough, or"
        f" that is too much: try --calibration-method {others}, more images by --calibration, or"
        " --precision fp16."
    )
