"""Ideal points and ideal directions: the values and laws of PAL, and tastes that are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from evidence.ideas import people as world
from torch import Tensor

from mmpo.errors import UserError
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.objectives import Hinge, Logistic
from mmpo.scores import Given, IdealDirection, IdealPoint
from mmpo.scores.people import PEOPLE, person_weights, with_anybody
from mmpo.targets import BradleyTerry, Hard, Posterior
from mmpo.types import Evidence, Method, Reading, Voices

D = torch.float64


def said_by(who: Tensor, first: Tensor) -> Evidence:
    """Pairs, [B], of which each was labelled by one of these people: the first answer is better or not."""
    quality = torch.stack((first, ~first), -1).to(D)
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight = compared(mask).to(D)
    nothing = torch.full_like(weight, torch.nan)
    voices = Voices(who[:, None], quality[:, None], 0 * weight[:, None], nothing[:, None], weight[:, None])
    return Evidence(mask, quality, nothing, 0 * weight, weight, voices)


def points(outputs: list[list[float]], prototypes: list[list[float]], people: list[list[float]]) -> Reading:
    """One pair of answers at these points."""
    placed = torch.tensor([outputs], dtype=D)
    tables = {"prototypes": torch.tensor(prototypes, dtype=D), PEOPLE: torch.tensor(people, dtype=D)}
    return Reading(torch.ones(placed.shape[:2], dtype=torch.bool), outputs=placed, tables=tables)


def random(method: Method, voices: int = 4, b: int = 5, k: int = 2, seed: int = 0) -> Reading:
    """Anything that a model could say."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=D)

    return Reading(
        torch.ones(b, k, dtype=torch.bool),
        outputs=normal(b, k, method.score.outputs(voices)),
        of_prompt={name: normal(b, n) for name, n in method.on_prompt(voices).items()},
        tables={name: normal(*shape) for name, shape in method.tables(voices).items()},
    )


# ---------------------------------------------------------------------------------------------- weights


def test_weights_are_those_of_the_voice_and_for_anybody_the_mean_of_the_named():
    table = torch.tensor([[9.0, -9.0], [0.0, 0.0], [math.log(3), 0.0]])
    expected = torch.tensor([[0.625, 0.375], [0.5, 0.5], [0.75, 0.25]])
    torch.testing.assert_close(person_weights(table, torch.tensor([0, 1, 2])), expected)
    torch.testing.assert_close(person_weights(table, None), expected[:1])
    # softmax(log 3 / 0.5) = 9 / 10
    torch.testing.assert_close(person_weights(table, torch.tensor([2]), 0.5), torch.tensor([[0.9, 0.1]]))


def test_where_nobody_is_named_all_are_one():
    table = torch.tensor([[math.log(3), 0.0]])
    assert with_anybody(table) is table
    torch.testing.assert_close(person_weights(table, None), torch.tensor([[0.75, 0.25]]))


# ---------------------------------------------------------------------------------------------- values of the paper


@pytest.mark.parametrize(("power", "margin", "price"), [(1.0, -0.848528, 1.848528), (2.0, -1.2, 2.2)])
def test_the_distances_worked_by_hand(power, margin, price):
    """f(x_l) = (1, 0), f(x_r) = (0, 1), a = (.8, .2): distances .282843 and 1.131371, D = d_l - d_r. The hinge is
    .151472, squared 0, where the left one is preferred, and 1 + 0.848528, squared 1 + 1.2, where the right one is."""
    logits = [[0.0, 0.0], [math.log(4), 0.0]]
    reading = points([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], logits)
    method = Method(Hard(), IdealPoint(2, 2, power=power), Hinge(1.0))
    own = replace(reading, who=torch.tensor([1]))
    far = -(method.score.rewards(own)[0] ** (1 / power)) if power == 1 else (-method.score.rewards(own)[0]).sqrt()
    torch.testing.assert_close(far, torch.tensor([0.282843, 1.131371], dtype=D), atol=1e-6, rtol=0)
    assert method.score(own)[0, 0, 1].item() == pytest.approx(-margin, abs=1e-6)
    who = torch.tensor([1])
    left, right = (method(said_by(who, torch.tensor([first])), reading).loss.item() for first in (True, False))
    assert left == pytest.approx(max(0.0, 1 + margin), abs=1e-6)
    assert right == pytest.approx(price, abs=1e-6)


