"""Dense network -> ONNX, proven to compute and to cost the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import (
    compare_outputs,
    flat_images,
    require_finite,
    require_parity,
)
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

#: Of the largest logit, in FP32. ONNX Runtime multiplies norms into weights and adds in an order of
#: its own, with errors of some 1e-6; what an export gets wrong shows in the logits' first digits.
ONNX_TOLERANCE = 1e-4


def export_proven(
    model: nn.Module,
    path: Path,
    *,
    images: Tensor,
    macs: int,
    batch: int | None,
    opset: int,
    metadata: Mapping[str, str],
    tolerance: float = ONNX_TOLERANCE,
) -> dict[str, Any]:
    """Returns figures of a network's ONNX file, written once ONNX Runtime computes the same.

    Args:
        model: The dense network.
        path: The file to write.
        images: [N, C, H, W] of the deployed size: on them the two are compared.
        macs: Multiply-adds of the network for one image.
        batch: A fixed batch size; None leaves it open.
        opset: Version of the standard operators.
        metadata: Pairs to write into the file, beside the multiply-adds.
        tolerance: How far logits may differ, of the largest.

    Raises:
        DmcpError: The network cannot be exported, or the file computes or costs something else.
    """
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    channels, height, width = images.shape[1:]
    with atomic_path(path) as part:
        exported = export_onnx(
            model,
            part,
            input_shape=(channels, height, width),
            batch=batch,
            opset=opset,
            metadata={"macs": str(macs), **metadata},
        )
        parity = _proof(model, part, path.name, _repeated(images, batch), tolerance)
        onnx_macs = onnx_cost(part).macs
        if onnx_macs != macs:
            raise DmcpError(f"{path} has {onnx_macs} multiply-adds where the plan has {macs}.")
    return {
        "parity": parity,
        "onnx_bytes": exported.onnx_bytes,
        "opset": exported.opset,
        "simplified": exported.simplified,
        "macs": onnx_macs,
    }


def _proof(
    model: nn.Module, part: Path, name: str, images: Tensor, tolerance: float
) -> dict[str, float]:
    """Returns the parity on images, once flat ones are seen to stay finite."""
    what = f"ONNX Runtime and torch on {name}"
    with torch.no_grad(), OnnxSession(part) as session:
        parity = compare_outputs(model(images).numpy(), session.run(images.numpy()))
        require_parity(parity, tolerance, what)
        for flat in flat_images(images.shape):
            require_finite(model(torch.from_numpy(flat)).numpy(), session.run(flat), what)
    return parity.to_json()


def _repeated(images: Tensor, batch: int | None) -> Tensor:
    """Returns just as many images as a fixed batch takes, from the first on again."""
    if batch is None:
        return images
    return images[torch.arange(batch) % len(images)]
