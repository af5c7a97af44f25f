"""Groups that disagree: hidden groups, mixtures weighed by prompt or person, and the maximin, on the papers' values."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evidence.ideas.groups import Camps, Heads, fit, labels, right, told
from evidence.ideas.maximin import descend, maximin, together, worth
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.cli import main
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.matrix import between
from mmpo.methods import build
from mmpo.methods.groups import with_people, with_worst
from mmpo.objectives import Logistic, Squared
from mmpo.recipe import read_recipe
from mmpo.regularizers import RouterEntropy
from mmpo.scores import Given, GlobalMixture, Hedged, OfGroup, Routed, RoutedMixture
from mmpo.scores.groups import LOSSES, ROUTER, SHARES
from mmpo.targets import BradleyTerry, Hard, Maximin, Posterior, Votes, Worst
from mmpo.targets.worst import EMPHASIS
from mmpo.train import train_recipe
from mmpo.types import Evidence, Method, Reading, Score, Tensors
from records import with_people as named_people
from tiny import ROWS, plain, rows_file, saved

F = torch.tensor([[0.7, 0.3]], dtype=torch.float64)


def read(*leads: tuple[float, ...], **more: Any) -> Reading:
    """Pairs [N] whose first answer leads by so much under each head."""
    outputs = torch.stack((torch.tensor(leads).double(), torch.zeros(len(leads), len(leads[0])).double()), 1)
    return Reading(torch.ones(len(leads), 2, dtype=torch.bool), outputs=outputs, **more)


def routed(*leads: tuple[float, ...]) -> Reading:
    return read(*leads, of_prompt={ROUTER: F.log().expand(len(leads), 2)})


def of_first(m: Tensor) -> float:
    return float(m[0, 0, 1])


# ---------------------------------------------------------------------------------------------- mixtures


def test_a_mixture_of_probabilities_is_not_a_mean_of_rewards():
    """f = (.7, .3), dr = (2, -1): P = .697240, its NLL .360625; the mean reward is 1.1, of probability .750260."""
    p = RoutedMixture(2)(routed((2.0, -1.0))).sigmoid()
    assert of_first(p) == pytest.approx(0.697240, abs=1e-6)
    assert -math.log(of_first(p)) == pytest.approx(0.360625, abs=1e-6)
    assert of_first(Routed(2)(routed((2.0, -1.0))).sigmoid()) == pytest.approx(0.750260, abs=1e-6)
    global_one = replace(read((2.0, -1.0)), tables={SHARES: F.log()[0]})
    assert of_first(GlobalMixture(2)(global_one).sigmoid()) == pytest.approx(0.697240, abs=1e-6)


def test_the_gradient_reaches_each_head_by_its_posterior():
    """Of the winner's label: -(posterior of the head) (1 - sigmoid(dr_k)), posterior (.884283, .115717)."""
    reading = routed((2.0, -1.0))
    reading = replace(reading, outputs=reading.outputs.requires_grad_())
    method = Method(Hard(), RoutedMixture(2), Logistic())
    (grad,) = torch.autograd.grad(
        method(told(torch.tensor([1.0]).double(), torch.tensor([0])), reading).loss, reading.outputs
    )
    posterior = torch.tensor([0.884283, 0.115717]).double()
    missed = torch.tensor([-2.0, 1.0]).double().sigmoid()
    torch.testing.assert_close(grad[0, 0], -posterior * missed, atol=1e-6, rtol=0)


SCORES: dict[str, Score] = {
    "router": RoutedMixture(1),
    "rewards": Routed(1),
    "global": GlobalMixture(1),
    "group": OfGroup(Hard(), heads=1),
    "hedged": Hedged(RoutedMixture(1), Hard()),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_one_head_is_bradley_terry(score, make_evidence, make_reading):
    evidence, reading = named_people(make_evidence(4, 3, weighted=True)), make_reading(4, 3)
    method, plain_one = Method(Hard(), score, Logistic()), build("bradley_terry")
    leaf = reading.require("rewards")
    reading = replace(
        reading,
        outputs=leaf[..., None],
        of_prompt={ROUTER: torch.randn(4, 1).double()},
        tables={SHARES: torch.randn(1).double()},
    )
    memory = {name: torch.rand(value.shape).double() for name, value in method.memory(4).items()}
    found, expected = (one(replace(evidence, memory=memory), reading) for one in (method, plain_one))
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-6, rtol=0)
    grads = [torch.autograd.grad(outcome.loss, leaf, retain_graph=True)[0] for outcome in (found, expected)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=0)