def test_the_cosine_worked_by_hand():
    """z = 3/4 (1, 0) + 1/4 (0, 1), of length sqrt(10) / 4: cosines 3 / sqrt(10) and 1 / sqrt(10) of the axes."""
    reading = Reading(
        torch.ones(1, 2, dtype=torch.bool),
        outputs=torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]),
        of_prompt={"prototypes": torch.tensor([[1.0, 0.0, 0.0, 1.0]])},
        tables={PEOPLE: torch.tensor([[math.log(3), 0.0]]), "log_scale": torch.tensor(0.0)},
    )
    score = IdealDirection(2, 2)
    expected = torch.tensor([[3.0, 1.0]]) / (0.07 * math.sqrt(10))
    torch.testing.assert_close(score.rewards(reading), expected)
    for said, scale in ((math.log(3.5), 50.0), (9.0, 100.0)):
        wide = torch.tensor(said, requires_grad=True)
        rewards = score.rewards(replace(reading, tables={**reading.tables, "log_scale": wide}))
        torch.testing.assert_close(rewards, expected * 0.07 * scale)
        # Also at its most the factor has a way back.
        assert torch.autograd.grad(rewards.sum(), wide)[0] > 0


# ---------------------------------------------------------------------------------------------- laws


def test_squared_distances_are_linear_in_the_difference():
    """||l - a||^2 - ||r - a||^2 = ||l||^2 - ||r||^2 - 2 a (l - r)."""
    score = IdealPoint(3, 4, power=2.0)
    reading = replace(random(Method(Hard(), score, Logistic())), who=torch.arange(5) % 4)
    left, right = reading.require("outputs").unbind(1)
    a = person_weights(reading.tables[PEOPLE], reading.who) @ reading.tables["prototypes"]
    squares = left.square().sum(-1) - right.square().sum(-1)
    torch.testing.assert_close(score(reading)[:, 1, 0], squares - 2 * (a * (left - right)).sum(-1))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_moving_and_turning_all_points_changes_nothing(power):
    score = IdealPoint(3, 4, power=power)
    reading = replace(random(Method(Hard(), score, Logistic()), k=3), who=torch.arange(5) % 4)
    draw = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=D))[0]
    shift = torch.randn(4, generator=draw, dtype=D)
    moved = replace(
        reading,
        outputs=reading.require("outputs") @ turn + shift,
        tables={**reading.tables, "prototypes": reading.tables["prototypes"] @ turn + shift},
    )
    torch.testing.assert_close(score(moved), score(reading))


@pytest.mark.parametrize("name", ["pal_a", "pal_b", "mmpo_pal"])
def test_sides_may_be_swapped(name):
    method = build(name)
    reading, who = random(method), torch.arange(5) % 4
    first = torch.tensor([True, False, True, True, False])
    turned = replace(reading, outputs=reading.require("outputs").flip(1))
    torch.testing.assert_close(method(said_by(who, ~first), turned).losses, method(said_by(who, first), reading).losses)


@pytest.mark.parametrize(("name", "power"), [("pal_a", 1.0), ("mmpo_pal", 2.0), ("pal_b", None)])
def test_one_prototype_is_one_reward_whoever_asks(name, power):
    """The loss is that of the parts on a plain reward model which gives minus the distance, or the scaled cosine."""
    method = build(name, prototypes=1)
    reading, who, first = random(method), torch.arange(5) % 4, torch.tensor([True, False, True, True, False])
    outputs = reading.require("outputs")
    if power is None:
        ideal = reading.of_prompt["prototypes"][:, None]
        scale = reading.tables["log_scale"].exp() / 0.07
        one = scale.clamp_max(100) * torch.cosine_similarity(outputs, ideal, dim=-1)
    else:
        one = -((outputs - reading.tables["prototypes"]).norm(dim=-1) ** power)
    views = [method.score.rewards(replace(reading, who=seen)) for seen in (None, who, who.flip(0))]
    for view in views:
        torch.testing.assert_close(view, one, atol=1e-6, rtol=0)
    plain = Method(method.target, Given(), method.objective)
    evidence = said_by(who, first)
    theirs = plain(replace(evidence, voices=None), Reading(reading.mask, rewards=one))
    torch.testing.assert_close(method(evidence, reading).losses, theirs.losses, atol=1e-6, rtol=0)


def test_one_prototype_beyond_all_answers_of_a_line_is_a_scalar_head():
    method = Method(BradleyTerry(2.2), IdealPoint(1, 1), Logistic())
    reading, who, first = random(method, k=2), torch.arange(5) % 4, torch.tensor([True, False, True, True, False])
    reading = replace(reading, tables={**reading.tables, "prototypes": torch.tensor([[50.0]], dtype=D)})
    plain = build("mmpo_reward")(
        replace(said_by(who, first), voices=None), Reading(reading.mask, rewards=reading.require("outputs")[..., 0])
    )
    torch.testing.assert_close(method(said_by(who, first), reading).losses, plain.losses, atol=1e-6, rtol=0)


