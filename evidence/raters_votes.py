"""Who prefers what, pair by pair, in the data sets of the study of raters.

Everything becomes votes: a rater who graded two responses has voted for the one with the higher grade, a tie being half
a vote to each side. A voice is a rater, or an attribute that all raters together graded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from evidence.common import DATA
from evidence.experts import document
from evidence.ukp_frozen import debate
from mmpo.data import Source, load, merge
from mmpo.data.texts import words
from mmpo.types import Datum, Judgement


def votes_of(datum: Datum, grades: Mapping[str, Sequence[float | None]]) -> Datum:
    """The datum with the order in which each voice graded the responses that are compared, as votes, and no grades."""
    compared = combinations(range(len(datum.responses)), 2) if datum.pairs is None else datum.pairs
    said = [
        Judgement(i, j, p=0.5 + 0.5 * ((a > b) - (a < b)), annotator=who)
        for i, j in compared
        for who, line in grades.items()
        if (a := line[i]) is not None and (b := line[j]) is not None
    ]
    return replace(datum, grades=None, pairs=None, annotator_grades={}, judgements=tuple(said))


def rows(name: str, grade: str | None = None) -> list[Datum]:
    return load(Source(str(DATA / f"{name}.jsonl.gz"), grade=grade)).data


def by_raters(data: Sequence[Datum]) -> list[Datum]:
    """Graded lists as votes of their raters."""
    return [votes_of(d, d.annotator_grades) for d in data]


def by_attributes(name: str, attributes: Sequence[str]) -> list[Datum]:
    """Graded lists as the votes of their attributes, each the mean over its raters."""

    def mean(datum: Datum) -> list[float]:
        lines = zip(*datum.annotator_grades.values(), strict=True)
        return [fmean(g for g in line if g is not None) for line in lines]

    graded = {attribute: rows(name, attribute) for attribute in attributes}
    lists = zip(*graded.values(), strict=True)
    return [votes_of(same[0], {a: mean(d) for a, d in zip(graded, same, strict=True)}) for same in lists]


def turned(data: Sequence[Datum]) -> list[Datum]:
    """The data with the votes of every second voter turned round: two groups of opposite taste, at the same labels."""
    voters = sorted({j.annotator for d in data for j in d.judgements if j.annotator is not None})
    contrary = set(voters[1::2])

    def said(j: Judgement) -> Judgement:
        return replace(j, p=1 - j.p) if j.annotator in contrary and j.p is not None else j

    return [replace(d, judgements=tuple(map(said, d.judgements))) for d in data]


def passage(datum: Datum) -> str:
    """The story that a question of SQuALITY is about: squality/STORY/QUESTION."""
    return datum.id.split("/")[1]


def prompt(datum: Datum) -> str:
    return words(datum.prompt)


@dataclass(frozen=True)
class Kind:
    """A data set: what it is, how it is read, and what of it stays together on one side of a split."""

    about: str
    read: Callable[[], list[Datum]]
    group: Callable[[Datum], str]
    batch: int = 32
    voices: str = "raters"


KINDS = {
    "arguments": Kind(
        "two arguments for one side of a debate, five crowd workers a pair; debates are held out",
        lambda: rows("ukp_convincing_arguments"),
        debate,
        batch=512,
    ),
    "LLM judges": Kind(
        "two or three judges of the same answers (AlpacaEval); prompts are held out",
        lambda: rows("alpaca_eval_multi_annotator"),
        prompt,
        batch=128,
        voices="judges",
    ),
    "Chinese to English": Kind(
        "up to ten translations of a text, three of eight translators a text (MQM); documents are held out",
        lambda: by_raters(merge(rows("mqm_generalmt2023_zhen_3raters"))[0]),
        document,
    ),
    "English to German": Kind(
        "the same with ten translators (MQM); documents are held out",
        lambda: by_raters(merge(rows("mqm_generalmt2023_ende_3raters"))[0]),
        document,
    ),
    "story answers": Kind(
        "three answers to a question about a story, three of four reviewers (SQuALITY); stories are held out",
        lambda: by_raters(rows("squality_multi_attribute")),
        passage,
    ),
    "story answers, attributes": Kind(
        "the same by three attributes, the mean over reviewers",
        lambda: by_attributes("squality_multi_attribute", ("correctness", "selection", "overall")),
        passage,
        voices="attributes",
    ),
    "review summaries": Kind(
        "thirteen summaries of reviews of a product, three raters (SummEval-OP); products are held out",
        lambda: by_raters(merge(rows("summeval_op_multi_attribute"))[0]),
        prompt,
    ),
    "review summaries, attributes": Kind(
        "the same by seven attributes, the mean over raters",
        lambda: by_attributes(
            "summeval_op_multi_attribute",
            (
                "fluency",
                "coherence",
                "relevance",
                "faithfulness",
                "aspect_coverage",
                "sentiment_consistency",
                "specificity",
            ),
        ),
        prompt,
        voices="attributes",
    ),
}

PLANTED = Kind(
    "the arguments, with the votes of every second voter turned round",
    lambda: turned(rows("ukp_convincing_arguments")),
    debate,
    batch=512,
)
"""Whether the heads would find what the real votes may lack."""
