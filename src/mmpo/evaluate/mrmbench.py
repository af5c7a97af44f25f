"""MRMBench (arXiv 2511.12464): how much of six dimensions of preference can be read from a model's hidden states.

For each dimension a linear probe is fitted to the frozen states of the training answers and counted right or wrong on
the test answers: two classes at the level "easy", three at "hard".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmpo.data.ledger import Ledger
from mmpo.data.read import SUFFIXES, read
from mmpo.data.rows import BadRow, Row, text
from mmpo.data.source import Source
from mmpo.data.texts import key
from mmpo.errors import OnBadRow, UserError, first_line
from mmpo.evaluate.probing import LinearProbe, representations
from mmpo.evaluate.resample import by_group, interval, resample
from mmpo.evaluate.scoring import Scorer
from mmpo.files import write_json
from mmpo.report import Page
from mmpo.report.numbers import ends, in_line
from mmpo.types import Datum

HUB = "ifnoc/MRMBench"
DIMENSIONS = ("harmlessness", "helpfulness", "correctness", "coherence", "complexity", "verbosity")
LEVELS = {"easy": 2, "hard": 3}
"""The levels, and their numbers of classes."""

FROZEN = (
    "The model is frozen and only the probes are fitted, each to its end, on the tokens that mmpo reads. The published "
    "scripts train the whole model for an epoch on prompt and answer joined without a template, so their table is not "
    "to be held beside these numbers."
)

Numbers: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Answers of one file, and the label of each, [N]."""

    data: list[Datum]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """One dimension at one level."""

    level: str
    dimension: str
    train: Rows
    test: Rows


@dataclass(frozen=True)
class Answered:
    """What the probe of a task said, right or wrong for each test answer and of which prompt, and how it was fitted.

    ``seen`` counts the test answers to prompts that it was fitted to.
    """

    task: Task
    right: NDArray[np.bool_]
    prompts: list[str]
    n_train: int
    penalty: float
    majority: float
    seen: int

    def as_dict(self, accuracy: Numbers) -> Numbers:
        return {
            "accuracy": accuracy,
            "majority": self.majority,
            "n_train": self.n_train,
            "n_test": len(self.right),
            "penalty": self.penalty,
        }


def probe_benchmark(
    scorer: Scorer,
    path: str = HUB,
    out: str | Path | None = None,
    *,
    model: str = "",
    on_bad_row: OnBadRow = "error",
    bootstrap: int = 1000,
    seed: int = 0,
) -> Numbers:
    """The accuracy of a linear probe for each dimension and level, and their averages.

    Args:
        scorer: the model, its tokenizer and limits; the published limit is 2048 tokens.
        path: a folder with ``.../LEVEL.../DIMENSION/train.json`` and ``test.json`` of rows {input, output, label}, as
            published (mrm_easy, mrm_hard), or the hub id. Levels and dimensions that are absent are left out and said.
        out: folder for report.json and report.html; None writes none.

    Returns:
        ``levels``: for each level ``average`` and, for each of its ``dimensions``, ``accuracy``, both {value, low,
        high} with 95% intervals of a bootstrap over prompts; ``majority`` (the accuracy of always saying the commonest
        label), n_train, n_test and the probe's penalty. ``notes``: what was dropped and cut.

    Raises:
        UserError: where there is no task, or a row cannot be used and rows may not be dropped.
    """
    ledger = Ledger(path)
    tasks = _tasks(_folder(path), ledger, on_bad_row)
    ledger.check(on_bad_row)
    answered, cuts = _answered(scorer, tasks, on_bad_row, seed)
    levels = {level: _measured([a for a in answered if a.task.level == level], bootstrap, seed) for level in LEVELS}
    there = {(task.level, task.dimension) for task in tasks}
    absent = [f"{level} {name}" for level in LEVELS for name in DIMENSIONS if (level, name) not in there]
    seen = sum(one.seen for one in answered)
    notes = [*ledger.summary(), cuts, *([f"absent, and not in an average: {', '.join(absent)}"] if absent else [])]
    notes += [f"test answers to prompts that are trained on too, which flatter the probe: {seen:,}"] * bool(seen)
    result = {
        "model": model,
        "levels": {level: found for level, found in levels.items() if found},
        "notes": [*notes, FROZEN],
        "bootstrap": bootstrap,
        "seed": seed,
    }
    if out is not None:
        _write(result, Path(out))
    return result


