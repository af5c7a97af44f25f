"""How well a model serves each of many voices: annotators, attributes and subsets."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch

from mmpo import scores
from mmpo.batch import Vocabulary
from mmpo.errors import UserError
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.heard import Heard, heard
from mmpo.evaluate.scored import Scored, Views
from mmpo.evaluate.summary import measure
from mmpo.evaluate.voices import FLOOR, by_voice, groups
from mmpo.evaluate.voices_page import lines
from mmpo.types import Datum, Judgement, Reading, Score


def scored(data: list[Datum], outputs: Any, score: Score, voices: Vocabulary | None = None, **tables: Any) -> Scored:
    """Data as a model scored them whose outputs [B, K] or [B, K, D] are these, read in two parts."""
    said = torch.as_tensor(np.array(outputs), dtype=torch.float64)
    name = "outputs" if said.dim() == 3 else "rewards"
    b, k = said.shape[:2]
    parts = []
    for places in ([n for n in range(b) if n % 2], [n for n in range(b) if not n % 2]):
        mask = torch.ones(len(places), k, dtype=torch.bool)
        held = {name: said[places], "lengths": torch.full((len(places), k), 3.0), "tables": tables}
        parts.append((places, Reading(mask=mask, **held)))
    views = Views(score, parts, data, voices)
    return Scored(data, views.rewards(), views.lengths(), {}, views.margins(), (), views)


def votes_of(people: dict[str, Any], n: int, seed: int = 0) -> list[Datum]:
    """Data of two responses on which each of these people votes for the first with this probability, or as it says."""
    rng = np.random.default_rng(seed)
    data = []
    for at in range(n):
        said = tuple(
            Judgement(0, 1, p=float(p(at) if callable(p) else rng.random() < p), annotator=name)
            for name, p in people.items()
        )
        data.append(Datum(str(at), f"prompt {at}", ("one", "another one"), judgements=said))
    return data


METRICS = ("accuracy", "nll", "ece", "brier")


# ---------------------------------------------------------------------------------------------- laws


def test_one_voice_is_the_whole_report() -> None:
    """Values and intervals of one annotator, of their mean and of the worst are those of the scalar report."""
    data = votes_of({"ann": 0.7}, 60)
    found = scored(data, np.random.default_rng(1).normal(size=(60, 2)), scores.Given())
    whole = measure(Comparisons.from_data(data, found.said, found.lengths))
    h = heard(found, "annotators")
    assert h is not None
    told = by_voice(h)
    for name in METRICS:
        for place in (told["voices"][0], told["mean"], told["worst"]):
            for end in ("value", "low", "high"):
                assert place[name][end] == pytest.approx(whole[name][end], abs=1e-9)
        assert told["spread"][name]["value"] == 0
    assert told["worst"]["accuracy"]["voice"] == "ann"
    assert told["by_chance"]["worst"]["nll"] == pytest.approx(whole["nll"]["value"], abs=1e-9)
    assert told["voices"][0]["n_comparisons"] == whole["n_comparisons"] == 60


def test_a_voice_is_judged_as_if_it_were_alone() -> None:
    """Votes of others on the same pairs, and data without it, change none of a person's values."""
    data = votes_of({"ann": 0.7, "bob": 0.2}, 40)
    outputs = np.random.default_rng(1).normal(size=(40, 2))
    alone = [replace(datum, judgements=datum.judgements[:1]) for datum in data]
    both = by_voice(_heard(scored(data, outputs, scores.Given())))
    own = measure(Comparisons.from_data(alone, outputs))
    ann = next(one for one in both["voices"] if one["name"] == "ann")
    for name in METRICS:
        assert ann[name]["value"] == pytest.approx(own[name]["value"], abs=1e-9)


def _heard(found: Scored, kind: str = "annotators") -> Heard:
    h = heard(found, kind)
    assert h is not None
    return h


def test_the_order_of_data_changes_nothing() -> None:
    data = votes_of({"ann": 0.7, "bob": 0.2}, 40)
    outputs = np.random.default_rng(1).normal(size=(40, 2))
    one = by_voice(_heard(scored(data, outputs, scores.Given())))
    other = by_voice(_heard(scored(data[::-1], outputs[::-1], scores.Given())))
    for name in METRICS:
        assert one["mean"][name]["value"] == pytest.approx(other["mean"][name]["value"], abs=1e-12)


# ---------------------------------------------------------------------------------------------- by hand


