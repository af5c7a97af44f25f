"""Labels of one task carried over to another that has none, by the distances within each: Gromov-Wasserstein matching.

PEARL, arXiv 2306.03615. The two tasks may live in different spaces; all that is compared is how far answers lie apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.pairs import answers, graded
from mmpo.errors import UserError
from mmpo.types import Datum, Judgement

Array = NDArray[np.float64]
MOST = 1000
"""Answers of a task that can be matched: the work grows with their cube."""
STEP = 0.01
"""How far a proximal step may go, for distances whose largest is 1."""


def distances(x: ArrayLike) -> Array:
    """Euclidean distances within N points: [N, d] -> [N, N]."""
    x = np.asarray(x, float)
    squares = (x**2).sum(-1)
    return np.sqrt((squares[:, None] + squares - 2 * x @ x.T).clip(0)) * (1 - np.eye(len(x)))


def gromov_wasserstein(
    source: ArrayLike, target: ArrayLike, p: ArrayLike | None = None, q: ArrayLike | None = None, smooth: float = 0.0
) -> Array:
    """The plan that matches points so that distances agree: [N, N] and [M, M] -> T [N, M], with T 1 = p and T^T 1 = q.

    T minimises sum |C_ii' - C'_jj'|^2 T_ij T_i'j' by proximal steps and then conditional gradients (Python Optimal
    Transport). The problem has local minima, and points that look the same from afar, such as a set and its mirror
    image, are matched either way round.

    Args:
        p, q: masses of the points, each of sum 1; default: all alike.
        smooth: with more than 0, how much entropy counts beside agreement, for distances whose largest is 1: the plan
            then spreads over points that fit almost as well.

    Raises:
        UserError: where Python Optimal Transport is not installed, or smooth is below 0.
    """
    if smooth < 0:
        raise UserError(f"smooth is {smooth:g}; give 0, or a small number above it")
    try:
        from ot import gromov  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("tasks are matched by Python Optimal Transport; pip install 'mmpo[transfer]'") from error
    ours, theirs = np.asarray(source, float), np.asarray(target, float)
    scale = max(ours.max(), theirs.max(), np.finfo(float).tiny)
    ours, theirs = ours / scale, theirs / scale
    p, q = (
        np.full(len(c), 1 / len(c)) if mass is None else np.asarray(mass, float)
        for c, mass in zip((ours, theirs), (p, q), strict=True)
    )
    with warnings.catch_warnings():
        # It warns where Sinkhorn's steps were not enough for its own tolerance; the masses are mended below.
        warnings.simplefilter("ignore")
        plan = gromov.entropic_gromov_wasserstein(
            ours, theirs, p, q, epsilon=smooth or STEP, solver="PGD" if smooth else "PPA", max_iter=100
        )
        plan = _with_masses(plan, p, q)
        if not smooth:
            plan = gromov.gromov_wasserstein(ours, theirs, p, q, G0=plan)
    return np.asarray(plan)


def _with_masses(plan: Array, p: Array, q: Array) -> Array:
    """The plan with these masses exactly, which Sinkhorn's steps have nearly."""
    tiny = np.finfo(float).tiny
    plan = plan * np.minimum(1, p / plan.sum(1).clip(tiny))[:, None]
    plan = plan * np.minimum(1, q / plan.sum(0).clip(tiny))
    short, lacking = (p - plan.sum(1)).clip(0), (q - plan.sum(0)).clip(0)
    return plan + np.outer(short, lacking) / max(short.sum(), tiny)


def disagreement(source: ArrayLike, target: ArrayLike, plan: ArrayLike) -> float:
    """How far distances differ under a plan: sum |C_ii' - C'_jj'|^2 T_ij T_i'j'."""
    ours, theirs, t = (np.asarray(x, float) for x in (source, target, plan))
    p, q = t.sum(1), t.sum(0)
    return float(p @ ours**2 @ p + q @ theirs**2 @ q - 2 * np.sum((ours @ t @ theirs) * t))


