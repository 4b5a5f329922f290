"""What the small experiments share: options, and results kept after every piece of work."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import write_text
from dmcp_deploy.machine.environment import read_environment

Record = dict[str, Any]

#: What changes no result.
_FREE = ("out", "work", "jobs", "report", "best_found")


@dataclass(frozen=True)
class Job:
    """A piece of work, and under which key its record is kept.

    Attributes:
        work: Picklable; returns the record.
        arguments: By name.
    """

    key: str
    work: Callable[..., Record]
    arguments: Mapping[str, Any]


class Book:
    """The results of an experiment, in its file.

    Attributes:
        content: What the file holds; "results" has the records.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """Opens what is there already, which must have been asked for in the same way."""
        asked = {k: _plain(v) for k, v in vars(options).items() if k not in _FREE}
        self._path, self._processes = options.out, options.jobs
        known = json.loads(self._path.read_text()) if self._path.exists() else {"options": asked}
        if options.report:
            asked = known["options"]
        if known["options"] != asked:
            sys.exit(f"{self._path} holds results of other options: choose another --out.")
        self.content = {
            "kind": f"worth-{options.name}",
            "command": " ".join(["python", *sys.argv]),
            "options": asked,
            "environment": read_environment(),
            "results": known.get("results", {}),
        }

    @property
    def results(self) -> dict[str, Record]:
        """Key -> the record of what is done."""
        return self.content["results"]

    def do(self, jobs: Sequence[Job]) -> None:
        """Does what is not done yet, in several processes where that is asked for."""
        for key, record in _done([j for j in jobs if j.key not in self.results], self._processes):
            self.results[key] = record
            write_text(self._path, json.dumps(self.content, indent=1) + "\n")
            print(f"{time.strftime('%H:%M:%S')} {key}: {record['seconds']:.0f} s", flush=True)


def parser(name: str, doc: str, **defaults: Any) -> argparse.ArgumentParser:
    """Returns the options of an experiment.

    Args:
        name: Of its files.
        doc: Its description.
        **defaults: Of options that experiments have in common.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--out", type=Path, help="Results; by default named after the task.")
    made.add_argument("--work", type=Path, default=Path(f"runs/worth/{name}"), help="Runs.")
    made.add_argument("--task", default="duo48", help="fashion or duo48.")
    made.add_argument("--budget", type=float, default=10.0, help="Percent of the full network.")
    made.add_argument("--search-steps", type=int, default=2000, help="Of both stages together.")
    made.add_argument("--train-steps", type=int, default=4000)
    made.add_argument("--searches", type=int, default=3)
    made.add_argument("--seeds", type=int, default=6, help="Networks of an arm.")
    made.add_argument("--recipe", type=json.loads, default={}, help="Other fields, as JSON.")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N.")
    made.add_argument("--jobs", type=int, default=2, help="Processes, of one thread each.")
    made.add_argument("--smoke", action="store_true", help="All of it, tiny, in seconds.")
    made.add_argument("--report", action="store_true", help="Only says what --out holds.")
    made.set_defaults(name=name, pictures=None, **defaults)
    return made


def asked(made: argparse.ArgumentParser, **smoke: Any) -> argparse.Namespace:
    """Returns the options given; those of a smoke test take the place of some, and other paths.

    Args:
        made: The options.
        **smoke: Options of a smoke test.
    """
    options = made.parse_args()
    if options.smoke:
        tiny = {"budget": 60.0, "search_steps": 4, "train_steps": 3, "pictures": (256, 200)}
        tiny["recipe"] = {"candidates": 2, **options.recipe}
        vars(options).update({**tiny, "searches": 2, "seeds": 2, "jobs": 1, **smoke})
        options.out = options.out or Path(f"runs/worth/{options.name}-smoke.json")
        if options.work == made.get_default("work"):
            options.work = Path(f"runs/worth/{options.name}-smoke")
    named = f"{options.name}-{options.task}.json"
    options.out = options.out or Path("benchmarks/results/worth") / named
    return options


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _done(jobs: Sequence[Job], processes: int) -> Iterator[tuple[str, Record]]:
    """Yields key and record of each job as it ends."""
    if processes == 1:
        yield from ((job.key, _do(job)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a forked process must not use torch's threads
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        waiting = {pool.submit(_do, job): job.key for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _do(job: Job) -> Record:
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    record = job.work(**job.arguments)
    return {**record, "seconds": round(time.monotonic() - began, 1)}
