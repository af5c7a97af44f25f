"""What a model says of data, as columns beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mmpo.data.pairs import answers, pairs_of
from mmpo.errors import UserError
from mmpo.evaluate.agreement import Floats
from mmpo.evaluate.comparisons import margins
from mmpo.evaluate.scored import Scored
from mmpo.types import Datum


def columns(
    scored: Scored, probability: Callable[[Floats], Floats] | None = None, of: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """For each datum ``model_scores``, one number a response, None for those beside the answers; with a calibrated
    ``probability`` of a margin also ``model_p``; of a model that only compares also ``model_margins``, [K][K].

    ``model_p`` lists [i, j, p]: the probability p that i is preferred to j, for the pairs that were compared, or for
    all pairs of answers where none was. Of a model with several rewards ``model_scores_by`` holds the scores by each
    group, attribute or prototype, ``model_weights`` how much each of them counts for the prompt where that is known,
    and ``model_scores_of`` the scores as each of the voices ``of`` sees them. All others are anybody's view.
    Raises UserError for an answer whose score is no finite number, and for a voice that the model does not know.
    """
    seen = {name: scored.view(name).rewards for name in of}
    weights = scored.weights
    for place, (datum, rewards, said) in enumerate(zip(scored.data, scored.rewards, scored.said, strict=True)):
        _check(datum, rewards)
        row: dict[str, Any] = {"model_scores": _plain(rewards)}
        m = margins(np.asarray(said, float))
        if scored.margins is not None:
            row["model_margins"] = [_plain(line) for line in m]
        if scored.facets is not None:
            by = zip(scored.facet_names, scored.facets[place].T, strict=True)
            row["model_scores_by"] = {name: _plain(line) for name, line in by}
        if weights is not None:
            row["model_weights"] = dict(zip(scored.facet_names, weights[place].tolist(), strict=True))
        if seen:
            row["model_scores_of"] = {name: _plain(all_rows[place]) for name, all_rows in seen.items()}
        if probability is not None:
            i, j = np.array(_pairs(datum), dtype=int).reshape(-1, 2).T
            row["model_p"] = [
                list(one) for one in zip(i.tolist(), j.tolist(), probability(m[i, j]).tolist(), strict=True)
            ]
        yield row


def _check(datum: Datum, rewards: Sequence[float]) -> None:
    for i in answers(datum):
        if not math.isfinite(rewards[i]):
            raise UserError(
                f"{datum.source or datum.id}, response {i}: the model's score is {rewards[i]}; check its weights, or "
                "read it with dtype float32"
            )


def _pairs(datum: Datum) -> Sequence[tuple[int, int]]:
    return pairs_of(datum) or list(combinations(answers(datum), 2))


def _plain(numbers: Sequence[float] | Floats) -> list[float | None]:
    return [None if math.isnan(x) else float(x) for x in numbers]
