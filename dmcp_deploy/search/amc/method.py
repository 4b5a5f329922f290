"""AMC: reinforcement learning of how much each layer keeps (He et al., ECCV 2018).

arXiv 1802.03494.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, repeat

import numpy as np
import torch
from torch import nn

from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import filter_scores, l1_norm
from dmcp_deploy.network.masking import silence
from dmcp_deploy.network.reconstruction import Reconstruction, input_scores
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import Keep
from dmcp_deploy.search.amc.episodes import Episodes, Exploration
from dmcp_deploy.search.amc.space import make_walk
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import keeps, top_units, train_full
from dmcp_deploy.search.steps import recalibration_batches, without_held_out
from dmcp_deploy.training.distributed import add_up, from_first, rank, world_size
from dmcp_deploy.training.evaluate import recalibrate
from dmcp_deploy.training.loop import run_loop

#: With so many classes or more the reward counts an image as right if its class is among the
#: best five (AMC on ImageNet).
_MANY_CLASSES = 100
_TOP = 5

_AT_ONCE = 256  # images through a network


def search(problem: SearchProblem) -> SearchResult:
    """Returns the channels AMC keeps; what is left reads them by refitted weights.

    The network's weights end as those of the best plan that was judged, silent where channels go.
    """
    training, held_out = without_held_out(problem)
    _make_ready(training)
    assert training.data is not None
    judge = PlanJudge(problem, observe_layers(problem, training.data.train))
    batch = _held_batch(problem, held_out)
    exploration = plan_exploration(problem)
    device = problem.precision.device
    walk = make_walk(problem)
    task = Episodes(walk, judge, exploration, problem.request.seed, device)
    run_loop(
        task,
        lambda _: repeat(batch),
        problem.loop_settings("episodes", exploration.episodes),
        problem.compute.progress,
    )
    figures = {
        "held_out_images": _limit(problem, len(held_out)),
        "reconstruction_samples": max(judge.reconstruction.samples.values()),
        "episodes": exploration.episodes,
        "plans_judged": exploration.episodes,
        "best_reward": max(task.rewards),
        "rewards": [round(reward, 5) for reward in task.rewards],
    }

    def decode(limits: Limits) -> Mapping[str, Keep]:
        other = replace(walk, limits=limits, grid=problem.grid)
        units = task.best if limits is problem.limits else other.fitted(task.best)
        return keeps(problem.network, judge.settle(units))

    return SearchResult.decoded(problem, decode, figures, trained=True)


def unit_scores(network: Network) -> np.ndarray:
    """Returns the importance of every unit by the weights that read it, shape [units].

    Units that only grouped convolutions read are ranked by the filters that make them.
    """
    scores = input_scores(network)
    return np.where(np.isnan(scores), filter_scores(network, l1_norm), scores)


def plan_exploration(problem: SearchProblem) -> Exploration:
    """Returns how many episodes a search has; in a trial the warm-up is shortened with them."""
    recipe = problem.recipe
    episodes = problem.cap(recipe.episodes)
    warmup = round(recipe.warmup_episodes * episodes / recipe.episodes)
    return Exploration(episodes, max(1, warmup))


def observe_layers(problem: SearchProblem, source: ImageSource) -> Reconstruction:
    """Returns what the full network's layers read on training images, from all processes.

    Args:
        problem: The search; its network has its final weights.
        source: The images.
    """
    reconstruction = Reconstruction(problem.network)
    for number, batch in _batches(problem, source, problem.recipe.reconstruction_images):
        generator = torch.Generator().manual_seed(
            step_seed(problem.request.seed, number, "positions")
        )
        reconstruction.observe(batch.images, generator)
    reconstruction.gather(add_up)
    return reconstruction


class PlanJudge:
    """Rewards plans by the accuracy of the full network without the channels that go.

    A group keeps the channels that are read by the largest weights. The weights that read them
    are refitted; nothing is trained.

    Attributes:
        reconstruction: What refits.
    """

    def __init__(self, problem: SearchProblem, reconstruction: Reconstruction) -> None:
        self._network, self._precision = problem.network, problem.precision
        self._top = _TOP if problem.network.spec.num_classes >= _MANY_CLASSES else 1
        self._scores = unit_scores(problem.network)
        self._weights = copy.deepcopy(problem.network.model.state_dict())
        self.reconstruction = reconstruction

    @torch.no_grad()
    def __call__(self, units: np.ndarray, batch: Batch) -> float:
        """Returns the share of images that a plan gets right, over all processes' batches."""
        kept = top_units(self._network, self._scores, units)
        with self.reconstruction.refitted(kept):
            dense = slice_network(self._network, keeps(self._network, kept)).eval()
        counts = torch.zeros(2, dtype=torch.float64, device=self._precision.device)
        for part in _parts(batch):
            with self._precision.autocast():
                logits = dense(part.images)
            right = (logits.topk(self._top).indices == part.labels[:, None]).any(1)
            counts += torch.stack([right.sum(), right.new_tensor(len(right), dtype=torch.int64)])
        hits, images = add_up(counts).tolist()
        return float(hits / images)

    def settle(self, units: np.ndarray) -> np.ndarray:
        """Refits the network to a plan until the next is settled; returns the units kept."""
        self._network.model.load_state_dict(self._weights)
        kept = top_units(self._network, self._scores, units)
        self.reconstruction.refit(kept)
        self.reconstruction.restore(frozen=True)
        silence(self._network, kept)
        return kept


def _make_ready(problem: SearchProblem) -> None:
    """Trains the full network; given weights and statistics of batch norms stay as they are.

    Behind a short training the running statistics are still far from those of the weights.
    """
    train_full(problem)
    model = problem.precision.place(problem.network.model)
    if not problem.pretrained:
        recalibrate(model, recalibration_batches(problem), problem.precision)
    _equalise(model)


@torch.no_grad()
def _equalise(model: nn.Module) -> None:
    """Gives every process the first one's buffers: batch norms have seen other images in each."""
    for buffer in model.buffers():
        buffer.copy_(from_first(buffer))


def _limit(problem: SearchProblem, images: int) -> int:
    """Returns how many of so many images are looked at: in a trial some batches of them."""
    size = problem.recipe.search.batch_size
    return min(images, size * problem.cap_batches(-(-images // size)))


def _batches(
    problem: SearchProblem, source: ImageSource, images: int
) -> Iterator[tuple[int, Batch]]:
    """Yields this process's share of batches of unchanged images, with their numbers."""
    batches = eval_batches(
        source,
        image_size=problem.image_size,
        batch_size=problem.recipe.search.batch_size,
        workers=problem.compute.workers,
        limit=_limit(problem, images),
    )
    numbered = islice(enumerate(batches), rank(), None, world_size())
    return ((number, problem.precision.move(batch)) for number, batch in numbered)


def _held_batch(problem: SearchProblem, held_out: ImageSource) -> Batch:
    """Returns this process's share of the images held out, as one batch on the device."""
    share = [batch for _, batch in _batches(problem, held_out, len(held_out))]
    if not share:
        shape = (0, problem.network.spec.input_shape[0], *problem.image_size)
        return problem.precision.move(Batch(torch.zeros(shape), torch.zeros(0).long()))
    return Batch(torch.cat([b.images for b in share]), torch.cat([b.labels for b in share]))


def _parts(batch: Batch) -> Iterator[Batch]:
    """Yields a batch in parts that go through a network at once."""
    for first in range(0, len(batch.labels), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        yield Batch(batch.images[part], batch.labels[part])
