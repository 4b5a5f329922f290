"""Kills a run at random moments, tears its files, fills its disk: does it end as if undisturbed?

    python benchmarks/chaos.py --out benchmarks/results/chaos.json

A search (both stages of DMCP) and the retraining of a small network on generated pictures run once
undisturbed. Then they run again and again with something done to them, and each time the same
commands are given once more until they end. What they end with - plan, supernet, dense weights,
figures of every step - must be the undisturbed run's, bit for bit. Every run is a process of its
own, forked from this one, which has imported everything: so a kill hits the work and not the
imports. As root a full disk is a small tmpfs; else it is a limit on the size of files.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # sums depend on the number of threads
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from chaos_runs import ROOM_BYTES, Site, disk_of, make_site

_OUTPUTS = ("plan.json", "supernet.safetensors", "dense.safetensors")
_NEVER_S = 3600.0
_Trial = dict[str, Any]


def main() -> None:
    """Runs all trials and writes what became of them; exit code 1 if a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos.json"))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=16, help="Of the search, and of retraining.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-mount", action="store_true", help="Do without a tmpfs.")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        site = make_site(Path(folder), options.steps, mount=not options.no_mount)
        trials = []
        for trial in _trials(site, random.Random(options.seed), options.kills):
            print(trial, file=sys.stderr, flush=True)
            trials.append(trial)
    from dmcp_deploy.artifact import write_artifact

    content = {
        "seed": options.seed,
        "steps": options.steps,
        "undisturbed_s": round(site.seconds, 2),
        "seconds": round(time.monotonic() - started, 1),
        "trials": trials,
    }
    write_artifact(options.out, "chaos", content)
    print(report(trials))
    sys.exit(0 if all(trial["good"] for trial in trials) else 1)


