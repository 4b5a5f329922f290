"""The roofline: how fast a network's layers could be, by what a runtime reaches on this machine."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmcp_deploy.bench.layers.roofline_nets import STREAM, write_products, write_stream
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import OnnxLayer, onnx_layers
from dmcp_deploy.runtimes.profile import profile_layers

_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_RUNS = 5
#: Bytes of a stream that does not fit the caches, and of one that does.
_LARGE, _SMALL = 64 * 2**20, 2**19
_LARGEST = 256 * 2**20
#: A layer reads what the one before has written, so both must find room in the cache.
_CACHE_SHARE = 0.5


@dataclass(frozen=True)
class Limits:
    """What a runtime reaches on this machine at best, with some number of threads.

    It is measured in networks made for that, so it is a bound of what this runtime reaches here,
    and not the datasheet's: another runtime may reach more.

    Attributes:
        gmacs_per_s: Billions of multiply-adds a second, of large convolutions and products.
        gbytes_per_s: Billions of bytes a second, read and written, of data that does not fit the
            caches.
        cached_gbytes_per_s: The same of data that does; None if it was not measured.
        cache_bytes: What of a layer's data counts as fitting them.
    """

    gmacs_per_s: float
    gbytes_per_s: float
    cached_gbytes_per_s: float | None = None
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        cached = self.cached_gbytes_per_s
        rates = [self.gmacs_per_s, self.gbytes_per_s, *([] if cached is None else [cached])]
        if not all(math.isfinite(rate) and rate > 0 for rate in rates) or self.cache_bytes < 0:
            raise DmcpError(f"The measured limits {rates} must be finite and above zero.")

    def best(self, other: Limits) -> Limits:
        """Returns the higher of each of two measurements: what disturbs one only lowers it."""
        cached = [x.cached_gbytes_per_s for x in (self, other) if x.cached_gbytes_per_s is not None]
        return Limits(
            max(self.gmacs_per_s, other.gmacs_per_s),
            max(self.gbytes_per_s, other.gbytes_per_s),
            max(cached, default=None),
            max(self.cache_bytes, other.cache_bytes),
        )

    def compute_ms(self, layer: OnnxLayer) -> float:
        """Returns the least time that a layer's multiply-adds take."""
        return layer.macs / self.gmacs_per_s / 1e6

    def memory_ms(self, layer: OnnxLayer) -> float:
        """Returns the least time that it takes to move a layer's data."""
        fits = self.cached_gbytes_per_s is not None and layer.bytes <= self.cache_bytes
        rate = self.cached_gbytes_per_s if fits else self.gbytes_per_s
        return layer.bytes / (rate or self.gbytes_per_s) / 1e6

    def layer_ms(self, layer: OnnxLayer) -> float:
        """Returns the least time that a layer takes: the larger of both."""
        return max(self.compute_ms(layer), self.memory_ms(layer))


def bound_ms(layers: Iterable[OnnxLayer], limits: Limits) -> float:
    """Returns the least time of convolution and linear layers run one after the other.

    It is a bound of what the runtime reaches here (see `Limits`), and leaves out whatever is
    neither a convolution nor a linear layer.
    """
    return sum(limits.layer_ms(layer) for layer in layers)


def measure_limits(
    runtime: str = "onnxruntime", threads: int = 0, *, quantized: bool = False
) -> Limits:
    """Returns what a runtime reaches on this machine's CPU, measured in a second or two.

    An engine's GPU is not measured: there are no limits of it.

    Args:
        runtime: "onnxruntime" or "openvino".
        threads: Threads; 0 leaves the number to the runtime.
        quantized: Whether the multiply-adds are those of INT8 layers.

    Raises:
        DmcpError: The runtime is missing, or onnx is.
    """
    profiled = partial(profile_layers, runtime=runtime, threads=threads, runs=_RUNS)
    cache = last_level_cache_bytes()
    large = min(max(_LARGE, 4 * cache), _LARGEST)
    with tempfile.TemporaryDirectory(prefix="dmcp-deploy.") as folder:
        path = Path(folder) / "net.onnx"
        peak = 0.0
        for op_type in ("Conv", "MatMul"):
            images = _images(write_products(path, op_type, quantized))
            least_ms = {item.layer: min(item.samples_ms) for item in profiled(path, images)}
            rates = (item.macs / least_ms[item.name] / 1e6 for item in onnx_layers(path))
            peak = max(peak, *rates)
        stream_rates = []
        for size in (large, _SMALL):
            images = _images(write_stream(path, size))
            stream = next(item for item in profiled(path, images) if item.name == STREAM)
            stream_rates.append(2 * images.nbytes / min(stream.samples_ms) / 1e6)
    cached = stream_rates[1] if cache else None
    return Limits(peak, stream_rates[0], cached, int(cache * _CACHE_SHARE))


def last_level_cache_bytes(folder: Path = _CACHE_FOLDER) -> int:
    """Returns the size of the CPU's last cache as Linux tells it; 0 if it does not."""
    try:
        sizes = [file.read_text(encoding="ascii").strip() for file in folder.glob("index*/size")]
    except OSError:
        return 0
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    known = [size for size in sizes if size[:-1].isdecimal() and size[-1] in units]
    return max((int(size[:-1]) * units[size[-1]] for size in known), default=0)


def _images(shape: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
