"""The people of the demo's world: writers who answer with more or less care, raters who see worth through noise.

A rater perceives the true utility plus Gumbel noise of scale s, so the chance of preferring answer i to answer j is
exactly Bradley-Terry, sigmoid((u_i - u_j) / s). The same perception, rounded to five stars, is a rating.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from mmpo.demo.task import BEST, CATEGORIES, CLOSING, ITEMS, PADDING, Task, utility

Row = dict[str, Any]
STARS = 5
EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True)
class Sizes:
    """How much of the world is made.

    ``taught``, ``trained`` and ``held_out`` count prompts: answered once for a model to learn from, rated to train on,
    rated to measure on. ``voted`` of the trained ones get votes beside their ratings. ``responses`` stand to a rated
    prompt, ``ratings`` to each of them, ``votes`` to a voted pair.
    """

    taught: int = 24_000
    trained: int = 1000
    voted: int = 100
    held_out: int = 300
    responses: int = 4
    writers: int = 12
    raters: int = 8
    ratings: int = 3
    votes: int = 5


SIZES = Sizes()


# ---------------------------------------------------------------------------------------------------- instructions


def make_task(rng: Generator) -> Task:
    kind = str(rng.choice(["name", "sort", "pick"]))
    category = str(rng.choice(list(CATEGORIES)))
    members = rng.permutation(CATEGORIES[category]).tolist()
    count = int(rng.integers(2, 6))
    shown = members[:count]
    if kind == "name":
        shown = members[: rng.integers(1, 3)]
    if kind == "pick":
        others = rng.permutation(sorted(ITEMS - set(members)))[: rng.integers(1, 4)].tolist()
        shown = rng.permutation(shown + others).tolist()
    return Task(kind, category, count, bool(rng.integers(2)), tuple(shown))


def make_tasks(number: int, rng: Generator) -> list[Task]:
    """Tasks with distinct instructions."""
    tasks: dict[str, Task] = {}
    while len(tasks) < number:
        task = make_task(rng)
        tasks.setdefault(task.prompt, task)
    return list(tasks.values())


# --------------------------------------------------------------------------------------------------------- writers


@dataclass(frozen=True)
class Writer:
    """Answers an instruction; each number is the rate of one kind of slip."""

    wrong: float
    missing: float
    disorder: float
    padding: float
    blunt: float
    abrupt: float
    untidy: float

    def __call__(self, task: Task, rng: Generator) -> str:
        separator = " " if rng.random() < self.untidy else " , "
        words = f"{separator.join(self._items(task, rng))} .".split()
        if rng.random() >= self.abrupt:
            words = task.heading.split() + words
        if rng.random() >= self.blunt:
            words += CLOSING.split()
        for _ in range(rng.poisson(self.padding)):
            words.insert(int(rng.integers(len(words))), str(rng.choice(PADDING)))
        return " ".join(words)

    def _items(self, task: Task, rng: Generator) -> list[str]:
        right = rng.permutation(sorted(task.allowed))[: task.count].tolist()
        strays = [word for word in task.shown if word not in task.allowed] or sorted(ITEMS - task.allowed)
        kept = [item for item in right if rng.random() >= self.missing] or right[:1]
        items = task.sorted([str(rng.choice(strays)) if rng.random() < self.wrong else item for item in kept])
        for i in range(len(items) - 1):
            if rng.random() < self.disorder:
                items[i], items[i + 1] = items[i + 1], items[i]
        return items


def make_writers(number: int, rng: Generator) -> list[Writer]:
    """From careful to careless, each with weaknesses of their own."""
    most = np.array([0.25, 0.3, 0.4, 1.2, 0.8, 0.6, 0.35])
    care = np.linspace(0.05, 0.9, number)[:, None] * rng.uniform(0.4, 1.6, (number, len(most)))
    return [Writer(*rates) for rates in (most * care.clip(0, 1)).tolist()]


# ---------------------------------------------------------------------------------------------------------- raters


@dataclass(frozen=True)
class Rater:
    """Perceives utility through noise; ``lenience`` shifts all ratings of a rater alike."""

    id: str
    noise: float
    lenience: float

    def perceive(self, utilities: Sequence[float], rng: Generator) -> np.ndarray:
        return np.asarray(utilities) + rng.gumbel(-EULER_GAMMA * self.noise, self.noise, len(utilities))

    def rate(self, utilities: Sequence[float], rng: Generator) -> list[float]:
        """One to five stars each, one star for two points of utility."""
        seen = self.perceive(utilities, rng) + self.lenience
        stars: list[float] = (seen * STARS / BEST).round().clip(1, STARS).tolist()
        return stars

    def vote(self, utilities: Sequence[float], rng: Generator) -> int:
        """The index of the answer that looks best."""
        return int(self.perceive(utilities, rng).argmax())


def make_raters(number: int, rng: Generator) -> list[Rater]:
    """From sharp to vague; lenience is balanced."""
    noise = np.geomspace(0.5, 2.0, number).tolist()
    lenience = rng.permutation(np.linspace(-0.8, 0.8, number)).tolist()
    return [Rater(f"r{i}", s, b) for i, (s, b) in enumerate(zip(noise, lenience, strict=True))]


def vote_probability(raters: Sequence[Rater], first: float, second: float) -> float:
    """The true chance that a rater drawn at random prefers an answer of utility ``first`` to one of ``second``."""
    return float(np.mean([1 / (1 + np.exp((second - first) / rater.noise)) for rater in raters]))


# ------------------------------------------------------------------------------------------------------------ rows


@dataclass(frozen=True)
class World:
    """Everybody in it, and the instructions: to learn from, to rate for training, and to rate for evaluation."""

    seed: int
    sizes: Sizes
    writers: Sequence[Writer]
    raters: Sequence[Rater]
    taught: Sequence[Task]
    trained: Sequence[Task]
    held_out: Sequence[Task]

    @property
    def rated_prompts(self) -> list[str]:
        return [task.prompt for task in (*self.trained, *self.held_out)]

    def answer(self, task: Task, rng: Generator) -> str:
        """By a writer drawn at random."""
        return self.writers[int(rng.integers(len(self.writers)))](task, rng)

    def panel(self, number: int, rng: Generator) -> list[Rater]:
        return [self.raters[i] for i in rng.permutation(len(self.raters))[:number]]

    def graded(self, name: str, task: Task, drawn: Sequence[str], rng: Generator) -> Row:
        """Distinct answers, each rated by the same few raters; ``utilities`` is the truth behind the scores.

        The answers are those ``drawn`` from a model, as far as they go, and for the rest by writers.
        """
        answers = {answer: None for answer in drawn if answer}
        while len(answers) < self.sizes.responses:
            answers[self.answer(task, rng)] = None
        # The order says nothing of who wrote what.
        responses = rng.permutation(list(answers)).tolist()
        utilities = [utility(task.prompt, answer) for answer in responses]
        raters = self.panel(self.sizes.ratings, rng)
        ratings = [rater.rate(utilities, rng) for rater in raters]
        return {
            "id": name,
            "prompt": task.prompt,
            "responses": responses,
            "scores": [float(np.mean(stars)) for stars in zip(*ratings, strict=True)],
            "annotators": [rater.id for rater in raters],
            "annotator_scores": ratings,
            "utilities": utilities,
        }

    def voted(self, row: Row, rng: Generator) -> Iterator[Row]:
        """Every two answers of a graded row, with the votes of a fresh panel."""
        for i, j, pair in _pairs(row):
            raters = self.panel(self.sizes.votes, rng)
            votes = [rater.vote([row["utilities"][i], row["utilities"][j]], rng) for rater in raters]
            share = votes.count(0) / len(votes)
            yield pair | {"annotators": [rater.id for rater in raters], "votes": votes, "p_first": share}

    def true(self, row: Row) -> Iterator[Row]:
        """Every two answers of a graded row, with the true probability that the first is preferred."""
        for i, j, pair in _pairs(row):
            yield pair | {"p_first": vote_probability(self.raters, row["utilities"][i], row["utilities"][j])}


def _pairs(row: Row) -> Iterator[tuple[int, int, Row]]:
    for i, j in combinations(range(len(row["responses"])), 2):
        both = {key: [row[key][i], row[key][j]] for key in ("responses", "scores")}
        yield i, j, {"id": f"{row['id']}:{i}-{j}", "prompt": row["prompt"], **both}


def make_world(seed: int = 0, sizes: Sizes = SIZES) -> World:
    """The people and the instructions, all instructions distinct."""
    rng = np.random.default_rng(seed)
    writers, raters = make_writers(sizes.writers, rng), make_raters(sizes.raters, rng)
    tasks = make_tasks(sizes.taught + sizes.trained + sizes.held_out, rng)
    trained, held_out = tasks[: sizes.trained], tasks[sizes.trained : sizes.trained + sizes.held_out]
    return World(seed, sizes, writers, raters, tasks[sizes.trained + sizes.held_out :], trained, held_out)


def write_demonstrations(world: World, out: Path) -> None:
    """sft.jsonl in ``out``: instructions, each with an answer by one of the writers, careful or not."""
    rng = np.random.default_rng([world.seed, 1])
    _write(out, "sft", ({"prompt": t.prompt, "completion": world.answer(t, rng)} for t in world.taught))


def write_ratings(world: World, out: Path, drawn: Mapping[str, Sequence[str]]) -> None:
    """What people say of answers, half of them or fewer ``drawn`` from a model (by prompt), the others by writers.

    - train.jsonl, eval.jsonl: graded rows;
    - votes.jsonl: voted and graded pairs of the first training rows, to fit gamma on;
    - eval_votes.jsonl: the pairs of eval.jsonl, voted and graded;
    - train_truth.jsonl, eval_truth.jsonl: all pairs with their true probabilities, which no training reads.
    """
    rng = np.random.default_rng([world.seed, 2])
    half = world.sizes.responses // 2

    def graded(tasks: Sequence[Task], name: str) -> list[Row]:
        return [world.graded(f"{name}{i}", t, drawn.get(t.prompt, ())[:half], rng) for i, t in enumerate(tasks)]

    train, held_out = graded(world.trained, "t"), graded(world.held_out, "e")
    _write(out, "train", train)
    _write(out, "votes", (pair for row in train[: world.sizes.voted] for pair in world.voted(row, rng)))
    _write(out, "train_truth", (pair for row in train for pair in world.true(row)))
    _write(out, "eval", held_out)
    _write(out, "eval_votes", (pair for row in held_out for pair in world.voted(row, rng)))
    _write(out, "eval_truth", (pair for row in held_out for pair in world.true(row)))


def _write(out: Path, name: str, rows: Iterable[Row]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
