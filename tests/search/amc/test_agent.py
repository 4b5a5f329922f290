"""The parts of AMC's agent by hand, and that it learns what is rewarded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from closeness import assert_same
from search_problems import chain_network, make_problem
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.search.amc.agent import (
    BATCH,
    Agent,
    Replay,
    Transitions,
    follow,
    moved,
    truncated_normal,
)
from dmcp_deploy.search.amc.episodes import Episodes, Exploration
from dmcp_deploy.search.amc.space import make_walk

FEATURES = 4
NO_IMAGES = Batch(torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transitions(seed: int = 0, *, last: bool = True) -> Transitions:
    draw = generator(seed)
    states = torch.rand(BATCH, FEATURES, generator=draw)
    ratios = torch.rand(BATCH, generator=draw)
    return Transitions(
        states=states,
        ratios=ratios,
        rewards=1.0 - (ratios - 0.8) ** 2,
        nexts=states.flip(0),
        last=torch.full((BATCH,), last),
    )


@pytest.mark.parametrize(
    ("mean", "sigma"), [(0.5, 0.5), (0.21, 0.5), (0.99, 1e-4), (0.0, 1e-4), (1.0, 1e-4), (2.0, 0.3)]
)
def test_noise_stays_within_its_bounds(mean, sigma):
    draws = [truncated_normal(mean, sigma, 0.2, 1.0, generator(seed)) for seed in range(200)]
    assert all(0.2 <= drawn <= 1.0 for drawn in draws)
    assert len(set(draws)) > 150
    if sigma < 0.01:
        assert draws == pytest.approx([min(max(mean, 0.2), 1.0)] * 200, abs=5 * sigma)


def test_noise_has_the_mean_of_a_truncated_normal_distribution():
    # mu + sigma (phi(a) - phi(b)) / (Phi(b) - Phi(a)) with a = -1.4, b = 0.2.
    def phi(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def cumulated(x: float) -> float:
        return (1 + math.erf(x / math.sqrt(2))) / 2

    expected = 0.9 + 0.5 * (phi(-1.4) - phi(0.2)) / (cumulated(0.2) - cumulated(-1.4))
    own = generator()
    draws = [truncated_normal(0.9, 0.5, 0.2, 1.0, own) for _ in range(4000)]
    deviation = np.std(draws) / len(draws) ** 0.5
    assert np.mean(draws) == pytest.approx(expected, abs=4.5 * deviation)


def test_a_slow_copy_goes_a_hundredth_of_the_way():
    slow, fast = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        slow.weight.fill_(2.0)
        slow.bias.fill_(0.0)
        fast.weight.fill_(4.0)
        fast.bias.fill_(-1.0)
    follow(slow, fast)
    assert float(slow.weight.detach()) == pytest.approx(2.02)
    assert float(slow.bias.detach()) == pytest.approx(-0.01)
    assert float(fast.weight.detach()) == 4.0


def test_the_baseline_is_an_exponential_moving_average():
    assert moved(None, 0.6) == 0.6
    assert moved(0.6, 0.8) == pytest.approx(0.7)
    assert moved(0.7, 0.3) == pytest.approx(0.5)


def test_noise_decays_from_a_half_faster_in_short_searches():
    paper = Exploration(episodes=800, warmup=100)
    assert paper.sigma(100) == 0.5
    assert paper.sigma(110) == pytest.approx(0.5 * 0.95**10)
    for episodes, warmup in ((100, 25), (20, 5), (3, 1), (2, 1), (1, 1)):
        short = Exploration(episodes, warmup)
        assert short.sigma(warmup) == 0.5
        if episodes > warmup + 1:
            assert short.sigma(episodes - 1) <= 0.0100001
            assert short.sigma(warmup + 1) < 0.48


# Memory.


def episode(number: int, length: int = 3) -> tuple[Tensor, Tensor, float]:
    states = torch.full((length, FEATURES), float(number)) + torch.arange(length)[:, None] / 10
    return states, torch.full((length,), number / 10), number / 100


def test_memory_holds_the_newest_episodes_and_knows_what_followed():
    replay = Replay(most=2)
    for number in range(4):
        replay.add(*episode(number))
    drawn = replay.sample(200, generator())
    whole, place = drawn.states[:, 0].floor(), (drawn.states[:, 0] % 1 * 10).round()
    assert set(whole.tolist()) == {2.0, 3.0}
    assert set(place.tolist()) == {0.0, 1.0, 2.0}
    assert torch.equal(drawn.last, place == 2)
    assert_same(drawn.ratios, whole / 10)
    assert_same(drawn.rewards, whole / 100)
    earlier, later = drawn.states[~drawn.last, 0], drawn.nexts[~drawn.last, 0]
    assert_same(later, earlier + 0.1)


def test_memory_can_be_read_back():
    replay, again = Replay(most=2), Replay(most=2)
    assert replay.tensors() == {}
    again.load({})
    for number in range(3):
        replay.add(*episode(number))
    again.load(replay.tensors())
    for own in (replay, again):
        own.add(*episode(7))
    one, other = (own.sample(64, generator()) for own in (replay, again))
    assert torch.equal(one.states, other.states)
    assert torch.equal(one.rewards, other.rewards)


# Learning.


def test_the_first_actions_are_about_a_half():
    agent = Agent(FEATURES, seed=0)
    actions = [agent.act(state) for state in transitions().states]
    assert actions == pytest.approx([0.5] * BATCH, abs=0.05)
    assert actions == [Agent(FEATURES, seed=0).act(state) for state in transitions().states]
    assert actions != [Agent(FEATURES, seed=1).act(state) for state in transitions().states]


def test_the_critic_adds_what_comes_after_but_for_the_last_decision():
    agent, batch = Agent(FEATURES, seed=0), transitions()
    batch = replace(batch, last=torch.arange(BATCH) % 2 == 0)
    agent.baseline = 0.25
    with torch.no_grad():
        agent.slow_critic.last.weight.zero_()
        agent.slow_critic.last.bias.fill_(5.0)  # worth 5 whatever is done
    expected = batch.rewards - 0.25 + torch.where(batch.last, 0.0, 5.0)
    assert_same(agent.targets(batch), expected, roundings=2)


def test_the_critic_comes_to_say_what_it_is_told():
    agent, batch = Agent(FEATURES, seed=0), transitions()
    for _ in range(60):
        agent.learn(batch)
    with torch.no_grad():
        found = agent.critic(batch.states, batch.ratios)
    assert agent.baseline == pytest.approx(float(batch.rewards.mean()))
    wanted = batch.rewards - agent.baseline
    assert (found - wanted).square().mean() < 0.2 * wanted.square().mean()


def test_the_actor_finds_the_best_of_a_bandit():
    agent = Agent(FEATURES, seed=0)
    for seed in range(200):
        agent.learn(transitions(seed))
    actions = [agent.act(state) for state in transitions(9999).states]
    assert actions == pytest.approx([0.8] * BATCH, abs=0.15)


def test_an_agent_that_is_read_back_learns_on_bit_for_bit():
    one, other = Agent(FEATURES, seed=0), Agent(FEATURES, seed=1)
    fresh = one.tensors()
    other.load(fresh)
    assert other.baseline is None
    for seed in range(3):
        one.learn(transitions(seed))
    stored = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other.load(stored)
    for agent in (one, other):
        for seed in range(3, 6):
            agent.learn(transitions(seed))
    first, second = one.tensors(), other.tensors()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert not torch.equal(first["actor.last.weight"], stored["actor.last.weight"])


def test_episodes_after_the_warm_up_do_better_where_layers_matter_unequally(tmp_path):
    network = chain_network((40, 40, 40, 40))
    walk = make_walk(make_problem(network, tmp_path, share=0.4))
    matter = np.array([0.05, 0.6, 0.05, 0.3])

    def reward(units: np.ndarray, batch: Batch) -> float:
        return float(1 - (matter * (1 - units / 40) ** 2).sum())

    exploration = Exploration(episodes=70, warmup=20)
    device = torch.device("cpu")
    task = Episodes(walk, reward, exploration, seed=0, device=device)
    for number in range(exploration.episodes):
        figures = task.step(number, NO_IMAGES)
    warm, late = task.rewards[:20], task.rewards[-20:]
    assert np.mean(late) > np.mean(warm) + 2 * np.std(warm) / math.sqrt(20)
    assert reward(task.best, NO_IMAGES) == max(task.rewards) == figures["best"]
    assert figures["reward"] == task.rewards[-1]
    assert np.std(late) < np.std(warm)
