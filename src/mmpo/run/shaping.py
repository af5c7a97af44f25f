"""What is done to data between reading and tokenising, to all of them or to parts that hold whole prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmpo.data import cap_pairs, cap_responses, shuffle_responses, spread, texts
from mmpo.data.merge import merged_groups
from mmpo.data.scale import Numbers, Scale, rescaled
from mmpo.needs import Wanted
from mmpo.recipe import Shape
from mmpo.types import Datum

STEPS = ("not read by the method", "merging", "rescale", "spread", "max_responses", "max_pairs")

Counts = defaultdict[str, Counter[str]]
"""Step -> what it did -> how often."""


@dataclass(frozen=True)
class Shaping:
    """What is done to data once they are read: what the method would read for nothing is left out, the data of one
    prompt are merged, and the shape is applied.

    It may be done to parts of the data that each hold all of a prompt. ``scale`` is what ``shape.rescale`` comes to.
    """

    shape: Shape
    seed: int
    wanted: Wanted | None
    scale: Scale | None = None

    def key(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "shape": self.shape.model_dump(),
            "seed": self.seed,
            "wanted": self.wanted and self.wanted.key(),
            "scale": self.scale and asdict(self.scale),
        }

    def merged(self, data: Iterable[Datum], counts: Counts) -> list[tuple[int, list[Datum]]]:
        """What data are merged to, and the number of the first datum that went into it."""
        if self.wanted is not None:
            data = [self.wanted(datum, counts[STEPS[0]]) for datum in data]
        return merged_groups(data, counts["merging"])

    def scaled(self, merged: Callable[[], Numbers]) -> Shaping:
        """With the scale, if need be made of the ``numbers_of`` all merged data."""
        how = self.shape.rescale
        if how is None or self.scale is not None:
            return self
        return replace(self, scale=Scale.of(how, merged() if how in Scale.FITTED else {}))

    def shaped(self, groups: Sequence[tuple[int, list[Datum]]], counts: Counts) -> list[tuple[int, Datum]]:
        """The shape applied to what ``merged`` gave, each datum with the number of what it was made from."""
        data = [datum for _, group in groups for datum in group]
        places = [place for place, group in groups for _ in group]
        if self.scale is not None:
            data = [rescaled(datum, self.scale) for datum in data]
            counts["rescale"][self.scale.how] += len(data)
        out = [(place, some) for place, datum in zip(places, data, strict=True) for some in self._split(datum, counts)]
        if self.shape.max_pairs is not None:
            out = self._capped(out, self.shape.max_pairs, counts)
        places = [place for place, _ in out]
        return list(zip(places, shuffle_responses((datum for _, datum in out), self.seed), strict=True))

    def _split(self, datum: Datum, counts: Counts) -> list[Datum]:
        out = [datum]
        if self.shape.spread is not None:
            out, done = spread(out, self.shape.spread, self.seed)
            counts["spread"].update(done)
        if self.shape.max_responses is not None:
            out, done = cap_responses(out, self.shape.max_responses, self.seed)
            counts["max_responses"].update(done)
        return out

    def _capped(self, data: Iterable[tuple[int, Datum]], most: int, counts: Counts) -> list[tuple[int, Datum]]:
        """Comparisons are capped over all data of a prompt, which then follow each other."""
        units: dict[str, tuple[int, list[Datum]]] = {}
        for place, datum in data:
            units.setdefault(texts.key(datum.prompt), (place, []))[1].append(datum)
        out = []
        for place, unit in units.values():
            kept, done = cap_pairs(unit, most, self.seed)
            counts["max_pairs"].update(done)
            out += [(place, datum) for datum in kept]
        return out


def told_of(counts: Counts) -> dict[str, dict[str, int]]:
    """The steps that did something, in their order."""
    return {step: dict(counts[step]) for step in STEPS if counts[step]}
