"""Layers of one network against those of another: how much faster each got, and why not more."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dmcp_deploy.bench.layers.record import LayerTime, Profiled
from dmcp_deploy.bench.ratio import LatencyRatio, latency_ratio
from dmcp_deploy.onnxgraph.layers import OnnxLayer

UNALIGNED = "width not a multiple of {}"
MEMORY_BOUND = "memory bound"
LAUNCH_BOUND = "launch bound"
DEPTHWISE = "depthwise"
UNEXPLAINED = "unexplained"

#: A layer lags behind its multiply-adds if the whole interval of its time ratio lies above their
#: ratio times this. It is generous: profilers count microseconds, and small layers take a few.
_SLACK = 1.15
#: Every vector unit and tensor core works on 8 channels or more at once. Channels beyond a
#: multiple of 8 cost as much as 8 more, so such a width is a likely reason.
_ALIGNMENT = 8
#: Some vector units (AVX-512) work on 16. A width is blamed for not being a multiple of 16 only if
#: that explains the time: with all widths rounded up to 16, the ratio of the multiply-adds comes
#: at least half of the way to the time ratio.
_WIDE_ALIGNMENT, _EXPLAINED = 16, 0.5
#: A layer is memory bound if moving its data, at the best rate of this machine, takes longer than
#: multiplying and at least this share of its time; a real kernel loses the rest.
_MEMORY_SHARE = 0.5
#: The smallest kernel of a network takes about as long as starting any kernel. One of up to twice
#: that time spends the larger half of it on being started.
_NEAR_SMALLEST = 2.0
#: Starting a kernel takes no longer than this, on a CPU or a GPU. Where even the smallest kernel is
#: larger, it does not tell how long starting takes.
_LONGEST_START_MS = 0.02


@dataclass(frozen=True)
class LayerComparison:
    """One layer against the same layer of the record's first network.

    Attributes:
        macs_ratio: Its multiply-adds / the first's.
        time_ratio: Its time / the first's, over runs of the same part (see `bench.ratio`).
        reason: Where it did not get faster as its multiply-adds fell, the likeliest reason; ""
            where it did.
    """

    macs_ratio: float
    time_ratio: LatencyRatio
    reason: str


def compare_layer(item: LayerTime, network: Profiled, first: Profiled) -> LayerComparison | None:
    """Returns a layer of a network against the first network's; None if that has none of its name.

    Args:
        item: The layer.
        network: The network that it is of.
        first: The network to compare with.
    """
    base = first.find(item.layer.name)
    if base is None:
        return None
    macs_ratio = item.layer.macs / base.layer.macs
    time_ratio = latency_ratio(base.samples_ms, item.samples_ms)
    lags = macs_ratio < 1 and time_ratio.low > _SLACK * macs_ratio
    reason = _reason(item, base, network, time_ratio.low) if lags else ""
    return LayerComparison(macs_ratio, time_ratio, reason)


def _reason(item: LayerTime, base: LayerTime, network: Profiled, time_ratio: float) -> str:
    """Returns the first reason that holds, in the order of how much each explains."""
    ours, theirs = item.layer, base.layer
    if widths := _unaligned_widths(ours, theirs, _ALIGNMENT):
        return f"{UNALIGNED.format(_ALIGNMENT)} ({widths})"
    widths = _unaligned_widths(ours, theirs, _WIDE_ALIGNMENT)
    if widths and _is_explained(ours, theirs, time_ratio):
        return f"{UNALIGNED.format(_WIDE_ALIGNMENT)} ({widths})"
    if _is_memory_bound(item, network):
        return MEMORY_BOUND
    if item.median_ms <= min(_NEAR_SMALLEST * network.smallest_ms, _LONGEST_START_MS):
        return LAUNCH_BOUND
    return DEPTHWISE if item.layer.kind == DEPTHWISE else UNEXPLAINED


def _unaligned_widths(ours: OnnxLayer, theirs: OnnxLayer, alignment: int) -> str:
    """Returns the widths that lost their alignment, as in "in 37, out 91"; "" if none did."""
    sides = {
        "in": (ours.in_channels, theirs.in_channels),
        "out": (ours.out_channels, theirs.out_channels),
    }
    # A width that the first network has as well, such as 3 for an image, explains no difference.
    unaligned = {
        side: width
        for side, (width, before) in sides.items()
        if width % alignment and width != before
    }
    if ours.kind == DEPTHWISE and unaligned:
        return str(ours.out_channels)
    return ", ".join(f"{side} {width}" for side, width in unaligned.items())


def _is_explained(ours: OnnxLayer, theirs: OnnxLayer, time_ratio: float) -> bool:
    """Tells whether widths rounded up explain a time ratio that exceeds the multiply-adds'."""
    if min(ours.in_channels, ours.out_channels) < _WIDE_ALIGNMENT:
        return True  # no vector is full, and runtimes have slower kernels for that
    rounded = _rounded_macs(ours) / _rounded_macs(theirs)
    exact = ours.macs / theirs.macs
    return rounded - exact >= _EXPLAINED * (time_ratio - exact)


def _rounded_macs(layer: OnnxLayer) -> float:
    sides = [layer.out_channels]
    if layer.kind != DEPTHWISE:
        sides.append(layer.in_channels)
    growth = [-(-side // _WIDE_ALIGNMENT) * _WIDE_ALIGNMENT / side for side in sides]
    return layer.macs * prod(growth)


def _is_memory_bound(item: LayerTime, network: Profiled) -> bool:
    limits = network.limits
    if limits is None:
        return False
    memory_ms = limits.memory_ms(item.layer)
    dominates = memory_ms > limits.compute_ms(item.layer)
    return dominates and memory_ms >= _MEMORY_SHARE * item.median_ms
