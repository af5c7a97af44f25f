"""How well a model serves each of many voices: annotators, attributes, or the parts of a data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpo.evaluate.agreement import Floats, accuracy, brier, nll
from mmpo.evaluate.calibration import BINS, assign, ece_of_sums, excess
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.heard import NAMELESS, Heard
from mmpo.evaluate.resample import drawn, interval
from mmpo.evaluate.scored import Views, rows_of
from mmpo.evaluate.summary import means_of
from mmpo.types import nested

FLOOR = 20
"""Comparisons that a voice needs for numbers of its own; those with fewer are pooled."""

_CELLS = 4_000_000
"""Sums at a time."""

WORST = {"accuracy": np.nanmin, "nll": np.nanmax, "ece": np.nanmax, "brier": np.nanmax}
"""The metrics of a voice, and which of several voices is worst off by each."""


def by_voice(h: Heard, *, bootstrap: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Accuracy, NLL, ECE and Brier score of each voice, their mean and spread over voices, and the worst.

    Returns, ready for JSON: ``kind``, ``floor``, how many voices there are (``n_voices``), how many of them have
    ``FLOOR`` comparisons or more (``n_measured``) and how many are judged by the model's ``own`` view of them
    (``n_own``); ``voices``, the measured ones from the lowest accuracy on, each with name, own, n_comparisons,
    n_prompts and the four metrics as {value, low, high}; ``pooled``, the same of all voices with fewer comparisons
    together, and ``nameless``, of what nobody's name stands at, null where there is none; and over the measured voices,
    each of them counting alike, ``mean``, ``worst`` (with the name of the ``voice``) and ``spread`` (the standard
    deviation) of each metric.

    ``gain`` has what it is worth to know who speaks, null where no voice is known: accuracy and NLL of the comparisons
    of known voices by the model's own views of them less those by its view of anybody, {value, low, high}.

    Intervals are of a bootstrap over prompts. That of the worst finds the worst voice anew in each draw, and allows for
    its having been chosen: the worst of many looks worse than it is, so the interval may lie to one side of the value.
    Of 21 voices one of which is served clearly worse it held the truth in 94% of 400 trials, of ten that are served
    alike in 80%, of a hundred alike in 53%. Of many voices one is bad by bad luck: ``by_chance`` has the means of worst
    and spread where it is drawn at random which voice said what.
    """
    names, voice = np.unique(h.said.subset.astype(str), return_inverse=True)
    n = np.bincount(voice)
    named, enough = names != NAMELESS, n >= FLOOR
    measured = np.flatnonzero(named & enough)
    # Those with numbers of their own first, then all others with a name as one, then what has none.
    slot = np.where(named, len(measured), len(measured) + 1)
    slot[measured] = np.arange(len(measured))
    voice, few = slot[voice], named & ~enough
    value, draws, prompts = _measured(h.said, voice, len(measured) + 2, bootstrap, seed, bins)
    rows = [
        {
            "n_comparisons": int((n[slot == at]).sum()),
            "n_prompts": int(prompts[at]),
            **{of: _interval(value[of][at], draws[of][:, at], prompts[at]) for of in WORST},
        }
        for at in range(len(measured) + 2)
    ]
    each = [{"name": str(names[v]), "own": str(names[v]) in h.own, **rows[at]} for at, v in enumerate(measured)]
    over = {of: (value[of][: len(each)], draws[of][:, : len(each)]) for of in WORST}
    return {
        "kind": h.kind,
        "floor": FLOOR,
        "n_voices": int(named.sum()),
        "n_measured": len(each),
        "n_own": len(h.own & set(names)),
        **(_over_voices(each, over, h.said, voice) if each else {}),
        "voices": sorted(each, key=lambda one: one["accuracy"]["value"]),
        "pooled": {"n_voices": int(few.sum()), **rows[-2]} if few.any() else None,
        "nameless": rows[-1] if not named.all() else None,
        "gain": _gain(h, bootstrap, seed),
        "bootstrap": bootstrap,
        "seed": seed,
    }


