"""The people of the demo's world: writers who answer with more or less care, raters who see worth through noise.

A rater perceives the true utility plus Gumbel noise of scale s, so the chance of preferring answer i to answer j is
exactly Bradley-Terry, sigmoid((u_i - u_j) / s). The same perception, rounded to five stars, is a rating.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
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

    ``sft``, ``train``, ``voted`` and ``eval`` count prompts (``voted`` are some of ``train``); ``responses`` stand to
    a graded prompt, ``ratings`` to each of them, ``votes`` to a voted pair.
    """

    sft: int = 24_000
    train: int = 800
    voted: int = 100
    eval: int = 300
    responses: int = 4
    writers: int = 12
    raters: int = 8
    ratings: int = 3
    votes: int = 5


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
    """Everybody in it, and how much of it is made."""

    writers: Sequence[Writer]
    raters: Sequence[Rater]
    sizes: Sizes

    def answer(self, task: Task, rng: Generator) -> str:
        """By a writer drawn at random."""
        return self.writers[int(rng.integers(len(self.writers)))](task, rng)

    def panel(self, number: int, rng: Generator) -> list[Rater]:
        return [self.raters[i] for i in rng.permutation(len(self.raters))[:number]]

    def graded(self, name: str, task: Task, rng: Generator) -> Row:
        """Distinct answers, each rated by the same few raters; ``utilities`` is the truth behind the scores."""
        answers: dict[str, None] = {}
        while len(answers) < self.sizes.responses:
            answers[self.answer(task, rng)] = None
        utilities = [utility(task.prompt, answer) for answer in answers]
        raters = self.panel(self.sizes.ratings, rng)
        ratings = [rater.rate(utilities, rng) for rater in raters]
        return {
            "id": name,
            "prompt": task.prompt,
            "responses": list(answers),
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


def write_world(out: Path, seed: int = 0, sizes: Sizes = Sizes()) -> World:
    """Write the data of the world into ``out``; the same seed and sizes give the same bytes.

    - sft.jsonl: instructions, each with an answer by one of the writers;
    - train.jsonl, eval.jsonl: graded rows;
    - votes.jsonl: voted and graded pairs of the first training rows, to fit gamma on; votes_truth.jsonl: the same
      pairs with their true probabilities;
    - eval_votes.jsonl, eval_truth.jsonl: the pairs of eval.jsonl with votes, and with true probabilities.
    """
    rng = np.random.default_rng(seed)
    world = World(make_writers(sizes.writers, rng), make_raters(sizes.raters, rng), sizes)
    tasks = make_tasks(sizes.train + sizes.eval + sizes.sft, rng)
    graded = [world.graded(f"p{i}", task, rng) for i, task in enumerate(tasks[: sizes.train + sizes.eval])]
    train, held_out = graded[: sizes.train], graded[sizes.train :]
    files: dict[str, Iterable[Row]] = {
        "train": train,
        "votes": (pair for row in train[: sizes.voted] for pair in world.voted(row, rng)),
        "votes_truth": (pair for row in train[: sizes.voted] for pair in world.true(row)),
        "eval": held_out,
        "eval_votes": (pair for row in held_out for pair in world.voted(row, rng)),
        "eval_truth": (pair for row in held_out for pair in world.true(row)),
        "sft": ({"prompt": t.prompt, "completion": world.answer(t, rng)} for t in tasks[len(graded) :]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return world
