"""Multiply-adds and parameters, counted from the ONNX graph itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.onnxgraph.layers import layers_of
from dmcp_deploy.onnxgraph.names import stored_tensors
from dmcp_deploy.onnxgraph.shapes import item_bytes, shaped_graph

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto


@dataclass(frozen=True)
class OnnxCost:
    """What an ONNX graph costs.

    Attributes:
        macs: Multiply-adds of convolution and linear layers for one image; no bias, no
            activation, no product of two activations.
        params: Elements of the stored weights of rank 1 and up. The exporter folds batch norms
            into convolutions and stores equal tensors once, so the network itself has some more.
        weight_bytes: Bytes of these weights.
    """

    macs: int
    params: int
    weight_bytes: int


def onnx_cost(path: Path) -> OnnxCost:
    """Returns the cost of the network in an ONNX file, for one image.

    Args:
        path: An ONNX file with one image input [N, C, H, W] of fixed C, H and W.

    Raises:
        DmcpError: The onnx library is missing, the file is absent or no ONNX graph, or a
            shape that counts cannot be inferred.
    """
    shaped = shaped_graph(Path(path))
    weights = _weights(shaped.graph)
    return OnnxCost(
        macs=sum(layer.macs for layer in layers_of(shaped)) // shaped.batch,
        params=sum(prod(weight.dims) for weight in weights),
        weight_bytes=sum(prod(weight.dims) * item_bytes(weight.data_type) for weight in weights),
    )


def _weights(graph: GraphProto) -> list[TensorProto]:
    """Returns the stored tensors that are weights: not scalars, not shapes or indices."""
    import onnx

    indices = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    return [
        tensor
        for tensor in stored_tensors(graph).values()
        if tensor.dims and tensor.data_type not in indices
    ]
