"""Few-shot placing of new people in a trained model: nothing else of it moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmpo.batch import Vocabulary
from mmpo.errors import OnBadRow, UserError
from mmpo.evaluate import calibrate
from mmpo.evaluate.agreement import accuracy
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.recorded import recorded_part
from mmpo.evaluate.scoring import Scorer
from mmpo.models.outputs import STATE, stored_state
from mmpo.placing import Labels, fitted, grown, labels_of, newcomers, remembered, with_rows
from mmpo.run.provenance import saved_weights
from mmpo.run.record import read_record, run_of, write_memory, write_record
from mmpo.targets import Hard
from mmpo.types import Datum, Score, Target
from mmpo.types.method import nested

ROOMY = "pal_a, pal_b, mmpo_pal, maxmin_reward, mmpo_groups or micro_people"
"""Methods that have a place for new people, for messages."""


@dataclass(frozen=True)
class Agreement:
    """How many comparisons there are, and the share that agrees with the person's own view, and with anybody's."""

    labels: int
    own: float
    anybody: float


@dataclass(frozen=True)
class Placed:
    """A new person: how the model agrees with the labels that placed them, and with those held out, if there are any.

    Who compared nothing stands where the known people are in the mean.
    """

    name: str
    used: Agreement | None
    held_out: Agreement | None = None


@dataclass(frozen=True)
class Adaptation:
    """New people among those whom a model knows.

    Attributes:
        vocabulary: all people, the new ones last.
        rows: what was found for the new people, [new, ...] by the name of the table or the memory.
        people: how it agrees with each of them.
        told: what was cut and left out, one sentence each.
    """

    vocabulary: Vocabulary
    rows: Mapping[str, Tensor]
    people: Sequence[Placed]
    told: Sequence[str]


# ---------------------------------------------------------------------------------------------- all together


def adapt(
    scorer: Scorer,
    target: Target,
    rows: Sequence[Datum],
    held_out: Sequence[Datum] = (),
    on_bad_row: OnBadRow = "error",
) -> Adaptation:
    """Place the people in the rows whom the model does not know.

    Args:
        scorer: the model, whose score has a table or a memory of voices.
        target: what is made of their labels, as when the model was trained.
        rows: what the new people said.
        held_out: more of it, to measure by.

    Raises:
        UserError: the model has no place for new people, or the rows name none.
    """
    score, known = scorer.score, _room(scorer)
    tables, memories = (grown(score, what, len(known)) for what in ("tables", "memory"))
    vocabulary = newcomers(known, rows)
    new = len(vocabulary) - len(known)
    read = scorer(rows, on_bad_row)
    labels, left_out = labels_of(read, target, vocabulary, len(known))
    if not labels:
        raise UserError(
            "the new people in the rows compared nothing; give grades, votes or preferred responses of them"
        )
    found = fitted(score, labels, tables, new) if tables else {}
    found |= remembered(score, labels, memories, len(known), new) if memories else {}
    # What the target remembers of people begins anew for them.
    begun = {name: value for part in nested(target) for name, value in part.memory(len(vocabulary)).items()}
    found |= {name: begun[name][len(known) :] for name in grown(target, "memory", len(known))}
    told, used, kept = [read.cuts["summary"], *left_out], _agreement(score, labels, found), {}
    if held_out:
        apart = scorer(held_out, on_bad_row)
        kept_labels, left_out = labels_of(apart, target, vocabulary, len(known))
        told += [f"held out: {line}" for line in (apart.cuts["summary"], *left_out)]
        kept = _agreement(score, kept_labels, found)
    people = [Placed(name, used.get(n), kept.get(n)) for name, n in vocabulary.numbers.items() if n >= len(known)]
    return Adaptation(vocabulary, found, people, told)


def _room(scorer: Scorer) -> Vocabulary:
    """The people whom the model knows. Raises UserError where there is no place for more beside them."""
    score, known = scorer.score, scorer.vocabulary
    if known is None or not score.apart:
        raise UserError(f"the model has one view for all, so nobody can be placed; train it with {ROOMY}")
    if not score.has_room(len(known)):
        raise UserError(
            f"the model has an output for each of the {known.kind}, and a new one can only be trained; to place new "
            f"ones, train it with {ROOMY}"
        )
    if not known.numbers:
        raise UserError(
            f"the model was trained on rows that name none of the {known.kind}, so it knows one taste and no places "
            "beside it; train it on rows that name them"
        )
    return known


@torch.no_grad()
def _agreement(score: Score, labels: Sequence[Labels], rows: Mapping[str, Tensor]) -> dict[int, Agreement]:
    """How the model agrees with each person, by number."""
    own: list[Comparisons] = []
    anybody: list[Comparisons] = []
    for said in labels:
        whose = said.reading.require("who").numpy()
        views = score(with_rows(said.reading, rows)), score(replace(said.reading, who=None))
        for found, m in zip((own, anybody), views, strict=True):
            found.append(Comparisons.from_matrices(said.p, m, group=whose))
    if not labels:
        return {}
    who = np.concatenate([c.group for c in own])
    right = [np.concatenate([accuracy(c.p, c.m) for c in found]) for found in (own, anybody)]
    return {
        int(n): Agreement(int((who == n).sum()), *(float(view[who == n].mean()) for view in right))
        for n in np.unique(who)
    }


# ---------------------------------------------------------------------------------------------- its folder


def target_of(folder: Path) -> Target:
    """What the run in a folder made of labels; where that is not recorded, who is better."""
    record = read_record(folder).get("target")
    target: Target = recorded_part(record) if record else Hard()
    return target


def check_out(model: Path, out: Path) -> None:
    """Raise UserError where ``model`` is no folder or a checkpoint, or ``out`` holds anything."""
    if not model.is_dir():
        raise UserError(f"{model} is no folder, and new people are placed beside the model's own; save it to one first")
    if run_of(model.resolve()) != model.resolve():
        raise UserError(
            f"{model} is a checkpoint of a run that may go on; new people are placed in the model that the run ends "
            "with, so train it to its end and give its own folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already; name a new folder")


def save_adapted(model: Path, out: Path, made: Adaptation) -> list[str]:
    """The files of a model into another folder, with the new people. Returns what did not come along, in words.

    Of the tensors only the tables and memories of voices differ, by their new rows.
    """
    check_out(model, out)
    draft = out / "unfinished"
    draft.mkdir(parents=True)
    for path in sorted(path for path in model.iterdir() if path.is_file() and path.name != calibrate.FILE):
        shutil.copy2(path, draft)
    _write_state(model, draft, made)
    made.vocabulary.write(draft)
    if record := read_record(model):
        adapted = [*record.get("adapted", []), *map(asdict, made.people)]
        write_record(draft, {**record, **_news(record, model, out, draft), "adapted": adapted})
    for path in draft.iterdir():
        path.replace(out / path.name)
    draft.rmdir()
    if (model / calibrate.FILE).is_file():
        return [f"{calibrate.FILE} stays behind, since it was fitted without the new people; run mmpo calibrate again"]
    return []


def _news(record: Mapping[str, Any], model: Path, out: Path, draft: Path) -> dict[str, Any]:
    """What a record says of its folder, for the new one."""
    base = record.get("base_folder")
    return {
        "base_folder": os.path.relpath(model.resolve() / base, out.resolve()) if base else None,
        "weights": {**record.get("weights", {}), "result": saved_weights(draft)},
    }


def _write_state(model: Path, out: Path, made: Adaptation) -> None:
    state = load_file(model / STATE)
    for name, rows in made.rows.items():
        key = next(key for key in (f"heads.tables.{name}.weight", f"memory.{name}") if key in state)
        state[key] = torch.cat([state[key], rows.to(state[key])])
    save_file(state, out / STATE)
    memory = stored_state(out)[1]
    if memory:
        write_memory(out, memory, made.vocabulary)
