"""The rows of well-known data sets as they stand on the hub, a raw row -> a Datum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpo.data import texts
from mmpo.data.attributes import Attributes, Line, absent, means
from mmpo.data.prompts import split_prompt
from mmpo.data.rows import BadRow, Row, number, response
from mmpo.data.schemas import Schema, note_unread, refuse_attributes
from mmpo.data.source import Source
from mmpo.data.statements import ensemble
from mmpo.types import Datum, Judgement, Text

ULTRAFEEDBACK_GRADES = ("overall_score", "fine-grained_score")


class Aspects(Attributes):
    """The attributes of UltraFeedback: its two overall grades, and the Rating of each aspect in ``annotations``."""

    def __init__(self, row: Row, source: Source) -> None:
        entries = row.items("completions")
        self.entries = [(f"completions[{i}]", entry) for i, entry in enumerate(entries)]
        said = [entry.get("annotations") for entry in entries if isinstance(entry, Mapping)]
        super().__init__(row, source, {name for one in said if isinstance(one, Mapping) for name in one})

    def line(self, name: str) -> Line:
        return tuple(self._rating(entry, name, where) for where, entry in self.entries)

    def known(self, name: str, what: str) -> Line:
        if name in ULTRAFEEDBACK_GRADES and name not in self.found:
            return tuple(number(_field(entry, name, where), f"{where}.{name}") for where, entry in self.entries)
        if name not in self.found:
            raise absent(what, name, (*ULTRAFEEDBACK_GRADES, *self.found))
        return self.line(name)

    def _rating(self, entry: Any, name: str, where: str) -> float | None:
        """A Rating is a number in a text, or N/A."""
        said = _field(entry, "annotations", where)
        aspect = said.get(name) if isinstance(said, Mapping) else None
        if aspect is None:
            return None
        value = _field(aspect, "Rating", f"{where}.annotations.{name}")
        if value is None or value == "N/A":
            return None
        try:
            return number(float(value) if isinstance(value, str) else value, f"{where}.annotations.{name}.Rating")
        except ValueError:
            why = f"{where}.annotations.{name}.Rating is {value!r}; give a number, or N/A"
            raise BadRow("not a number", why) from None


def ultrafeedback(row: Row, source: Source) -> Datum:
    """openbmb/UltraFeedback: ``instruction`` and ``completions`` with ``response``, two overall grades and aspects."""
    responses = _listed_texts(row, "completions", "response")
    aspects = Aspects(row, source)
    grades = aspects.grades(source.weights or {ULTRAFEEDBACK_GRADES[0]: 1.0})
    attributes = aspects.asked() if source.attributes else {}
    if source.grade is None and not source.attributes:
        note_unread(row, aspects.found)
    return Datum("", row.prompt("instruction"), responses, grades, attributes=attributes)


def nectar(row: Row, source: Source) -> Datum:
    """berkeley-nest/Nectar: ``prompt`` and ``answers`` with ``answer`` and ``rank``, 1 being the best."""
    refuse_attributes(source, "Nectar rows state ranks alone")
    responses = _listed_texts(row, "answers", "answer")
    entries = [(f"answers[{i}]", entry) for i, entry in enumerate(row.items("answers"))]
    ranks = [number(_field(entry, "rank", where), f"{where}.rank") for where, entry in entries]
    return Datum("", row.prompt(), responses, tuple(-rank for rank in ranks), ranked=True)


def shp(row: Row, source: Source) -> Datum:
    """stanfordnlp/SHP: a post (``history``) and two comments with their upvotes, which are the grades."""
    refuse_attributes(source, "SHP rows state upvotes alone")
    responses = (row.response("human_ref_A"), row.response("human_ref_B"))
    grades = (row.number("score_A"), row.number("score_B"))
    if row.has("labels") and (grades[0] - grades[1]) * (2 * row.number("labels") - 1) < 0:
        row.note("labels disagrees with score_A and score_B; the scores were used")
    return Datum("", row.prompt("history"), responses, grades)


def helpsteer2_preference(row: Row, source: Source) -> Datum:
    """nvidia/HelpSteer2, preference: ``preference_strength`` from -3 to 3, positive where response 2 is better."""
    refuse_attributes(source, "HelpSteer2 preference rows state one strength alone")
    responses = (row.response("response_1"), row.response("response_2"))
    gap = -row.number("preference_strength")
    return Datum("", row.prompt(), responses, judgements=(Judgement(0, 1, gap=gap),))


def helpsteer3(row: Row, source: Source) -> Datum:
    """nvidia/HelpSteer3: ``overall_preference`` from -3 to 3, negative where response 1 is better.

    The overall preference is the gap; each of ``individual_preference`` is one vote. Annotators are anonymous, so
    "annotator1" of two rows need not be the same person.
    """
    refuse_attributes(source, "HelpSteer3 rows state one preference alone")
    prompt, responses = texts.uniform(row.prompt("context"), (row.response("response1"), row.response("response2")))
    judgements = [Judgement(0, 1, gap=-row.number("overall_preference"))]
    for a, one in enumerate(row.items("individual_preference") if row.has("individual_preference") else []):
        lead = number(_field(one, "score", f"individual_preference[{a}]"), f"individual_preference[{a}].score")
        judgements.append(Judgement(0, 1, p=0.5 if lead == 0 else float(lead < 0), annotator=f"annotator{a + 1}"))
    return Datum("", prompt, responses, judgements=tuple(judgements))


def hh_strength(row: Row, source: Source) -> Datum:
    """fnlp/hh-rlhf-strength-cleaned: two dialogues as lists of turns, the scores of ten reward models, a GPT-4 label.

    The grade is the mean score, each model is an annotator, and the human label and GPT-4's are votes.
    """
    refuse_attributes(source, "the rows state scores of reward models alone")
    prompt, responses = split_prompt(row, (_turns(row, "chosen"), _turns(row, "rejected")))
    models = ensemble(row, ("chosen score list", "rejected score list"))
    said = [Judgement(0, 1, p=1.0)]
    if row.has("GPT4 label") and row.number("GPT4 label") != -1:
        said.append(Judgement(0, 1, p=row.share("GPT4 label"), annotator="GPT-4"))
    return Datum("", prompt, responses, means(models.values()), None, tuple(said), models)


def _turns(row: Row, name: str) -> Text:
    """The turns of a dialogue, written as a list of texts; the last one is the assistant's."""
    turns = row.items(name)
    if len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
        raise BadRow("wrong type", f"{name} is no list of two or more turns; give the question and the answer")
    return [{"role": ("assistant", "user")[(len(turns) - n) % 2], "content": t} for n, t in enumerate(turns, 1)]


