"""What a win rate would be if both answers were equally long (arXiv 2404.04475).

The preference of a judge for model m over the baseline, on question x, is explained by

    logit q = theta_m + phi_m tanh((l_m - l_b) / sd(l_m - l_b)) + psi_m gamma_x

the model itself, how much longer its answer is, and how easily models win this question. The length-controlled win
rate is the mean over the questions of sigmoid(theta_m + psi_m gamma_x), the same without the term for length.

gamma is learned from other models on the same questions (``Field``), in a fit of all of them with psi = 1. As in the
paper, the coefficient of length is held near one that is known beforehand (``Prior``), so that a model cannot shift its
win rate by the way in which quality and length go together in its own answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpo.data.gamma import sigmoid
from mmpo.errors import UserError
from mmpo.evaluate.judged.logistic import fit
from mmpo.evaluate.judged.questions import read_rows
from mmpo.evaluate.resample import Floats, interval
from mmpo.plain import from_cell

_LOOSE = 0.01
"""Precision of the priors that only keep coefficients finite, where a model wins or loses everything."""

_FEWEST = 3
"""Other models from which difficulty can be told at all."""


COLUMNS = ("model", "instruction", "preference", "chars_baseline", "chars_model")


@dataclass(frozen=True)
class Prior:
    """A Gaussian on the coefficient of length."""

    mean: float
    precision: float


PUBLISHED = Prior(1.6, 16.0)
"""The released code anchors the coefficient in judgements of the baseline's own short and long variants, whose lengths
differ and whose skill does not: their published coefficients are 1.64 and 1.58. All of them together have the weight of
0.2 models: 161 judgements near one half, an information of about 16."""


@dataclass(frozen=True)
class Preferences:
    """A judge's preferences for one model over the baseline.

    Attributes:
        questions: names of the N questions.
        preference: [N] for the model over the baseline, in [0, 1].
        longer: [N] characters of the model's answer minus those of the baseline's.
    """

    questions: tuple[str, ...]
    preference: Floats
    longer: Floats

    @property
    def length(self) -> Floats:
        """tanh of the standardised difference of lengths, [N]; 0 where all differences are equal."""
        spread = self.longer.std(ddof=1) if len(self.longer) > 1 else 0.0
        return np.tanh(self.longer / spread) if spread > 0 else np.zeros(len(self.longer))


@dataclass(frozen=True)
class Field:
    """What other models tell about the questions and the judge.

    Attributes:
        ease: gamma, how easily models win each question, in logits around 0.
        prior: mean and precision of the coefficients of length over these models.
        models: how many they are.
    """

    ease: Mapping[str, float]
    prior: Prior
    models: int

    @classmethod
    def of(cls, others: Mapping[str, Preferences]) -> Field:
        """A mixed-effects fit of all models with psi = 1: theta free, phi_m ~ N(phi, tau^2), gamma_x ~ N(0, sigma^2).

        The variances are estimated by expectation maximisation, each posterior taken as normal around its mode. Models
        without any spread of preferences, such as the baseline against itself, tell nothing and are left out.
        Raises UserError where fewer than 3 models remain.
        """
        told = [one for one in others.values() if np.ptp(one.preference) > 0]
        if len(told) < _FEWEST:
            raise UserError(f"{len(told)} other models cannot tell which questions are hard; give at least {_FEWEST}")
        names = sorted({name for one in told for name in one.questions})
        place = {name: n for n, name in enumerate(names)}
        at = [np.array([place[name] for name in one.questions]) for one in told]
        x = [np.column_stack([np.ones(len(one.questions)), one.length]) for one in told]
        ease: Floats = np.zeros(len(names))
        sigma, prior = 1.0, Prior(0.0, 1.0)
        found: list[Any] = [None] * len(told)
        for _ in range(200):
            before = np.array([sigma, prior.precision])
            pull = {"centre": [0, prior.mean], "precision": [_LOOSE, prior.precision]}
            fits = [fit(x[m], one.preference, offset=ease[at[m]], start=found[m], **pull) for m, one in enumerate(told)]
            found = [one.coefficients for one in fits]
            phi = np.array([b[1] for b in found])
            spread = (phi - phi.mean()) ** 2 + [one.covariance[1, 1] for one in fits]
            prior = Prior(float(phi.mean()), float(1 / max(spread.mean(), 1e-4)))
            where, logit = np.concatenate(at), np.concatenate([x[m] @ b for m, b in enumerate(found)])
            ease, variance = _eases(ease, sigma, where, logit, np.concatenate([one.preference for one in told]))
            sigma = float((ease**2 + variance).mean())
            if np.allclose(before, [sigma, prior.precision], rtol=1e-5):
                break
        return cls(dict(zip(names, ease.tolist(), strict=True)), prior, len(told))


def _eases(ease: Floats, sigma: float, where: Any, logit: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The mode of each question's gamma given the rest, and its variance there, [Q] each."""
    curvature: Any = 1.0
    for _ in range(3):
        p = sigmoid(logit + ease[where])
        curvature = np.bincount(where, p * (1 - p), len(ease)) + 1 / sigma
        ease = ease + (np.bincount(where, y - p, len(ease)) - ease / sigma) / curvature
    return np.asarray(ease, dtype=float), 1 / curvature


