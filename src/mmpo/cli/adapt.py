"""The command that places new people among those whom a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpo.cli.options import BadRows, Data, Loading, Model, Rows
from mmpo.errors import UserError

if TYPE_CHECKING:
    from mmpo.adapt import Agreement, Placed
    from mmpo.types import Datum

SHOWN = 20
"""People who get a line of their own."""


def adapt(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="A new folder: the model with the new people, to score and evaluate.")],
    loading: Loading,
    rows: Rows,
    bad: BadRows,
    person: Annotated[
        str | None, typer.Option(help="Whose the labels are that name nobody; else each label names its annotator.")
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="More rows of the same people, to measure by; may be given several times.")
    ] = None,
) -> None:
    """Place new people in a trained model from a few labels of each; all that it learned stays as it is."""
    from mmpo.adapt import adapt as place
    from mmpo.adapt import check_out, save_adapted, target_of
    from mmpo.data import load, merge
    from mmpo.data.ledger import in_words
    from mmpo.placing import spoken_by

    folder = Path(model)
    check_out(folder, out)

    def read(paths: list[str]) -> tuple[list[Datum], list[str]]:
        loaded = load(rows.sources(paths), on_bad_row=bad.rule)
        found, merged = merge(loaded.data)
        told = [*loaded.ledger.summary(), *in_words("merging", merged)]
        return found, told

    labels, told = read(data)
    more, told_too = read(held_out) if held_out else ([], [])
    if person is not None:
        given, labels, more = (labels, more), spoken_by(labels, person), spoken_by(more, person)
        if given == (labels, more):
            raise UserError(f"--person {person}: all labels in the rows name their annotator; leave it out")
    made = place(loading.scorer(model), target_of(folder), labels, more, bad.rule)
    told += [*told_too, *made.told, *save_adapted(folder, out, made)]
    for one in made.people[:SHOWN]:
        print(f"{one.name}: {_told(one.used)}{'' if one.held_out is None else f'; held out: {_told(one.held_out)}'}")
    if len(made.people) > SHOWN:
        print(f"and {len(made.people) - SHOWN} more people; all of them stand in {out / 'run.json'} under adapted")
    for line in [*_overall(made.people), *told]:
        print(line)
    print(f"placed {len(made.people)} people beside {len(made.vocabulary.numbers) - len(made.people)}: {out}")


def _told(agreement: Agreement | None) -> str:
    """In words: how often the person's own view agrees, and anybody's."""
    if agreement is None:
        return "compared nothing, and stands where the known people are in the mean"
    s = "s" * (agreement.labels > 1)
    return f"{agreement.labels} label{s}, {agreement.own:.1%} agree, with anybody's view {agreement.anybody:.1%}"


def _overall(people: Sequence[Placed]) -> list[str]:
    """The mean over people of how much more often their own view agrees than anybody's, with its interval."""
    from mmpo.evaluate.resample import mean_interval
    from mmpo.report.numbers import in_line

    measured = [one.held_out for one in people if one.held_out is not None]
    if not measured:
        return ["how well they were placed shows on labels that did not place them; give some with --held-out"]
    gain, low, high = mean_interval([one.own - one.anybody for one in measured])
    own, anybody = (sum(getattr(one, name) for one in measured) / len(measured) for name in ("own", "anybody"))
    interval = in_line(gain, low, high) if len(measured) > 1 else f"{gain:.4f}"
    return [f"held out, the mean of {len(measured)} people: {own:.1%}, anybody's view {anybody:.1%}; gain {interval}"]
