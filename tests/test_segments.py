"""CPL's world: rows of segments, their batch, a small policy, and the same Method and loop as for texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import control
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus
from transformers import TrainingArguments

from mmpo import methods
from mmpo.batch.segments import SegmentBatch, SegmentCollator
from mmpo.data import Source
from mmpo.data.segments import SEGMENTS, Segment, SegmentDatum, Space, load_segments
from mmpo.errors import UserError
from mmpo.models.reference import FrozenCopy
from mmpo.models.segments import PolicyShape, SegmentPolicy, SegmentReader
from mmpo.run.loop import GradedTrainer
from mmpo.types import Evidence, Judgement, Reading

LEFT = {"observations": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "actions": [0, 1, 1]}
RIGHT = {"observations": [[9.0, 8.0]], "actions": [2]}
FREE = {"observations": [[1.0, 0.0], [0.0, 1.0]], "actions": [[0.5, -1.0, 2.0], [0.0, 0.0, 1.0]]}


def rows(folder: Path, *found: dict[str, Any], name: str = "segments.jsonl") -> str:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in found)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


# ---------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", ["segments.jsonl", "segments.jsonl.gz"])
def test_a_row_is_read_as_it_is_written(tmp_path: Path, name: str) -> None:
    loaded = load_segments(rows(tmp_path, {"segments": [LEFT, RIGHT], "scores": [2, 5], "weight": 3}, name=name))
    (datum,) = loaded.data
    assert loaded.space == Space(2, None)
    assert [segment.observations.tolist() for segment in datum.segments] == [LEFT["observations"], [[9.0, 8.0]]]
    assert [segment.actions.tolist() for segment in datum.segments] == [[0, 1, 1], [2]]
    assert datum.said.grades == (2.0, 5.0)
    assert datum.said.weight == 3
    assert datum.said.id == datum.said.source == f"{tmp_path / name}:1"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"preferred": 1}, {"judgements": (Judgement(0, 1, p=0.0),)}),
        ({"p_first": 0.7}, {"judgements": (Judgement(0, 1, p=0.7),)}),
        ({"votes": [0, 0, 1]}, {"judgements": (Judgement(0, 1, p=2 / 3, count=3),)}),
        ({"pairwise": [[1, 0, 0]]}, {"judgements": (Judgement(1, 0, p=1.0),)}),
        ({"ranks": [2, 1]}, {"grades": (-2.0, -1.0), "ranked": True}),
    ],
)
def test_whatever_is_said_of_texts_can_be_said_of_segments(tmp_path: Path, stated: Any, expected: Any) -> None:
    (datum,) = load_segments(rows(tmp_path, {"segments": [LEFT, RIGHT], **stated})).data
    assert {name: getattr(datum.said, name) for name in expected} == expected


def test_a_datum_survives_its_row(tmp_path: Path) -> None:
    segments = [Segment.of(s["observations"], s["actions"]) for s in (FREE, FREE, FREE)]
    said = Judgement(2, 0, p=0.25, count=4.0)
    datum = SegmentDatum.of("seven", segments, grades=(1.0, None, 3.0), judgements=(said,), weight=0.5)
    loaded = load_segments(rows(tmp_path, datum.row()))
    (again,) = loaded.data
    assert (again.said.grades, again.said.judgements, again.said.weight) == ((1.0, None, 3.0), (said,), 0.5)
    assert again.row() == datum.row()
    assert loaded.space == Space(2, 3)
    assert loaded.ledger.columns_unused == set()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"segments": [LEFT], "scores": [1]}, "segments has 1 entries; give at least 2"),
        ({"scores": [1, 2]}, "segments is missing; give it"),
        ({"segments": [LEFT, RIGHT]}, "there is no feedback; give scores"),
        ({"segments": [LEFT, RIGHT], "scores": [1]}, "scores has 1 entries for 2; give one each"),
        ({"segments": [LEFT, [1]], "scores": [1, 2]}, r"segments\[1\] is no mapping with observations and actions"),
        (
            {"segments": [LEFT, {**RIGHT, "actions": [1, 1]}], "scores": [1, 2]},
            r"segments\[1\] has 1 observations and 2 actions; give one of each",
        ),
        (
            {"segments": [LEFT, {"observations": [[1, 2], [3]], "actions": [0, 0]}], "scores": [1, 2]},
            r"segments\[1\].observations\[1\] has 1 entries for 2; give one each",
        ),
        (
            {"segments": [LEFT, {"observations": [[1, None]], "actions": [0]}], "scores": [1, 2]},
            r"segments\[1\].observations\[0\]\[1\] is null; give a finite number",
        ),
        (
            {"segments": [LEFT, {"observations": [], "actions": []}], "scores": [1, 2]},
            r"segments\[1\].observations is empty; give at least one step",
        ),
        (
            {"segments": [LEFT, {**RIGHT, "actions": [0.5]}], "scores": [1, 2]},
            r"segments\[1\].actions\[0\] is 0.5; give",
        ),
        ({"segments": [LEFT, {**RIGHT, "actions": [-1]}], "scores": [1, 2]}, r"segments\[1\].actions\[0\] is -1; give"),
        (
            {"segments": [LEFT, FREE], "scores": [1, 2]},
            r"segments\[1\] has 2 numbers an observation and 3 numbers an action, the first row 2 .* one choice",
        ),
    ],
)
def test_a_bad_row_is_named_and_dropped_on_request(tmp_path: Path, row: Any, message: str) -> None:
    good = {"segments": [LEFT, RIGHT], "preferred": 0}
    path = rows(tmp_path, good, row)
    with pytest.raises(UserError, match=rf"segments.jsonl:2: {message}") as caught:
        load_segments(path)
    assert "\n" not in str(caught.value)
    loaded = load_segments(path, on_bad_row="drop")
    assert (len(loaded.data), loaded.ledger.rows_in, loaded.ledger.rows_dropped) == (1, 2, 1)
    with pytest.raises(UserError, match="no row of segments can be used"):
        load_segments(rows(tmp_path, {"segments": []}), on_bad_row="drop")


def test_two_worlds_do_not_mix(tmp_path: Path) -> None:
    one = rows(tmp_path, {"segments": [LEFT, RIGHT], "preferred": 0}, name="one.jsonl")
    other = rows(tmp_path, {"segments": [FREE, FREE], "preferred": 0}, name="other.jsonl")
    with pytest.raises(UserError, match=r"other.jsonl:1: segments\[0\] has 2 numbers an observation and 3 numbers"):
        load_segments([one, other])
    assert len(load_segments([one, one]).data) == 2


def test_every_row_and_column_is_accounted_for(tmp_path: Path) -> None:
    row = {"segments": [{**LEFT, "rewards": [0, 0, 1]}, RIGHT], "scores": [1, 2], "colour": "red"}
    path = rows(tmp_path, {**row, "split": "test"}, *[{**row, "split": "train"}] * 3)
    ledger = load_segments(Source(path, split="train", limit=2)).ledger
    assert (ledger.rows_in, ledger.rows_used, ledger.rows_dropped) == (3, 2, 1)
    assert ledger.columns_unused == {"colour"}
    assert ledger.notes == [
        "limit 2: the rows from 4 on were not read",
        "not used of the segments: rewards (rows: 2)",
    ]
    with pytest.raises(UserError, match="weight of a source is for texts"):
        load_segments(Source(path, weight=2))


def test_the_loader_of_texts_says_where_segments_are_trained() -> None:
    with pytest.raises(UserError, match=r"^a.jsonl: rows of segments hold no texts; .* mmpo.models.segments$"):
        SEGMENTS.read(None, Source("a.jsonl"))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- batch and reading


def datum(name: str, lengths: list[int], grades: tuple[float, ...], actions: int = 0) -> SegmentDatum:
    rng = torch.Generator().manual_seed(len(name) + sum(lengths))

    def draw(n: int) -> Segment:
        done = torch.randn(n, actions, generator=rng) if actions else torch.randint(3, (n,), generator=rng)
        return Segment.of(torch.randn(n, 2, generator=rng).numpy(), done.numpy())

    return SegmentDatum.of(name, [draw(n) for n in lengths], grades=grades)


DATA = [datum("a", [3, 1], (1.0, 2.0)), datum("bb", [2, 5, 4], (3.0, 1.0, 1.0))]


def alone(policy: SegmentPolicy, segment: Segment, discount: float) -> Tensor:
    """log pi of one segment, step by step."""
    steps = [
        discount**t * policy(torch.tensor(s)[None], torch.tensor(a)[None])[0]
        for t, (s, a) in enumerate(zip(segment.observations, segment.actions, strict=True))
    ]
    return torch.stack(steps).sum()


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("actions", [0, 2])
def test_a_batch_reads_like_its_segments_alone(discount: float, actions: int) -> None:
    torch.manual_seed(0)
    data = [datum("a", [3, 1], (1.0, 2.0), actions), datum("bb", [2, 5, 4], (3.0, 1.0, 1.0), actions)]
    policy = SegmentPolicy(PolicyShape(2, choices=0 if actions else 3, action=actions))
    reading = SegmentReader(FrozenCopy.of(policy).model, discount)(policy, SegmentCollator().batch(data))
    assert reading.logps is not None and reading.lengths is not None and reading.ref_logps is not None
    assert reading.lengths.tolist() == [[3, 1, 0], [2, 5, 4]]
    assert reading.mask.tolist() == [[True, True, False], [True, True, True]]
    for b, one in enumerate(data):
        for k, segment in enumerate(one.segments):
            torch.testing.assert_close(reading.logps[b, k], alone(policy, segment, discount))
    torch.testing.assert_close(reading.ref_logps, reading.logps.detach())
    assert reading.logps.requires_grad and not reading.ref_logps.requires_grad


def test_a_policy_of_numbers_is_a_gaussian() -> None:
    policy = SegmentPolicy(PolicyShape(2, action=2, deviation=0.5))
    seen, done = torch.randn(4, 2), torch.randn(4, 2)
    # log N(a; mu, 1/4 I) = -2 |a - mu|^2 - log(2 pi / 4): CPL's squared distance, up to scale and a constant.
    expected = -2 * (done - policy.network(seen)).square().sum(-1) - torch.log(torch.tensor(torch.pi / 2))
    torch.testing.assert_close(policy(seen, done), expected)


def test_a_policy_is_what_it_was_after_saving(tmp_path: Path) -> None:
    policy = SegmentPolicy.of(Space(2, None), choices=3, width=8, depth=3)
    policy.save(tmp_path / "policy")
    again = SegmentPolicy.load(tmp_path / "policy")
    assert again.shape == policy.shape
    torch.testing.assert_close(again.state_dict(), policy.state_dict(), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"holds no policy of SegmentPolicy\.save"):
        SegmentPolicy.load(tmp_path)
    with pytest.raises(UserError, match="choices is 2 and action 1; give one of them"):
        SegmentPolicy.of(Space(2, 1), choices=2)


def test_micro_batches_hold_all_the_data_and_no_more_steps_than_asked() -> None:
    parts = SegmentCollator(micro_batch_steps=11)([*DATA, DATA[0]])["batch"]
    assert sorted(name for part in parts for name in part.ids) == ["a", "a", "bb"]
    assert [len(part.time) for part in parts] == [11, 8]
    moved = parts[0].to("cpu")
    assert isinstance(moved, SegmentBatch) and len(moved) == 1


# ---------------------------------------------------------------------------------------------- CPL


def of_logps(first: float, second: float, better: int) -> tuple[Evidence, Reading]:
    """Two segments with these log-probs."""
    grades = (1.0, 0.0) if better == 0 else (0.0, 1.0)
    said = SegmentCollator().batch([datum("a", [1, 1], grades)]).evidence
    return said, Reading(said.mask, logps=torch.tensor([[first, second]], requires_grad=True))


@pytest.mark.parametrize(
    ("better", "lam", "loss"), [(0, 1.0, 0.313262), (0, 0.5, 0.974077), (1, 1.0, 1.313262), (1, 0.5, 2.126928)]
)
def test_the_loss_of_two_segments_worked_by_hand(better: int, lam: float, loss: float) -> None:
    # S = 0.1 * (-20, -30) = (-2, -3); the price is softplus(lam S- - S+).
    method = methods.build("cpl", alpha=0.1, lam=lam)
    assert method(*of_logps(-20.0, -30.0, better)).loss.item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_a_bias_rewards_likely_segments(lam: float) -> None:
    said, reading = of_logps(-20.0, -30.0, 0)
    methods.build("cpl", alpha=0.1, lam=lam)(said, reading).loss.backward()
    assert reading.logps is not None and reading.logps.grad is not None
    # Shifting every S by c: dloss/dc = -(1 - lam) sigmoid(lam S- - S+), and S = 0.1 logps.
    expected = -(1 - lam) * torch.sigmoid(torch.tensor(lam * -3 + 2))
    torch.testing.assert_close(reading.logps.grad.sum() / 0.1, expected, atol=1e-6, rtol=1e-5)


def test_ranked_segments_cost_the_mean_over_their_pairs() -> None:
    s = torch.tensor([-2.0, -3.0, -1.0, -2.5])
    said = SegmentCollator().batch([datum("a", [1, 1, 1, 1], (3.0, 1.0, 0.0, 2.0))]).evidence
    loss = methods.build("cpl", alpha=1.0, lam=0.5)(said, Reading(said.mask, logps=s[None])).loss
    order = [0, 3, 1, 2]
    pairs = [(w, v) for at, w in enumerate(order) for v in order[at + 1 :]]
    assert len(pairs) == 6
    torch.testing.assert_close(loss, torch.stack([softplus(0.5 * s[v] - s[w]) for w, v in pairs]).mean())


def test_one_step_against_a_reference_is_dpo() -> None:
    policy = SegmentPolicy(PolicyShape(2, choices=3))
    reader = SegmentReader(FrozenCopy.of(SegmentPolicy(PolicyShape(2, choices=3))).model)
    batch = SegmentCollator().batch([datum("a", [1, 1], (1.0, 0.0))])
    reading = reader(policy, batch)
    assert reading.logps is not None and reading.ref_logps is not None
    h = (reading.logps - reading.ref_logps)[0]
    loss = methods.build("cpl_kl", alpha=0.2, lam=1.0)(batch.evidence, reading).loss
    torch.testing.assert_close(loss, -logsigmoid(0.2 * (h[0] - h[1])))
    torch.testing.assert_close(loss, methods.build("dpo", beta=0.2)(batch.evidence, reading).loss)


# ---------------------------------------------------------------------------------------------- the loop


def test_the_loop_trains_a_policy_of_segments(tmp_path: Path) -> None:
    """One world, two habits: the better segments always choose action 1."""
    torch.manual_seed(0)
    seen = torch.randn(4, 2).numpy()
    pair = [Segment.of(seen, [1, 1, 1, 1]), Segment.of(seen, [0, 0, 0, 0])]
    data = [SegmentDatum.of(str(n), pair if n % 2 else pair[::-1], grades=(n % 2, 1 - n % 2)) for n in range(16)]
    policy = SegmentPolicy(PolicyShape(2, choices=2, width=8))
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=8,
        max_steps=30,
        learning_rate=0.03,
        report_to="none",
        save_steps=15,
        logging_steps=15,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    trainer = GradedTrainer(
        policy,
        arguments,
        method=methods.build("cpl"),
        reader=SegmentReader(),
        tokenizer=None,
        data_collator=SegmentCollator(micro_batch_steps=20),
        train_dataset=data,
        eval_dataset=data,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    assert after["eval_rewards/accuracies"] == 1.0
    with torch.no_grad():
        assert policy(torch.tensor(seen), torch.ones(4, dtype=torch.long)).exp().min() > 0.9
    assert (tmp_path / "checkpoint-30" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_example_of_control_makes_a_better_driver(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = control.record(sets=1000, k=4, seed=0)
    policy = SegmentPolicy.of(data[0].segments[0].space, choices=2)
    control.clone(policy, data)
    cloned = control.mean_return(policy)
    control.train(policy, methods.build("cpl"), data, str(tmp_path), seed=0, epochs=15)
    assert control.mean_return(policy) > cloned + 50


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ({"observations": [[1e308]], "actions": [0]}, r"segments\[0\]\.observations holds a number beyond 3\.4e38"),
        ({"observations": [[1.0]], "actions": [1e30]}, r"segments\[0\]\.actions\[0\] is 1e\+30"),
    ],
)
def test_a_number_too_large_for_its_type_is_a_bad_row(segment: dict[str, Any], words: str, tmp_path: Path) -> None:
    row = {"segments": [segment, {"observations": [[1.0]], "actions": [0]}], "preferred": 0}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=words):
        load_segments(str(path))
