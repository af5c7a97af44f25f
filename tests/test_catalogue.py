"""The catalogue as it is asked: recipes, equations, needs, mistakes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from evidence.ideas import studies

import mmpo.objectives
import mmpo.regularizers
import mmpo.scores
import mmpo.targets
from mmpo.errors import UserError
from mmpo.methods import CATALOGUE, build, cite
from mmpo.objectives import Logistic
from mmpo.scores import LogRatio, MeanLogProb
from mmpo.targets import BradleyTerry, Flip, Hard
from mmpo.types import Method, Reading
from pairs import KNOWN, other_parameters

every_name = pytest.mark.parametrize("name", CATALOGUE)

FIELDS = {
    "logps": "logps",
    "ref": "ref_logps",
    "lengths": "lengths",
    "rewards": "rewards",
    "outputs": "outputs",
    "tokens": "tokens",
    "peer": "peer_rewards",
    "errors": "errors",
    "features": "features",
    "view": "view",
    "anchors": "anchors",
    "degree": "heads",
}
"""Where a reading holds what a part says it needs."""

PARTS = {
    name: part
    for room in (mmpo.targets, mmpo.scores, mmpo.objectives, mmpo.regularizers)
    for name, part in vars(room).items()
    if isinstance(part, type)
}


@every_name
def test_a_method_prints_as_its_recipe(name):
    method = build(name)
    assert eval(repr(method), PARTS | {"Method": Method}) == method


@every_name
def test_a_row_says_what_it_is(name):
    entry = CATALOGUE[name]
    assert entry.name == name
    assert entry.about and entry.title in entry.citation()
    assert all(isinstance(value, float) or (type(value) is int and value > 0) for value in entry.parameters.values())
    json.dumps(entry.parameters)


@every_name
def test_the_equation_holds_every_number(name):
    parameters = other_parameters(name)
    method = build(name, **parameters)
    assert len(method.equation.splitlines()) == 3 + len(method.regularizers) + (method.ahead is not None)
    assert method.equation != build(name).equation or not parameters


@every_name
def test_needs_are_the_union_of_the_parts(name):
    method = build(name)
    assert method.needs == frozenset().union(*(part.needs for part in method.all_parts))
    assert method.task == ("reward" if {"rewards", "outputs"} & method.needs else "policy")


@every_name
def test_needs_are_enough(name):
    """A reading with no more than the method asks for is enough, and one without any of it is not."""
    method = build(name)
    evidence, reading = KNOWN.grid(0, method)
    given = {field: getattr(reading, field) for need, field in FIELDS.items() if need in method.needs}
    given |= {field: getattr(reading, field) for field in ("of_prompt", "tables")}
    torch.testing.assert_close(method(evidence, Reading(reading.mask, **given)).loss, method(evidence, reading).loss)
    for need in FIELDS.keys() & method.needs:
        poor = without(Reading(reading.mask, **given), FIELDS[need])
        with pytest.raises(ValueError, match=need):
            method(evidence, poor)
            method.observe(evidence, poor)


def without(reading: Reading, field: str) -> Reading:
    """The reading without a field; without the reference there is none at the tokens either."""
    tokens = reading.tokens
    if field == "ref_logps" and tokens is not None:
        reading = replace(reading, tokens=replace(tokens, ref_logps=None))
    return replace(reading, **{field: {} if field == "heads" else None})


def test_a_wrapper_needs_what_it_wraps():
    assert Flip(BradleyTerry(), 0.1).needs == BradleyTerry().needs == {"grades"}
    assert Flip(Hard(), 0.1).needs == frozenset()


def test_parts_multiply():
    graded = replace(build("simpo"), target=BradleyTerry(2.2))
    assert graded == Method(BradleyTerry(2.2), MeanLogProb(2.0), Logistic(1.0))
    assert graded.needs == {"grades", "logps", "lengths"}
    # p = sigmoid(2.2 * 0.5) = 0.750260, M = 2, offset 1: p softplus(1 - 2) + (1 - p) softplus(1 + 2)
    assert graded(*KNOWN.grid(0)).loss.item() == pytest.approx(0.750260 * 0.313262 + 0.249740 * 3.048587, abs=2e-6)


def test_a_method_is_a_value():
    assert build("mmpo") == build("mmpo") != build("mmpo", gamma=1.0)
    assert len({build("mmpo"), build("mmpo"), build("dpo")}) == 2
    assert build("mmpo", gamma=0.3, beta=0.01) == Method(BradleyTerry(0.3), LogRatio(0.01), Logistic())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mmop", {}, r"unknown method 'mmop'. Did you mean 'mmpo'\?"),
        ("ipo", {}, r"unknown method 'ipo'. Did you mean"),
        ("zzzz", {}, r"unknown method 'zzzz'. Known: .*bradley_terry, cdpo"),
        ("mmpo", {"gama": 1.0}, r"method 'mmpo' has no parameter 'gama'. Did you mean 'gamma'\?"),
        ("dpo", {"beta": "0.1"}, r"method.beta is '0.1'; a number is needed"),
        ("dpo", {"beta": True}, r"method.beta is True; a number is needed"),
        ("dpo", {"beta": math.nan}, r"method.beta is nan; a finite number, 0 or more, is needed"),
        ("cdpo", {"eps": 0.5}, r"eps is 0.5; a flip rate is at least 0 and below 0.5"),
        ("robust_dpo", {"eps": -0.1}, r"method.eps is -0.1; a finite number"),
        ("ipo_sum", {"tau": 0.0}, r"tau is 0; it must be positive"),
        ("ipo_mean", {"tau": -1.0}, r"method.tau is -1.0; a finite number"),
        ("mmpo", {"gamma": -2.2}, r"method.gamma is -2.2; a finite number"),
    ],
)
def test_a_mistake_is_named(name, parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, **parameters)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- products in a recipe


def test_parts_are_replaced_by_name():
    built = build("simpo", beta=2.5, target={"BradleyTerry": {"gamma": 0.7}})
    assert built == replace(build("simpo", beta=2.5), target=BradleyTerry(0.7))
    nested = build("ipo_sum", target={"Posterior": {"of": "Hard", "price": {"Squared": {"centre": 5}}}})
    assert nested.target.of == Hard() and nested.target.price == build("ipo_sum").objective
    assert build("dpo", regularizers=[[0.2, "MeanImitation"]]).regularizers[0][0] == 0.2
    assert build("rpo", regularizers=[]) == replace(build("rpo"), regularizers=())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"target": "BradlyTerry"}, r"method.target: unknown part 'BradlyTerry'. Did you mean 'BradleyTerry'\?"),
        ({"target": "Logistic"}, r"method.target is Logistic, no target; take one of \['BradleyTerry'"),
        ({"target": {"BradleyTerry": {"gama": 1}}}, r"method.target: BradleyTerry has no field 'gama'. Did you mean"),
        (
            {"target": {"BradleyTerry": {"gamma": True}}},
            r"method.target.BradleyTerry.gamma is True; a number is needed",
        ),
        ({"target": {"BradleyTerry": {"gamma": -1}}}, r"BradleyTerry.gamma is -1; a finite number, 0 or more"),
        ({"target": {"BradleyTerry": {"gamma": "auto"}}}, r"BradleyTerry.gamma is 'auto'; a number is needed"),
        ({"regularisers": []}, r"no parameter 'regularisers'. Did you mean 'regularizers'"),
        ({"target": {"BradleyTerry": 2}}, r"method.target: BradleyTerry has 2; write its fields as a mapping"),
        ({"target": {"Flip": {"eps": 0.1}}}, r"method.target: Flip needs its field 'of', which is a target"),
        ({"target": {"Flip": {"of": "Hard", "eps": 0.7}}}, r"eps is 0.7; a flip rate"),
        ({"beta": 0.2, "score": "MeanLogProb"}, r"method.beta belongs to a part that was replaced"),
        ({"target": {"Posterior": {"of": "Hard", "price": "PlackettLuce"}}}, r"PlackettLuce prices whole lists"),
        ({"target": 3}, r"method.target is 3; write the name of a part"),
        ({"regularizers": "Imitation"}, r"method.regularizers is 'Imitation'; write a list"),
        ({"regularizers": ["Imitation"]}, r"method.regularizers\[0\] is 'Imitation'; write \[coefficient, part\]"),
    ],
)
def test_a_mistake_in_a_part_is_named(parts, message):
    with pytest.raises(UserError, match=message):
        build("dpo", **parts)


# ---------------------------------------------------------------------------------------------- what people read


@every_name
def test_a_row_says_when_to_take_it_and_when_not(name):
    about = CATALOGUE[name].about
    assert all(word in about for word in ("Take it", "Leave it", "Relations:")), about
    mentioned = set(re.findall(r"``(\w+)``", about.split("Relations:")[1])) & set(CATALOGUE)
    assert name not in mentioned


def test_a_page_of_text_and_a_row_of_json_say_the_same(capsys):
    entry = CATALOGUE["rrpo"]
    text, row = entry.text(), entry.as_dict()
    assert row["paper"] in text and row["title"] in text and ", ".join(row["needs"]) in text
    assert all(line in text for line in row["equation"])
    assert row.keys() >= {"name", "paper", "page", "task", "needs", "equation", "parameters", "values"}


def test_every_paper_of_the_list_has_a_study():
    """What its authors claim is tried in a small world, whatever comes out."""
    studied = {CATALOGUE[study.method].page for study in studies()} | {None, 0}
    assert {entry.page for entry in CATALOGUE.values()} <= studied


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        (
            "robust_dpo",
            {"objective": "PlackettLuce"},
            "PlackettLuce reads only the order of responses, so Unflip would",
        ),
        ("mmpo", {"objective": "WorstPair"}, "WorstPair reads only the order of responses, so BradleyTerry would"),
        ("lcpo", {"objective": {"Squared": {"centre": 5.0}}}, "give Posterior the price of the method"),
        ("dpo", {"objective": {"Times": {"of": "ListNet"}}}, "Times changes prices of pairs, and ListNet prices lists"),
    ],
)
def test_parts_that_would_do_nothing_together_are_refused(name, parts, message):
    with pytest.raises(UserError, match=message):
        build(name, **parts)


def test_a_method_is_cited_by_its_name():
    """Rows with the same parts are told apart by name; a product has the papers of its parts."""
    assert "2405.14103" in cite(build("osp"), "osp") and "2305.18290" in cite(build("soft_dpo"), "soft_dpo")
    assert "2405.14103" in cite(build("osp")) and "2305.18290" in cite(build("osp"))
    assert cite(replace(build("dpo"), target=Flip(BradleyTerry(), 0.1)), "dpo").startswith("A product of")