def test_a_sure_router_is_one_head():
    sure = replace(read((2.0, -1.0)), of_prompt={ROUTER: torch.tensor([[0.0, 900.0]]).double()})
    for score in (RoutedMixture(2), Routed(2)):
        assert of_first(score(sure)) == pytest.approx(-1.0, abs=1e-9)


def test_people_who_differ_cost_one_reward_more():
    """dr = 2 and -1 in equal share: pooled P = .574869, whose logit .301746 loses to knowing the group."""
    each = torch.tensor([2.0, -1.0]).double().sigmoid()
    pooled = each.mean()
    assert pooled.item() == pytest.approx(0.574869, abs=1e-6)
    assert pooled.logit().item() == pytest.approx(0.301746, abs=1e-6)
    single = softplus(-pooled.logit()) * pooled + softplus(pooled.logit()) * (1 - pooled)
    known = -(each * each.log() + (1 - each) * (1 - each).log()).mean()
    assert (single - known).item() == pytest.approx(0.208275, abs=2e-3) and single > known
    even = replace(read((2.0, -1.0)), tables={SHARES: torch.zeros(2).double()})
    assert of_first(GlobalMixture(2)(even)) == pytest.approx(0.301746, abs=1e-6)


def test_router_entropy():
    """sum f log f is -.610864 at (.7, .3) and least at even weights, -ln 2; one head has 0."""
    evidence = told(torch.tensor([1.0]).double(), torch.tensor([0]))
    p = Hard()(evidence, evidence.weight)

    def entropy(f: Tensor) -> float:
        return RouterEntropy()(p, evidence, replace(read((0.0, 0.0)), of_prompt={ROUTER: f.log()})).item()

    assert entropy(F) == pytest.approx(-0.610864, abs=1e-6)
    assert entropy(torch.tensor([[0.5, 0.5]]).double()) == pytest.approx(-0.693147, abs=1e-6)
    assert entropy(torch.tensor([[1.0, 0.0]]).double()) == 0
    with pytest.raises(UserError, match="RouterEntropy needs a score whose prompts weigh its heads"):
        replace(build("bradley_terry"), regularizers=((0.5, RouterEntropy()),))


@pytest.mark.parametrize("entropy", (0.0, 0.5))
def test_without_the_entropy_a_head_takes_over(entropy):
    """All people agree, and the prompts tell nothing, so that one head would do."""
    rng = torch.Generator().manual_seed(0)
    camps = Camps.random(rng, (1,), d=5)
    x, who, lead = camps.pairs(rng, 1500)
    gap, context = lead.sign(), torch.ones(1500, 1).double()
    used = []
    for seed in range(2):
        heads = fit(
            build("micro", heads=3, entropy=entropy), x, gap, 0 * who, seed, context=context, rate=0.2, steps=150
        )
        used.append(heads.method.score.weights(heads.reading(x, context)).mean(0).max().item())
    assert max(used) > 0.95 if entropy == 0 else max(used) < 0.4


# ---------------------------------------------------------------------------------------------- people


def memorised(*losses: tuple[float, ...]) -> dict[str, Tensor]:
    """The losses of nobody (none) and of the people 1, 2 ..."""
    return {LOSSES: torch.tensor([[0.0] * len(losses[0]), *losses]).double()}