def test_prototypes_are_facets_and_weights_say_how_much_each_counts():
    method = build("pal_a", prototypes=3)
    reading = random(method, voices=4)
    sure = torch.full((4, 3), -50.0, dtype=D)
    sure[1:, :] = 100 * torch.eye(3, dtype=D) - 50
    reading = replace(reading, tables={**reading.tables, PEOPLE: sure})
    facets = method.score.facets(reading)
    for n in range(3):
        own = replace(reading, who=torch.full((5,), n + 1))
        torch.testing.assert_close(method.score.rewards(own), facets[..., n])
        torch.testing.assert_close(method.score.weights(own), torch.eye(3, dtype=D)[n].expand(5, 3))
    assert method.score.named(3, []) == ["prototype 1", "prototype 2", "prototype 3"]


def test_a_target_still_knows_who_speaks_where_rows_are_of_one_voice():
    """Trust is learned of each person, and used of the same."""
    method = replace(build("pal_b"), target=Posterior(Hard()))
    evidence = said_by(torch.tensor([1, 2]), torch.tensor([True, False]))
    reading = random(method, voices=3, b=2)
    learned = method.remember(method.memory(3), method.observe(evidence, reading))["reliability"]
    start = method.memory(3)["reliability"]
    assert learned[0] == start[0] and learned[1] != start[1] and learned[2] != start[2]
    trusted = replace(evidence, memory={"reliability": torch.tensor([0.9, 0.9, 0.1])})
    alike = replace(evidence, memory={"reliability": torch.tensor([0.9, 0.9, 0.9])})
    first, second = (method(told, reading).p for told in (trusted, alike))
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


def test_what_everybody_said_is_priced_in_their_own_view():
    """Two people of opposite tastes who say opposite things: no M for both would do, their own do."""
    reading = points([[1.0, 0.0], [-1.0, 0.0]], [[9.0, 0.0], [-9.0, 0.0]], [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    votes = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]], dtype=D)
    both = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=D)
    nothing = torch.full((1, 2), torch.nan, dtype=D)
    gaps = torch.full((1, 2, 2), torch.nan, dtype=D)
    voices = Voices(
        torch.tensor([[1, 2]]),
        nothing[:, None].expand(1, 2, 2),
        votes[None],
        gaps[:, None].expand(1, 2, 2, 2),
        both[None, None].expand(1, 2, 2, 2) / 2,
    )
    evidence = Evidence(reading.mask, nothing, gaps, votes.sum(0)[None], both[None], voices)
    method = Method(Hard(), IdealPoint(2, 2), Logistic())
    # M = 10 - 8 for each, and each has half of the comparison.
    assert method(evidence, reading).loss.item() == pytest.approx(math.log1p(math.exp(-2)), abs=1e-6)
    # Anybody stands in the middle, at 0, as far from one as from the other.
    assert method.score(reading)[0, 0, 1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("pal_a", temp=0.0), "temp is 0; weights need a temperature above 0"),
        (lambda: build("mmpo_pal", power=0.0), "power is 0; take 1 for the distance or 2 for its square"),
        (lambda: build("pal_b", prototypes=1.5), "method.prototypes is 1.5; a whole number"),
    ],
)
def test_a_mistake_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---------------------------------------------------------------------------------------------- known tastes


@pytest.fixture(scope="module")
def circle():
    """60 people on the three vertices of a triangle, 40 labels each, and as many people behind them who said nothing;
    what models with some numbers of prototypes learned."""
    rng = torch.Generator().manual_seed(0)
    truth = world.World.of(rng, 3, people=90)
    asked, held_out = truth.ask(rng, world.each_of(60, 40)), truth.ask(rng, world.each_of(60, 50))
    found = {}
    for prototypes in (1, 2, 3, 5):
        method = build("pal_a", prototypes=prototypes, dim=4)
        found[prototypes] = method, world.learn(method, asked.labels, asked, rng, steps=150, rate=0.1)
    return truth, held_out, found, rng


@pytest.mark.slow
def test_the_right_number_of_prototypes_is_right(circle):
    truth, held_out, found, _ = circle
    accuracy = {n: float(world.right(*both, held_out, held_out.who).mean()) for n, both in found.items()}
    assert accuracy[1] < 0.65 and accuracy[3] > 0.9
    assert accuracy[1] < accuracy[2] < accuracy[3] - 0.1
    assert accuracy[5] < accuracy[3] + 0.01
    assert world.groups_found(found[3][1], truth.group[:61], 3) > 0.9


@pytest.mark.slow
def test_new_people_are_placed_by_ten_labels_and_nothing_else_moves(circle):
    truth, _, found, rng = circle
    method, learned = found[3]
    before = {name: value.clone() for name, value in learned.items()}
    held_out = truth.ask(rng, 60 + world.each_of(30, 50))
    few = truth.ask(rng, 60 + world.each_of(30, 10))
    placed = world.placed(method, learned, few.labels, few, 30)
    assert float(world.right(method, learned, held_out, None).mean()) < 0.65
    assert float(world.right(method, placed, held_out, held_out.who).mean()) > 0.85
    for name, value in before.items():
        assert torch.equal(learned[name], value)
        assert torch.equal(placed[name][: len(value)] if value.dim() else placed[name], value)