def test_two_opposed_people_by_hand() -> None:
    """One view for all serves one of them always and the other never; the mean of both is a coin."""
    data = votes_of({"ann": lambda _: 1, "bob": lambda _: 0}, 30)
    told = by_voice(_heard(scored(data, np.tile([2.0, 0.0], (30, 1)), scores.Given())))
    assert [one["accuracy"]["value"] for one in told["voices"]] == [0.0, 1.0]
    assert told["mean"]["accuracy"]["value"] == 0.5 and told["spread"]["accuracy"]["value"] == 0.5
    worst = told["worst"]["accuracy"]
    assert (worst["voice"], worst["value"], worst["low"], worst["high"]) == ("bob", 0.0, 0.0, 0.0)
    assert told["n_own"] == 0 and told["gain"] is None and told["pooled"] is None and told["nameless"] is None
    # Where who said what is drawn at random, the worse of the two has somewhat less than half.
    assert 0.3 < told["by_chance"]["worst"]["accuracy"] < 0.5
    assert any("worst 0.0000  [0.0000, 0.0000] (bob" in line for line in lines({"by_annotator": told}))


def test_own_views_are_used_where_the_model_has_them() -> None:
    """A model with a reward for each person serves both; a third one is judged by anybody's view."""
    data = votes_of({"ann": lambda _: 1, "bob": lambda _: 0, "new": lambda _: 1}, 30)
    outputs = np.tile([[[2.0, -1.0], [0.0, 0.0]]], (30, 1, 1))
    knows = Vocabulary("annotators", {"ann": 1, "bob": 2})
    told = by_voice(_heard(scored(data, outputs, scores.PerVoice(), knows)))
    by_name = {one["name"]: one for one in told["voices"]}
    assert {name: one["own"] for name, one in by_name.items()} == {"ann": True, "bob": True, "new": False}
    assert all(one["accuracy"]["value"] == 1 for one in told["voices"])
    # Anybody is the mean of both rewards, a margin of 1/2.
    assert by_name["new"]["nll"]["value"] == pytest.approx(np.log1p(np.exp(-0.5)))
    assert by_name["bob"]["nll"]["value"] == pytest.approx(np.log1p(np.exp(-1.0)))
    assert told["n_own"] == 2 and told["n_voices"] == 3
    # Of the two known ones anybody's view serves ann alone.
    assert told["gain"]["n_comparisons"] == 60 and told["gain"]["accuracy"]["value"] == 0.5
    own = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))
    anybody = np.log1p(np.exp(-0.5)) + np.log1p(np.exp(0.5))
    assert told["gain"]["nll"]["value"] == pytest.approx((own - anybody) / 2)
    assert "accuracy by +0.5000" in " ".join(lines({"by_annotator": told}))


def test_a_model_of_other_voices_judges_by_one_view() -> None:
    data = votes_of({"ann": lambda _: 1}, 30)
    knows = Vocabulary("attributes", {"ann": 1, "depth": 2})
    told = by_voice(_heard(scored(data, np.zeros((30, 2, 2)), scores.PerVoice(), knows)))
    assert told["n_own"] == 0


def test_attributes_are_judged_by_the_facet_of_their_name() -> None:
    class Two(scores.PerVoice):
        """Two rewards that no voice chooses between."""

        apart = False

    grades = {"depth": (1.0, 0.0), "brevity": (0.0, 1.0), "unknown": (1.0, 0.0)}
    data = [Datum(str(n), f"p{n}", ("a", "b"), (1.0, 0.0), attributes=grades) for n in range(30)]
    outputs = np.tile([[[3.0, -1.0], [0.0, 0.0]]], (30, 1, 1))
    knows = Vocabulary("attributes", {"depth": 1, "brevity": 2})
    told = by_voice(_heard(scored(data, outputs, Two(), knows), "attributes"))
    by_name = {one["name"]: one for one in told["voices"]}
    assert by_name["depth"]["nll"]["value"] == pytest.approx(np.log1p(np.exp(-3.0)))
    assert by_name["brevity"]["nll"]["value"] == pytest.approx(np.log1p(np.exp(-1.0)))
    assert by_name["unknown"]["nll"]["value"] == pytest.approx(np.log1p(np.exp(-1.0)))  # the mean of 3 and -1
    assert [by_name[name]["own"] for name in ("depth", "brevity", "unknown")] == [True, True, False]


def test_subsets_are_voices_too() -> None:
    data = [
        replace(datum, subset=("math", "chat")[n % 2]) for n, datum in enumerate(votes_of({"ann": lambda _: 1}, 50))
    ]
    outputs = [[1.0, 0.0] if n % 2 else [0.0, 1.0] for n in range(50)]
    told = by_voice(_heard(scored(data, outputs, scores.Given()), "subsets"))
    assert {one["name"]: one["accuracy"]["value"] for one in told["voices"]} == {"math": 0.0, "chat": 1.0}


