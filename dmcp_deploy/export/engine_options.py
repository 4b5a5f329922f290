"""What an engine is built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import check
from dmcp_deploy.options.export import TargetOptions
from dmcp_deploy.registry import choose
from dmcp_deploy.runtimes.trt_flavours import TURING, Flavour, find_flavour


@dataclass(frozen=True)
class EngineOptions(TargetOptions):
    """What one engine is built for; bad values raise DmcpError.

    Attributes:
        runtime: "tensorrt" or "tensorrt-rtx".
        batches: The smallest, the best and the largest batch; three times the same number makes a
            static engine, which is faster.
    """

    runtime: str
    batches: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        flavour = find_flavour(self.runtime)
        smallest, best, largest = self.batches
        if not 1 <= smallest <= best <= largest:
            raise DmcpError(
                f"The batch sizes {smallest}, {best}, {largest} must be 1 or more and not fall."
            )
        _check_archs(flavour, self.gpu_archs)
        if self.dla is not None and not flavour.has_dla:
            raise DmcpError(f"--dla {self.dla}: {flavour.name} builds for no DLA; use tensorrt.")
        if self.dla is not None and self.dla < 0:
            raise DmcpError(f"--dla {self.dla} must be the number of a core: 0 or 1.")
        if self.dla is not None and smallest != largest:
            raise DmcpError(f"--dla {self.dla} needs a static batch: leave out --dynamic-batch.")
        if self.timing_cache is not None and not flavour.has_timing_cache:
            raise DmcpError(f"--timing-cache: {flavour.name} keeps none; leave it out.")
        check(self)

    @property
    def is_static(self) -> bool:
        """Whether the engine takes one batch size alone."""
        return self.batches[0] == self.batches[2]

    @property
    def label(self) -> str:
        """What tells this build from others of the same network: "tensorrt-rtx.b8.sm86-sm89"."""
        batch = str(self.batches[0]) if self.is_static else "-".join(map(str, self.batches))
        archs = ["-".join(self.gpu_archs)] if self.gpu_archs else []
        dla = [f"dla{self.dla}"] if self.dla is not None else []
        return ".".join([self.runtime, f"b{batch}", *archs, *dla])


def _check_archs(flavour: Flavour, archs: Sequence[str]) -> None:
    if archs and not flavour.targets:
        raise DmcpError(
            f"--gpu-arch {','.join(archs)}: {flavour.name} builds on the device itself and for"
            " that device alone; leave it out."
        )
    for arch in archs:
        choose("--gpu-arch", arch, flavour.targets)
    if len(set(archs)) < len(archs):
        raise DmcpError(f"--gpu-arch {','.join(archs)} names one twice: name each once.")
    if TURING in archs and len(archs) > 1:
        raise DmcpError(
            f"--gpu-arch {','.join(archs)}: Turing ({TURING}) cannot share an engine with newer"
            " architectures; build for it separately."
        )
