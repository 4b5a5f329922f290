"""Jetson boards: which one this is, which JetPack it has, which power mode it is in."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from dmcp_deploy.machine.child import run_bounded
from dmcp_deploy.machine.sysfs import read_text


@dataclass(frozen=True)
class JetPack:
    """A line of JetPack releases and the TensorRT that NVIDIA ships with it."""

    name: str
    tensorrt: str


@dataclass(frozen=True)
class Board:
    """A Jetson.

    Attributes:
        model: As its device tree names it.
        l4t: The release of Jetson Linux, such as "36.4.3"; None where it is not told, as in a
            container.
        jetpack: The JetPack that goes with it; None if that is not known.
    """

    model: str
    l4t: str | None
    jetpack: JetPack | None


#: How a release of Jetson Linux starts -> its JetPack.
_JETPACKS = {
    "32.": JetPack("4", "7 or 8"),
    "34.": JetPack("5.0", "8"),
    "35.": JetPack("5", "8"),
    "36.2": JetPack("6.0", "8.6"),
    "36.3": JetPack("6.0", "8.6"),
    "36.4": JetPack("6.1 or 6.2", "10.3"),
    "36.5": JetPack("6.2", "10.3"),
    "38.2": JetPack("7.0", "10.13"),
    "38.4": JetPack("7.1", "10.13"),
    "39.2": JetPack("7.2", "10.16"),
}


def read_board(root: Path = Path("/")) -> Board | None:
    """Returns what is known of the Jetson this runs on; None on any other machine.

    Args:
        root: The folder in which etc/ and proc/ lie.
    """
    l4t = _l4t(read_text(root / "etc/nv_tegra_release"))
    model = read_text(root / "proc/device-tree/model")
    if l4t is None and "Jetson" not in model:
        return None
    known = (pack for start, pack in _JETPACKS.items() if (l4t or "").startswith(start))
    return Board(model or "a Jetson", l4t, next(known, None))


def read_power_mode(timeout_s: float = 10.0) -> str | None:
    """Returns the power mode, such as "MAXN"; None where `nvpmodel` is missing or does not say."""
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    # To other users than root it tells the mode and then complains of files, with an error code.
    answer = run_bounded([program, "-q"], timeout_s)
    match = re.search(r"NV Power Mode:\s*(\S+)", answer.text)
    return match[1] if match else None


def _l4t(text: str) -> str | None:
    """Returns the release in "# R36 (release), REVISION: 4.3, GCID: ..."."""
    match = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None
