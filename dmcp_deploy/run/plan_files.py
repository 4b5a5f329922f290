"""A plan file by itself -> sliced weights and ONNX, without a run, a search or data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.image_batches import image_batches
from dmcp_deploy.export.precisions import (
    UNRUNNABLE,
    Evidence,
    check_evidence,
    check_precisions,
    convert,
    convert_judged,
    precision_path,
)
from dmcp_deploy.export.proven import export_proven
from dmcp_deploy.export.slice import slice_proven
from dmcp_deploy.export.verify import Parity
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import sort_channels
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.options.export import ExportOptions
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.progress import Progress
from dmcp_deploy.run.context import SUPERNET
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.training.given_weights import load_given
from dmcp_deploy.training.weight_files import split_source, stored_weights
from dmcp_deploy.training.weights import load_state, misfits, save_weights

#: Images of noise by which networks without data are compared.
_PROOF_IMAGES = 8


def slice_plan(source: Path, weights: str | None, out: Path, progress: Progress) -> Parity | None:
    """Writes the weights of a plan's dense network.

    Args:
        source: The plan.
        weights: A file of weights of the full network; None for random ones.
        out: The safetensors file to write.
        progress: Told what was chosen among the weights, and what was left out.

    Returns:
        How far it is from the supernet at these widths; None if the weights are those of the
        pruned network already.

    Raises:
        DmcpError: The plan or the weights are damaged or do not fit.
    """
    plan = ChannelPlan.load(source)
    _, dense, parity = _networks(plan, weights, progress)
    save_weights(dense, out)
    return parity


def export_plan(
    source: Path,
    weights: str | None,
    out: Path,
    options: ExportOptions,
    evidence: Evidence | None,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the ONNX file of a plan's dense network, and its other precisions beside it.

    Args:
        source: The plan.
        weights: As for `slice_plan`, or a file of weights of the pruned network.
        out: The ONNX file to write.
        options: Batch, opset and precisions.
        evidence: Images to calibrate on; without any INT8 and FP8 are refused.
        progress: Told of what is done.

    Returns:
        Figures of the export.

    Raises:
        DmcpError: Something does not fit, or cannot be exported or converted.
    """
    precisions = check_precisions(options.precisions) if options.precisions else ()
    for precision in precisions:
        check_evidence(source, precision, evidence)
    plan = ChannelPlan.load(source)
    _, dense, _ = _networks(plan, weights, progress)
    figures = _exported(plan, source, dense, plan.macs, out, options)
    for precision in precisions:
        path = precision_path(out, out.parent, precision)
        if path != out:
            with atomic_path(path) as part:
                _convert(out, part, precision, evidence, progress)
            progress.say(f"{path}")
    return figures


def onnx_files(
    source: Path, weights: str | None, original: bool, progress: Progress
) -> tuple[Path, ...]:
    """Returns ONNX files of a plan's full network, if asked for, and of its pruned one.

    They lie beside the plan, in a folder that is named after it.
    """
    plan, folder = ChannelPlan.load(source), source.with_suffix("")
    network, dense, _ = _networks(plan, weights, progress)
    pruned, full, options = folder / "model.onnx", folder / "original.onnx", ExportOptions()
    progress.say(f"Exporting the networks of {source} to {folder}")
    if original:
        _exported(plan, source, network.model, plan.full_macs, full, options)
    _exported(plan, source, dense, plan.macs, pruned, options)
    return (full, pruned) if original else (pruned,)


def _networks(
    plan: ChannelPlan, weights: str | None, progress: Progress
) -> tuple[Network, nn.Module, Parity | None]:
    """Returns the full and the pruned network, and how far the latter is from the supernet."""
    network = build_network(plan.network, plan.seed)
    plan.check_fits(network.sizes(), plan.network.model)
    if weights == "imagenet":
        raise DmcpError("--weights imagenet goes with runs: give a plan file a file of weights.")
    if weights not in (None, "none"):
        path, place = split_source(weights)
        stored = stored_weights(path)
        dense = slice_network(network, plan.groups)
        inside = (s.tensors for s in stored if not place or f"{s.place}.".startswith(f"{place}."))
        pruned = next((tensors for tensors in inside if not misfits(dense, tensors)), None)
        if pruned is not None and plan.macs < plan.full_macs:
            load_state(dense, pruned)
            return network, dense.eval(), None
        for sentence in load_given(network, stored, str(path), place):
            progress.say(sentence)
        if path.name != SUPERNET:  # the search has made the first channels the best
            sort_channels(network)
    dense, parity = slice_proven(network, plan, _noise(plan))
    return network, dense, parity


def _noise(plan: ChannelPlan) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROOF_IMAGES, *plan.network.input_shape, generator=generator)


def _exported(
    plan: ChannelPlan,
    source: Path,
    model: nn.Module,
    macs: int,
    out: Path,
    options: ExportOptions,
) -> dict[str, Any]:
    return export_proven(
        model,
        out,
        images=_noise(plan),
        macs=macs,
        batch=options.batch,
        opset=options.opset,
        metadata={"model": plan.network.model, "plan": digest_file(source)},
    )


def _convert(
    source: Path, path: Path, precision: str, evidence: Evidence | None, progress: Progress
) -> None:
    """Converts, and judges by the logits in FP32 where there are images."""
    if evidence is None or precision in UNRUNNABLE:
        convert(source, path, precision, evidence)
        return
    images = evidence.calibration
    batches = image_batches(inspect_onnx(source), images)
    with OnnxSession(source, exact=True) as session:
        reference = np.concatenate([session.run(batch) for batch in batches])[: len(images)]
    unlabelled = [(images, np.zeros(len(images), dtype=np.int64))]
    judged = replace(evidence, validation=lambda: unlabelled, total=1, reference=reference)
    convert_judged(source, path, precision, judged, progress)