def test_hedge():
    """From even weights, losses (.2, .7, .5) and eta 1: softmax(-loss) = (.426013, .258390, .315598)."""
    score = Hedged(GlobalMixture(3), Hard(), fade=0.0)
    method = Method(Hard(), score, Logistic())
    memory = method.memory(3)
    leads = tuple(-math.log(math.expm1(loss)) for loss in (0.2, 0.7, 0.5))  # softplus(-lead) = loss
    tables = {SHARES: torch.zeros(3).double()}
    evidence = replace(told(torch.tensor([1.0]).double(), torch.tensor([1])), memory=memory)
    memory = method.remember(memory, method.observe(evidence, read(leads, tables=tables)))
    assert memory[LOSSES].tolist() == [[0, 0, 0], pytest.approx([0.2, 0.7, 0.5]), [0, 0, 0]]
    seen = read(leads, tables=tables | memory, who=torch.tensor([1]))
    pi = torch.tensor([0.426013, 0.258390, 0.315598])
    torch.testing.assert_close(score.weights(seen)[0].float(), pi, atol=1e-6, rtol=0)
    expected = (pi * torch.tensor(leads).sigmoid()).sum().item()
    assert of_first(score(seen).sigmoid()) == pytest.approx(expected, abs=1e-6)
    for who in (torch.tensor([2]), torch.tensor([0]), None):  # unheard of, without a name, anybody: the mixture inside
        assert score.weights(replace(seen, who=who))[0].tolist() == pytest.approx([1 / 3] * 3)


def test_a_person_is_of_the_group_that_costs_least():
    """Ties, as at the start, count alike; anybody is as the people with names are."""
    score = OfGroup(Hard())
    memory = memorised((0.1, 2.0), (5.0, 0.2), (0.3, 0.4), (0.0, 0.0))
    reading = read((2.0, -1.0), tables=memory)
    weights = {who: score.weights(replace(reading, who=torch.tensor([who])))[0].tolist() for who in range(5)}
    assert weights == {0: [0.625, 0.375], 1: [1, 0], 2: [0, 1], 3: [1, 0], 4: [0.5, 0.5]}
    assert score.weights(reading).tolist() == [[0.625, 0.375]]
    assert score.rewards(reading)[0, 0].item() == pytest.approx(0.625 * 2 - 0.375)
    assert of_first(score(replace(reading, who=torch.tensor([2])))) == pytest.approx(-1.0)


def test_hedge_without_patience_is_the_group():
    memory = memorised((0.1, 2.0), (5.0, 0.2))
    seen = read((2.0, -1.0), (0.5, 1.0), tables=memory | {SHARES: torch.zeros(2).double()}, who=torch.tensor([1, 2]))
    torch.testing.assert_close(Hedged(GlobalMixture(2), Hard(), eta=1e4)(seen), OfGroup(Hard())(seen))
    torch.testing.assert_close(Hedged(GlobalMixture(2), Hard(), eta=0.0)(seen), GlobalMixture(2)(seen))


def test_the_past_fades_only_where_a_person_speaks():
    method = build("maxmin_reward", fade=0.25)
    memory = memorised((1.0, 2.0), (3.0, 4.0))
    evidence = replace(told(torch.tensor([1.0, -1.0]).double(), torch.tensor([1, 1])), memory=memory)
    after = method.remember(memory, method.observe(evidence, read((0.5, 0.0), (0.5, 0.0))))[LOSSES]
    both = softplus(torch.tensor([-0.5, 0.5])).sum().item()
    assert after[1].tolist() == pytest.approx([0.75 + both, 1.5 + 2 * math.log(2)])
    assert after[2].tolist() == [3.0, 4.0] and after[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ("maxmin_reward", "mmpo_groups", "micro_people", "maxmin_dpo", "maxmin_mmpo"))
def test_micro_batches_teach_what_the_batch_does(name, make_evidence, make_reading):
    method = build(name)
    evidence, reading = named_people(make_evidence(6, 3)), make_reading(6, 3)
    memory = method.memory(4)
    reading = replace(reading, outputs=torch.randn(6, 3, method.score.outputs(4)).double(), tokens=None)
    reading = replace(reading, of_prompt={key: torch.randn(6, n).double() for key, n in method.on_prompt(4).items()})

    def rows(record: Any, part: slice) -> Any:
        return record._map(lambda t: rows(t, part) if isinstance(t, Tensors) else t[part])

    def learned(*parts: slice) -> dict[str, Tensor]:
        told_each = [
            method.observe(replace(rows(evidence, part), memory=memory), rows(reading, part)) for part in parts
        ]
        return method.remember(memory, {key: torch.cat([one[key] for one in told_each]) for key in told_each[0]})

    whole, parts = learned(slice(None)), learned(slice(0, 2), slice(2, 6))
    torch.testing.assert_close(parts, whole)
    assert all(not torch.equal(whole[key], memory[key]) for key in memory)