def test_few_comparisons_are_pooled_and_counted() -> None:
    many = votes_of({"ann": lambda _: 1}, FLOOR)
    rare = [
        replace(datum, id=f"r{n}", prompt=f"r{n}", judgements=(Judgement(0, 1, p=0.0, annotator=f"w{n % 4}"),))
        for n, datum in enumerate(votes_of({"ann": 1}, 12))
    ]
    unnamed = replace(many[0], id="u", prompt="u", judgements=(Judgement(0, 1, p=1.0),))
    data = [*many, *rare, unnamed]
    told = by_voice(_heard(scored(data, np.tile([1.0, 0.0], (len(data), 1)), scores.Given())))
    assert (told["n_voices"], told["n_measured"]) == (5, 1)
    assert [one["name"] for one in told["voices"]] == ["ann"]
    assert (told["pooled"]["n_voices"], told["pooled"]["n_comparisons"]) == (4, 12)
    assert told["pooled"]["accuracy"]["value"] == 0 and told["nameless"]["n_comparisons"] == 1
    said = " ".join(lines({"by_annotator": told}))
    assert "4 annotators have fewer than 20 comparisons, 12 in all" in said and "1 comparisons name none" in said


def test_the_worst_of_many_equal_voices_is_bad_luck() -> None:
    """Of 60 people whom the model serves alike the worst looks bad, and by chance it is expected to."""
    rng = np.random.default_rng(3)
    data = votes_of({f"w{n}": 0.75 for n in range(60)}, 40)
    told = by_voice(_heard(scored(data, np.stack([rng.uniform(0.5, 1, 40), np.zeros(40)], 1), scores.Given())))
    worst, luck = told["worst"]["accuracy"], told["by_chance"]["worst"]["accuracy"]
    assert worst["value"] < 0.68 and abs(worst["value"] - luck) < 0.06
    # The worst of many looks worse than it is, and the interval says so.
    assert worst["value"] <= worst["low"] and 0.72 < worst["high"] < 0.8
    assert told["spread"]["accuracy"]["value"] == pytest.approx(told["by_chance"]["spread"]["accuracy"], abs=0.02)


def test_nobody_is_named() -> None:
    data = [Datum("0", "p", ("a", "b"), (1.0, 0.0))]
    found = scored(data, [[1.0, 0.0]], scores.Given())
    assert all(heard(found, kind) is None for kind in ("annotators", "attributes", "subsets"))


# ---------------------------------------------------------------------------------------------- groups of a mixture


def test_attributes_that_compare_nothing_are_no_voices() -> None:
    """Each graded one response alone, beside people who voted."""
    data = [replace(datum, attributes={"depth": (1.0, None)}) for datum in votes_of({"ann": 0.7}, 4)]
    found = scored(data, np.zeros((4, 2)), scores.Given())
    assert heard(found, "attributes") is None and heard(found, "annotators") is not None


def test_an_output_for_each_person_makes_no_groups_and_places_nobody() -> None:
    """Whatever its outputs weigh for anybody."""
    people = Vocabulary("annotators", {"ann": 1, "bob": 2})
    found = scored(votes_of({"ann": 0.7}, 4), np.zeros((4, 2, 2)), scores.PerVoice((0.7, 0.3)), people)
    assert found.views is not None and groups(found.views) is None
    with pytest.raises(UserError, match=r"knows no annotator 'eve'\. Known: ann, bob$"):
        found.view("eve")
    mixture = scored(
        votes_of({"ann": 0.7}, 4),
        np.zeros((4, 2, 2)),
        scores.IdealPoint(2, 2),
        people,
        people=torch.eye(3, 2),
        prototypes=torch.eye(2),
    )
    with pytest.raises(UserError, match="mmpo adapt places a new one"):
        mixture.view("eve")


def test_who_goes_with_which_prototype() -> None:
    data = votes_of({"ann": 1, "bob": 0}, 4)
    knows = Vocabulary("annotators", {"ann": 1, "bob": 2})
    score = scores.IdealPoint(prototypes=2, dim=2)
    tables = {"people": torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), "prototypes": torch.eye(2)}
    found = scored(data, np.zeros((4, 2, 2)), score, knows, **{k: v.double() for k, v in tables.items()})
    assert found.views is not None
    told = groups(found.views)
    assert told is not None and set(told["sizes"].values()) == {1} and told["n_prompts"] == 1
    np.testing.assert_allclose(told["weights"]["ann"], torch.softmax(torch.tensor([4.0, 0.0]), -1), atol=1e-6)
    assert told["weights"]["bob"][1] > 0.7
    assert groups(scored(data, np.zeros((4, 2)), scores.Given()).views) is None  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- speed


def test_many_voices_take_seconds() -> None:
    """1,000 voters with 30 votes each, over 10 prompts of 20 responses; it took two."""
    rng = np.random.default_rng(0)
    data = []
    for n in range(10):
        pairs = [rng.choice(20, 2, replace=False) for _ in range(3000)]
        said = tuple(
            Judgement(int(i), int(j), p=float(rng.random() < 0.5), annotator=f"w{rng.integers(1000)}") for i, j in pairs
        )
        data.append(Datum(str(n), f"p{n}", tuple(f"r{i}" for i in range(20)), judgements=said))
    found = scored(data, rng.normal(size=(10, 20)), scores.Given())
    start = perf_counter()
    told = by_voice(_heard(found))
    assert told["n_voices"] == 1000 and told["n_measured"] > 900
    assert perf_counter() - start < 60
