"""A page of text, numbers, tables and figures as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from mmpo.files import write_whole

Cell: TypeAlias = "str | float | bool | None"


def show(value: Any) -> str:
    """A value as a reader wants it: 4 significant digits, thousands separated, a dash for nothing or NaN."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isnan(number):
            return "–"
        return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"
    return str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def _cells(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """Headers (text, whether its column is set to the right) and cells (text, the same, raw number to sort by)."""
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row of {len(row)} cells under {len(headers)} headers")
    cells = [[(show(value), _is_number(value), _raw(value)) for value in row] for row in rows]
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(headers))]
    return {"headers": list(zip(headers, numeric, strict=True)), "rows": cells}


def _raw(value: Any) -> str:
    """What a number is sorted by; empty for what has none."""
    return repr(float(value)) if isinstance(value, numbers.Real) and not math.isnan(float(value)) else ""


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # A fixed salt and no date: the same figure gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "mmpo"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Record:
    """Texts to be read side by side, (label, text) each, under a heading, with numbers to sort by.

    ``columns`` of them stand in one line where the window is wide enough.
    """

    heading: str
    numbers: Sequence[Cell]
    texts: Sequence[tuple[str, str]]
    columns: int = 2


@dataclass
class _Section:
    title: str
    note: str
    blocks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Page:
    """A page, filled from top to bottom; every method but ``write`` returns the page, so calls can be chained.

    Whatever is given is text, never markup: a response that holds ``<script>`` is shown as those characters.
    The file asks nothing of the network. It runs no script but the one that searches and sorts, where something can be
    searched; the page allows that one by its hash alone, and is whole without it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._sections: list[_Section] = []

    def section(self, title: str, note: str = "") -> Page:
        """Open a section; what follows belongs to it."""
        self._sections.append(_Section(title, note))
        return self

    def text(self, text: str) -> Page:
        """A paragraph; a blank line starts the next one."""
        return self._add("text", paragraphs=[part.strip() for part in text.split("\n\n") if part.strip()])

    def warn(self, text: str) -> Page:
        """Something the reader must not miss."""
        return self._add("warn", text=text)

    def numbers(self, tiles: Sequence[tuple[str, Cell, str]]) -> Page:
        """The few main numbers, set large: (label, value, what it means)."""
        return self._add("numbers", tiles=[(label, show(value), note) for label, value, note in tiles])

    def facts(self, facts: Mapping[str, Cell]) -> Page:
        """Names and values, one a line."""
        return self._add("facts", facts=[(name, show(value)) for name, value in facts.items()])

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> Page:
        """A table; numbers are set to the right. Raises ValueError where a row and the headers differ in length."""
        return self._add("table", **_cells(headers, rows), caption=caption)

    def searchable(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> Page:
        """A table with a field to search it and a choice of what to sort it by."""
        return self._add("searchable", **_cells(headers, rows), caption=caption)

    def records(self, keys: Sequence[str], records: Sequence[Record], caption: str = "") -> Page:
        """Texts side by side, one record below the other, with a field to search them and a choice of what to sort
        them by: the ``keys``, one for each of a record's numbers. Raises ValueError where these differ in number."""
        shown = [
            {
                "heading": one.heading,
                "texts": one.texts,
                "columns": one.columns,
                "cells": _cells(keys, [one.numbers])["rows"][0],
            }
            for one in records
        ]
        return self._add("records", headers=[(key, True) for key in keys], records=shown, caption=caption)

    def figure(self, figure: Figure, caption: str) -> Page:
        """A matplotlib figure; the caption also serves those who cannot see it."""
        return self._add("figure", source=_data_uri(figure), caption=caption)

    def html(self) -> str:
        """The page as HTML."""
        loader = PackageLoader("mmpo.report", ".")
        environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        kinds = {kind for section in self._sections for kind, _ in section.blocks}
        script = (files("mmpo.report") / "search.js").read_text("utf-8") if kinds & {"searchable", "records"} else ""
        return environment.get_template("page.html.j2").render(
            title=self.title,
            subtitle=self.subtitle,
            sections=self._sections,
            script=Markup(script),  # noqa: S704 (our own)
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, with its folder where that is missing."""
        path = Path(path)
        # Text from the wild may hold half of a surrogate pair, which a page cannot carry.
        write_whole(path, self.html().encode("utf-8", "replace").decode("utf-8"))
        return path

    def _add(self, kind: str, **content: Any) -> Page:
        if not self._sections:
            self.section("")
        self._sections[-1].blocks.append((kind, content))
        return self