WRONG: dict[str, Any] = {
    "another price": (lambda: Method(Hard(), OfGroup(Hard()), Squared(1.0)), "give OfGroup the price of the method"),
    "another target": (lambda: replace(build("maxmin_reward"), target=Votes()), "as said, its target"),
    "two who place people": (lambda: OfGroup(Posterior(Hard())), "Posterior learns about people itself"),
    "a fade above 1": (lambda: build("maxmin_reward", fade=1.5), "fade is 1.5; it lies between 0"),
    "no heads": (lambda: with_people(build("bradley_terry")), "Given has no heads to weigh for a person"),
    "people twice": (lambda: with_people(build("maxmin_reward")), "OfGroup has no heads to weigh"),
    "part of a group": (lambda: build("maxmin_reward", groups=1.5), "a whole number of at least 1"),
    "worst of each alone": (lambda: with_worst(build("maxmin_reward")), "has a reward for each voice"),
    "worst by another price": (lambda: Method(Worst(Hard()), Given(), Squared(1.0)), "give Worst the price"),
    "worst of the doubted": (lambda: with_worst(build("lcpo")), "Posterior tells voices apart itself"),
    "maximin of a reward model": (
        lambda: replace(build("mmpo_reward"), target=Maximin()),
        "give it a score of a policy, and that score's beta",
    ),
    "maximin of another beta": (lambda: replace(build("dpo", beta=0.2), target=Maximin()), "that score's beta"),
    "a step down": (lambda: Worst(Hard(), step=-1.0), "step is -1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_means_nothing_is_refused(wrong):
    make, why = WRONG[wrong]
    with pytest.raises(UserError, match=why):
        make()


# ---------------------------------------------------------------------------------------------- hidden groups


def opposed(people: int, each: int, minority: int, seed: int = 0) -> tuple[Camps, Tensor, Tensor, Tensor]:
    """Two groups that want the opposite: answers, who, and labels without noise."""
    rng = torch.Generator().manual_seed(seed)
    camps = Camps.random(rng, (people - minority, minority), d=4)
    camps = replace(camps, tastes=torch.stack((camps.tastes[0], -camps.tastes[0])))
    x, who, lead = camps.pairs(rng, each)
    return camps, x, who, lead.sign()


def test_people_of_opposite_tastes_are_all_told_apart():
    camps, x, who, gap = opposed(20, 20, 10)
    heads = fit(build("maxmin_reward"), x, gap, who, seed=0, steps=100)
    found = heads.memory[LOSSES][1:].argmin(-1)
    assert torch.equal(found, camps.group[1:]) or torch.equal(found, 1 - camps.group[1:])


def test_one_reward_forgets_a_minority_and_groups_do_not():
    """One person in eleven: below half with one reward, above 90% with a reward for each group."""
    camps, x, who, gap = opposed(22, 30, 2)
    new, whose, lead = camps.pairs(torch.Generator().manual_seed(9), 100)
    few = camps.group[whose] == 1
    one = fit(build("bradley_terry"), x, gap, who, seed=0)
    grouped = fit(build("maxmin_reward"), x, gap, who, seed=0)
    assert right(one, new, lead, None)[few].mean() < 0.5
    assert right(grouped, new, lead, whose)[few].mean() > 0.9
    assert right(grouped, new, lead, whose)[~few].mean() > 0.9
    # Anybody's view is that of the crowd.
    assert right(grouped, new, lead, None)[~few].mean() > 0.9


def fitted_to(method: Method, theta: Tensor, evidence: Evidence, x: Tensor) -> Tensor:
    """Linear heads at the minimum of the loss, the memory as it is."""
    theta = theta.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        out = method(evidence, Heads(method, theta, None, {}).reading(x)).loss
        out.backward()
        return out

    optimizer.step(loss)
    return theta.detach()


def test_expectation_and_maximisation_never_lose_likelihood():
    """Each M-step fits both rewards exactly to the people assigned, each E-step assigns all people anew."""
    rng = torch.Generator().manual_seed(3)
    camps = Camps.random(rng, (9, 6), d=4)
    x, who, lead = camps.pairs(rng, 20)
    evidence = told(labels(rng, lead), who)
    method = build("maxmin_reward", fade=1.0)  # of the past nothing is left: an E-step looks at all labels once
    theta, memory, found = 0.5 * torch.randn(4, 2, generator=rng).double(), method.memory(16), []
    for _ in range(6):
        reading = Heads(method, theta, None, memory).reading(x)
        memory = method.remember(memory, method.observe(replace(evidence, memory=memory), reading))
        found.append(-memory[LOSSES][1:].amin(-1).sum().item())
        theta = fitted_to(method, theta, replace(evidence, memory=memory), x)
    assert all(later >= earlier - 1e-4 for earlier, later in pairwise(found))
    assert found[-1] > found[0] + 10


def test_a_person_placed_by_ten_labels_is_served():
    """The heads are known; new people of either taste are placed by Hedge in one step."""
    rng = torch.Generator().manual_seed(1)
    camps = Camps.random(rng, (5, 5), d=4)
    method = with_people(build("micro", heads=2), fade=0.0)
    heads = Heads(method, camps.tastes.mT, torch.zeros(1, 2).double(), method.memory(11))
    found = []
    for shots in (0, 10, 20):
        x, who, lead = camps.pairs(rng, shots)
        seen = heads.reading(x, torch.ones(len(x), 1).double(), who)
        memory = method.remember(method.memory(11), method.observe(told(labels(rng, lead), who), seen))
        new, whose, truth = camps.pairs(rng, 100)
        own = right(replace(heads, memory=memory), new, truth, whose, torch.ones(len(new), 1).double())
        found.append(own.mean().item())
    assert found[0] < 0.85 and found[1] > 0.9 and found[2] > 0.95


# ---------------------------------------------------------------------------------------------- the worst off


def spoken(*gaps: tuple[float, ...]) -> Evidence:
    """One pair; voice n = 1, 2 ... says n-th gaps; an equal share of the weight each."""
    (row,) = gaps
    return together(torch.tensor([[gap, 0.0] for gap in row]).double(), torch.full((len(row),), 1 / len(row)).double())


def lead_of(m: float) -> Tensor:
    return between(torch.tensor([[m, 0.0]]).double())


def test_without_a_step_nobody_counts_more(make_evidence):
    """And where each comparison has one voice, P is that of the target itself, exactly."""
    evidence = named_people(make_evidence(5, 3, votes=True, weighted=True))
    alone = replace(evidence.voices, weight=evidence.voices.weight * torch.tensor([1.0, 0, 0]).view(3, 1, 1))
    alone = replace(alone, weight=alone.weight / alone.weight.sum(1, keepdim=True).clamp_min(1e-30))
    alone = replace(alone, weight=alone.weight * evidence.weight[:, None])
    m = torch.randn_like(evidence.weight)
    for target in (Hard(), BradleyTerry(1.3), Votes()):
        one_voice = replace(evidence, voices=alone)
        torch.testing.assert_close(Worst(target)(one_voice, m), target(one_voice, m), rtol=0, atol=1e-15)
        memory = Worst(target).memory(4)
        torch.testing.assert_close(Worst(target)(replace(one_voice, memory=memory), m), target(one_voice, m))
    torch.testing.assert_close(Worst(Votes())(evidence, m), Votes()(evidence, m))


def test_weights_climb_towards_the_worse_off():
    """Losses .2 and .7 with step 1 and equal shares: q = softmax(.2, .7); with shares 10 : 1 the share is the start."""
    target = Worst(Hard(), step=1.0)
    observed = torch.tensor([[1, 0.2, 1.0], [2, 0.7, 1.0]]).double()
    memory = target.remember({EMPHASIS: torch.zeros(3, 3).double()}, {EMPHASIS: observed})[EMPHASIS]
    q = memory[1:, 0].exp() / 2
    torch.testing.assert_close(q, torch.tensor([0.2, 0.7]).double().softmax(0))
    assert memory[0].tolist() == [0, 0, 0]
    observed = torch.tensor([[1, 2.0, 10.0], [2, 0.7, 1.0]]).double()
    memory = target.remember({EMPHASIS: torch.zeros(3, 3).double()}, {EMPHASIS: observed})[EMPHASIS]
    share = torch.tensor([10 / 11, 1 / 11]).double()
    torch.testing.assert_close(share * memory[1:, 0].exp(), (share.log() + torch.tensor([0.2, 0.7])).softmax(0))


def test_who_is_silent_fares_as_before():
    """Voice 2 is heard once, and its weight goes on to climb."""
    target = Worst(Hard(), step=1.0)
    memory = {EMPHASIS: torch.zeros(3, 3).double()}
    observed = torch.tensor([[1, 0.2, 1.0], [2, 0.7, 1.0]]).double()
    memory = target.remember(memory, {EMPHASIS: observed})
    again = target.remember(memory, {EMPHASIS: observed[:1]})[EMPHASIS]
    torch.testing.assert_close(again[2, 0] - again[1, 0], torch.tensor(1.0).double())
    assert again[:, 2].tolist() == [0, 2, 1]
    torch.testing.assert_close((again[:, 0].exp() * again[:, 2]).sum(), again[:, 2].sum())


def test_one_voice_is_the_method_itself():
    for name, plain_name in (("maxmin_dpo", "dpo"), ("maxmin_mmpo", "mmpo")):
        method, evidence = build(name, step=1.0), spoken((0.7,))
        logps = torch.tensor([[-3.0, -4.0]]).double()
        reading = Reading(evidence.mask, logps, 0 * logps)
        memory = {key: value.double() for key, value in method.memory(2).items()}
        for _ in range(3):
            memory = method.remember(memory, method.observe(replace(evidence, memory=memory), reading))
        found = method(replace(evidence, memory=memory), reading)
        torch.testing.assert_close(found.loss, build(plain_name)(evidence, reading).loss)


def test_who_is_unsure_is_not_wronged():
    """Of a voice that wants a coin the model's coin costs ln 2, and it lacks nothing."""
    target = Worst(BradleyTerry(1.0))
    evidence = spoken((0.0, 2.0))
    fared = target.observe(evidence, Reading(evidence.mask), lead_of(0.0))[EMPHASIS]
    sure = torch.tensor(2.0).sigmoid()
    excess = math.log(2) + (sure * sure.log() + (1 - sure) * (1 - sure).log()).item()
    assert (fared[:, 1] / fared[:, 2]).tolist() == pytest.approx([0, excess], abs=1e-6)


def test_both_voices_fare_alike_in_the_end():
    """Two groups that want the opposite, ten labels to one: DPO follows the many, and the worst first is a coin."""
    evidence = together(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([10 / 11, 1 / 11]).double())
    policy, fared = descend(build("maxmin_dpo", beta=1.0, step=0.03), evidence, 700)
    assert policy.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert fared.tolist() == pytest.approx([math.log(2)] * 2, abs=0.05)
    policy, fared = descend(build("maxmin_dpo", beta=1.0, step=0.0), evidence, 400)
    assert policy.tolist() == pytest.approx([10 / 11, 1 / 11], abs=1e-3)
    assert fared[1] > 2


# ---------------------------------------------------------------------------------------------- the maximin, exactly


def test_the_maximin_of_two_arms():
    """Ten people to one: their pooled preference is a gap of .7957, whose policy at beta .1 is sure; the maximin is
    even."""
    pooled = (10 * torch.tensor(1.0).double().sigmoid() + torch.tensor(-1.0).double().sigmoid()) / 11
    assert pooled.item() == pytest.approx(0.689048, abs=1e-6)
    assert pooled.logit().item() == pytest.approx(0.795672, abs=1e-6)
    assert (pooled.logit() / 0.1).sigmoid().item() == pytest.approx(0.999650, abs=1e-6)
    policy, q = maximin(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), 0.1)
    assert policy.tolist() == q.tolist() == pytest.approx([0.5, 0.5], abs=1e-9)


@pytest.mark.parametrize(("third", "best", "worst"), ((0.6, (0, 0, 1), 0.6), (0.45, (0.5, 0.5, 0), 0.5)))
def test_the_maximin_of_three_arms(third, best, worst):
    """A third arm that both like well enough is taken where it beats the mixture of the other two."""
    rewards = torch.tensor([[1.0, 0.0, third], [0.0, 1.0, third]]).double()
    policy, _ = maximin(rewards, 0.01)
    assert policy.tolist() == pytest.approx(best, abs=0.01)
    assert (rewards @ policy).min().item() == pytest.approx(worst, abs=0.005)


def test_where_all_agree_the_maximin_is_the_usual_policy():
    reward = torch.tensor([1.0, 0.2, -0.5]).double()
    policy, _ = maximin(torch.stack((reward, reward)), 0.5)
    torch.testing.assert_close(policy, (reward / 0.5).softmax(0))
    torch.testing.assert_close(maximin(reward[None], 0.5)[0], policy)


def test_margin_matching_comes_to_the_maximin():
    """A tabular policy under maxmin_mmpo is max min E[r] - (beta / gamma) KL, utilities being over those of the
    reference."""
    rewards = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    rewards = rewards - rewards.mean(-1, keepdim=True)
    shares = torch.tensor([0.9, 0.1]).double()
    policy, _ = descend(build("maxmin_mmpo", gamma=2.0, beta=1.0), together(rewards, shares), 600)
    torch.testing.assert_close(policy, maximin(rewards, 0.5)[0], atol=0.01, rtol=0)
    mean, _ = descend(build("maxmin_mmpo", gamma=2.0, beta=1.0, step=0.0), together(rewards, shares), 300)
    torch.testing.assert_close(mean, (2.0 * shares @ rewards).softmax(0), atol=0.01, rtol=0)
    assert worth(rewards, policy, 0.5) > worth(rewards, mean, 0.5)


def test_a_voice_that_grades_some_answers_counts_there():
    """The mean grade is that of the voices who graded both answers, and offsets of a prompt change nothing."""
    evidence = together(
        torch.tensor([[1.0, 0.0, 0.5], [5.0, 5.2, math.nan]]).double(), torch.tensor([0.5, 0.5]).double()
    )
    weight = evidence.voices.weight.clone()
    weight[0, 1, 2] = weight[0, 1, :, 2] = 0
    weight[0, 0, 2] = weight[0, 0, :, 2] = 1
    weight[0, 0, 2, 2] = 0
    evidence = replace(evidence, voices=replace(evidence.voices, weight=weight))
    p = Maximin(2.0)(evidence, torch.zeros(1, 3, 3).double())
    gaps = [p[0, 0, 1].logit() / 2, p[0, 0, 2].logit() / 2, p[0, 1, 2].logit() / 2]
    assert [gap.item() for gap in gaps] == pytest.approx([0.5 * 1.0 - 0.5 * 0.2, 0.5, -0.5])
    # Voice 2 compares two answers, and an even policy takes the better and the worse of them alike.
    fared = Maximin(2.0).observe(evidence, Reading(evidence.mask), torch.zeros(1, 3, 3).double())[EMPHASIS]
    assert fared[:, 1].tolist() == pytest.approx([0, 0], abs=1e-12) and fared[:, 2].tolist() == [2.5, 0.5]


# ---------------------------------------------------------------------------------------------- from a recipe


PEOPLE = {"ann": 1, "amy": 1, "bob": -1, "ben": -1}
"""Those with 1 like the longer answer, the others the shorter one."""


def votes() -> list[dict[str, Any]]:
    """Every pair of two answers, as everybody votes on it."""
    rows = []
    for row in ROWS:
        first, second = row["responses"][:2]
        judged = [
            {"first": 0, "second": 1, "p": float((len(first) - len(second)) * side > 0), "annotator": name}
            for name, side in PEOPLE.items()
        ]
        rows.append({"prompt": row["prompt"], "responses": [first, second], "judgements": judged})
    return rows


def recipe(folder: Path, model: str, rows: str, method: Any, **more: Any) -> Path:
    content = {
        "model": model,
        "data": rows,
        "method": method,
        "output_dir": str(folder / "run"),
        "max_steps": 12,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 6,
        "seed": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(*words: Any) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 0


@pytest.fixture(scope="module")
def camps_of_two(tmp_path_factory: Any, tiny_policy: Any, tiny_tokenizer: Any) -> tuple[Path, str, str]:
    """A run of maxmin_reward on people of two tastes."""
    folder: Path = tmp_path_factory.mktemp("camps")
    base = saved(tiny_policy(0), plain(tiny_tokenizer), folder / "base")
    rows = rows_file(folder, votes())
    train_recipe(read_recipe(recipe(folder, base, rows, "maxmin_reward")))
    return folder, base, rows


def test_a_run_finds_the_groups_of_its_people(camps_of_two):
    """They are saved with the model, and each person sees the answers as the group does."""
    folder, _, rows = camps_of_two
    remembered = json.loads((folder / "run" / "memory.json").read_text())
    assert LOSSES in remembered
    scorer = Scorer.load(str(folder / "run"))
    group = {name: int(scorer.reader.memory[LOSSES][n].argmin()) for name, n in scorer.vocabulary.numbers.items()}
    assert group["ann"] == group["amy"] != group["bob"] == group["ben"]
    out = folder / "out.jsonl"
    command("score", folder / "run", rows, "--out", out, "--person", "all")
    for line in out.read_text().splitlines():
        row = json.loads(line)
        assert set(row["model_scores_by"]) == {"group 1", "group 2"}
        lengths = [len(response) for response in row["responses"]]
        for name, side in PEOPLE.items():
            first, second = row["model_scores_of"][name]
            assert (first - second) * (lengths[0] - lengths[1]) * side > 0


def test_a_stopped_run_goes_on_with_its_groups(camps_of_two, tmp_path):
    _, base, rows = camps_of_two
    path, run = recipe(tmp_path, base, rows, "maxmin_reward", max_steps=4, save_steps=2), tmp_path / "run"
    train_recipe(read_recipe(path))
    files = ("model.safetensors", "method_state.safetensors")
    whole, stopped = [load_file(run / name) for name in files], json.loads((run / "run.json").read_text())
    for left in run.iterdir():
        if left.name not in ("checkpoint-2", "run.json"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (run / "run.json").write_text(json.dumps({**stopped, "status": "started"}))
    assert train_recipe(read_recipe(path)).state.global_step == 4
    for name, before in zip(files, whole, strict=True):
        after = load_file(run / name)
        assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)


def test_a_new_person_is_placed_in_a_group(camps_of_two, tmp_path):
    folder, _, _ = camps_of_two
    few = [
        {
            "prompt": row["prompt"],
            "responses": row["responses"],
            "judgements": [{**row["judgements"][3], "annotator": "new"}],
        }
        for row in votes()[:4]
    ]
    out = tmp_path / "adapted"
    command("adapt", folder / "run", rows_file(tmp_path, few), "--out", out)
    scorer = Scorer.load(str(out))
    losses = scorer.reader.memory[LOSSES]
    assert losses[scorer.vocabulary.numbers["new"]].argmin() == losses[scorer.vocabulary.numbers["bob"]].argmin()


@pytest.mark.slow
def test_a_policy_is_trained_on_the_maximin_of_groups(camps_of_two, tmp_path):
    """The groups' scores of answers that nobody judged are its voices, and their emphasis is remembered by name."""
    folder, base, _ = camps_of_two
    out = tmp_path / "scored.jsonl"
    bare = [{"prompt": row["prompt"], "responses": row["responses"]} for row in ROWS]
    command("score", folder / "run", rows_file(tmp_path, bare), "--out", out)
    data = {"path": str(out), "attributes": "all", "grade": {"group 1": 0.5, "group 2": 0.5}}
    method = {"name": "maxmin_mmpo", "gamma": 1.0}
    train_recipe(read_recipe(recipe(tmp_path, base, data, method, voices="attributes")))
    emphasis = json.loads((tmp_path / "run" / "memory.json").read_text())[EMPHASIS]
    assert {"group 1", "group 2"} <= set(emphasis)
