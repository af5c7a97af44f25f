"""Parts of a method as plain data, by which a saved run says how its model is to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mmpo.errors import UserError
from mmpo.types import Part


def part_record(part: Part) -> dict[str, Any]:
    """A part of a method as plain data for run.json."""
    held = {f.name: getattr(part, f.name) for f in fields(part)}  # type: ignore[arg-type]
    plain = {name: part_record(value) if isinstance(value, Part) else value for name, value in held.items()}
    return {"name": type(part).__name__, **plain}


def recorded_part(record: Mapping[str, Any], kinds: Mapping[str, type[Any]]) -> Any:
    """The part of one of these kinds that ``part_record`` told of. Raises UserError for a kind that is not there."""
    held = {name: _value(value, kinds) for name, value in record.items() if name != "name"}
    if record["name"] not in kinds:
        raise UserError(f"run.json: unknown score {record['name']!r}; it was written by another version")
    return kinds[record["name"]](**held)


def _value(value: Any, kinds: Mapping[str, type[Any]]) -> Any:
    if isinstance(value, Mapping) and "name" in value:
        return recorded_part(value, kinds)
    # JSON has no tuples, and a frozen part no lists.
    return tuple(_value(one, kinds) for one in value) if isinstance(value, list) else value
