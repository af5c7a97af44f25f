"""Contexts: rows, what is made of them, and what a model makes of a context."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, logsigmoid

from judge_server import State, served, verdict
from mmpo.asking import Endpoint, Store
from mmpo.asking.words import in_words
from mmpo.batch import evidence
from mmpo.cli import main
from mmpo.data import load, pairs_of
from mmpo.data.build import build_rows
from mmpo.data.contexts import Contexts, borda, contextual_prompt, marginal_preference, reversal_pairs, unfolded
from mmpo.data.profiles import with_profiles
from mmpo.data.rows import BadRow
from mmpo.errors import UserError
from mmpo.evaluate.contexts import context_gain, preference_error_bound, reversal_accuracy
from mmpo.evaluate.scoring import Scorer
from mmpo.evaluate.suites import Outcome, evaluate_suite
from mmpo.evaluate.suites.rpr import NONSENSE
from mmpo.methods import build
from mmpo.types import Datum, Evidence, Judgement, Reading

ROW = reversal_pairs("Where is Paris?", "In France.", "In France, on the river Seine.", "Be short.", "Be complete.")
RPR = {
    "id": 5, "prompt": "Where is Paris?", "response_a": "In France.", "response_b": "In France, on the river Seine.",
    "criteria_x": "Be short.", "criteria_y": "Be complete.", "scenario_x": "I hurry.", "scenario_y": "I write a guide.",
    "category_x": "length", "category_y": "depth", "profile_0": "x",
}  # fmt: skip


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def made(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[Datum]:
    return build_rows("contexts", written(tmp_path / "rows.jsonl", *rows), **options)[1]


def refused(row: dict[str, Any], **options: Any) -> BadRow:
    ((_, found),) = Contexts(**options)(iter([(1, row)]))
    assert isinstance(found, BadRow)
    return found


# ---------------------------------------------------------------------------------------------- by hand


def test_a_marginal_preference_and_the_bound_of_its_error() -> None:
    assert marginal_preference((0.7, 0.3), (0.9, 0.2)) == pytest.approx(0.69)
    assert marginal_preference((0.5, 0.5), (0.8, 0.3)) == pytest.approx(0.55)
    bound = preference_error_bound((0.7, 0.3), (0.9, 0.2), (0.5, 0.5), (0.8, 0.3))
    assert bound == pytest.approx(0.30) and bound >= 0.69 - 0.55


@given(st.integers(1, 5), st.integers(0, 10_000))
def test_the_bound_holds(contexts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, other = rng.dirichlet(np.full(contexts, 0.5), 2)
    q, judged = rng.random((2, contexts))
    error = abs(marginal_preference(p, q) - marginal_preference(other, judged))
    assert error <= preference_error_bound(p, q, other, judged) + 1e-12


def test_borda_prefers_who_is_good_everywhere() -> None:
    points = borda([[3, 2, 1], [1, 3, 2]], (0.5, 0.5))
    assert points == pytest.approx([1, 1.5, 0.5]) and points.argmax() == 1
    assert borda([[2, 2]], [1.0]) == pytest.approx([0.5, 0.5])


def test_reversals_and_gain_by_hand() -> None:
    assert reversal_accuracy([1, -1, 0], [-2, -1, 3]) == pytest.approx((1 + 1 + 0 + 1 + 0.5 + 0) / 6)
    assert context_gain([1, 2, -1, 0], [1, -1, -1, -2]) == pytest.approx((0 + 1 + 0 + 0.5) / 4)


# ---------------------------------------------------------------------------------------------- laws


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_who_ignores_the_context_has_one_half_of_reversals_and_pays_ln_2(m: list[float]) -> None:
    assert reversal_accuracy(m, m) == 0.5
    blind = torch.tensor(m, dtype=torch.float64)
    assert -(logsigmoid(blind) + logsigmoid(-blind)).mean() / 2 >= math.log(2) - 1e-12


def test_a_context_that_is_used_beats_one_half() -> None:
    assert reversal_accuracy([1.0, 0.2], [-0.1, -2.0]) == 1.0 and reversal_accuracy([-1.0], [1.0]) == 0.0


def test_one_context_is_plain_bradley_terry(tmp_path: Path) -> None:
    stated = {"context": "Be short.", "p_first": 0.8}
    row = {"prompt": "Where is Paris?", "responses": ["France.", "In France."]}
    (one,) = made(tmp_path, {**row, "contexts": [stated]})
    (alone,) = made(tmp_path, {**row, **stated})
    asked = {**row, "prompt": contextual_prompt("Where is Paris?", "Be short."), "p_first": 0.8}
    plain = load(written(tmp_path / "plain.jsonl", asked)).data[0]
    (pooled,) = made(tmp_path, {**row, "contexts": [stated]}, pooled=True)
    method = build("soft_bradley_terry")
    losses = []
    for datum in (one, alone, plain, pooled):
        rewards = torch.tensor([[0.4, -0.3]], dtype=torch.float64, requires_grad=True)
        loss = method(evidence([datum]), Reading(torch.ones(1, 2, dtype=torch.bool), rewards=rewards)).loss
        losses.append((loss.item(), torch.autograd.grad(loss, rewards)[0].tolist()))
    assert losses[0] == losses[1] == losses[2] == losses[3]
    assert one.prompt == alone.prompt == plain.prompt != pooled.prompt


# ---------------------------------------------------------------------------------------------- rows


def test_each_context_is_a_row_and_rows_without_one_stay(tmp_path: Path) -> None:
    other = {"prompt": "2 + 2?", "responses": ["4", "5"], "scores": [9, 1]}
    path = written(tmp_path / "rows.jsonl", {"id": "a", **ROW}, other)
    _, data, counts = build_rows("contexts", path)
    assert [d.id for d in data] == ["a/context 1", "a/context 2", f"{path}:2"]
    assert [d.prompt for d in data[:2]] == [f"Context: Be {how}.\n\nWhere is Paris?" for how in ("short", "complete")]
    assert [[j.p for j in d.judgements] for d in data] == [[1.0], [0.0], []]
    assert data[2].grades == (9.0, 1.0)
    assert counts == {"rows in": 2, "rows with contexts": 1, "contexts stated": 2, "rows without a context": 1}
    shared = {**ROW, "contexts": [{**entry, "p": 0.5} for entry in ROW["contexts"]]}
    _, again, counts = build_rows("contexts", written(tmp_path / "shares.jsonl", shared))
    assert [d.prompt for d in again] == [d.prompt for d in data[:2]] and counts["shares p of contexts not read"] == 2


def test_the_hub_layout(tmp_path: Path) -> None:
    kinds = [kind for kind, _ in unfolded(RPR)]
    assert kinds == ["criteria", "scenario"]
    data = made(tmp_path, RPR)
    assert [d.subset for d in data] == ["criteria", "criteria", "scenario", "scenario"]
    assert [str(d.prompt).split("\n")[0] for d in data] == [
        "Context: Be short.", "Context: Be complete.", "Context: I hurry.", "Context: I write a guide.",
    ]  # fmt: skip
    assert [d.judgements[0].p for d in data] == [1.0, 0.0, 1.0, 0.0] and len({d.id for d in data}) == 4


def test_pairs_and_single_responses_may_have_a_context_too(tmp_path: Path) -> None:
    (pair,) = made(tmp_path, {"prompt": "x", "chosen": "a", "rejected": "b", "context": "z"})
    assert pair.prompt == "Context: z\n\nx" and pair.judgements[0].p == 1.0
    graded = [{"prompt": "x", "response": r, "score": n, "context": z} for n, r in enumerate("ab") for z in ("z", "w")]
    assert {str(d.prompt): d.grades for d in made(tmp_path, *graded)} == {
        "Context: z\n\nx": (0.0, 1.0),
        "Context: w\n\nx": (0.0, 1.0),
    }


def test_messages_hold_the_context_in_the_system_message(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "2 + 2?"}
    row = {"prompt": [turn], "responses": ["4", "5"], "context": "For a child.", "preferred": 0}
    (system,) = made(tmp_path, row)
    (user,) = made(tmp_path, row, place="user", template="Reader: {context}")
    assert list(system.prompt) == [{"role": "system", "content": "Context: For a child."}, turn]
    assert list(user.prompt) == [{"role": "user", "content": "Reader: For a child.\n\n2 + 2?"}]


def test_pooled_rows_are_mixtures(tmp_path: Path) -> None:
    row = {"prompt": "x", "responses": ["a", "b"]}
    stated = [{"context": "z", "p_first": 0.9, "p": 0.7}, {"context": "w", "p_first": 0.2, "p": 0.3}]
    (one,) = made(tmp_path, {**row, "contexts": stated}, pooled=True)
    assert one.prompt == "x" and one.judgements[0].p == pytest.approx(0.69)
    scored = [{"context": "z", "scores": [3, 2, 1]}, {"context": "w", "scores": [1, 3, 2]}]
    (three,) = made(tmp_path, {"prompt": "x", "responses": ["a", "b", "c"], "contexts": scored}, pooled=True)
    assert three.grades == pytest.approx((1, 1.5, 0.5)) and len(pairs_of(three)) == 3


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({**ROW, "contexts": []}, {}, "contexts is empty"),
        ({**ROW, "contexts": ["short"]}, {}, r"contexts\[0\] is no mapping"),
        ({**ROW, "contexts": [{"context": " ", "preferred": 0}]}, {}, r"contexts\[0\].context is ' '"),
        ({**ROW, "context": "z"}, {}, "context and contexts are both given"),
        ({**ROW, "preferred": 1}, {}, r"contexts\[0\] and the row both have preferred"),
        ({"prompt": "x", "responses": ["a", "b"], "context": 7}, {}, "context is 7"),
        ({"responses": ["a", "b"], "prompts": ["x", "y"], "context": "z"}, {}, "prompts gives responses prompts"),
        ({"prompt": "x", "responses": ["a", "b"], "context": "z"}, {"pooled": True}, "nothing to pool"),
        ({**ROW, "contexts": [{"context": "z"}]}, {"pooled": True}, "says nothing of its two responses"),
        ({**ROW, "contexts": [{"context": "z", "p": 1}, {"context": "w"}]}, {"pooled": True}, "some contexts have p"),
        ({**ROW, "contexts": [{"context": "z", "p": 0}]}, {"pooled": True}, "p of every context is 0"),
        ({**RPR, "criteria_y": None}, {}, "criteria_y is None"),
    ],
)  # fmt: skip
def test_bad_rows_say_what_to_mend(row: dict[str, Any], options: dict[str, Any], message: str) -> None:
    assert re.search(message, str(refused(row, **options)))


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no place for the context"):
        Contexts(template="Context:")
    with pytest.raises(UserError, match="give 'system' or 'user'"):
        Contexts(place="top")  # type: ignore[arg-type]
    for option in ({"place": "user"}, {"template": "For {context}"}):
        with pytest.raises(UserError, match=f"pooled writes none; leave {next(iter(option))} out"):
            Contexts(pooled=True, **option)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--degrees is no option of build contexts; it has template, place, pooled"):
        made(tmp_path, ROW, degrees=2)


def test_a_bad_row_is_dropped_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", ROW, {**ROW, "contexts": []})
    with pytest.raises(UserError, match=r"rows.jsonl:2: contexts is empty"):
        build_rows("contexts", path)
    loaded, data, _ = build_rows("contexts", path, on_bad_row="drop")
    assert len(data) == 2 and loaded.ledger.rows_dropped == 1


# ---------------------------------------------------------------------------------------------- the suite


def on(tmp_path: Path, rows: Sequence[dict[str, Any]], says: Callable[[str, str], float]) -> Outcome:
    """The suite on a scorer that sees what a model would: the prompt of each response, and the response."""

    def scorer(data: Sequence[Datum]) -> list[list[float]]:
        return [
            [
                says(str(d.prompt if own.prompt is None else own.prompt), str(r))
                for r, own in zip(d.responses, d.about, strict=True)
            ]
            for d in data
        ]

    return evaluate_suite("rpr", scorer, written(tmp_path / "rpr.jsonl", *rows), bootstrap=20)


def shown(outcome: Outcome) -> dict[str, float]:
    return {name: v.value for name, v in {**outcome.overall, **outcome.subsets, **outcome.further}.items()}


def heeds(prompt: str, response: str) -> float:
    """An oracle: short where the prompt says so, else long."""
    return -len(response) if "short" in prompt or "hurry" in prompt else len(response)


def test_the_oracle_and_its_numbers(tmp_path: Path) -> None:
    found = shown(on(tmp_path, [RPR], heeds))
    assert found["accuracy with the context"] == found["all contexts right where they disagree"] == 1.0
    assert found["criteria"] == found["scenario"] == 1.0
    assert found["accuracy without a context"] == 0.5 and found["gain over no context"] == 0.5
    # Without a context the oracle prefers the long one: half of the contexts turn that, and nonsense never does.
    assert found["verdicts turned by the context"] == 0.5 and found["verdicts turned by a nonsense context"] == 0.0


def test_half_an_ear_for_the_context(tmp_path: Path) -> None:
    found = shown(on(tmp_path, [RPR], lambda p, r: -len(r) if "short" in p else len(r)))
    assert found["accuracy with the context"] == 0.75 and found["criteria"] == 1.0 and found["scenario"] == 0.5
    assert found["all contexts right where they disagree"] == 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_scorer_that_ignores_the_context_has_exactly_half(tmp_path_factory: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [{**RPR, "id": n, "prompt": f"question {n}"} for n in range(int(rng.integers(1, 9)))]
    taste: dict[str, float] = {}

    def blind(prompt: str, response: str) -> float:
        return taste.setdefault(prompt.split("\n")[-1] + response, float(rng.integers(-1, 2)))

    outcome = on(tmp_path_factory.mktemp("blind"), rows, blind)
    assert outcome.overall["accuracy with the context"].value == 0.5
    assert outcome.overall["all contexts right where they disagree"].value == 0.0
    assert all(value.value == 0.0 for name, value in outcome.further.items() if "gain" in name or "turned" in name)
    interval = outcome.overall["accuracy with the context"]
    assert len(rows) == 1 or interval.low == interval.high == 0.5


def test_own_rows_and_nonsense(tmp_path: Path) -> None:
    rows = [{**ROW, "subset": "length"}, {**reversal_pairs("p", "a", "bb", "short", "long"), "subset": "other"}]
    one_way = {"prompt": "q", "responses": ["a", "bb"], "contexts": [{"context": "short", "p_first": 0.9}]}
    outcome = on(tmp_path, [*rows, one_way], lambda p, r: heeds(p, r) if not any(n in p for n in NONSENSE) else 0.0)
    found = shown(outcome)
    assert {"length", "other", "contexts"} <= outcome.subsets.keys()
    assert found["accuracy with the context"] == 1.0 and found["accuracy with a nonsense context"] == 0.5
    assert outcome.overall["all contexts right where they disagree"].n == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "responses": ["a", "b"]}, "there is no context"),
        ({**ROW, "responses": ["a", "b", "c"]}, "responses has 3 entries"),
        ({**ROW, "contexts": [{"context": "z", "p_first": 0.5}]}, "prefers neither response"),
        ({**ROW, "contexts": [{"context": "z"}]}, "give preferred or p_first"),
    ],
)
def test_rows_that_the_suite_cannot_use(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        on(tmp_path, [row], heeds)


def test_the_suite_reads_what_the_builder_writes(tmp_path: Path, tiny_reward: Any, tiny_tokenizer: Any) -> None:
    """A response in a context has the same reward in the suite as in the row that is built to be trained on."""
    tiny_reward(2).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    scorer = Scorer.load(str(tmp_path / "model"))
    rows = [{**RPR, "id": n, "prompt": f"question {n}"} for n in range(3)]
    built = scorer(made(tmp_path, *rows))
    seen: list[np.ndarray] = []

    def says(data: Sequence[Datum]) -> list[list[float]]:
        rewards = scorer(data).rewards
        seen.extend(np.reshape(row, (-1, 2))[2:] for row in rewards)
        return rewards

    outcome = evaluate_suite("rpr", says, written(tmp_path / "rpr.jsonl", *rows), bootstrap=2)
    assert np.concatenate(seen) == pytest.approx(np.array(built.rewards), abs=1e-5)
    right = [(r[0] > r[1]) == (d.judgements[0].p == 1) for d, r in zip(built.data, built.rewards, strict=True)]
    assert outcome.overall["accuracy with the context"].value == pytest.approx(np.mean(right))


def test_rows_that_differ_in_their_contexts_do_not_repeat_each_other(tmp_path: Path) -> None:
    rows = [reversal_pairs("p", "a", "bb", one, other) for one, other in (("short", "long"), ("brief", "whole"))]
    assert not any("say the same" in note for note in on(tmp_path, rows, heeds).notes)
    assert any("say the same" in note for note in on(tmp_path, [rows[0], rows[0]], heeds).notes)


def test_a_saved_model_on_the_command_line(
    tmp_path: Path, tiny_reward: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    tiny_reward().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    rows = written(tmp_path / "rpr.jsonl", *({**RPR, "id": n, "prompt": f"question {n}"} for n in range(4)))
    with pytest.raises(SystemExit) as done:
        main(["evaluate", str(folder), f"rpr={rows}", "--out", str(tmp_path / "report")])
    assert not done.value.code
    report = json.loads((tmp_path / "report" / "report.json").read_text())["suites"]["rpr"]
    assert report["n"] == 4 and 0 <= report["overall"]["accuracy with the context"]["value"] <= 1
    assert "accuracy with the context" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- two hidden users


def test_contexts_recover_two_users_and_without_them_their_sum(tmp_path: Path) -> None:
    """u_z = w_z . phi(y): Bradley-Terry on (z, y) finds both directions, pooled it finds w_1 + w_2."""
    rng, d, n = torch.Generator().manual_seed(0), 6, 4000
    users = torch.linalg.qr(torch.randn(d, 2, generator=rng, dtype=torch.float64))[0].T * 2
    phi = torch.randn(n, 2, d, generator=rng, dtype=torch.float64)
    who = torch.arange(n) % 2
    wins = torch.rand(n, generator=rng) < torch.sigmoid(((phi[:, 0] - phi[:, 1]) * users[who]).sum(-1))
    said = evidence(
        [Datum(str(k), "x", ("a", "b"), judgements=(Judgement(0, 1, p=float(w)),)) for k, w in enumerate(wins)]
    )

    def fitted(heads: torch.Tensor) -> torch.Tensor:
        w = torch.zeros(int(heads.max()) + 1, d, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([w], 0.1)
        for _ in range(150):
            adam.zero_grad()
            rewards = (phi * w[heads][:, None]).sum(-1)
            build("bradley_terry")(said, Reading(said.mask, rewards=rewards)).loss.backward()
            adam.step()
        return w.detach()

    given, pooled = fitted(who), fitted(torch.zeros_like(who))[0]
    assert (cosine_similarity(given, users) > 0.95).all()
    assert cosine_similarity(pooled, users.sum(0), dim=0) > 0.95

    fresh = torch.randn(2000, 2, d, generator=rng, dtype=torch.float64)
    lead = (fresh[:, 0] - fresh[:, 1]) @ users.T
    fresh = fresh[lead.prod(-1) < 0]  # the two users disagree
    a = torch.where(
        ((fresh[:, 0] - fresh[:, 1]) @ users[0] > 0)[:, None], fresh[:, 0] - fresh[:, 1], fresh[:, 1] - fresh[:, 0]
    )
    assert reversal_accuracy(a @ given[0], a @ given[1]) > 0.95
    assert reversal_accuracy(a @ pooled, a @ pooled) == 0.5


def test_a_reversal_pair_takes_every_opinion_from_who_reads_both_prompts_alike(tmp_path: Path) -> None:
    said: Evidence = evidence(made(tmp_path, ROW))

    def of(rewards: list[float]) -> tuple[float, torch.Tensor]:
        shared = torch.tensor(rewards, dtype=torch.float64, requires_grad=True)
        loss = build("bradley_terry")(said, Reading(said.mask, rewards=shared.expand(2, 2))).loss
        return loss.item(), torch.autograd.grad(loss, shared)[0]

    least, none = of([0.3, 0.3])
    more, slope = of([0.7, -0.2])
    assert least == pytest.approx(math.log(2)) and more > least
    assert not none.any() and slope[0] > 0 > slope[1]


# ---------------------------------------------------------------------------------------------- profiles


def chosen(n: int, **votes: float) -> Datum:
    said = tuple(Judgement(0, 1, p=p, annotator=who) for who, p in votes.items())
    return Datum(str(n), f"prompt {n}", ("short", "a long answer"), judgements=said)


def test_a_profile_is_made_of_some_choices_and_heads_the_others() -> None:
    data = [chosen(n, ann=1.0, bob=0.0) for n in range(5)] + [chosen(9, ann=0.5, eve=1.0)]
    seen: list[str] = []

    def teacher(questions: Sequence[str]) -> list[str]:
        seen.extend(questions)
        return ["Short answers." if "Preferred:\nshort" in q else "Long answers." for q in questions]

    out, counts = with_profiles(data, teacher, samples=2, seed=3)
    assert counts == {
        "data in": 6, "people": 3, "people with too few choices": 1, "choices shown to the teacher": 4, "data out": 6,
    }  # fmt: skip
    assert {str(d.prompt).split("\n")[0] for d in out if d.id.endswith("ann")} == {"Context: Short answers."}
    assert {str(d.prompt).split("\n")[0] for d in out if d.id.endswith("bob")} == {"Context: Long answers."}
    assert all([j.annotator for j in d.judgements] == [d.id.split("/")[1]] for d in out)
    for question, who in zip(seen, ("ann", "bob"), strict=True):
        left = {d.id.split("/")[0] for d in out if d.id.endswith(who)}
        assert len(left) == 3 and not any(f"prompt {n}\n" in question for n in left)  # nothing is told twice


def test_grades_of_one_person_and_people_without_a_profile() -> None:
    graded = [
        Datum(str(n), "x", ("a", "b"), (2.0, 2.0), annotator_grades={"ann": (1.0, 3.0), "bob": (3.0, 1.0)})
        for n in range(3)
    ]
    out, counts = with_profiles(graded, lambda asked: ["Likes b.", " "], samples=1)
    assert [d.grades for d in out] == [(1.0, 3.0)] * 2 and counts["people without a profile"] == 1
    assert all(d.annotator_grades == {"ann": (1.0, 3.0)} for d in out)
    with pytest.raises(UserError, match="nobody chose on 4 prompts or more"):
        with_profiles(graded, lambda asked: [])
    with pytest.raises(UserError, match="gave 1 answers to 2 questions"):
        with_profiles(graded, lambda asked: ["x"], samples=1)


def test_a_teacher_behind_an_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = State(always={"c": "400"})
    server = served(state)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        asked = in_words(Endpoint(url, "teacher", most_tries=1), Store(tmp_path / "answers.jsonl"))
        first, again = asked(["a", "b"]), asked(["b", "c", "a"])
    finally:
        server.shutdown()
        server.server_close()
    assert first == [verdict("a"), verdict("b")] and again == [verdict("b"), "", verdict("a")]
    assert state.answered == {"a": 1, "b": 1}  # the second time from disk
    assert "without an answer (question 1" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- from the command line


@pytest.mark.slow
def test_a_run_learns_to_heed_the_context(
    tmp_path: Path, tiny_reward: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built, trained, saved, evaluated on prompts that it never saw; pooled, the rows teach nothing of reversals."""

    def rows(numbers: range) -> list[dict[str, Any]]:
        return [reversal_pairs(f"Number {n}?", "no", "yes yes yes", "Be short.", "Be long.") for n in numbers]

    def run(*words: str) -> None:
        with pytest.raises(SystemExit) as done:
            main(words)
        assert not done.value.code, capsys.readouterr().err

    tiny_reward().save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    known, new = (
        written(tmp_path / "known.jsonl", *rows(range(48))),
        written(tmp_path / "new.jsonl", *rows(range(200, 232))),
    )
    found = {}
    for name, flags in (("heeds", []), ("pooled", ["--pooled"])):
        run("build", "contexts", known, "--out", str(tmp_path / f"{name}.jsonl"), *flags)
        recipe = {
            "model": str(tmp_path / "base"), "task": "reward", "data": str(tmp_path / f"{name}.jsonl"),
            "method": "soft_bradley_terry", "output_dir": str(tmp_path / name), "learning_rate": 3e-3,
            "num_train_epochs": 8 if name == "heeds" else 1, "per_device_train_batch_size": 16, "report_to": "none",
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(json.dumps(recipe))
        run("train", str(tmp_path / f"{name}.yaml"))
        run("evaluate", str(tmp_path / name), f"rpr={new}", "--out", str(tmp_path / f"report-{name}"))
        report = json.loads((tmp_path / f"report-{name}" / "report.json").read_text())["suites"]["rpr"]
        found[name] = report["overall"]["accuracy with the context"]["value"]
    assert found["heeds"] > 0.9 > 0.6 > found["pooled"]
