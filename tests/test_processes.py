"""Several processes take the steps of one: the same prompts, each counted once, and the same curve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from soak.ranks import curve, environment, launched, of_rank, recipe, run
from soak.world import world

from mmpo.batch.deal import Deal, dealt
from mmpo.run.processes import of_any_number


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"), prompts=21)


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)])
def test_each_prompt_of_an_epoch_is_dealt_once(processes: int, parts: int) -> None:
    costs = [7, 3, 9, 1, 1, 4, 8, 2, 6, 5, 3, 3, 9, 2, 1, 7, 4, 4, 5, 6, 2]
    alone = Deal(costs, 8, seed=3)
    hands = [Deal(costs, 8, processes=processes, process=n, parts=parts, seed=3) for n in range(processes)]
    for epoch in (0, 1):
        for deal in (alone, *hands):
            deal.set_epoch(epoch)
        steps = [sorted(step) for step in alone]
        shared = [list(hand) for hand in hands]
        assert all(len(hand) == len(steps) * parts == len(hands[0]) for hand in shared)
        for n, step in enumerate(steps):
            mine = [i for hand in shared for share in hand[n * parts : (n + 1) * parts] for i in share]
            assert sorted(mine) == step
        assert Counter(i for step in steps for i in step) == Counter(range(21))


def test_the_order_is_that_of_the_seed_and_the_epoch() -> None:
    first, again, other = Deal([1] * 9, 4, seed=1), Deal([1] * 9, 4, seed=1), Deal([1] * 9, 4, seed=2)
    assert list(first) == list(again) != list(other)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before
    assert list(Deal([1] * 9, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert list(Deal([1] * 9, 4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_shares_cost_about_the_same() -> None:
    assert dealt([5, 4, 3, 3, 3], 2) == [[1, 2, 4], [0, 3]]  # 10 and 8
    assert dealt([2, 1], 4) == [[0], [1], [], []]


def test_a_run_may_go_on_with_other_processes_but_not_with_another_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(processes: int, coupled: bool = False, **arguments: int) -> dict[str, Any]:
        monkeypatch.setattr("mmpo.run.processes.PROCESSES", processes)
        return of_any_number({"seed": 1, **arguments}, coupled)

    one = identity(1, per_device_train_batch_size=8)
    assert one == {"seed": 1, "prompts_a_step": 8} == identity(1)
    assert one == identity(4, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    assert one != identity(2, per_device_train_batch_size=8)
    assert identity(1, coupled=True) != identity(2, coupled=True)


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_train_like_one(divided: bool, tiny: Path) -> None:
    """21 prompts by 8 leave a step of 5, 11 held out an evaluation of 3; in two parts, if divided with an adapter."""
    keys: dict[str, Any] = {"lora": {"r": 4}} if divided else {"reference": "cached"}
    found = {}
    for processes in (1, 2):
        fsdp = {"fsdp": True} if divided and processes > 1 else {}
        made = recipe(tiny, f"{divided}-{processes}", processes, 6, accumulation=2, eval_steps=3, **keys, **fsdp)
        done = run(made, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("ok   finite numbers") == 1
        found[processes] = curve(made), load_file(tiny / "runs" / f"{divided}-{processes}" / "model.safetensors")
    (one, alone), (two, together) = found[1], found[2]
    for name, values in one.items():
        assert len(values) >= 3 and two[name] == pytest.approx(values, abs=1e-5), name
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        assert (weight - together[name]).abs().max() < 1e-4, name


@pytest.mark.slow
def test_two_processes_learn_the_same_beside_the_model(tiny: Path) -> None:
    """Rows of people and heads on the prompt by gradients of both processes, a memory by what both observed."""
    rows = [json.loads(line) for line in (tiny / "rows.jsonl").read_text().splitlines()]
    people = ("ann", "bob", "cy")
    for n, row in enumerate(rows):
        scores = row.pop("scores")
        row["annotators"] = [people[n % 3], people[(n + 1) % 3]]
        row["annotator_scores"] = [scores, [1 - score for score in scores]]
    named = tiny / "people.jsonl"
    named.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = {"name": "pal_b", "target": {"Posterior": {"of": "Hard", "price": "Logistic"}}}
    found = []
    for processes in (1, 2):
        name = f"people-{processes}"
        keys: dict[str, Any] = {"data": str(named), "method": method, "head_learning_rate": 1e-2}
        made = recipe(tiny, name, processes, 4, evaluate=False, **keys)
        done = run(made, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tiny / "runs" / name
        found.append({**load_file(folder / "model.safetensors"), **load_file(folder / "method_state.safetensors")})
    alone, together = found
    assert alone.keys() == together.keys() >= {"heads.tables.people.weight", "memory.reliability"}
    for key, value in alone.items():
        assert (value - together[key]).abs().max() < 1e-4 * value.abs().max().clamp_min(1), key


COUNTING = """
import os
from pathlib import Path
from mmpo.batch import Collator
from mmpo.cli import main
from mmpo.models import reference
from mmpo.models.reference import FrozenCopy, ReferenceStore

