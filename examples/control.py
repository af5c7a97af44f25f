"""Teach an agent from graded pieces of behaviour, without a reward and without reinforcement learning.

A clumsy driver balances a pole on a cart: some of its moves are random, and it drifts to the right until it leaves the
track. A judge who knows how to balance grades short segments of its drives by regret: how much worse each move was than
what the judge would have done. Contrastive preference learning (CPL) makes a policy from those grades.

    pip install 'mmpo[worlds]'
    python examples/control.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import numpy as np
import torch
from transformers import TrainingArguments, set_seed

from mmpo import methods
from mmpo.batch.segments import SegmentCollator
from mmpo.data.segments import Segment, SegmentDatum, load_segments
from mmpo.models.reference import FrozenCopy
from mmpo.models.segments import SegmentPolicy, SegmentReader
from mmpo.run.loop import GradedTrainer
from mmpo.types import Method

STEPS = 16
"""Of a segment."""

Act = Callable[[np.ndarray], int]
"""What to do where the cart is (position, speed, angle, turn): 0 pushes left, 1 right."""


# ---------------------------------------------------------------------------------------------- the world


def drive(act: Act, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """One drive, until the pole falls, the track ends or 500 steps are over: what was seen, what was done."""
    world = gymnasium.make("CartPole-v1")
    seen, done = [world.reset(seed=seed)[0]], []
    over = False
    while not over:
        done.append(act(seen[-1]))
        observation, _, fell, ended, _ = world.step(done[-1])
        seen.append(observation)
        over = fell or ended
    return seen[:-1], done


def clumsy(rng: np.random.Generator) -> Act:
    """Balances, but wants to go right at a metre a second, and does anything in 20 to 80 moves of 100."""
    noise = rng.uniform(0.2, 0.8)

    def act(seen: np.ndarray) -> int:
        if rng.random() < noise:
            return int(rng.integers(2))
        return int(1.7 * (seen[1] - 1) + 18.7 * seen[2] + 2.9 * seen[3] > 0)

    return act


def regret(segment: Segment) -> float:
    """-sum_t log pi*(a_t|s_t): for a judge of maximum entropy, its advantage up to a factor."""
    push = segment.observations @ np.array([1.0, 1.7, 18.7, 2.9])
    return float(np.logaddexp(0, np.where(segment.actions == 1, -push, push)).sum())


def record(sets: int, k: int, seed: int) -> list[SegmentDatum]:
    """Sets of k segments of the clumsy driver, graded."""
    rng = np.random.default_rng(seed)
    segments: list[Segment] = []
    while len(segments) < sets * k:
        seen, done = drive(clumsy(rng), int(rng.integers(2**31)))
        starts = range(0, len(done) - STEPS + 1, STEPS)
        segments += [Segment.of(seen[t : t + STEPS], done[t : t + STEPS]) for t in starts]
    drawn = [segments[n] for n in rng.permutation(len(segments))]
    groups = [drawn[n * k : (n + 1) * k] for n in range(sets)]
    return [SegmentDatum.of(str(n), g, grades=tuple(-regret(s) for s in g)) for n, g in enumerate(groups)]


def mean_return(policy: SegmentPolicy, drives: int = 20) -> float:
    """Steps that a policy keeps the pole up, when it does what it thinks best."""

    @torch.no_grad()
    def act(seen: np.ndarray) -> int:
        return int(policy.network(torch.from_numpy(seen)).argmax())

    return float(np.mean([len(drive(act, seed)[1]) for seed in range(drives)]))


# ---------------------------------------------------------------------------------------------- the learning


def clone(policy: SegmentPolicy, data: Sequence[SegmentDatum], steps: int = 600) -> None:
    """Behaviour cloning: the policy does what the driver did, good or bad."""
    batch = SegmentCollator().batch(data)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(steps):
        some = torch.randint(len(batch.actions), (1024,))
        loss = -policy(batch.observations[some], batch.actions[some]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(policy: SegmentPolicy, method: Method, data: list[SegmentDatum], folder: str, seed: int, epochs: int) -> None:
    """The loop of the house. The reference, for methods that want one, is the policy as it comes in."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=32,
        num_train_epochs=epochs,
        learning_rate=3e-3,
        seed=seed,
        report_to="none",
        save_strategy="no",
        logging_steps=100,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,  # a network this small waits for a GPU longer than it computes
    )
    GradedTrainer(
        policy,
        arguments,
        method=method,
        reader=SegmentReader(FrozenCopy.of(policy).model),
        tokenizer=None,
        data_collator=SegmentCollator(),
        train_dataset=data,
    ).train()


def main() -> None:
    set_seed(0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drives.jsonl"
        path.write_text("".join(json.dumps(datum.row()) + "\n" for datum in record(sets=1000, k=4, seed=0)))
        loaded = load_segments(str(path))
        print(*loaded.ledger.summary(), f"each step: {loaded.space}", sep="\n")

        policy = SegmentPolicy.of(loaded.space, choices=2)
        clone(policy, loaded.data)
        print(f"the driver, cloned: {mean_return(policy):.0f} of 500 steps")

        train(policy, methods.build("cpl"), loaded.data, folder, seed=0, epochs=15)
        print(f"after CPL: {mean_return(policy):.0f} of 500 steps")


if __name__ == "__main__":
    main()
