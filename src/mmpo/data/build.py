"""``mmpo build``: data made of data, for the methods that ask for more than rows usually hold."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mmpo.data.components import Components
from mmpo.data.contexts import Contexts
from mmpo.data.goals import add_goals
from mmpo.data.instructed import add_instructions
from mmpo.data.keywords import add_variants
from mmpo.data.load import Loaded, Sources, listed, load
from mmpo.data.outcomes import graded_by_components
from mmpo.data.phrases import mark_phrases
from mmpo.data.read import Numbered
from mmpo.data.source import Source
from mmpo.data.strength import by_strength
from mmpo.data.transfer import transfer
from mmpo.data.weighted import add_weights
from mmpo.errors import OnBadRow, UserError, nearest
from mmpo.types import Datum

BUILDERS: Mapping[str, Callable[..., tuple[list[Datum], dict[str, int]]]] = {
    "goals": add_goals,
    "instructions": add_instructions,
    "variants": add_variants,
    "phrases": mark_phrases,
    "strength": by_strength,
    "weighted": add_weights,
    "outcomes": graded_by_components,
}


class Reshape(Protocol):
    """Changes rows before they are loaded, and counts what it did."""

    counts: Counter[str]

    def source(self, source: Source) -> Source:
        """How the changed rows are read."""
        ...

    def __call__(self, rows: Numbered) -> Numbered: ...


RESHAPES: Mapping[str, Callable[..., Reshape]] = {"contexts": Contexts, "outcomes": Components}
"""Kinds that are made of rows of their own shape, which are changed before they are loaded."""

KINDS = tuple(dict.fromkeys((*BUILDERS, *RESHAPES)))

OF_TWO: Mapping[str, Callable[..., tuple[list[Datum], dict[str, int]]]] = {"transfer": transfer}
"""Builders that need further data beside those they change, as their option ``source``."""


def build(kind: str, data: Iterable[Datum], **options: Any) -> tuple[list[Datum], dict[str, int]]:
    """The data that a builder makes, and the counts of what it did and left.

    Raises:
        UserError: an unknown kind, or an option that this kind does not have.
    """
    if kind not in BUILDERS:
        mend = "It is made of rows, by build_rows;" if kind in RESHAPES else nearest(kind, BUILDERS)
        raise UserError(f"unknown kind of data {kind!r}. {mend}")
    _check(kind, _options(BUILDERS, kind)[1:], options)
    return BUILDERS[kind](data, **options)


def build_rows(
    kind: str, sources: Sources, *, on_bad_row: OnBadRow = "error", **options: Any
) -> tuple[Loaded, list[Datum], dict[str, int]]:
    """What is loaded, and what is made of it with its counts, for any of ``KINDS`` and ``OF_TWO``, as ``mmpo build``.

    Raises:
        UserError: an unknown kind, an option that this kind does not have, and what ``load`` and the builder raise.
    """
    if kind not in (*KINDS, *OF_TWO):
        raise UserError(f"unknown kind of data {kind!r}. {nearest(kind, (*KINDS, *OF_TWO))}")
    makers = {**BUILDERS, **OF_TWO}
    before, after = _options(RESHAPES, kind), _options(makers, kind)[1:]
    _check(kind, list(dict.fromkeys([*before, *after])), options)
    reshape = RESHAPES[kind](**{name: options[name] for name in options if name in before}) if before else None
    given = [reshape.source(one) if reshape else one for one in listed(sources, on_bad_row)]
    loaded = load(given, on_bad_row=on_bad_row, reshape=reshape)
    made, counts = loaded.data, dict(reshape.counts) if reshape else {}
    if kind in makers:
        made, further = makers[kind](made, **{name: options[name] for name in options if name in after})
        counts |= further
    return loaded, made, counts


def _options(of: Mapping[str, Callable[..., Any]], kind: str) -> list[str]:
    return list(inspect.signature(of[kind]).parameters) if kind in of else []


def _check(kind: str, known: Sequence[str], options: Iterable[str]) -> None:
    for name in options:
        if name not in known:
            raise UserError(f"--{name} is no option of build {kind}; it has {', '.join(known) or 'none'}; leave it out")