def _listed_texts(row: Row, column: str, text: str) -> tuple[Text, ...]:
    entries = row.items(column)
    if len(entries) < 2:
        raise BadRow("fewer than 2 responses", f"{column} has {len(entries)} entries; give at least 2")
    names = [f"{column}[{i}]" for i in range(len(entries))]
    return tuple(response(_field(e, text, n), f"{n}.{text}") for e, n in zip(entries, names, strict=True))


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, Mapping):
        raise BadRow("wrong type", f"{where} is not a mapping; give one with {name}")
    if name not in entry:
        raise BadRow("column missing", f"{where}.{name} is missing; give it")
    return entry[name]


HUB_SCHEMAS = (
    Schema("UltraFeedback", frozenset({"instruction", "completions"}), ultrafeedback),
    Schema(
        "SHP",
        frozenset({"history", "human_ref_A", "human_ref_B"}),
        shp,
        # Of the post, and of the two scores.
        leaves=frozenset({"upvote_ratio", "score_ratio"}),
    ),
    Schema(
        "HelpSteer2 preference",
        frozenset({"response_1", "response_2", "preference_strength"}),
        helpsteer2_preference,
        # Words about the strength, and the statements from which it was made.
        leaves=frozenset(
            {
                "preference_statement",
                "preference_elaboration",
                "three_most_similar_preferences",
                "all_preferences_unprocessed",
            }
        ),
    ),
    Schema("HelpSteer3", frozenset({"context", "response1", "response2", "overall_preference"}), helpsteer3),
    Schema(
        "HH-RLHF with preference strength",
        frozenset({"chosen", "rejected", "chosen score list", "rejected score list"}),
        hh_strength,
        # Made from the scores.
        leaves=frozenset({"mean preference difference", "std preference difference"}),
    ),
    Schema("Nectar", frozenset({"prompt", "answers"}), nectar),
)
