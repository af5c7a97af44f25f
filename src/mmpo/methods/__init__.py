"""The catalogue: each method is 2-4 lines over the parts, in the file of its family."""

from __future__ import annotations

import math
from typing import Any

from mmpo.errors import UserError, nearest
from mmpo.methods import (
    attributes,
    compose,
    denoised,
    field,
    gaussian,
    general,
    goals,
    groups,
    lists,
    mixed,
    noisy,
    people,
    policy,
    regularized,
    reward,
    tokens,
)
from mmpo.methods.entry import Entry
from mmpo.types import Method

__all__ = ["CATALOGUE", "Entry", "build", "cite"]


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for family in (
        policy,
        reward,
        attributes,
        people,
        groups,
        mixed,
        general,
        gaussian,
        noisy,
        denoised,
        lists,
        goals,
        tokens,
        regularized,
        field,
    )
    for entry in family.ENTRIES
}


def build(name: str, **parameters: Any) -> Method:
    """A method by name, with hyper-parameters, and with parts replaced by others (see ``compose.composed``).

    Raises UserError for an unknown name or parameter, naming the nearest known one.
    """
    if name not in CATALOGUE:
        raise UserError(f"unknown method {name!r}. {nearest(name, CATALOGUE)}")
    entry = CATALOGUE[name]
    parts = {key: parameters.pop(key) for key in compose.ROOMS if key in parameters}
    for key, value in parameters.items():
        if key not in entry.parameters:
            raise UserError(
                f"method {name!r} has no parameter {key!r}. {nearest(key, [*entry.parameters, *compose.ROOMS])}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"method.{key} is {value!r}; a number is needed")
        if not math.isfinite(value) or value < 0:
            raise UserError(f"method.{key} is {value!r}; a finite number, 0 or more, is needed")
        if isinstance(entry.parameters[key], int):
            if value < 1 or value != int(value):
                raise UserError(f"method.{key} is {value!r}; a whole number of at least 1 is needed")
            parameters[key] = int(value)
    method = compose.composed(entry.build(**parameters), parts)
    for key, value in parameters.items():
        other = entry.build(**{**parameters, key: another(value)})
        if parts and compose.composed(other, parts) == method:
            raise UserError(f"method.{key} belongs to a part that was replaced, so it would do nothing; leave it out")
    return method


def another(value: float) -> float:
    """Another value that a parameter could have; of a whole number another whole number."""
    return 2 * value if isinstance(value, int) else value / 2 or 0.25


def cite(method: Method, name: str | None = None) -> str:
    """The paper of a method by its ``name`` in the catalogue; else of all rows that have its parts, else the parts."""
    kinds = [type(part) for part in method.all_parts]
    alike = {entry.name: entry for entry in CATALOGUE.values() if kinds == [type(p) for p in entry.build().all_parts]}
    if alike:
        return "; ".join(entry.citation() for entry in ([alike[name]] if name in alike else alike.values()))
    return f"A product of {', '.join(kind.__name__ for kind in kinds)}; see their docstrings for papers."