def lines_of(result: Numbers) -> list[str]:
    """The result as lines for a terminal."""
    lines = []
    for level, found in result["levels"].items():
        rows = {**{name: one["accuracy"] for name, one in found["dimensions"].items()}, "average": found["average"]}
        lines.append(f"MRMBench {level}: accuracy of a linear probe on frozen hidden states")
        lines += [f"  {name:13s} {_shown(value)}" for name, value in rows.items()]
    return [*lines, *result["notes"]]


# ---------------------------------------------------------------------------------------------- the tasks


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if Path(path).exists():
        raise UserError(f"{path} is a file; give the folder that holds mrm_easy and mrm_hard")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, repo_type="dataset"))
    except Exception as error:  # the hub client raises many kinds, and all mean the same to the user
        raise UserError(
            f"{path}: there is no such folder, and the hub does not give it ({first_line(error)}); download "
            f"{HUB} and give its folder"
        ) from error


def _tasks(folder: Path, ledger: Ledger, on_bad_row: OnBadRow) -> list[Task]:
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for file in sorted(folder.rglob("*")):
        part, suffix = file.name.partition(".")[::2]
        if part not in ("train", "test") or f".{suffix}" not in SUFFIXES or file.parent.name not in DIMENSIONS:
            continue
        level = next((level for level in LEVELS if level in file.parent.parent.name.lower()), None)
        if level is not None:
            found.setdefault((level, file.parent.name), {})[part] = file
    tasks = [
        Task(level, name, *(_rows(found[level, name][part], level, ledger, on_bad_row) for part in ("train", "test")))
        for level in LEVELS
        for name in DIMENSIONS
        if len(found.get((level, name), {})) == 2
    ]
    if not tasks:
        raise UserError(
            f"{folder}: holds no task of MRMBench; give a folder of mrm_easy/DIMENSION/train.json and test.json, where "
            f"DIMENSION is one of {', '.join(DIMENSIONS)}"
        )
    return tasks


def _rows(file: Path, level: str, ledger: Ledger, on_bad_row: OnBadRow) -> Rows:
    data, labels = [], []
    for n, raw in read(Source(str(file))):
        ledger.rows_in += 1
        where = f"{file}:{n}"
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = Row(raw)
            datum = Datum(where, row.prompt("input"), (text(row.value("output"), "output"),), source=where)
            labels.append(_label(row, level))
        except BadRow as bad:
            if on_bad_row == "error":
                raise UserError(f"{where}: {bad} or drop the row (on_bad_row: drop)") from bad
            ledger.drop(bad.reason, where, str(bad))
            continue
        data.append(datum)
        ledger.rows_used += 1
    ledger.data += len(data)
    return Rows(data, np.array(labels, dtype=np.int64))


def _label(row: Row, level: str) -> int:
    label = row.number("label")
    if label not in range(LEVELS[level]):
        raise BadRow("unknown label", f"label is {label:g}; at this level give one of {list(range(LEVELS[level]))}")
    return int(label)


# ---------------------------------------------------------------------------------------------- the probes


