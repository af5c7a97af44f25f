"""The command that makes a model's probabilities ones that can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.options import BadRows, Data, Loading, Model, Rows
from mmpo.errors import UserError


def calibrate(
    model: Model,
    data: Data,
    loading: Loading,
    rows: Rows,
    bad: BadRows,
    method: Annotated[
        str, typer.Option(help="temperature (one number, the order stays) or isotonic (any rising curve, needs data).")
    ] = "temperature",
    folds: Annotated[
        int, typer.Option(help="Parts of the prompts: each is measured with a fit to the others, held out from it.")
    ] = 5,
) -> None:
    """Fit the model's probabilities to people on data it was not trained on; score and evaluate then apply the fit."""
    from mmpo.evaluate.calibrate import calibrate_model, trained_on

    folder = Path(model)
    if not folder.is_dir():
        raise UserError(f"{model} is no folder, and calibration.json is written beside the model; save it to one first")
    sources = rows.sources(data)
    made, notes = calibrate_model(loading.scorer(model), sources, method=method, folds=folds, on_bad_row=bad.rule)
    path = made.write(folder)
    print(f"{'':10s}{'before':28s}after, on prompts held out ({made.folds} parts)")
    for name in ("nll", "brier", "ece", "accuracy"):
        print(f"{name:10s}{_shown(made.before[name]):28s}{_shown(made.after[name])}")
    least = made.after["ece_at_most_by_chance"]
    print(f"{'':10s}a calibrated model would show an ECE of up to {least:.4f} here by chance")
    print(f"nll changes by {_shown(made.change['nll'])}: {_verdict(made.change['nll'], path)}")
    for line in notes:
        print(line)
    for seen in trained_on(model, sources):
        print(f"warning: the model was trained on {seen} and is surer there than elsewhere; calibrate on other data")
    counts = f"{made.data['n_comparisons']:,} comparisons of {made.data['n_prompts']:,} prompts"
    print(f"{made.name}, fitted to all {counts}: {path}")


def _verdict(change: dict[str, Any], path: Path) -> str:
    if change["high"] < 0:
        return "better"
    if change["low"] > 0:
        return f"worse than without; give more data, use temperature, or remove {path}"
    return "no measurable gain"


def _shown(number: dict[str, Any]) -> str:
    from mmpo.report.numbers import in_line

    return in_line(number["value"], number["low"], number["high"])