def transfer_preferences(plan: ArrayLike, z: ArrayLike) -> Array:
    """Labels of the target: T [N, M] and z [N, N] -> [M, M], z'_jj' = sum T_ij z_ii' T_i'j' / sum T_ij T_i'j'.

    z_ii' is the probability that i is better than i', z_ii' + z_i'i = 1, and 1/2 on the diagonal. The division is
    needed: the products of a plan sum to q_j q_j', so that without it the labels of n points shrink by n^2.

    Raises:
        UserError: where the shapes do not fit, or z_ii' + z_i'i is not 1.
    """
    t, z = np.asarray(plan, float), np.asarray(z, float)
    if t.ndim != 2 or z.shape != (len(t), len(t)):
        raise UserError(f"a plan {t.shape} goes with labels [N, N] of its N source points, not with {z.shape}")
    off = ~np.eye(len(z), dtype=bool)
    if not np.allclose((z + z.T)[off], 1):
        raise UserError("labels of a pair, first over second and second over first, must sum to 1")
    z = np.where(off, z, 0.5)
    mass = t.sum(0)
    if not (mass > 0).all():
        raise UserError("a target point without mass gets no label; give every point some")
    # Sums in another order may pass 0 and 1 by a rounding error, and no probability does.
    return np.asarray(((t.T @ z @ t) / np.outer(mass, mass)).clip(0, 1))


def transfer(
    data: Iterable[Datum],
    source: Sequence[Datum] = (),
    model: Callable[[Sequence[Datum]], ArrayLike] | None = None,
    smooth: float = 0.0,
) -> tuple[list[Datum], dict[str, int]]:
    """The data with labels that graded answers of a ``source`` lend them.

    The answers of all prompts together are matched, so the grades of the source must mean the same from prompt to
    prompt: of two answers, that with the higher grade is better. Each pair of answers to one prompt of the data then
    gets the probability p that the matched answers say. What was said of the data before is left out.

    Args:
        model: gives the embedding of each datum of one answer, N data -> [N, d].
        smooth: see ``gromov_wasserstein``.

    Returns:
        The data, and counts; the last is the percentage by which matching brings distances together, compared with a
        plan that matches everything to everything: near 0 the tasks have no shape in common, and labels mean nothing.

    Raises:
        UserError: without a model or a graded source, or with too many answers.
    """
    if model is None:
        raise UserError("answers are matched by their embeddings; give --model, a folder or hub id of an encoder")
    data = list(data)
    ours = [(d, i) for d in source if not d.ranked for i in graded(d)]
    theirs = [(d, i) for d in data for i in answers(d)]
    _check(len(ours), len(theirs))
    q = np.array([(d.grades or ())[i] for d, i in ours], float)
    c, c_target = (distances(model([_alone(d, i) for d, i in side])) for side in (ours, theirs))
    plan = gromov_wasserstein(c, c_target, smooth=smooth)
    z = transfer_preferences(plan, np.heaviside(q[:, None] - q, 0.5))
    made, at = [], 0
    for d in data:
        among = {i: at + n for n, i in enumerate(answers(d))}
        at += len(among)
        told = tuple(Judgement(i, j, p=float(z[among[i], among[j]])) for i, j in combinations(among, 2))
        made.append(_bare(d, told))
    coins = sum(abs((said.p or 0) - 0.5) < 1e-6 for d in made for said in d.judgements)
    gain = 1 - disagreement(c, c_target, plan) / max(
        disagreement(c, c_target, np.full(plan.shape, 1 / plan.size)), np.finfo(float).tiny
    )
    return made, {
        "graded answers of the source": len(ours),
        "answers of the source without a grade left out": sum(len(answers(d)) for d in source) - len(ours),
        "pairs labelled": sum(len(d.judgements) for d in made),
        "of them even": coins,
        "data whose own feedback was left out": sum(_said(d) for d in data),
        "percent of the distances explained": round(100 * gain),
    }


def _check(ours: int, theirs: int) -> None:
    if ours < 2 or theirs < 2:
        raise UserError(
            f"the source has {ours} graded answers and the target {theirs} answers; at least 2 of each are matched. "
            "Give scores: ranks are no grades here, since they mean nothing from prompt to prompt"
        )
    if max(ours, theirs) > MOST:
        raise UserError(
            f"{ours} graded answers and {theirs} to label; at most {MOST} of each are matched at once. Split the "
            "files, by kind of prompt where there are kinds"
        )


def _alone(d: Datum, i: int) -> Datum:
    """One answer without what was said of it."""
    return replace(_bare(d, ()), responses=(d.responses[i],), about=d.about[i : i + 1])


def _bare(d: Datum, judgements: tuple[Judgement, ...]) -> Datum:
    """The datum with these judgements and no other feedback."""
    return replace(
        d,
        judgements=judgements,
        grades=None,
        pairs=None,
        annotator_grades={},
        attributes={},
        contrasts=(),
        ranked=False,
    )


def _said(d: Datum) -> bool:
    return bool(d.grades or d.judgements or d.annotator_grades or d.contrasts)