def _answered(scorer: Scorer, tasks: Sequence[Task], on_bad_row: OnBadRow, seed: int) -> tuple[list[Answered], str]:
    """Each task's answers. An answer that stands in several tasks is read once."""
    place: dict[tuple[str, str], int] = {}
    distinct: list[Datum] = []
    for task in tasks:
        for datum in (*task.train.data, *task.test.data):
            if place.setdefault(_texts(datum), len(distinct)) == len(distinct):
                distinct.append(datum)
    read_ = representations(scorer.model, scorer.tokenizer, distinct, scorer.limits, on_bad_row=on_bad_row)
    line = np.full(len(distinct), -1)
    line[read_.kept] = np.arange(len(read_.kept))

    def taken(rows: Rows) -> tuple[Any, NDArray[np.int64], list[str]]:
        at = line[[place[_texts(datum)] for datum in rows.data]]
        prompts = [key(datum.prompt) for datum, n in zip(rows.data, at, strict=True) if n >= 0]
        return read_.h[at[at >= 0]], rows.labels[at >= 0], prompts

    return [_probed(task, taken(task.train), taken(task.test), seed) for task in tasks], read_.cuts


def _probed(task: Task, train: tuple[Any, Any, Any], test: tuple[Any, Any, list[str]], seed: int) -> Answered:
    (h, y, known), (h_test, y_test, prompts) = train, test
    if not len(y) or not len(y_test):
        raise UserError(f"{task.level} {task.dimension}: no rows are left to fit or to test; check train and test")
    probe = LinearProbe.fit(h, y, LEVELS[task.level], group=known, seed=seed)
    commonest = np.bincount(y).argmax()
    right = probe.predict(h_test) == y_test
    seen = int(np.isin(prompts, known).sum())
    return Answered(task, right, prompts, len(y), probe.penalty, float((y_test == commonest).mean()), seen)


def _texts(datum: Datum) -> tuple[str, str]:
    return key(datum.prompt), key(datum.responses[0])


def _measured(answered: Sequence[Answered], bootstrap: int, seed: int) -> Numbers | None:
    """The accuracies of a level and their mean, with intervals over the prompts that its tasks share."""
    if not answered:
        return None
    prompts = [prompt for one in answered for prompt in one.prompts]
    task = np.repeat(np.arange(len(answered)), [len(one.right) for one in answered])
    right = np.concatenate([one.right for one in answered]).astype(float)
    table = np.hstack([by_group(prompts, right, task), by_group(prompts, np.ones(len(right)), task)])
    draws = resample(table, bootstrap, seed)
    hits, count = np.split(draws, 2, axis=1)
    share = np.divide(hits, count, out=np.full(hits.shape, np.nan), where=count > 0)
    # A draw may miss every prompt of a small task; it says nothing of the average.
    whole = share[~np.isnan(share).any(1)]
    values = [float(one.right.mean()) for one in answered]
    shown = [interval(value, whole[:, n], len(table)) for n, value in enumerate(values)]
    return {
        "average": interval(float(np.mean(values)), whole.mean(1), len(table)),
        "dimensions": {one.task.dimension: one.as_dict(s) for one, s in zip(answered, shown, strict=True)},
    }


# ---------------------------------------------------------------------------------------------- the report


def _write(result: Numbers, out: Path) -> None:
    write_json(out / "report.json", result)
    page = Page("What the model's hidden states know", f"Model: {result['model']}")
    tiles = [
        (f"MRMBench {level}", f"{found['average']['value']:.1%}", f"95% interval {_shown(found['average'])}")
        for level, found in result["levels"].items()
    ]
    page.numbers(tiles).text("\n\n".join(result["notes"]))
    for level, found in result["levels"].items():
        page.section(f"{level.capitalize()}: {LEVELS[level]} classes")
        page.table(
            ["dimension", "accuracy", "95% interval", "commonest label", "trained on", "tested on"],
            [_line(name, one) for name, one in found["dimensions"].items()],
        )
    page.write(out / "report.html")


def _line(name: str, one: Numbers) -> list[Any]:
    accuracy = one["accuracy"]
    span = ends(accuracy["low"], accuracy["high"], ".1%")
    return [name, f"{accuracy['value']:.1%}", span, f"{one['majority']:.1%}", one["n_train"], one["n_test"]]


def _shown(value: Numbers) -> str:
    return in_line(value["value"], value["low"], value["high"])
