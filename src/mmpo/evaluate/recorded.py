"""Parts of a method as plain data, by which a saved run says how its model is to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mmpo import objectives, scores, targets
from mmpo.errors import UserError
from mmpo.types import Part

KINDS: Mapping[str, type[Any]] = {
    name: kind
    for room in (scores, targets, objectives)
    for name, kind in vars(room).items()
    if isinstance(kind, type) and issubclass(kind, Part)
}
"""The parts by name."""


def part_record(part: Part) -> dict[str, Any]:
    """A part of a method as plain data for run.json."""
    held = {f.name: getattr(part, f.name) for f in fields(part)}  # type: ignore[arg-type]
    plain = {name: part_record(value) if isinstance(value, Part) else value for name, value in held.items()}
    return {"name": type(part).__name__, **plain}


def recorded_part(record: Mapping[str, Any]) -> Any:
    """The part that ``part_record`` told of. Raises UserError for a kind that there is not, or not any more."""
    name = record["name"]
    held = {key: _value(value) for key, value in record.items() if key != "name"}
    if name not in KINDS:
        raise UserError(f"run.json: unknown part {name!r}; it was written by another version")
    if unknown := sorted(held.keys() - {f.name for f in fields(KINDS[name])}):
        raise UserError(f"run.json: {name} has no {', '.join(unknown)}; it was written by another version")
    return KINDS[name](**held)


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and "name" in value:
        return recorded_part(value)
    # JSON has no tuples, and a frozen part no lists.
    return tuple(map(_value, value)) if isinstance(value, list) else value
