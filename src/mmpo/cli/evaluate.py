"""Commands that read a trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.options import BadRows, Data, Loading, Model, Report, Rows, new_file
from mmpo.errors import OnBadRow, UserError, nearest

PROBED = "mrmbench"
"""A benchmark of what hidden states know, beside the suites, which see margins only."""

EVERYBODY = "all"
"""The person that stands for all that the model knows."""


def score(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="A .jsonl file: prompt, responses, feedback and model_scores.")],
    loading: Loading,
    rows: Rows,
    bad: BadRows,
    person: Annotated[
        list[str] | None,
        typer.Option(
            help="Also the scores as this person sees them, one that the model was trained with; may be given several "
            "times, or once as all."
        ),
    ] = None,
) -> None:
    """Add the model's score to every response, and the probability of each comparison where it is calibrated.

    Of a model with several rewards also by each of its groups or attributes.
    """
    from mmpo.data import load, to_row
    from mmpo.evaluate.calibrate import beside
    from mmpo.evaluate.columns import columns
    from mmpo.files import write_lines

    new_file(out, data)
    loaded = load(rows.sources(data, feedback="optional"), on_bad_row=bad.rule)
    scorer = loading.scorer(model)
    calibration, told = beside(model, scorer)
    scored = scorer(loaded.data, bad.rule)
    of = scored.voices if person == [EVERYBODY] and scored.voices else person or []
    said = columns(scored, None if calibration is None else calibration.fit, of)
    write_lines(out, ({**to_row(datum), **more} for datum, more in zip(scored.data, said, strict=True)))
    for line in [*loaded.ledger.summary(), scored.cuts["summary"], *told]:
        print(line)
    print(f"scored {sum(map(len, scored.rewards))} responses of {len(scored.data)} prompts: {out}")


def evaluate(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders or hub ids of comparisons; or suites, from the hub (rewardbench) or from files in the "
            "published layout (rewardbench=PATH). Suites: rewardbench, rewardbench-prior, rewardbench-2, rm-bench, "
            "judgebench, judgebench-claude, rag-rewardbench, rpr; mrmbench probes hidden states."
        ),
    ],
    out: Report,
    loading: Loading,
    rows: Rows,
    bad: BadRows,
) -> None:
    """Measure a model against people, or on suites of benchmarks.

    Against people: accuracy and calibration, overall, by margin, by length, for each annotator, attribute and subset
    that the data name, with the worst of them; and how far people are from a line.
    """
    from mmpo.evaluate.suites import SUITES, evaluate_suite, lines_of, write_suites

    files, suites = split_suites(data, (*SUITES, PROBED))
    if suites and not files and rows != Rows():
        raise UserError("--split, --margin and --grade are for data files, and here are suites only; leave them out")
    scorer = loading.scorer(model)
    if files:
        _compare(scorer, rows.sources(files), out, model, bad.rule)
    outcomes, folder = [], out / "suites" if files else out
    for name, path in suites:
        if name == PROBED:
            _probe(scorer, path, out / name, model, bad.rule)
            continue
        outcomes.append(evaluate_suite(name, scorer, path, on_bad_row=bad.rule))
        print("\n".join(lines_of(outcomes[-1])))
        # After each one: a later suite may fail, and scoring takes long.
        write_suites(outcomes, folder, model=model)
    if outcomes:
        print(f"{len(outcomes)} suite{'s' * (len(outcomes) > 1)}; report: {folder / 'report.html'}")


def _probe(scorer: Any, path: str | None, out: Path, model: str, on_bad_row: OnBadRow) -> None:
    from mmpo.evaluate.mrmbench import HUB, lines_of, probe_benchmark

    print("\n".join(lines_of(probe_benchmark(scorer, path or HUB, out, model=model, on_bad_row=on_bad_row))))
    print(f"report: {out / 'report.html'}")


def _compare(scorer: Any, sources: list[Any], out: Path, model: str, on_bad_row: OnBadRow) -> None:
    from mmpo.evaluate.model import evaluate_model
    from mmpo.evaluate.voices_page import lines
    from mmpo.report.numbers import in_line

    result = evaluate_model(scorer, sources, out, name=model, on_bad_row=on_bad_row)
    for name in ("accuracy", "nll", "brier", "ece"):
        value = result["overall"][name]
        print(f"{name:9s} {in_line(value['value'], value['low'], value['high'])}")
    for line in lines(result):
        print(line)
    for note in result["notes"]:
        print(note)
    print(f"{result['overall']['n_comparisons']} comparisons; report: {out / 'report.html'}")


def split_suites(given: Sequence[str], known: Iterable[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Data files, and suites with the path of their files where one is given. Raises UserError for a mistyped suite."""
    files: list[str] = []
    suites: list[tuple[str, str | None]] = []
    for text in given:
        name, equals, path = text.partition("=")
        if name in known:
            if equals and not path:
                raise UserError(f"{text}: no path follows the =; name one, or leave the = out for the rows of the hub")
            if path and not Path(path).exists():
                raise UserError(f"{text}: there is no file or folder {path}; check the path")
            suites.append((name, path or None))
            continue
        if not Path(text).exists() and get_close_matches(name, known, cutoff=0.8):
            raise UserError(f"{text}: unknown suite {name!r}. {nearest(name, known)}")
        files.append(text)
    twice = [name for name, n in Counter(name for name, _ in suites).items() if n > 1]
    if twice:
        raise UserError(f"{twice[0]} is given twice, and the report has one place for it; run it twice")
    return files, suites
