"""Sources -> the data that training takes, merged and shaped, and the account of what became of them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpo.data import cap_pairs, cap_responses, load, merge, rescale, shuffle_responses, spread
from mmpo.data.ledger import in_words
from mmpo.errors import OnBadRow
from mmpo.needs import without_idle
from mmpo.recipe import Shape
from mmpo.record import fingerprint
from mmpo.types import Datum, Method


@dataclass(frozen=True)
class Gathered:
    """Data in the shape that training takes, and the account of what became of them on the way.

    ``merged`` are the data before they were rescaled and capped. ``offset`` says that the column margin was declared an
    additive offset.
    """

    data: list[Datum]
    merged: list[Datum]
    record: dict[str, Any]
    account: list[str]
    offset: bool = False

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these data."""
        return fingerprint(self.data)


def gather(
    sources: Any,
    shape: Shape,
    seed: int,
    on_bad_row: OnBadRow = "error",
    like: Gathered | None = None,
    method: Method | None = None,
) -> Gathered:
    """Load and shape data: anything ``mmpo.data.load`` takes, or a list of Datum.

    Held-out data take the scale of the training data, ``like``, and keep all their comparisons. What ``method`` would
    read for nothing is left out first, and counted.
    """
    if isinstance(sources, list | tuple) and all(isinstance(item, Datum) for item in sources):
        raw, record, account, offset = list(sources), {"data": len(sources)}, [], False
    else:
        loaded = load(sources, on_bad_row=on_bad_row, seed=seed)
        loaded.ledger.check_feedback()
        raw, record, account = loaded.data, loaded.ledger.as_dict(), loaded.ledger.summary()
        offset = "offset" in loaded.ledger.provides
    raw, idle = (raw, {}) if method is None else without_idle(raw, method)
    merged, counts = merge(raw)
    data, done = shaped(
        merged, shape if like is None else Shape(rescale=shape.rescale), seed, like.merged if like else None
    )
    done = ({"not read by the method": idle} if idle else {}) | {"merging": counts, **done}
    account = account + [line for step, told in done.items() for line in in_words(step, told)]
    return Gathered(data, merged, {**record, "shaping": done}, account, offset)


def shaped(
    data: Sequence[Datum], shape: Shape, seed: int, like: Sequence[Datum] | None = None
) -> tuple[list[Datum], dict[str, dict[str, int]]]:
    """Apply a shape to merged data; what each step did is counted. The scale of the grades is that of ``like``."""
    out = list(data)
    done: dict[str, dict[str, int]] = {}
    if shape.rescale is not None:
        out, done["rescale"] = rescale(out, shape.rescale, like), {shape.rescale: len(out)}
    if shape.spread is not None:
        out, done["spread"] = spread(out, shape.spread, seed)
    if shape.max_responses is not None:
        out, done["max_responses"] = cap_responses(out, shape.max_responses, seed)
    if shape.max_pairs is not None:
        out, done["max_pairs"] = cap_pairs(out, shape.max_pairs, seed)
    return shuffle_responses(out, seed), done