def _measured(
    c: Comparisons, voice: NDArray[np.intp], voices: int, bootstrap: int, seed: int, bins: int
) -> tuple[dict[str, Floats], dict[str, Floats], NDArray[np.intp]]:
    """Each metric of each voice [V], its draws [bootstrap, V], and how many prompts the voice spoke of [V]."""
    _, prompt = np.unique(c.group, return_inverse=True)
    prompts = int(prompt.max()) + 1
    cells, cell = np.unique(voice * prompts + prompt, return_inverse=True)
    metrics = (np.ones(len(c)), accuracy(c.p, c.m), nll(c.p, c.m), brier(c.p, c.m))
    sums = [np.bincount(cell, c.weight * x) for x in metrics]
    # A prompt with one bin would count each bin of the voice alone, so bins are summed before their size is taken.
    bin_of = assign(c.m, c.weight, bins)
    over = np.bincount(cell * (bins // 2) + bin_of, excess(c.p, c.m, c.weight), len(cells) * (bins // 2))
    table = np.column_stack([*sums, over.reshape(len(cells), -1)])
    rows, columns = np.divmod(cells, prompts)
    whole = np.zeros((voices, table.shape[1]))
    np.add.at(whole, rows, table)
    many = list(_resampled(table, rows, columns, (voices, prompts), bootstrap, seed))
    draws = {name: np.concatenate([some[name] for some in many]) for name in WORST}
    return _metrics(whole), draws, np.bincount(rows, minlength=voices)


def _resampled(
    table: Floats, rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, int], draws: int, seed: int
) -> Iterator[dict[str, Floats]]:
    """The metrics [some draws, V] for draws of prompts, of the table [cells, C] whose cells are of a voice (row) and a
    prompt (column)."""
    where = torch.from_numpy(np.stack([rows, columns]))
    sums = [
        torch.sparse_coo_tensor(where, torch.from_numpy(column.copy()), shape, check_invariants=False)
        for column in table.T
    ]
    step = max(1, _CELLS // (shape[0] * len(sums)))
    for times in drawn(shape[1], draws, seed):
        for start in range(0, len(times), step):
            some = torch.from_numpy(times[start : start + step].T.copy())
            yield _metrics(np.stack([(one @ some).numpy().T for one in sums], -1))


def _metrics(sums: Floats) -> dict[str, Floats]:
    """Sums [..., V, C] -> each metric [..., V], NaN where a voice has nothing."""
    total = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    means = {name: sums[..., n] / total for n, name in enumerate(("accuracy", "nll", "brier"), start=1)}
    return {**means, "ece": ece_of_sums(sums[..., 4:], total)}


def _over_voices(
    each: Sequence[dict[str, Any]], over: dict[str, tuple[Floats, Floats]], c: Comparisons, voice: NDArray[np.intp]
) -> dict[str, Any]:
    """Mean, worst and spread over the measured voices, and what chance makes of the last two."""
    out: dict[str, Any] = {"mean": {}, "worst": {}, "spread": {}, "by_chance": _by_chance(c, voice, len(each))}
    prompts = len(np.unique(c.group[voice < len(each)]))
    for name, (value, draws) in over.items():
        there = draws[~np.isnan(draws).all(1)]
        worst = WORST[name]
        at = int(np.flatnonzero(value == worst(value))[0])
        out["mean"][name] = _interval(value.mean(), np.nanmean(there, 1), prompts)
        chosen = {end: each[at][name][end] for end in ("value", "low", "high")}
        if len(each) > 1 and prompts > 1:
            chosen |= _of_extreme(float(value[at]), worst(there, axis=1), math.inf if name == "nll" else 1.0)
        out["worst"][name] = {"voice": each[at]["name"], **chosen}
        out["spread"][name] = _interval(value.std(), np.nanstd(there, 1), prompts)
    return out


def _of_extreme(value: float, draws: Floats, most: float) -> dict[str, float]:
    """The ends of the basic bootstrap interval, 2 value - draws, within [0, most].

    The extreme of several values is further out than the truth behind it, and that of a resample further out again, by
    about as much; so the draws are turned round the value, and the interval may lie to one side of it.
    """
    low, high = (2 * value - np.quantile(draws, [0.975, 0.025])).clip(0.0, most).tolist()
    return {"low": low, "high": high}


def _gain(h: Heard, bootstrap: int, seed: int) -> dict[str, Any] | None:
    """What the model's own views of voices are worth, comparison by comparison."""
    known = np.isin(h.said.subset.astype(str), sorted(h.own))
    if not known.any():
        return None
    c, m = h.said.where(known), h.anybody[known]
    change = {name: of(c.p, c.m) - of(c.p, m) for name, of in {"accuracy": accuracy, "nll": nll}.items()}
    return {"n_comparisons": len(c), **means_of(c, change, bootstrap=bootstrap, seed=seed)}


def _by_chance(c: Comparisons, voice: NDArray[np.intp], voices: int, times: int = 200) -> dict[str, dict[str, float]]:
    """Worst and spread of accuracy, NLL and Brier score where who said what is drawn at random, on average."""
    own = voice < voices
    c, voice = c.where(own), voice[own]
    rng = np.random.default_rng(0)
    values = {"accuracy": accuracy(c.p, c.m), "nll": nll(c.p, c.m), "brier": brier(c.p, c.m)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in values}
    for _ in range(times):
        drawn_voice = rng.permutation(voice)
        total = np.bincount(drawn_voice, c.weight, voices)
        for name, value in values.items():
            mean = np.bincount(drawn_voice, c.weight * value, voices) / total
            found[name].append((float(WORST[name](mean)), float(mean.std())))
    means = {name: np.mean(pairs, axis=0) for name, pairs in found.items()}
    return {what: {name: float(mean[n]) for name, mean in means.items()} for n, what in enumerate(("worst", "spread"))}


def _interval(value: float, draws: Floats, prompts: int) -> dict[str, float | None]:
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    return interval(float(value), draws[~np.isnan(draws)], int(prompts))


# ---------------------------------------------------------------------------------------------- their groups


PROMPTS = 100
"""Prompts over which the weights of a voice are averaged, where they depend on the prompt."""


def groups(views: Views) -> dict[str, Any] | None:
    """Which voices go with which group, prototype or head of a mixture; None where the model is none, or has an output
    for each voice, which goes with itself.

    ``names`` of the groups; ``sizes``, the voices whose largest weight each has; ``weights``, those of each voice by
    name, averaged over ``n_prompts`` of the data where they depend on the prompt.
    """
    if views.facets is None or views.vocabulary is None or not views.score.apart or not views.parts:
        return None
    if not views.score.has_room(len(views.vocabulary)):
        return None
    who = torch.arange(1, len(views.vocabulary))
    fixed = not any(part.on_prompt(len(views.vocabulary)) for part in nested(views.score))
    found: list[Tensor] = []
    for places, reading in views.parts:
        for n in range(1 if fixed else min(len(places), PROMPTS - len(found))):
            weights = views.score.weights(rows_of(reading, torch.full_like(who, n), who))
            if weights is None:
                return None
            found.append(weights.detach().expand(len(who), -1).double())
        if fixed or len(found) >= PROMPTS:
            break
    mean = torch.stack(found).mean(0).numpy()
    largest = np.bincount(mean.argmax(-1), minlength=mean.shape[1])
    return {
        "names": views.facet_names,
        "sizes": dict(zip(views.facet_names, largest.tolist(), strict=True)),
        "weights": dict(zip(views.vocabulary.numbers, mean.tolist(), strict=True)),
        "n_prompts": len(found),
    }
