"""Sources -> data and the account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from mmpo.data.collect import Rows, collect
from mmpo.data.ledger import Ledger
from mmpo.data.parse import Account, parse
from mmpo.data.read import Numbered, read
from mmpo.data.source import Source
from mmpo.errors import AtMost, OnBadRow, UserError
from mmpo.types import Datum

Sources = Source | str | Mapping[str, Any] | Iterable["Source | str | Mapping[str, Any]"]


@dataclass(frozen=True)
class Loaded:
    """Data, and the account of the rows they came from."""

    data: list[Datum]
    ledger: Ledger


def load(
    sources: Sources,
    *,
    on_bad_row: OnBadRow = "error",
    seed: int = 0,
    reshape: Callable[[Numbered], Numbered] | None = None,
) -> Loaded:
    """Read sources into memory; every row becomes one Datum (rows of one response each are gathered by prompt).

    Args:
        sources: one or several paths, mappings of the fields of ``Source``, or Sources.
        on_bad_row: "error" stops at the first bad row; "drop" leaves bad rows out and counts them by reason, and
            ``AtMost`` does so up to a ceiling over all sources.
        seed: draws the share of a source whose weight is no whole number.
        reshape: changes the rows before they are parsed. A row may become several, which keep its number and differ in
            their ids.

    Raises:
        UserError: a bad row under "error", an unknown row shape, a source without one usable row.
    """
    loaded = [_load_one(source, on_bad_row, seed + n, reshape) for n, source in enumerate(listed(sources, on_bad_row))]
    ledger = Ledger.total(one.ledger for one in loaded)
    ledger.check(on_bad_row)
    return Loaded([d for one in loaded for d in one.data], ledger)


def listed(sources: Sources, on_bad_row: OnBadRow) -> list[Source]:
    """The sources one by one. Raises UserError where there is none, or for an unknown rule for bad rows."""
    if on_bad_row not in ("error", "drop") and not isinstance(on_bad_row, AtMost):
        raise UserError(f"on_bad_row is {on_bad_row!r}; give 'error' or 'drop'")
    found = [sources] if isinstance(sources, str | Mapping | Source) else list(sources)
    if not found:
        raise UserError("data: no source is given; give a path")
    return [Source.parse(one) for one in found]


def _load_one(
    source: Source, on_bad_row: OnBadRow, seed: int, reshape: Callable[[Numbered], Numbered] | None
) -> Loaded:
    told = Account(Ledger(source.path))
    raw = read(source)
    rows = parse(raw if reshape is None else reshape(raw), source, told, on_bad_row, source.limit)
    parsed = list(tqdm(rows, desc=source.path, unit=" rows", unit_scale=True, delay=2, disable=None))
    ledger = told.close(source)
    drawn = collect(Rows.of(parsed), source, ledger, seed)
    return Loaded(list(drawn.data([parsed])), ledger)
