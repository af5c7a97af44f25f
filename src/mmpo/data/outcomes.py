"""Grades of several components, such as a student's chance to answer right and a rubric for tutors: data -> data.

Training tutors on student outcomes, arXiv 2503.06424: two judges score every candidate, s = w outcome + (1 - w) rubric,
and candidates are compared where their scores differ by more than eps.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.attributes import Line, weighted_sum
from mmpo.data.gamma import sigmoid
from mmpo.data.pairs import Pair, answers, graded_pairs
from mmpo.data.rows import BadRow, number
from mmpo.errors import UserError, nearest
from mmpo.types import Datum

Mode = Literal["weighted", "pareto"]
By = Literal["overall", "criteria"]
Aggregate = Literal["mean", "product", "geometric"]

TUTOR: Mapping[str, float] = MappingProxyType({"outcome": 0.5, "rubric": 0.5})
"""The components of the paper, and their shares in the grade."""

UNIT = (0.0, 1.0)

_ROUNDING = 1e-9
"""Differences of grades that are written with a few digits are exact up to this."""

# ---------------------------------------------------------------------------------------------- grades and pairs


def graded_by_components(
    data: Iterable[Datum],
    components: Mapping[str, float] = TUTOR,
    scales: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    eps: float = 0.1,
    mode: Mode = "weighted",
) -> tuple[list[Datum], dict[str, int]]:
    """The mixture of some attributes as the grade of each response, and the pairs that differ enough.

    Each attribute is moved from its scale to [0, 1]; the grade is sum_a w_a q_a. "weighted" keeps the pairs whose
    grades differ by more than ``eps`` (strictly), "pareto" those in which one response is better by more than ``eps``
    in every component: these are some of the former, whatever the weights. With ``eps`` 0 only ties are left out, which
    is for methods that match margins (MMPO); hard labels (DPO) want more.

    Args:
        data: data whose ``attributes`` hold the components, None where a response has none.
        components: the share of each; they are at least 0 and sum to 1.
        scales: the lowest and the highest value of each, 0 and 1 where it is absent.

    Returns:
        The data and the counts "data in", "data out", "pairs kept", "pairs skipped", "responses without a component",
        "data without a pair dropped", "statements about pairs dropped" and "grades of annotators dropped", which speak
        of something else than the mixture.

    Raises:
        UserError: shares that are none, an attribute that is absent or outside its scale, or no pair at all.
    """
    _check(components, scales, eps, mode)
    out, counts = [], Counter[str]()
    for d in data:
        counts["data in"] += 1
        lines = {name: _moved(d, name, scales.get(name, UNIT)) for name in components}
        grades = weighted_sum(lines, components)
        among = graded_pairs(replace(d, grades=grades))
        kept = [pair for pair in among if _apart(pair, lines.values() if mode == "pareto" else [grades], eps)]
        counts["pairs kept"] += len(kept)
        counts["pairs skipped"] += len(among) - len(kept)
        counts["responses without a component"] += sum(grades[i] is None for i in answers(d))
        if not kept:
            counts["data without a pair dropped"] += 1
            continue
        counts["data out"] += 1
        counts["statements about pairs dropped"] += len(d.judgements) + len(d.contrasts)
        counts["grades of annotators dropped"] += len(d.annotator_grades)
        pairs = None if kept == graded_pairs(replace(d, grades=grades, pairs=None)) else tuple(kept)
        bare = replace(d, judgements=(), contrasts=(), annotator_grades={}, ranked=False)
        out.append(replace(bare, grades=grades, pairs=pairs, attributes={**d.attributes, **lines}))
    if not out:
        raise UserError(f"no two responses differ by more than {eps:g} ({mode}); give a smaller eps")
    return out, dict(counts)


def _check(components: Mapping[str, float], scales: Mapping[str, tuple[float, float]], eps: float, mode: str) -> None:
    one_of("mode", mode, Mode)
    if not 0 <= eps < math.inf:
        raise UserError(f"eps is {eps:g}; give a number of at least 0")
    shares = list(components.values())
    if not shares or not all(0 <= w <= 1 for w in shares) or not math.isclose(math.fsum(shares), 1):
        told = ", ".join(f"{name}={w:g}" for name, w in components.items()) or "none"
        raise UserError(f"components are {told}; give shares of at least 0 that sum to 1, as outcome=0.5,rubric=0.5")
    for name, (low, high) in scales.items():
        if name not in components:
            raise UserError(f"scales names {name!r}, which is no component; leave it out, or name it in components")
        if not low < high:
            raise UserError(f"the scale of {name} is {low:g} to {high:g}; give the lower end first, as {name}=1:10")


def one_of(name: str, value: str, kind: Any) -> None:
    """Raise UserError for a value that is none of a Literal."""
    known = get_args(kind)
    if value not in known:
        raise UserError(f"{name} is {value!r}. {nearest(value, known)}")


def _moved(d: Datum, name: str, scale: tuple[float, float]) -> Line:
    """An attribute on [0, 1]."""
    where, (low, high) = d.source or d.id, scale
    if name not in d.attributes:
        known = ", ".join(sorted(d.attributes)) or "none"
        raise UserError(f"{where}: there is no {name}; the attributes are {known}; give it, or name other components")
    for i, value in enumerate(d.attributes[name]):
        if value is not None and not low <= value <= high:
            raise UserError(
                f"{where}: {name} of response {i} is {value:g}, which is not within {low:g} to {high:g}; give its "
                f"scale, as --scales {name}=1:10"
            )
    return tuple(None if value is None else (value - low) / (high - low) for value in d.attributes[name])


def _apart(pair: Pair, lines: Iterable[Line], eps: float) -> bool:
    """Whether one of two responses is better by more than eps on every line."""
    gaps = [(line[pair[0]] or 0.0) - (line[pair[1]] or 0.0) for line in lines]
    return min(gaps) - eps > _ROUNDING or -max(gaps) - eps > _ROUNDING


# ---------------------------------------------------------------------------------------------- one component


def token_probability(logits: ArrayLike, true_id: int, false_id: int) -> NDArray[np.float64]:
    """The probability of "true" where only two answers count: softmax over the logits, or log-probs, [..., V] of two
    tokens -> [...]."""
    found = np.asarray(logits, dtype=float)
    return np.asarray(sigmoid(found[..., true_id] - found[..., false_id]))


def aggregate(p: ArrayLike, how: Aggregate = "mean") -> float:
    """Probabilities [n] of knowing each of several things as one number: their mean, product or geometric mean.

    Raises UserError for another way, and where there are none.
    """
    values = np.asarray(p, dtype=float)
    one_of("aggregate", how, Aggregate)
    if not values.size:
        raise UserError("there is no probability to aggregate; give at least one")
    if how == "mean":
        return float(values.mean())
    return float(values.prod() ** (1.0 if how == "product" else 1 / values.size))


def rubric_score(judgement: Any, by: By = "overall", name: str = "rubric") -> float:
    """What a judge with a rubric said of a response, as one number on the scale of the rubric.

    Args:
        judgement: a number; or a mapping, or the JSON of one with words around it, of binary criteria and an
            ``overall`` number.
        by: "overall", or "criteria": the mean of all others, which are true or false, or 0 or 1.
        name: what the error calls it.

    Raises:
        BadRow: there is no such number.
    """
    one_of("rubric", by, By)
    said = _json(judgement, name) if isinstance(judgement, str) else judgement
    if not isinstance(said, Mapping):
        return number(said, name)
    if by == "overall":
        if "overall" not in said:
            raise BadRow("no overall", f"{name} has no overall number; give it, or read it by its criteria")
        return number(said["overall"], f"{name}.overall")
    marks = {
        k: float(v) if isinstance(v, bool) else number(v, f"{name}.{k}") for k, v in said.items() if k != "overall"
    }
    if not marks or not set(marks.values()) <= {0.0, 1.0}:
        raise BadRow("no criteria", f"{name} has no binary criteria; give true or false for each")
    return math.fsum(marks.values()) / len(marks)


def _json(text: str, name: str) -> Any:
    start, end = text.find("{"), text.rfind("}")
    try:
        return json.loads(text[start : end + 1])
    except json.JSONDecodeError:
        raise BadRow("no JSON", f"{name} holds no JSON object; give one of criteria and overall") from None
