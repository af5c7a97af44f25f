"""Measure a model on data and write the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpo.data import load, merge
from mmpo.data.ledger import in_words
from mmpo.data.texts import key
from mmpo.errors import OnBadRow
from mmpo.evaluate.calibrate import Calibration, beside
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.fit import fitted
from mmpo.evaluate.report import write_report
from mmpo.evaluate.scoring import Scorer
from mmpo.evaluate.summary import measure, summarise
from mmpo.run.record import read_record
from mmpo.types import Datum


def evaluate_model(
    scorer: Scorer, sources: Any, out: Path, *, name: str, on_bad_row: OnBadRow = "error", seed: int = 0
) -> dict[str, Any]:
    """Score every response of the data once, compare with what people said, and write report.html and report.json.

    Args:
        scorer: the model and how it is read.
        sources: anything ``mmpo.data.load`` takes.
        out: folder of the report.
        name: the model's name or folder; a run's folder adds its training curves, a calibration in it is applied.

    Returns:
        What ``summarise`` returns, with ``notes``: what was dropped, merged and cut, one sentence each; and where the
        model is calibrated with ``calibrated``: the metrics of ``overall`` with calibrated probabilities.
    """
    loaded = load(sources, on_bad_row=on_bad_row, seed=seed)
    data, merged = merge(loaded.data)
    scored = scorer(data, on_bad_row)
    comparisons = Comparisons.from_data(scored.data, scored.said, scored.lengths)
    result = summarise(comparisons, seed=seed)
    notes = [*loaded.ledger.summary(), *in_words("merging", merged), scored.cuts["summary"]]
    calibration, told = beside(name, scorer)
    after = None if calibration is None else fitted(comparisons, calibration.fit)
    if calibration is not None and after is not None:
        result["calibrated"] = {"by": calibration.name, **measure(after, seed=seed)}
        told += [_compared(result), *_warned(calibration, scored.data)]
    if set(comparisons.p.tolist()) <= {0.0, 0.5, 1.0}:
        notes.append(
            "These data say which response is better and not how probably: NLL, Brier and ECE hold the model against "
            "certain labels, and a model that matches graded margins looks under-confident by them."
        )
    notes += told
    write_report(
        result,
        comparisons,
        out,
        title="How well the model agrees with people",
        model_name=name,
        history=_history(Path(name)),
        notes=notes,
        gamma=read_record(name).get("target", {}).get("gamma"),
        calibrated=after,
    )
    return {**result, "notes": notes}


def _compared(result: dict[str, Any]) -> str:
    """The calibrated numbers beside the raw ones, in words."""
    numbers = ((name, result["calibrated"][name], result["overall"][name]["value"]) for name in ("nll", "brier", "ece"))
    shown = (f"{name} {now['value']:.4f} (raw {raw:.4f})" for name, now, raw in numbers)
    return f"with calibrated probabilities: {', '.join(shown)}"


def _warned(calibration: Calibration, data: Sequence[Datum]) -> list[str]:
    """A warning where the calibration has seen what it is measured on."""
    prompts = {key(datum.prompt): datum.prompt for datum in data}
    seen = calibration.seen(prompts.values())
    if not seen:
        return []
    return [
        f"the calibration was fitted to {seen:,} of these {len(prompts):,} prompts, so the calibrated numbers look "
        "better than they are; measure on other prompts, or see the held-out numbers in calibration.json"
    ]


def _history(folder: Path) -> Sequence[dict[str, Any]] | None:
    path = folder / "trainer_state.json"
    history: list[dict[str, Any]] = json.loads(path.read_text())["log_history"] if path.is_file() else []
    return history or None
