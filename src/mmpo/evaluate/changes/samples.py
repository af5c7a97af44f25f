"""What several models answer to the same prompts, and what a scorer thinks of it."""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mmpo.data import texts
from mmpo.data.texts import WORD
from mmpo.evaluate.changes.asked import Asked
from mmpo.evaluate.resample import Floats
from mmpo.evaluate.scoring import Scorer
from mmpo.models import load_policy, load_tokenizer
from mmpo.models.sample import Sample, Sampling, sample
from mmpo.types import Datum


@dataclass(frozen=True)
class Answers:
    """What C models said to P prompts, n times each.

    Attributes:
        names: [C] of the models, the first of them is "before", the last "after".
        steps: [C] where they stand in training, ascending; the places 0 .. C - 1 where that is not known.
        asked: [P].
        said: [C][P][n].
        scores: [C, P, n], NaN where an answer has none; None without a scorer.
    """

    names: tuple[str, ...]
    steps: tuple[float, ...]
    asked: Sequence[Asked]
    said: Sequence[Sequence[Sequence[Sample]]]
    scores: Floats | None = None

    def each(self, measure: Callable[[Sample], float]) -> Floats:
        """[P, C] means over the answers of a measure (Sample -> number)."""
        return np.array([[np.mean([measure(one) for one in cell]) for cell in model] for model in self.said]).T

    @property
    def score_of_prompts(self) -> Floats:
        """[P, C] the mean score of each prompt's answers; NaN where one of them has none."""
        assert self.scores is not None
        return np.asarray(self.scores.mean(-1).T)


def write_answers(
    models: Sequence[str],
    asked: Sequence[Asked],
    sampling: Sampling,
    n: int = 1,
    *,
    pad_token: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Answers:
    """Let each model answer each prompt ``n`` times, with the same seed. One model at a time is held in memory."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    said = []
    for name in models:
        tokenizer = load_tokenizer(name, pad_token, trust_remote_code)
        model = load_policy(name, tokenizer, dtype, trust_remote_code).to(device)
        said.append(sample(model, tokenizer, [one.prompt for one in asked], sampling, n))
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Answers(short_names(models), steps_of(models), asked, said)


def score_answers(answers: Answers, scorer: Scorer) -> tuple[Floats, list[str]]:
    """A score for every answer [C, P, n], and what the reader must know. Equal answers to a prompt are read once.

    Empty answers have no score, and neither do those to a prompt that does not fit the scorer.
    """
    shape = (len(answers.names), len(answers.asked), len(answers.said[0][0]))
    scores = np.full(shape, np.nan)
    data, places = [], {}
    for k, one in enumerate(answers.asked):
        cells = [(c, i, answers.said[c][k][i].text) for c in range(shape[0]) for i in range(shape[2])]
        different = list(dict.fromkeys(text for _, _, text in cells if text.strip()))
        if different:
            prompt, responses = texts.uniform(one.prompt, different)
            data.append(Datum(str(k), prompt, responses))
            places[str(k)] = {text: [(c, k, i) for c, i, t in cells if t == text] for text in different}
    scored = scorer(data, "drop") if data else None
    for datum, rewards in zip(scored.data, scored.rewards, strict=True) if scored else ():
        for at, reward in zip(places[datum.id].values(), rewards, strict=True):
            for place in at:
                scores[place] = reward
    empty = sum(not each.text.strip() for model in answers.said for cell in model for each in cell)
    notes = [f"empty answers, which have no score: {empty} of {scores.size}"] * bool(empty)
    return scores, notes + ([f"scoring: {scored.cuts['summary']}"] if scored else [])


def short_names(models: Sequence[str]) -> tuple[str, ...]:
    """The last parts of the paths, as many as keep them apart; what is one path twice is numbered."""
    parts = [Path(name).parts or (name,) for name in models]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(one[-length:]) for one in parts]
        if len(set(short)) == len(set(models)):
            break
    times = Counter(short)
    return tuple(f"{name} ({short[: n + 1].count(name)})" if times[name] > 1 else name for n, name in enumerate(short))


def steps_of(models: Sequence[str]) -> tuple[float, ...]:
    """Steps of training, where the folders tell them in order; the first model may be the one that was started from."""
    found = [_step(name) for name in models]
    known = [0.0 if found[0] is None else found[0], *found[1:]]
    steps = [step for step in known if step is not None]
    if len(steps) == len(models) and all(a < b for a, b in pairwise(steps)):
        return tuple(steps)
    return tuple(map(float, range(len(models))))


def _step(name: str) -> float | None:
    """Of a checkpoint by its name, of a run by the state that its trainer left."""
    if numbered := re.fullmatch(r"checkpoint-(\d+)", Path(name).name):
        return float(numbered[1])
    state = Path(name) / "trainer_state.json"
    return float(json.loads(state.read_text(encoding="utf-8"))["global_step"]) if state.is_file() else None


def shared_words(a: str, b: str) -> float:
    """The share of words that two texts have in common (Dice, counted as often as they stand): 1 where the same."""
    one, other = (Counter(word.lower() for word in WORD.findall(text)) for text in (a, b))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else float(a.strip() == b.strip())
