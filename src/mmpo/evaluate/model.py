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
from mmpo.evaluate.cycles import cycles
from mmpo.evaluate.fit import fitted
from mmpo.evaluate.heard import heard
from mmpo.evaluate.report import write_report
from mmpo.evaluate.scored import Scored
from mmpo.evaluate.scoring import Scorer
from mmpo.evaluate.summary import measure, summarise
from mmpo.evaluate.voices import by_voice, groups
from mmpo.evaluate.voices_page import PLACES
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
        model is calibrated with ``calibrated``: the metrics of ``overall`` with calibrated probabilities. Where the
        data name annotators, attributes or subsets ``by_annotator``, ``by_attribute`` and ``by_subset`` hold what
        ``voices.by_voice`` returns; of a mixture of groups ``groups`` holds what ``voices.groups`` returns; where
        people compared three responses with each other ``cycles`` holds what ``cycles.cycles`` returns.
    """
    loaded = load(sources, on_bad_row=on_bad_row, seed=seed)
    data, merged = merge(loaded.data)
    scored = scorer(data, on_bad_row)
    comparisons = Comparisons.from_data(scored.data, scored.said, scored.lengths)
    result = summarise(comparisons, seed=seed)
    result |= _of_voices(scored, result["by_subset"], seed)
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


def _of_voices(scored: Scored, by_subset: dict[str, Any], seed: int) -> dict[str, Any]:
    """The numbers of each kind of voice that the data name, of groups and of cycles."""
    out: dict[str, Any] = {}
    for kind, place in PLACES.items():
        found = heard(scored, kind)
        if found is not None:
            out[place] = by_voice(found, seed=seed)
    if "by_subset" in out:
        out["by_subset"] = by_subset | out["by_subset"]
    together = None if scored.views is None else groups(scored.views)
    further = {"groups": together, "cycles": cycles(scored.data, seed)}
    return out | {name: value for name, value in further.items() if value is not None}


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