def report(trials: Sequence[_Trial]) -> str:
    """Returns the trials as a Markdown table."""
    lines = [
        "| what is done to a run | times | where it stood | ends as the undisturbed | it says |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(trial["kind"] for trial in trials):
        own = [trial for trial in trials if trial["kind"] == kind]
        places = [trial["place"] for trial in own]
        where = ", ".join(f"{places.count(place)} {place}" for place in dict.fromkeys(places))
        same = sum(trial["good"] for trial in own)
        said = next((trial["said"][0] for trial in own if trial["said"]), "")
        lines.append(f"| {kind} | {len(own)} | {where} | {same} of {len(own)} | {said} |")
    return "\n".join(lines)


def _trials(site: Site, rng: random.Random, kills: int) -> Iterator[_Trial]:
    fresh = kills // 3
    for number in range(fresh):
        yield _killed_once(site, rng, 0.0 if number % 2 else 0.2)
    yield from _killed_again_and_again(site, rng, kills - fresh)
    for number in (SIGTERM, SIGTERM, SIGTERM, SIGUSR1):
        yield _asked_to_end(site, rng, number)
    for loop, share in (("search", 0.25), ("search", 0.75), ("train", 0.5)):
        for tear in (_truncate, _flip):
            yield _torn(site, rng, loop, round(share * site.steps), tear)
    yield _both_torn(site, rng)
    for name in ("supernet.safetensors", "dense.safetensors"):
        yield _torn_output(site, rng, name)
    for checkpoints in range(5):
        yield _full_disk(site, checkpoints + 0.5)
    for loop, share in (("search", 0.25), ("search", 0.75), ("train", 0.5)):
        if site.mount:
            yield _disk_fills_up(site, loop, round(share * site.steps))


def _killed_once(site: Site, rng: random.Random, checkpoint_s: float) -> _Trial:
    run = site.new_run()
    trial = _killed(site, run, rng.uniform(0, 2 * site.steps), checkpoint_s)
    return {"kind": "SIGKILL, once"} | trial | _ended(site, run)


def _killed_again_and_again(site: Site, rng: random.Random, kills: int) -> Iterator[_Trial]:
    """Kills one run at later and later moments; each time it first has to start again."""
    run = site.new_run()
    moments = sorted(rng.uniform(0, 2 * site.steps) for _ in range(kills))
    trials = [_killed(site, run, moment, 0.0) for moment in moments]
    end = _ended(site, run)
    kind = {"kind": "SIGKILL, one run again and again"}
    yield from (kind | trial | end for trial in trials)


def _killed(site: Site, run: Path, moment: float, checkpoint_s: float) -> _Trial:
    """Kills a run at a moment in steps of both loops: 3.5 is in the midst of the fourth."""
    child = site.start(run, checkpoint_s)
    child.wait_for_steps(run, "search", min(int(moment), site.steps))
    child.wait_for_steps(run, "train", max(int(moment) - site.steps, 0))
    first = moment < 1  # has everything before it
    time.sleep(moment % 1 * (site.start_s if first else site.step_s))
    child.end(SIGKILL)
    return {"place": site.place(run), "moment_steps": round(moment, 2)}


def _asked_to_end(site: Site, rng: random.Random, number: int) -> _Trial:
    """Sends a signal; within a loop no step may be lost, though no checkpoint was due."""
    run = site.new_run()
    loop = rng.choice(("search", "train"))
    child = site.start(run, _NEVER_S)
    child.wait_for_steps(run, loop, rng.randrange(1, site.steps - 4))
    code = child.end(number)
    place, steps = site.place(run), site.steps_done(run, loop)
    trial = {"kind": number.name, "place": place, "exit_code": code}
    end = _ended(site, run)
    kept = f"{loop}: resumed at step {steps} of {site.steps}" in end["said"]
    good = end["good"] and kept and code == 128 + number
    return trial | end | {"good": good, "said": child.sentences() + end["said"]}


def _torn(
    site: Site, rng: random.Random, loop: str, steps: int, tear: Callable[..., None]
) -> _Trial:
    run = _killed_at(site, loop, steps)
    tear(_checkpoint(run, loop), rng)
    trial = {"kind": f"newest checkpoint {_DONE[tear]}", "place": site.place(run)}
    end = _ended(site, run)
    told = any("is damaged" in line and "the one before it" in line for line in end["said"])
    return trial | end | {"good": end["good"] and told}


def _both_torn(site: Site, rng: random.Random) -> _Trial:
    """Damages both checkpoints: the run is refused, and starts again once they are deleted."""
    run = _killed_at(site, "search", site.steps // 2)
    newest = _checkpoint(run, "search")
    both = (newest, newest.with_name(f"{newest.name}.previous"))
    for path in both:
        _truncate(path, rng)
    trial = {"kind": "both checkpoints truncated, then deleted", "place": site.place(run)}
    return trial | _refused_until(site, run, lambda: [path.unlink() for path in both])


def _torn_output(site: Site, rng: random.Random, name: str) -> _Trial:
    """Damages what a stage has made; the supernet's weights must be deleted by the user."""
    run = site.new_run()
    site.start(run).wait()
    _truncate(run / name, rng)
    trial = {"kind": f"{name} truncated", "place": site.place(run)}
    if name == "dense.safetensors":
        return trial | _ended(site, run)
    trial["kind"] += ", then deleted"
    return trial | _refused_until(site, run, (run / name).unlink, [["slice", str(run)]])


def _full_disk(site: Site, checkpoints: float) -> _Trial:
    size = round(checkpoints * site.checkpoint_bytes)
    with disk_of(site, size) as disk:
        run = disk.folder / "run"
        child = site.start(run, limit_bytes=disk.limit_bytes)
        code = child.wait()
        trial = {"kind": disk.kind, "place": site.place(run), "disk_bytes": size}
        disk.free()
        end = _ended(site, run)
    fits = code == 0
    told = child.sentences() if fits or child.is_one_sentence() else []
    good = end["good"] and (fits or (code == 1 and bool(told)))
    return trial | end | {"exit_code": code, "said": told + end["said"], "good": good}


def _disk_fills_up(site: Site, loop: str, steps: int) -> _Trial:
    """Takes all room that is left behind a step, and all that is given back until the end."""
    with disk_of(site, ROOM_BYTES) as disk:
        run = disk.folder / "run"
        child = site.start(run)
        child.wait_for_steps(run, loop, steps)
        while not child.has_ended():
            disk.fill()
        code = child.wait()
        trial = {"kind": "disk fills up, then freed", "place": site.place(run), "exit_code": code}
        disk.free()
        end = _ended(site, run)
    told = code == 1 and child.is_one_sentence()
    return trial | end | {"good": end["good"] and told, "said": child.sentences() + end["said"]}


def _refused_until(
    site: Site, run: Path, mend: Callable[[], object], commands: list[list[str]] | None = None
) -> _Trial:
    child = site.start(run, commands=commands)
    refused = child.wait() == 1 and child.is_one_sentence()
    mend()
    end = _ended(site, run)
    return end | {"good": end["good"] and refused, "said": child.sentences() + end["said"]}


def _killed_at(site: Site, loop: str, steps: int) -> Path:
    run = site.new_run()
    child = site.start(run)
    child.wait_for_steps(run, loop, steps)
    child.end(SIGKILL)
    return run


def _ended(site: Site, run: Path) -> _Trial:
    """Gives the commands once more, to the end; returns what is said and if all is the same."""
    child = site.start(run)
    code = child.wait()
    differs = [name for name in _OUTPUTS if not _same(run / name, site.truth / name)]
    differs += [loop for loop in ("search", "train") if site.figures(run, loop) != site.told(loop)]
    return {"good": code == 0 and not differs, "differs": differs, "said": child.sentences()}


def _same(path: Path, truth: Path) -> bool:
    return path.exists() and path.read_bytes() == truth.read_bytes()


def _checkpoint(run: Path, loop: str) -> Path:
    return run / "checkpoints" / f"{loop}.safetensors"


def _truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def _flip(path: Path, rng: random.Random) -> None:
    """Changes one bit among the tensors, which lie behind the file's head."""
    content = bytearray(path.read_bytes())
    head = int.from_bytes(content[:8], "little")
    content[rng.randrange(8 + head, len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


_DONE = {_truncate: "truncated", _flip: "with one bit changed"}

if __name__ == "__main__":
    main()
