"""From what was said to tensors: roles, contrasts, and who said what."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmpo.batch.statements import Vocabulary, evidence, named, stack
from mmpo.types import About, Contrast, Datum, Evidence, Judgement, Voices

NAN = math.nan


def voted(*sides: tuple[str | None, float], count: float = 1.0, **rest: Any) -> Datum:
    """Votes for the first of two responses, by whom."""
    said = tuple(Judgement(0, 1, p=p, annotator=who, count=count) for who, p in sides)
    return Datum("d", "x", ("a", "b"), judgements=said, **rest)


def people(datum: Datum, **numbers: int) -> Voices:
    found = evidence([datum], Vocabulary("annotators", numbers)).voices
    assert found is not None
    return found


def same(a: Any, b: Any) -> None:
    """Two records hold the same, NaN being NaN."""
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, Tensor):
            torch.testing.assert_close(x, y, equal_nan=True)
        elif isinstance(x, Voices):
            same(x, y)
        elif isinstance(x, dict):
            assert x.keys() == y.keys()
            for name in x:
                torch.testing.assert_close(x[name], y[name])
        else:
            assert x is y is None


# ---------------------------------------------------------------------------------------------- what was said


def test_votes_gaps_and_weights_by_hand() -> None:
    said = (Judgement(0, 1, p=0.75, count=4), Judgement(1, 0, p=1.0, weight=3), Judgement(1, 0, gap=2.0, weight=2))
    e = evidence([Datum("d", "x", ("a", "b", "c"), (1.0, 2.0, None), judgements=said, weight=0.5)])
    assert e.votes[0].tolist() == [[0, 3, 0], [4, 0, 0], [0, 0, 0]]
    assert e.stated[0, 0, 1] == -2 and e.stated[0, 1, 0] == 2 and e.stated[0, 0, 2].isnan()
    assert e.weight[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]], "the mean of 1, 3 and 2, times 0.5"
    torch.testing.assert_close(e.quality[0], torch.tensor([1.0, 2.0, NAN]), equal_nan=True)
    assert e.voices is None and e.roles == {} and e.contrasts is e.contrast_p is e.contrast_weight is None
    assert {getattr(e, name).dtype for name in ("quality", "stated", "votes", "weight")} == {torch.float32}


def test_graded_pairs_that_nobody_compared_have_no_weight() -> None:
    d = Datum("d", "x", tuple("abc"), (1.0, 2.0, 3.0), pairs=((0, 2), (1, 0)))
    assert evidence([d]).weight[0].tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert evidence([replace(d, grades=(1.0, None, 3.0))]).weight[0, 0].tolist() == [0, 0, 1]


# ---------------------------------------------------------------------------------------------- roles and contrasts

SPECIAL = Datum(
    "s",
    "x",
    ("out", "a", "b", "cut"),
    grades=(None, 2.0, 1.0, 3.0),
    judgements=(Judgement(1, 2, p=1.0), Judgement(0, 1, p=1.0)),
    about=(About(role="rollout"), About(), About(), About(role="variant")),
    contrasts=(Contrast((0, 1, -1, 0), 0.9, 2), Contrast((0, 3, 1, -1))),
    weight=0.5,
)
PLAIN = Datum("p", "x", ("a", "b"), judgements=(Judgement(0, 1, p=1.0, annotator="ann"),))


def test_a_role_exists_and_is_never_compared() -> None:
    e = evidence([SPECIAL])
    assert e.mask.all()
    assert {name: role[0].tolist() for name, role in e.roles.items()} == {
        "rollout": [True, False, False, False],
        "variant": [False, False, False, True],
    }
    assert e.compared[0].nonzero().tolist() == [[1, 2], [2, 1]]
    assert e.quality[0, 3] == 3, "the degree of a variant"
    assert not e.role("rationale").any()


def test_contrasts_are_weighted_like_comparisons() -> None:
    e = evidence([SPECIAL])
    assert e.contrasts is not None and e.contrast_p is not None and e.contrast_weight is not None
    assert e.contrasts.tolist() == [[[0, 1, -1, 0], [0, 3, 1, -1]]]
    assert e.contrast_p[0].tolist() == pytest.approx([0.9, 1]) and e.contrast_weight.tolist() == [[1, 0.5]]


def test_data_are_stacked_with_padding_that_says_nothing() -> None:
    one = replace(SPECIAL, contrasts=SPECIAL.contrasts[:1], about=(About(),) * 3 + (About(role="rationale"),))
    e = evidence([PLAIN, SPECIAL, one, PLAIN])
    assert e.mask.sum(-1).tolist() == [2, 4, 4, 2]
    assert e.contrasts is not None and e.contrast_p is not None and e.contrast_weight is not None
    assert e.contrasts.shape == (4, 2, 4) and e.contrast_weight.tolist() == [[0, 0], [1, 0.5], [1, 0], [0, 0]]
    assert e.contrast_p.shape == (4, 2) and not e.contrasts[0].any()
    assert e.roles["rationale"].tolist() == [[False] * 4, [False] * 4, [False] * 3 + [True], [False] * 4]
    assert e.roles["rollout"].sum() == e.roles["variant"].sum() == 1
    alone = evidence([SPECIAL])
    same(Evidence(*(getattr(e, n)[1:2] for n in ("mask", "quality", "stated", "votes", "weight"))),
         Evidence(*(getattr(alone, n) for n in ("mask", "quality", "stated", "votes", "weight"))))  # fmt: skip


def test_batches_are_stacked_as_their_data_are() -> None:
    numbers = Vocabulary("annotators", {"ann": 1, "bob": 2})
    data = [PLAIN, SPECIAL, voted(("ann", 1.0), ("bob", 0.0)), Datum("n", "x", ("a", "b", "c"))]
    batches = stack([evidence(data[:1], numbers), evidence(data[1:3], numbers), evidence(data[3:], numbers)])
    same(batches, evidence(data, numbers))


# ---------------------------------------------------------------------------------------------- who said it


def test_the_vocabulary_of_annotators() -> None:
    data = [voted(("zoe", 1.0), (None, 0.0)), Datum("g", "x", ("a", "b"), annotator_grades={"ann": (1.0, 2.0)})]
    assert Vocabulary.of("annotators", data).numbers == {"ann": 1, "zoe": 2} and named([])["annotators"] == []


def test_each_says_their_own() -> None:
    p = people(voted(("bob", 1.0), ("ann", 0.0), (None, 0.5), ("ann", 1.0), weight=2.0), ann=1, bob=2)
    assert p.who.tolist() == [[0, 1, 2]]
    assert p.votes[0, :, 0, 1].tolist() == [0.5, 1, 1] and p.votes[0, :, 1, 0].tolist() == [0.5, 1, 0]
    assert p.weight[0, :, 0, 1].tolist() == [0.5, 1, 0.5], "four votes share a weight of 2"
    assert p.stated.isnan().all() and p.quality.isnan().all()


def test_votes_that_stand_for_several_weigh_as_many() -> None:
    said = (Judgement(0, 1, p=1.0, count=3, annotator="ann"), Judgement(1, 0, gap=1.5, annotator="bob"))
    p = people(Datum("d", "x", ("a", "b"), judgements=said), ann=1, bob=2)
    assert p.weight[0, :, 0, 1].tolist() == [0.75, 0.25]
    assert p.stated[0, 1].nan_to_num(9).tolist() == [[9, -1.5], [1.5, 9]] and p.stated[0, 0].isnan().all()
    nothing = people(voted(("ann", 1.0), ("bob", 0.0), count=0.0), ann=1, bob=2)
    assert nothing.weight[0, :, 0, 1].tolist() == [0.5, 0.5], "where nobody has a vote, all share alike"


def test_graders_compare_what_they_graded() -> None:
    lines = {"ann": (1.0, 2.0, None), "bob": (3.0, None, 5.0)}
    d = Datum("d", "x", tuple("abc"), grades=(2.0, 2.0, 5.0), annotator_grades=lines)
    p = people(d, ann=1, bob=2)
    assert p.who.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(
        p.quality[0], torch.tensor([[NAN, 2.0, 5.0], [1.0, 2.0, NAN], [3.0, NAN, 5.0]]), equal_nan=True
    )
    assert p.weight[0, 1].nonzero().tolist() == [[0, 1], [1, 0]] and p.weight[0, 2].nonzero().tolist() == [
        [0, 2],
        [2, 0],
    ]
    assert p.weight[0, 0].nonzero().tolist() == [[1, 2], [2, 1]], "which neither of them graded on both sides"


def test_reward_models_beside_a_label() -> None:
    lines = {"model1": (3.0, 1.0), "model2": (1.0, 2.0)}
    p = people(replace(voted((None, 1.0)), grades=(2.0, 1.5), annotator_grades=lines), model1=1, model2=2)
    assert p.who.tolist() == [[0, 1, 2]] and p.weight[0, :, 0, 1].tolist() == pytest.approx([1 / 3] * 3)
    assert p.votes[0, :, 0, 1].tolist() == [1, 0, 0] and p.quality[0, 0].isnan().all()


def test_a_name_out_of_the_vocabulary_has_no_number_and_is_still_somebody() -> None:
    p = people(voted(("ann", 1.0), ("new", 0.0), ("other", 0.0)), ann=1)
    assert p.who.tolist() == [[1, 0, 0]] and p.votes[0, :, 0, 1].tolist() == [1, 0, 0]


def test_nobody_said_anything() -> None:
    p = people(Datum("d", "x", ("a", "b")))
    assert p.who.tolist() == [[-1]] and not p.weight.any()
    each, number = evidence([Datum("d", "x", ("a", "b")), PLAIN], Vocabulary("annotators", {"ann": 1})).by_voice()
    assert number.tolist() == [0, 1] and each.compared.any((1, 2)).tolist() == [False, True]


def test_one_person_alone_says_what_the_evidence_says() -> None:
    for d in (voted(("ann", 0.7), weight=2.0), replace(voted((None, 0.7)), grades=(1.0, 3.0)),
              Datum("d", "x", ("a", "b"), grades=(1.0, 2.0), annotator_grades={"ann": (1.0, 2.0)})):  # fmt: skip
        e = evidence([d], Vocabulary("annotators", {"ann": 1}))
        each, _ = e.by_voice()
        same(each, replace(e, voices=None))


def test_a_role_is_compared_by_nobody() -> None:
    p = people(replace(SPECIAL, annotator_grades={"ann": (1.0, 2.0, 1.0, 4.0)}), ann=1)
    assert p.weight.sum(1)[0].nonzero().tolist() == [[1, 2], [2, 1]]


NAMES = st.sampled_from([None, "ann", "bob", "cy", "new"])
GRADE = st.sampled_from([None, 1.0, 2.0])


@st.composite
def data(draw: Any) -> Datum:
    k = draw(st.integers(2, 4))
    place = st.permutations(range(k)).map(lambda order: order[:2])
    said = st.builds(
        lambda pair, p, gap, who, count, weight: Judgement(
            *pair, p=p, gap=gap, annotator=who, count=count, weight=weight
        ),
        place,
        st.sampled_from([0.0, 0.25, 1.0]),
        st.sampled_from([None, 0.5]),
        NAMES,
        st.sampled_from([0.0, 1.0, 3.0]),
        st.sampled_from([0.0, 1.0, 0.5]),
    )
    line = st.tuples(*[GRADE] * k)
    return Datum(
        "d",
        "x",
        tuple("abcd"[:k]),
        grades=draw(st.none() | line),
        judgements=tuple(draw(st.lists(said, max_size=5))),
        annotator_grades=draw(st.dictionaries(st.sampled_from(["ann", "bob"]), line, max_size=2)),
        weight=draw(st.sampled_from([1.0, 0.5])),
        about=draw(st.sampled_from([(), (About(),) * (k - 1) + (About(role="rollout"),)])),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(data(), min_size=1, max_size=3))
def test_people_together_say_what_the_evidence_says(rows: list[Datum]) -> None:
    e = evidence(rows, Vocabulary("annotators", {"ann": 1, "bob": 2, "cy": 3}))
    assert e.voices is not None
    torch.testing.assert_close(e.voices.weight.sum(1), e.weight)
    torch.testing.assert_close(e.voices.votes.sum(1), e.votes)
    assert (e.voices.weight >= 0).all() and torch.equal(e.voices.weight, e.voices.weight.mT)
    nobody = e.voices.who < 0
    assert not e.voices.weight[nobody].any() and e.voices.quality[nobody].isnan().all()
    plain = evidence(rows)
    same(plain, replace(e, voices=None))
