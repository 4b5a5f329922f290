"""Kills one of two processes that share a run, again and again: does it end as if undisturbed?

    python benchmarks/chaos_ranks.py --out benchmarks/results/chaos_ranks.json

A search (both stages of DMCP) and the retraining of a small network on generated pictures run once
undisturbed, by two CPU processes under torchrun. Then they run once more, and at random steps one
of the two, drawn as well, gets SIGKILL: torchrun starts both again. The run must end with the same
plan, supernet, dense weights and figures of every step, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chaos_runs import _make_pictures

from dmcp_deploy.artifact import write_artifact
from dmcp_deploy.training.metrics import read_metrics

_OUTPUTS = ("plan.json", "supernet.safetensors", "dense.safetensors")
_LOOPS = ("search", "train")
_PATIENCE_S = 600


def main() -> None:
    """Runs both and writes what became of them; exit code 1 if they ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos_ranks.json"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40, help="Of the search, and of retraining.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-ranks-") as name:
        folder = Path(name)
        _make_pictures(folder / "pictures")
        truth, run = folder / "undisturbed", folder / "run"
        _run(folder, truth, options.steps, [])
        kills = _drawn(random.Random(options.seed), options.kills, options.steps)
        _run(folder, run, options.steps, kills)
        differs = [n for n in _OUTPUTS if (run / n).read_bytes() != (truth / n).read_bytes()]
        differs += [loop for loop in _LOOPS if _figures(run, loop) != _figures(truth, loop)]
    content = {
        "seed": options.seed,
        "steps": options.steps,
        "kills": kills,
        "differs": differs,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_artifact(options.out, "chaos-ranks", content)
    for kill in kills:
        print(f"rank {kill['rank']} killed in {kill['loop']} behind step {kill['step']}")
    print(f"differs from the undisturbed run: {', '.join(differs) or 'nothing'}")
    sys.exit(1 if differs else 0)


def _drawn(rng: random.Random, kills: int, steps: int) -> list[dict[str, Any]]:
    """Returns at which steps of both loops which process is killed, in order."""
    places = sorted(rng.sample(range(1, 2 * (steps - 3)), kills))
    found = []
    for place in places:
        loop, step = divmod(place, steps - 3)
        found.append({"loop": _LOOPS[loop], "step": step + 1, "rank": rng.randrange(2)})
    return found


def _run(folder: Path, run: Path, steps: int, kills: Sequence[dict[str, Any]]) -> None:
    """Searches and retrains by two processes, of which one is killed here and there."""
    asked = {"out": run, "data": folder / "pictures", "flops": "30%", "max-steps": steps}
    asked |= {"model": "chaos_runs:three_convolutions", "input-size": 32, "batch-size": 4}
    shared = ["--device", "cpu", "--checkpoint-seconds", "0"]
    search = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
    commands = {
        "search": ["search", "--no-rehearse", *search, *shared],
        "train": ["train", str(run), *shared],
    }
    for loop, words in commands.items():
        own = [kill for kill in kills if kill["loop"] == loop]
        process = subprocess.Popen(
            _torchrun(words, len(own)),
            env={**os.environ, **_ENVIRONMENT},
            stdout=subprocess.DEVNULL,
        )
        for kill in own:
            _wait_for(run / "metrics" / f"{loop}.jsonl", kill["step"], process)
            os.kill(_process_of(kill["rank"], process.pid), SIGKILL)
        if process.wait(_PATIENCE_S) != 0:
            raise RuntimeError(f"{loop} has ended with exit code {process.returncode}.")


def _torchrun(words: Sequence[str], max_restarts: int) -> list[str]:
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(max_restarts)]
    start = [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr", "127.0.0.1"]
    return [*start, "-m", "dmcp_deploy", *words]


_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1]))),
}


def _wait_for(metrics: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while len(metrics.read_bytes().splitlines() if metrics.exists() else ()) < steps:
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"{metrics} never got {steps} steps.")
        time.sleep(0.002)


def _process_of(rank: int, launcher: int) -> int:
    """Returns the process that torchrun has started as this rank; waits until there is one."""
    while True:
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and _is_rank(folder, rank, launcher):
                return int(folder.name)
        time.sleep(0.01)


def _is_rank(folder: Path, rank: int, launcher: int) -> bool:
    try:
        parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        environment = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return parent == str(launcher) and f"RANK={rank}".encode() in environment


def _figures(run: Path, loop: str) -> list[dict[str, float]]:
    return read_metrics(run / "metrics" / f"{loop}.jsonl")


if __name__ == "__main__":
    main()
