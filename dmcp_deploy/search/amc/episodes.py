"""AMC's episodes: a plan is walked to, judged, remembered and learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.search.amc.agent import BATCH, Agent, Replay, truncated_normal
from dmcp_deploy.search.amc.space import Walk
from dmcp_deploy.training.distributed import from_first

#: A plan, units [groups], and the images to judge it by -> its reward.
Reward = Callable[[np.ndarray, Batch], float]

_SIGMA, _DECAY = 0.5, 0.95  # of the noise, and its decay from episode to episode
_LAST_SIGMA = 0.01  # at most, in the last episode
_REPLAY = 100  # episodes


@dataclass(frozen=True)
class Exploration:
    """How many episodes there are, and how their ratios are drawn.

    Attributes:
        episodes: All of them.
        warmup: The first of them, whose ratios are uniform.
    """

    episodes: int
    warmup: int

    def sigma(self, episode: int) -> float:
        """Returns the deviation of an episode's noise behind the warm-up.

        It falls by 0.95 from episode to episode (AMC), faster where that would leave more than
        0.01 at the end.
        """
        left = max(1, self.episodes - 1 - self.warmup)
        decay = min(_DECAY, (_LAST_SIGMA / _SIGMA) ** (1 / left))
        return _SIGMA * float(decay ** (episode - self.warmup))


class Episodes:
    """What a loop repeats to search: one step is one episode.

    All that is random in an episode comes from (seed, episode). Of several processes the first
    decides, and all judge.

    Attributes:
        best: The plan of the highest reward so far, units [groups].
        rewards: Of all episodes so far.
    """

    def __init__(
        self,
        walk: Walk,
        reward: Reward,
        exploration: Exploration,
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepares the first episode.

        Args:
            walk: The groups to decide upon.
            reward: Judges a plan; the same in every process.
            exploration: How ratios are drawn.
            seed: Of all randomness.
            device: On which processes exchange plans.
        """
        self._walk, self._reward, self._exploration = walk, reward, exploration
        self._seed, self._device = seed, device
        self._agent, self._replay = Agent(walk.features, seed), Replay(_REPLAY)
        self.best = walk.fitted(walk.grid.high)
        self.rewards: list[float] = []

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one episode; returns its reward and the best one.

        Args:
            step: The episode's number.
            batch: The images to judge by, the same in every episode.
        """
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, "episode"))
        units = self._agreed(self._walk.fitted(self.proposed(step, generator)))
        reward = self._reward(units, batch)
        states, ratios = self._walk.trajectory(units)
        self._replay.add(torch.from_numpy(states), torch.from_numpy(ratios), reward)
        if reward > max(self.rewards, default=-1.0):
            self.best = units
        self.rewards.append(reward)
        if step + 1 >= self._exploration.warmup:
            for _ in ratios:
                self._agent.learn(self._replay.sample(BATCH, generator))
        return {"reward": reward, "best": max(self.rewards)}

    def proposed(self, episode: int, generator: torch.Generator) -> np.ndarray:
        """Returns the plan that the agent's decisions lead to, units [groups]."""
        units = self._walk.full.copy()
        for place, group in enumerate(self._walk.order):
            low = float(self._walk.grid.low[group] / self._walk.full[group])
            if episode < self._exploration.warmup:
                chance = torch.rand((), generator=generator, dtype=torch.float64)
                ratio = low + (1 - low) * float(chance)
            else:
                state = torch.from_numpy(self._walk.state(units, place))
                sigma = self._exploration.sigma(episode)
                ratio = truncated_normal(self._agent.act(state), sigma, low, 1.0, generator)
            units[group] = self._walk.realised(ratio, units, place)
        return units

    def tensors(self) -> dict[str, Tensor]:
        """Returns the agent, what it remembers, the best plan and all rewards."""
        rewards = torch.tensor(self.rewards, dtype=torch.float64)
        so_far = {"best": torch.from_numpy(self.best), "rewards": rewards}
        return {**self._agent.tensors(), **self._replay.tensors(), **so_far}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        self._agent.load(tensors)
        self._replay.load(tensors)
        self.best, self.rewards = tensors["best"].numpy(), tensors["rewards"].tolist()

    def _agreed(self, units: np.ndarray) -> np.ndarray:
        """Returns the first process's plan: rounding elsewhere must not lead to another one."""
        return np.asarray(from_first(torch.from_numpy(units).to(self._device)).cpu().numpy())