read, ask, put, responses, keys, reading = reference._read, FrozenCopy.__call__, ReferenceStore.put, [], [], []

def counted_read(*given):
    reading.append(True)
    try:
        return read(*given)
    finally:
        reading.clear()

def counted_ask(self, model, batch):
    responses.extend([int(batch.evidence.mask.sum())] if reading else [])
    return ask(self, model, batch)

def counted_put(self, items):
    keys.extend(key.hex() for key in items)
    put(self, items)

# So small that there is more than one.
chunks = Collator.chunks
Collator.chunks = lambda self, examples, tokens=300, **how: chunks(self, examples, tokens, **how)
reference._read, FrozenCopy.__call__, ReferenceStore.put = counted_read, counted_ask, counted_put
try:
    main()
finally:
    Path(__file__).with_name(f"counts-{os.environ['RANK']}").write_text(" ".join([str(sum(responses)), *keys]))
"""


@pytest.mark.slow
def test_two_processes_read_each_response_of_a_cached_reference_once(tiny: Path) -> None:
    """Both read, together as many responses as the data have, and none of them twice; a second run reads none."""
    door = tiny / "counting.py"
    door.write_text(COUNTING)
    files = [tiny / "rows.jsonl", tiny / "held_out.jsonl"]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(door)]
    for name, expected in (("first", sum(len(row["responses"]) for row in rows)), ("second", 0)):
        made = recipe(tiny, name, 2, 1, reference="cached", reference_cache=str(tiny / "counted"))
        done = subprocess.run([*launcher, "train", str(made)], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
        counts = [(tiny / f"counts-{rank}").read_text().split() for rank in (0, 1)]
        read, keys = [int(one[0]) for one in counts], Counter(key for one in counts for key in one[1:])
        assert sum(read) == keys.total() == len(keys) == expected
        assert (min(read) > 0) == (expected > 0)


@pytest.mark.slow
def test_a_lost_process_is_named_and_the_others_leave(tiny: Path) -> None:
    made = recipe(tiny, "lost", 2, 2000, evaluate=False, save_strategy="steps", save_steps=4, save_total_limit=1)
    (started,) = launched(made, 2, 1)
    assert started.stderr is not None
    try:
        while not list((tiny / "runs" / "lost").glob("checkpoint-*/complete.json")):
            assert started.poll() is None, started.stderr.read()[-3000:]
            time.sleep(0.2)
        os.kill(of_rank(started.pid, 1), signal.SIGKILL)
        told = started.communicate(timeout=60)[1]
    finally:
        started.kill()
    assert started.returncode != 0
    assert told.count("process 1 of 2 (counted from 0) went") == 1
    assert "The same command goes on" in told