def read_others(path: str) -> dict[str, Preferences]:
    """Judgements of other models by name: rows of model, instruction, preference in [1, 2], chars_baseline and
    chars_model; ``instruction`` is the question's name, for AlpacaEval its place from 0. Raises UserError otherwise."""
    found: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    seen: set[tuple[Any, Any]] = set()
    for where, row in read_rows(path):
        try:
            model, question, *numbers = (row[name] for name in COLUMNS)
            preference, baseline, own = map(float, numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}; give {', '.join(COLUMNS)}") from error
        if not 1 <= preference <= 2:
            raise UserError(f"{where}: preference is {preference:g}; give 1 (baseline) to 2 (model)")
        if (model, question) in seen:
            raise UserError(f"{where}: {model} is judged on question {question} a second time; keep one of the two")
        seen.add((model, question))
        found[from_cell(str(model))].append((from_cell(str(question)), preference - 1, own - baseline))
    return {model: _columns(rows) for model, rows in found.items()}


def _columns(rows: Sequence[tuple[str, float, float]]) -> Preferences:
    names, preference, longer = zip(*rows, strict=True)
    return Preferences(tuple(names), np.array(preference), np.array(longer))


def length_controlled(
    one: Preferences, field: Field | None = None, prior: Prior = PUBLISHED, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The length-controlled win rate in per cent, {value, low, high}, with its standard error and what it rests on.

    The interval is a percentile bootstrap over questions, each draw fitted anew; gamma and the scale of lengths stay.
    ``coefficients`` holds theta, phi and psi; ``known`` counts the questions whose difficulty the field knows, the
    others have gamma 0, as all have without a field.
    """
    ease = np.array([field.ease.get(name, 0.0) if field else 0.0 for name in one.questions])
    x = np.column_stack([np.ones(len(ease)), one.length, ease])
    pull = {"centre": [0, prior.mean, 0], "precision": [_LOOSE, max(prior.precision, _LOOSE), _LOOSE]}

    def rate(times: Floats, start: Floats | None = None) -> tuple[float, Floats]:
        found = fit(x, one.preference, weight=times, start=start, **pull).coefficients
        return 100 * float(np.average(sigmoid(found[0] + found[2] * ease), weights=times)), found

    n = len(ease)
    value, whole = rate(np.ones(n))
    rng = np.random.default_rng(seed)
    times = [np.bincount(rng.integers(n, size=n), minlength=n).astype(float) for _ in range(bootstrap if n > 1 else 0)]
    draws = [rate(line, whole)[0] for line in times]
    return {
        **interval(value, np.array(draws), n),
        "standard_error": float(np.std(draws, ddof=1)) if draws else None,
        "coefficients": dict(zip(("theta", "phi", "psi"), whole.tolist(), strict=True)),
        "known": sum(name in field.ease for name in one.questions) if field else 0,
        "models": field.models if field else 0,
        "prior": {"mean": prior.mean, "precision": prior.precision},
    }
