"""Datum -> a row that loads back to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmpo.types import About, Datum


def to_row(datum: Datum) -> dict[str, Any]:
    """The datum as one JSON object of ``prompt`` and ``responses``; ``load`` gives it back (``source`` aside)."""
    row: dict[str, Any] = {"id": datum.id, "prompt": datum.prompt, "responses": list(datum.responses)}
    if datum.split is not None:
        row["split"] = datum.split
    if datum.subset is not None:
        row["subset"] = datum.subset
    if datum.weight != 1:
        row["weight"] = datum.weight
    if datum.grades is not None:
        row["ranks" if datum.ranked else "scores"] = [-g if datum.ranked and g is not None else g for g in datum.grades]
    if datum.pairs is not None:
        row["pairs"] = [list(pair) for pair in datum.pairs]
    if datum.annotator_grades:
        row["annotators"] = list(datum.annotator_grades)
        row["annotator_scores"] = [list(line) for line in datum.annotator_grades.values()]
    if datum.attributes:
        row["attributes"] = {name: list(line) for name, line in datum.attributes.items()}
    if datum.about:
        row["about"] = [_about(own) for own in datum.about]
    if datum.contrasts:
        row["contrasts"] = [asdict(contrast) for contrast in datum.contrasts]
    if datum.judgements or None in (datum.grades or ()):
        row["judgements"] = [{k: v for k, v in asdict(j).items() if v is not None} for j in datum.judgements]
    return row


def _about(own: About) -> dict[str, Any] | None:
    said = {"prompt": own.prompt, "role": own.role, "marks": own.marks}
    return {field: value for field, value in said.items() if value} or None
