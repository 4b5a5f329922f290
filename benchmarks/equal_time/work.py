"""The folder in which the stages of `latency_worth.py` meet, and the rows that come of it."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from equal_time.arms import ARMS, UNIFORM, Searched, Setup

from dmcp_deploy.artifact import encode, write_text
from dmcp_deploy.bench.certificate import Certificate, told
from dmcp_deploy.plan import ChannelPlan

#: Options that belong to a call, and those that later calls may change.
_OF_CALL = ("stage", "work", "out", "jobs", "data", "smoke")
_FREE = ("searches", "repeats", "seconds", "rounds")


class Work:
    """Files by arm and seed. What was measured decides which plan an arm has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, options: argparse.Namespace) -> None:
        """Keeps the options for later stages, or ends where they are others than at first."""
        asked = {k: v for k, v in vars(options).items() if k not in _OF_CALL}
        asked["table"] = options.table and str(options.table.resolve())
        path = self.folder / "options.json"
        kept = json.loads(path.read_text()) if path.exists() else asked
        if {**kept, **{name: asked[name] for name in _FREE}} != asked:
            raise SystemExit(f"{self.folder} was begun with other options: choose another --work.")
        write_text(path, json.dumps(asked, indent=1) + "\n")

    def search(self, seed: int) -> Path:
        """Returns the file of what a seed's searches have left."""
        return self.folder / f"search-{seed}.json"

    def searched(self, seed: int) -> Searched:
        """Returns what a seed's searches have left."""
        found = json.loads(self.search(seed).read_text())
        wanted = found["latency"]["wanted"], found["flops"][-1]["wanted"]
        return Searched(*wanted, found["scores"])

    def predicted(self, arm: str, seed: int) -> Path:
        """Returns the file of an arm's plan by the latency table alone."""
        return self.folder / "plans" / f"{_name(arm, seed)}.json"

    def certificate(self, arm: str, seed: int) -> Path:
        """Returns the file of what was measured; uniform widths are the same for all seeds."""
        return self.folder / "certificates" / f"{_name(arm, 0 if arm == UNIFORM else seed)}.json"

    def plan(self, arm: str, seed: int) -> ChannelPlan:
        """Returns an arm's plan: the one that takes the budget's time, once that was measured."""
        path = self.certificate(arm, seed)
        if path.exists():
            return Certificate.load(path).chosen.plan
        return ChannelPlan.load(self.predicted(arm, seed))

    def losses(self, arm: str, seed: int) -> Path:
        """Returns the file of a plan's losses on supernets; another plan has another file."""
        return self.folder / "losses" / f"{self._of_plan(arm, seed)}.json"

    def dense(self, arm: str, seed: int, repeat: int) -> Path:
        """Returns the file of how a plan's network does; another plan has another file."""
        return self.folder / "dense" / f"{self._of_plan(arm, seed)}-{repeat}.json"

    def collect(self, setup: Setup, seeds: range, repeats: range) -> dict[str, Any]:
        """Returns all that is known so far."""
        target, places = setup.target, [(arm, seed) for arm in ARMS for seed in seeds]
        searches = [
            json.loads(self.search(s).read_text()) for s in seeds if self.search(s).exists()
        ]
        return {
            "target": {
                "network": target.spec.model,
                "spec": encode(target.spec),
                "setting": encode(target.setting),
                "device": target.device,
                "ran_by": target.ran_by,
                "table_digest": target.digest,
                "full_ms": target.model.full_ms,
                "table_error_share": target.model.error_share,
            },
            "limit_ms": setup.limit_ms,
            "searches": [{k: v for k, v in one.items() if k != "scores"} for one in searches],
            "rows": [
                self._row(arm, seed, repeats)
                for arm, seed in places
                if self.predicted(arm, seed).exists()
            ],
        }

    def _row(self, arm: str, seed: int, repeats: range) -> dict[str, Any]:
        plan, path = self.plan(arm, seed), self.certificate(arm, seed)
        row = {"arm": arm, "search": seed, "macs": plan.macs, "full_macs": plan.full_macs}
        row |= {"params": plan.params, "predicted_ms": plan.limits[0].value}
        if path.exists():
            certificate = Certificate.load(path)
            row |= {k: told(certificate)[k] for k in ("measured_ms", "interval_ms", "verdict")}
            row |= {"predicted_ms": certificate.chosen.table_ms, "rounds": len(certificate.rounds)}
        if self.losses(arm, seed).exists():
            row["losses"] = json.loads(self.losses(arm, seed).read_text())
        trained = [self.dense(arm, seed, repeat) for repeat in repeats]
        done = [json.loads(one.read_text()) for one in trained if one.exists()]
        if done:
            row |= {"top1": [one["top1"] for one in done], "loss": [one["loss"] for one in done]}
        return {**row, "widths": plan.widths()}

    def _of_plan(self, arm: str, seed: int) -> str:
        groups = json.dumps(encode(self.plan(arm, seed).groups), sort_keys=True)
        return f"{_name(arm, seed)}-{hashlib.sha256(groups.encode()).hexdigest()[:8]}"


def _name(arm: str, seed: int) -> str:
    return f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
