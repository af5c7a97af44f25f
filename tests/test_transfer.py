"""Labels carried over by Gromov-Wasserstein matching: values worked by hand, laws of the plan, and the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.cli import main
from mmpo.data import load
from mmpo.data.transfer import MOST, disagreement, distances, gromov_wasserstein, transfer, transfer_preferences
from mmpo.errors import UserError
from mmpo.types import Datum, Judgement
from tiny import ROWS, plain, rows_file, saved

pytest.importorskip("ot")


def moved(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, the same turned, shifted and in another order, and that order."""
    draw = np.random.default_rng(seed)
    x, order = draw.normal(size=(n, 3)), draw.permutation(n)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    return x, (x @ turn + 7)[order], order


def ordered(u: np.ndarray) -> np.ndarray:
    return np.heaviside(u[:, None] - u, 0.5)


# ---------------------------------------------------------------------------------------------- the plan


def test_distances_by_hand() -> None:
    assert distances([[0, 0], [3, 4], [3, 0]]).tolist() == [[0, 5, 3], [5, 0, 4], [3, 4, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_a_turned_and_shuffled_copy_is_found(seed: int) -> None:
    x, y, order = moved(seed)
    plan = gromov_wasserstein(distances(x), distances(y))
    assert disagreement(distances(x), distances(y), plan) < 1e-6
    assert plan.argmax(0).tolist() == order.tolist()
    assert (transfer_preferences(plan, ordered(x[:, 0])) == ordered(x[order, 0])).all()


@pytest.mark.parametrize("smooth", [0.0, 0.001, 0.1])
def test_the_masses_of_a_plan(smooth: float) -> None:
    draw = np.random.default_rng(5)
    p, q = draw.dirichlet(np.ones(5)), draw.dirichlet(np.ones(7))
    c, d = distances(draw.normal(size=(5, 2))), distances(draw.normal(size=(7, 5)))
    plan = gromov_wasserstein(c, d, p, q, smooth=smooth)
    assert np.abs(plan.sum(1) - p).max() < 1e-6 and np.abs(plan.sum(0) - q).max() < 1e-6 and plan.min() >= 0


def test_an_isometry_or_another_order_costs_nothing() -> None:
    draw = np.random.default_rng(6)
    x, y, p = draw.normal(size=(6, 3)), draw.normal(size=(6, 2)), draw.dirichlet(np.ones(6))
    turn, order = np.linalg.qr(draw.normal(size=(3, 3)))[0], draw.permutation(6)
    cost = {
        name: disagreement(c, distances(y), gromov_wasserstein(c, distances(y), mass))
        for name, c, mass in (
            ("as it is", distances(x), p),
            ("turned", distances(x @ turn - 4), p),
            ("in another order", distances(x[order]), p[order]),
        )
    }
    assert list(cost.values()) == pytest.approx([cost["as it is"]] * 3, abs=1e-9)


def test_disagreement_is_the_sum_over_four_points() -> None:
    draw = np.random.default_rng(7)
    c, d, t = distances(draw.normal(size=(4, 2))), distances(draw.normal(size=(5, 2))), draw.dirichlet(np.ones(20))
    t = t.reshape(4, 5)
    by_hand = np.einsum("ij,kl,ikjl->", t, t, (c[:, :, None, None] - d[None, None]) ** 2)
    assert disagreement(c, d, t) == pytest.approx(by_hand)


def test_entropy_spreads_the_plan() -> None:
    x, y, _ = moved(1)
    c, d = distances(x), distances(y)
    largest = [gromov_wasserstein(c, d, smooth=smooth).max() for smooth in (0.0, 0.01, 100.0)]
    assert largest[0] > largest[1] > largest[2] == pytest.approx(1 / 144, rel=0.01)
    with pytest.raises(UserError, match="smooth is -1"):
        gromov_wasserstein(c, d, smooth=-1)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(UserError, match="pip install 'mmpo\\[transfer\\]'"):
        gromov_wasserstein(np.zeros((2, 2)), np.zeros((2, 2)))


# ---------------------------------------------------------------------------------------------- labels


def test_the_identity_leaves_labels_as_they_are_and_would_shrink_them_undivided() -> None:
    z = np.array([[0.5, 0.9, 1.0], [0.1, 0.5, 0.3], [0.0, 0.7, 0.5]])
    plan = np.eye(3) / 3
    assert transfer_preferences(plan, z) == pytest.approx(z)
    assert plan.T @ z @ plan == pytest.approx(z / 9)


def test_labels_by_hand() -> None:
    """Target a is half 1 and half 2, b is 3: z_ab = (z_13 + z_23) / 2 = (1 + .6) / 2, z_aa = 1/2."""
    z = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.6], [0.0, 0.4, 0.0]])
    plan = np.array([[1, 0], [1, 0], [0, 1]]) / 3
    assert transfer_preferences(plan, z) == pytest.approx(np.array([[0.5, 0.8], [0.2, 0.5]]))


def test_certain_labels_stay_probabilities_whatever_the_rounding() -> None:
    """Two good points and two bad ones, each the image of several: sums in another order differ."""
    draw = np.random.default_rng(0)
    z = np.heaviside(np.subtract.outer([1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]), 0.5)
    for _ in range(20):
        found = transfer_preferences(np.kron(np.eye(2), draw.random((3, 2))), z)
        assert found[:2, 2:] == pytest.approx(1) and found.min() >= 0 and found.max() <= 1


