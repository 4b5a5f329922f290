"""The agent of AMC: deep deterministic policy gradient (Lillicrap et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.training.task import load_optimizer, optimizer_tensors

BATCH = 64
TAU = 0.01  # of the way from the target networks to the trained ones, after every update
BASELINE = 0.5  # of the way from the baseline to a batch's mean reward

_HIDDEN = 300
_ACTOR_LR, _CRITIC_LR = 1e-4, 1e-3
_LAST_LAYER = 3e-3  # so that every action is about 0.5 at first
_REPLAYED = ("replay.states", "replay.ratios", "replay.rewards")  # names in a checkpoint


class Agent:
    """An actor and a critic, their slow copies, and the baseline of the reward.

    Everything is computed on the CPU. gamma is 1: all decisions of an episode count alike.
    """

    def __init__(self, features: int, seed: int) -> None:
        """Makes an agent for states of so many features."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, 0, "agent"))
            self.actor, self.critic = _Actor(features), _Critic(features)
        self.slow_actor, self.slow_critic = _Actor(features), _Critic(features)
        self.slow_actor.load_state_dict(self.actor.state_dict())
        self.slow_critic.load_state_dict(self.critic.state_dict())
        nets = ("actor", "critic", "slow_actor", "slow_critic")
        self._nets = nn.ModuleDict({name: getattr(self, name) for name in nets})
        self._optimizers = {
            "actor_optimizer": torch.optim.Adam(self.actor.parameters(), lr=_ACTOR_LR),
            "critic_optimizer": torch.optim.Adam(self.critic.parameters(), lr=_CRITIC_LR),
        }
        self.baseline: float | None = None

    @torch.no_grad()
    def act(self, state: Tensor) -> float:
        """Returns the ratio that the actor takes in a state [features], without noise."""
        return float(self.actor(state.float()))

    def learn(self, batch: Transitions) -> None:
        """Does one update of critic, actor, slow copies and baseline."""
        self.baseline = moved(self.baseline, float(batch.rewards.mean()))
        error = F.mse_loss(self.critic(batch.states, batch.ratios), self.targets(batch))
        self._descend("critic_optimizer", error)
        worth = self.critic(batch.states, self.actor(batch.states)).mean()
        self._descend("actor_optimizer", -worth)
        follow(self.slow_actor, self.actor)
        follow(self.slow_critic, self.critic)

    @torch.no_grad()
    def targets(self, batch: Transitions) -> Tensor:
        """Returns what the critic is to say of decisions, shape [N].

        It is the reward above the baseline, and what the decisions behind are worth.
        """
        coming = self.slow_critic(batch.nexts, self.slow_actor(batch.nexts))
        return batch.rewards - (self.baseline or 0.0) + torch.where(batch.last, 0.0, coming)

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything that learning changes."""
        tensors: dict[str, Tensor] = dict(self._nets.state_dict())
        for name, optimizer in self._optimizers.items():
            tensors |= optimizer_tensors(optimizer, name)
        baseline = [] if self.baseline is None else [self.baseline]
        return {**tensors, "baseline": torch.tensor(baseline, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        self._nets.load_state_dict({name: tensors[name] for name in self._nets.state_dict()})
        for name, optimizer in self._optimizers.items():
            load_optimizer(optimizer, tensors, name)
        self.baseline = next(iter(tensors["baseline"].tolist()), None)

    def _descend(self, name: str, loss: Tensor) -> None:
        self._optimizers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers[name].step()


@dataclass(frozen=True)
class Transitions:
    """Decisions that were taken: state, ratio, the episode's reward, the state after it.

    Attributes:
        states: float32 [N, features].
        ratios: float32 [N].
        rewards: float32 [N].
        nexts: float32 [N, features]; of no meaning behind a last decision.
        last: Whether it was an episode's last one, bool [N].
    """

    states: Tensor
    ratios: Tensor
    rewards: Tensor
    nexts: Tensor
    last: Tensor


class Replay:
    """The newest episodes, each with one decision for every group."""

    def __init__(self, most: int) -> None:
        """Holds at most so many episodes."""
        self._most = most
        self._episodes: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, states: Tensor, ratios: Tensor, reward: float) -> None:
        """Adds an episode's states [groups, features] and ratios [groups]; the oldest goes."""
        episode = (states.float(), ratios.float(), torch.full((len(ratios),), reward))
        self._episodes = [*self._episodes, episode][-self._most :]

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Returns `count` decisions, drawn uniformly from all that are held."""
        states, ratios, rewards = self._stacked()
        length = ratios.shape[1]
        drawn = torch.randint(ratios.numel(), (count,), generator=generator)
        episode, place = drawn // length, drawn % length
        after = (place + 1).clamp(max=length - 1)
        return Transitions(
            states=states[episode, place],
            ratios=ratios[episode, place],
            rewards=rewards[episode, place],
            nexts=states[episode, after],
            last=place == length - 1,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns all episodes."""
        return dict(zip(_REPLAYED, self._stacked(), strict=True)) if self._episodes else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        columns = [tensors[name].unbind() for name in _REPLAYED if name in tensors]
        self._episodes = list(zip(*columns, strict=True))

    def _stacked(self) -> list[Tensor]:
        """Returns states, ratios and rewards of all episodes, shape [episodes, groups, ...]."""
        return [torch.stack(column) for column in zip(*self._episodes, strict=True)]


def moved(baseline: float | None, reward: float) -> float:
    """Returns the exponential moving average of rewards after one more; it starts at the first."""
    return reward if baseline is None else baseline + BASELINE * (reward - baseline)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module) -> None:
    """Moves the weights of a slow copy a small part of the way, in place."""
    for weight, target in zip(slow.parameters(), fast.parameters(), strict=True):
        weight.lerp_(target, TAU)


def truncated_normal(
    mean: float, sigma: float, low: float, high: float, generator: torch.Generator
) -> float:
    """Returns a draw from the normal distribution between two bounds.

    Args:
        mean: Of the distribution before it is cut off; taken to the nearest bound if outside.
        sigma: Its deviation, above 0.
        low: The least value.
        high: The largest.
        generator: Draws.
    """
    mean = min(max(mean, low), high)
    ends = (torch.tensor([low, high], dtype=torch.float64) - mean) / sigma
    first, last = torch.special.ndtr(ends)
    chance = torch.rand((), generator=generator, dtype=torch.float64)
    drawn = mean + sigma * float(torch.special.ndtri(first + (last - first) * chance))
    return min(max(drawn, low), high)


class _Actor(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)
        self.last = _last_layer()

    def forward(self, states: Tensor) -> Tensor:
        """Returns ratios in (0, 1), shape [N]."""
        hidden = F.relu(self.second(F.relu(self.first(states))))
        return torch.sigmoid(self.last(hidden)).squeeze(-1)


class _Critic(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.action = nn.Linear(features, _HIDDEN), nn.Linear(1, _HIDDEN)
        self.second, self.last = nn.Linear(_HIDDEN, _HIDDEN), _last_layer()

    def forward(self, states: Tensor, ratios: Tensor) -> Tensor:
        """Returns what decisions are worth, shape [N]."""
        hidden = F.relu(self.first(states) + self.action(ratios.unsqueeze(-1)))
        result: Tensor = self.last(F.relu(self.second(hidden))).squeeze(-1)
        return result


def _last_layer() -> nn.Linear:
    layer = nn.Linear(_HIDDEN, 1)
    nn.init.uniform_(layer.weight, -_LAST_LAYER, _LAST_LAYER)
    nn.init.zeros_(layer.bias)
    return layer
