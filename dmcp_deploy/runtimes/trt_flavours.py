"""TensorRT and TensorRT-RTX: where they differ, how they are loaded, and the one logger of each."""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.registry import choose

if TYPE_CHECKING:
    from dmcp_deploy.runtimes.trt_api import ILogger, TensorRT


@dataclass(frozen=True)
class Flavour:
    """One of the two modules.

    Attributes:
        name: What `--runtime` calls it.
        module: Its import name.
        lowest: The first version that is supported.
        below: The first version that is not any more.
        install: Where it comes from, the end of a sentence.
        targets: GPU architectures an engine can be built for without a GPU; none: it is built
            for the GPU at hand.
        has_timing_cache: Whether kernel timings can be kept from build to build.
        has_dla: Whether Jetson Orin's accelerator can be built for.
    """

    name: str
    module: str
    lowest: tuple[int, ...]
    below: tuple[int, ...]
    install: str
    targets: tuple[str, ...]
    has_timing_cache: bool
    has_dla: bool


FLAVOURS = {
    "tensorrt": Flavour(
        name="tensorrt",
        module="tensorrt",
        lowest=(10, 3),
        below=(12,),
        install="it comes with JetPack on a Jetson, and as pip install tensorrt elsewhere",
        targets=(),
        has_timing_cache=True,
        has_dla=True,
    ),
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        lowest=(1, 0),
        below=(2,),
        install="pip install 'dmcp-deploy[rtx]' (x86-64)",
        targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
        has_timing_cache=False,
        has_dla=False,
    ),
}

#: The oldest target of RTX, which shares no engine with the others.
TURING = "sm75"

#: Messages that a machine without a GPU gets after every other error.
_NOISE = re.compile(r"catchCudaError|CUDA initialization failure|Unable to determine GPU memory")
#: How the one verbose message begins that is kept, of hundreds of thousands in a build.
_LAYERS = "Layers:"
#: Messages kept outside of `collecting`, where a session may live for long.
_LATEST = 100


@dataclass(frozen=True)
class Message:
    """One message of TensorRT's log: severity ("ERROR", "WARNING", "INFO", "VERBOSE"), text."""

    severity: str
    text: str


@dataclass(frozen=True)
class Loaded:
    """A flavour whose module is imported."""

    flavour: Flavour
    trt: TensorRT
    version: str
    log: TrtLog


class TrtLog:
    """The messages of one flavour: a process has one logger, whoever builds or runs.

    Attributes:
        logger: The object to hand to the module.
    """

    def __init__(self, trt: Any) -> None:
        """Makes a logger of the module's own class."""
        self._latest: deque[Message] = deque(maxlen=_LATEST)
        self._messages: MutableSequence[Message] = self._latest

        class Logger(trt.ILogger):  # type: ignore[misc]  # the bindings carry no types
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(_, severity: Any, msg: str) -> None:  # noqa: N805 - `self` is the TrtLog
                name = str(severity).rpartition(".")[2].upper()
                if name != "VERBOSE" or msg.startswith(_LAYERS):
                    self._messages.append(Message(name, msg))

        self.logger = cast("ILogger", Logger())

    @contextmanager
    def collecting(self) -> Iterator[list[Message]]:
        """Yields the list that gets the messages of the block."""
        messages: list[Message] = []
        before, self._messages = self._messages, messages
        try:
            yield messages
        finally:
            self._messages = before

    def take_latest(self) -> list[Message]:
        """Returns the latest messages outside of `collecting`, each call those since the last."""
        latest = list(self._latest)
        self._latest.clear()
        return latest


def find_flavour(name: str) -> Flavour:
    """Returns a flavour by name.

    Raises:
        DmcpError: There is none of that name.
    """
    return FLAVOURS[choose("--runtime", name, FLAVOURS)]


def load_flavour(name: str) -> Loaded:
    """Returns a flavour, imported; the same object for the rest of the process.

    Raises:
        DmcpError: It is not installed, does not load, or its version is not supported.
    """
    flavour = find_flavour(name)
    if name not in _LOADED:
        trt = _imported(flavour)
        version = getattr(trt, "__version__", "")
        if not version:  # Python takes any folder of that name for a package
            raise DmcpError(_broken(flavour, f"{list(getattr(trt, '__path__', []))} is none"))
        _check_version(flavour, version)
        _LOADED[name] = Loaded(flavour, trt, version, TrtLog(trt))
    return _LOADED[name]


def reasons(messages: Sequence[Message]) -> str:
    """Returns what the log says went wrong, in a line; "no reason given" if it does not."""
    errors = [m.text for m in messages if m.severity in ("ERROR", "INTERNAL_ERROR")]
    telling = [text for text in errors if not _NOISE.search(text)] or errors
    told = "; ".join(dict.fromkeys(" ".join(text.split())[:300] for text in telling[:3]))
    return told.rstrip(". ") or "no reason given"


def warnings_of(messages: Sequence[Message]) -> list[str]:
    """Returns the log's warnings, each once, in order."""
    texts = (m.text for m in messages if m.severity == "WARNING")
    return list(dict.fromkeys(text for text in texts if not _NOISE.search(text)))


_LOADED: dict[str, Loaded] = {}


def _imported(flavour: Flavour) -> TensorRT:
    try:
        return cast("TensorRT", importlib.import_module(flavour.module))
    except ModuleNotFoundError as err:
        if err.name != flavour.module:
            raise DmcpError(_broken(flavour, reason_of(err))) from err
        raise DmcpError(
            f"{flavour.module} is not installed here: {flavour.install};"
            " dmcp-deploy doctor shows what this machine has."
        ) from err
    except (ImportError, OSError) as err:
        raise DmcpError(_broken(flavour, reason_of(err))) from err


def _broken(flavour: Flavour, problem: str) -> str:
    return (
        f"{flavour.module} is installed and cannot be loaded ({problem}): mend that installation;"
        f" {flavour.install}."
    )


def _check_version(flavour: Flavour, version: str) -> None:
    installed = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if flavour.lowest <= installed < flavour.below:
        return
    lowest, below = (".".join(map(str, v)) for v in (flavour.lowest, flavour.below))
    raise DmcpError(
        f"{flavour.module} {version} is installed, and versions from {lowest} to below {below} are"
        " supported: install one of those."
    )