def test_a_plan_that_knows_nothing_tosses_coins_and_labels_stay_probabilities() -> None:
    draw = np.random.default_rng(8)
    z = draw.random((6, 6))
    z = np.triu(z, 1) + np.tril(1 - z.T, -1)
    assert transfer_preferences(np.full((6, 4), 1 / 24), z) == pytest.approx(np.full((4, 4), 0.5))
    told = transfer_preferences(draw.random((6, 4)), z)
    assert told + told.T == pytest.approx(np.ones((4, 4))) and (told >= 0).all() and (told <= 1).all()


@pytest.mark.parametrize(
    ("plan", "z", "message"),
    [
        (np.ones((3, 2)), np.full((2, 2), 0.5), "goes with labels"),
        (np.ones((2, 2)), np.array([[0.5, 1.0], [1.0, 0.5]]), "must sum to 1"),
        (np.array([[1.0, 0.0], [1.0, 0.0]]), np.full((2, 2), 0.5), "without mass"),
    ],
)
def test_labels_that_mean_nothing_are_refused(plan: Any, z: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        transfer_preferences(plan, z)


# ---------------------------------------------------------------------------------------------- data


def world(seed: int = 0) -> tuple[list[Datum], list[Datum], dict[str, np.ndarray]]:
    """Twelve graded answers to four prompts, the same answers in another space, and where each lies."""
    x, y, order = moved(seed)
    at = {f"x{n}": point for n, point in enumerate(x)} | {f"y{n}": point for n, point in enumerate(y)}
    source = [
        Datum(f"s{n}", "p", tuple(f"x{i}" for i in trio), grades=tuple(float(x[i, 0]) for i in trio))
        for n, trio in enumerate(np.arange(12).reshape(4, 3).tolist())
    ]
    target = [
        Datum(f"t{n}", "p", tuple(f"y{i}" for i in four)) for n, four in enumerate(((0, 1, 2, 3), (4, 5), (6, 7)))
    ]
    truth = {f"y{n}": x[order[n], 0] for n in range(12)}
    return source, target, at | {"truth": truth}  # type: ignore[dict-item]


def test_labels_reach_the_pairs_of_each_prompt() -> None:
    source, target, at = world()

    def place(data: Sequence[Datum]) -> np.ndarray:
        return np.array([at[str(d.responses[0])] for d in data])

    # All twelve, so that the target is the whole of the copy.
    target.append(Datum("rest", "p", ("y8", "y9", "y10", "y11"), judgements=(Judgement(0, 1, p=0.3),)))
    made, counts = transfer(target, source, place)
    truth: Any = at["truth"]
    for d, before in zip(made, target, strict=True):
        k = len(d.responses)
        assert d.responses == before.responses and len(d.judgements) == k * (k - 1) // 2
        for said in d.judgements:
            better = truth[d.responses[said.first]] > truth[d.responses[said.second]]
            assert said.p == pytest.approx(float(better))
    assert counts == {
        "graded answers of the source": 12,
        "answers of the source without a grade left out": 0,
        "pairs labelled": 14,
        "of them even": 0,
        "data whose own feedback was left out": 1,
        "percent of the distances explained": 100,
    }


def test_what_cannot_be_matched_is_refused() -> None:
    source, target, _ = world()

    def nowhere(data: Sequence[Datum]) -> np.ndarray:
        return np.zeros((len(data), 1))

    with pytest.raises(UserError, match="give --model"):
        transfer(target, source)
    voted = [Datum("s", "p", ("a", "b"), judgements=(Judgement(0, 1, p=1.0),))]
    ranked = [Datum("s", "p", ("a", "b"), grades=(1.0, 2.0), ranked=True)]
    for bare in (voted, ranked):
        with pytest.raises(UserError, match="the source has 0 graded answers"):
            transfer(target, bare, nowhere)
    many = [Datum("s", "p", tuple(map(str, range(MOST + 1))), grades=(1.0,) * (MOST + 1))]
    with pytest.raises(UserError, match=f"at most {MOST}"):
        transfer(target, many, nowhere)


# ---------------------------------------------------------------------------------------------- the command


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code or 0)


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_the_command(
    kind: str, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    """The data themselves are the other task, so that each answer finds itself and labels are its own grades."""
    graded = [{**row, "scores": [float(len(str(r))) for r in row["responses"]]} for row in ROWS]
    for row in graded:
        row.pop("ranks", None), row.pop("votes", None)
    bare = [{"prompt": row["prompt"], "responses": row["responses"]} for row in ROWS]
    source, target = rows_file(tmp_path, graded, "source.jsonl"), rows_file(tmp_path, bare, "target.jsonl")
    model = {"policy": tiny_policy, "reward": tiny_reward}[kind](0)
    encoder, out = saved(model, plain(tiny_tokenizer), tmp_path / "encoder"), tmp_path / "labelled.jsonl"
    assert run("build", "transfer", source, target, "--out", str(out), "--model", encoder, "--max-length", "64") == 0
    said = capsys.readouterr().out
    assert "source: rows: 6 in, 6 used, 0 dropped" in said and "percent of the distances explained 100" in said
    labelled = load(str(out)).data
    for d, row in zip(labelled, graded, strict=True):
        scores = row["scores"]
        for j in d.judgements:
            expected = np.heaviside(scores[j.first] - scores[j.second], 0.5)
            assert j.p == pytest.approx(expected, abs=1e-6)


def test_wrong_use_is_one_line(tmp_path: Path, capsys: Any) -> None:
    rows, out = rows_file(tmp_path), str(tmp_path / "o.jsonl")
    for words, message in (
        (["transfer", rows], "build transfer needs two data"),
        (["transfer", rows, rows], "give --model"),
        (["goals", rows, "--smooth", "0.1"], "--smooth is no option of build goals"),
        (["transfer", rows, rows, "--model", rows, "--k", "2"], "is a file; give the folder"),
    ):
        assert run("build", *words, "--out", out) == 2
        assert message in capsys.readouterr().err
