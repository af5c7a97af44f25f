"""Examples in columns are those that were made, to the bit: in memory or on disk, in pieces, by many processes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from datetime import date, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from mmpo.batch import Collator, Encoded, Example, Limits, Stated, Vocabulary, encode_all, preparing
from mmpo.batch.example import sizes_of
from mmpo.batch.preparing import Preparing, Told, prepare, tokenizer_digest
from mmpo.batch.stored import Growing, Held, StoredExamples
from mmpo.batch.tokenize import encoder_of_many
from mmpo.data.stored import StoredData
from mmpo.doctor import SAMPLE, sampled
from mmpo.errors import AtMost, UserError
from mmpo.methods import CATALOGUE
from mmpo.needs import Wanted, check_needs, without_idle
from mmpo.recipe import Shape
from mmpo.run.gather import gather
from mmpo.types import ROLES, About, Contrast, Datum, Judgement
from tiny import RICH, ROWS, data_of, minilm, plain, roberta_tokenizer, rows_file, sentencepiece_like

LIMITS = Limits(96)
GRADES = st.one_of(st.none(), st.floats(-8, 8, width=32))
ALL = Wanted(frozenset(ROLES), True, True)


@st.composite
def said(draw: Any) -> tuple[Datum, Encoded]:
    """A datum with whatever may be said of it, and tokens drawn at random."""
    k = draw(st.integers(1, 5))

    def each(of: Any) -> tuple[Any, ...]:
        return tuple(draw(st.lists(of, min_size=k, max_size=k)))

    pairs = list(combinations(range(k), 2))
    judgements = [
        Judgement(
            *draw(st.sampled_from(pairs)),
            p=draw(st.one_of(st.none(), st.floats(0, 1))),
            count=draw(st.sampled_from([0.0, 1.0, 3.0])),
            gap=draw(GRADES),
            weight=draw(st.sampled_from([0.0, 0.5, 1.0])),
            annotator=draw(st.sampled_from([None, "ann", "bob", "nobody knows"])),
        )
        for _ in range(draw(st.integers(0, 4)) if pairs else 0)
    ]
    about = [About(role=role, marks=((0, 1),)) for role in each(st.sampled_from(["", "", *ROLES]))]
    contrast = st.builds(Contrast, st.tuples(*[st.floats(-2, 2, width=32)] * k), st.floats(0, 1), st.floats(0, 2))
    name = draw(st.text(st.characters(codec="utf-8"), max_size=4)) + draw(st.sampled_from(["", "\ud83d"]))
    datum = Datum(
        name,
        "p",
        ("r",) * k,
        grades=draw(st.one_of(st.none(), st.just(each(GRADES)))),
        pairs=draw(st.one_of(st.none(), st.just(tuple(pairs[:2])))),
        judgements=tuple(judgements),
        annotator_grades=draw(st.sampled_from([{}, {"ann": each(GRADES)}, {"ann": each(GRADES), "cy": each(GRADES)}])),
        weight=draw(st.sampled_from([0.0, 0.3, 1.0])),
        about=draw(st.sampled_from([(), tuple(about)])),
        contrasts=tuple(draw(st.lists(contrast, max_size=2))),
    )
    return datum, draw(tokens(name, k))


@st.composite
def tokens(draw: Any, name: str, k: int) -> Encoded:
    ids = st.lists(st.integers(0, 300_000), max_size=6).map(tuple)
    responses = tuple(draw(st.lists(ids.filter(bool), min_size=k, max_size=k)))
    counts = st.lists(st.integers(0, 9), min_size=k, max_size=k).map(tuple)
    places = tuple(tuple(range(draw(st.integers(0, len(one))))) for one in responses)
    return Encoded(
        name,
        draw(ids),
        responses,
        draw(st.integers(0, 9)),
        draw(counts),
        draw(st.booleans()),
        draw(st.one_of(st.just(()), counts)),
        draw(st.sampled_from([(), places])) if any(places) else (),
    )


def same(a: Any, b: Any) -> bool:
    """Whether two records are equal, tensors to the bit and in their type."""
    if isinstance(a, torch.Tensor):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes())
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    return type(a) is type(b) and a == b


def held(examples: list[Example], size: int = 3) -> StoredExamples:
    batches = []
    for start in range(0, len(examples), size):
        grown = Growing()
        for example in examples[start : start + size]:
            grown.add(example)
        columns = grown.columns()
        batches.append(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
    return StoredExamples(Held(batches))


# ---------------------------------------------------------------------------------------------- columns


@settings(max_examples=60)
@given(st.lists(said(), min_size=1, max_size=5), st.booleans())
def test_columns_give_back_what_they_took(drawn: list[tuple[Datum, Encoded]], named: bool) -> None:
    people = Vocabulary("annotators", {"ann": 1, "bob": 2}) if named else None
    examples = [Example.of(datum, encoded, people) for datum, encoded in drawn]
    kept = held(examples)
    assert len(kept) == len(examples)
    assert all(same(a, b) for a, b in zip(examples, kept, strict=True))
    collator = Collator(0, shared=False)
    assert [list(line) for line in kept.sizes] == [list(line) for line in sizes_of(examples)]
    assert collator.longest(kept) == collator.longest(examples)
    assert same(Example(kept.encoded(0), kept[0].evidence), examples[0])


def test_a_sequence_like_any_other(tiny_tokenizer: Any) -> None:
    examples = list(prepare(RICH, tiny_tokenizer, LIMITS)[0])
    kept = held(examples, 4)
    for at in (slice(1, 3), slice(None, None, -2), slice(3, 99)):
        assert [one.encoded.id for one in kept[at]] == [one.encoded.id for one in examples[at]]
    assert same(kept[-1], examples[-1]) and len(held([])) == 0 and held([]).sizes.k.tolist() == []
    for at in (len(examples), -len(examples) - 1):
        with pytest.raises(IndexError):
            kept[at]
    logps = np.arange(kept.sizes.k.sum(), dtype=np.float32)
    read = kept.with_reference(logps)
    for again in (read, pickle.loads(pickle.dumps(read))):
        found = [one.ref_logps for one in again]
        assert torch.cat(found).tolist() == logps.tolist()  # type: ignore[arg-type]
        assert [len(one) for one in found] == kept.sizes.k.tolist()  # type: ignore[arg-type]


def test_a_role_that_nobody_knows_is_refused(tiny_tokenizer: Any) -> None:
    odd = replace(data_of()[0], about=(About(role="varient"), About()))
    with pytest.raises(UserError, match=r"^0: unknown role 'varient'. Did you mean 'variant'"):
        prepare([odd], tiny_tokenizer, LIMITS)


# ---------------------------------------------------------------------------------------------- many texts at once

TOKENIZERS = ("plain", "template", "spaces", "closing", "bert", "roberta")


@pytest.fixture(params=TOKENIZERS)
def any_tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Any:
    if request.param == "closing":
        closing = plain(tiny_tokenizer)
        ends = [("<s>", closing.bos_token_id), ("</s>", closing.eos_token_id)]
        closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=ends
        )
        return closing
    return {
        "plain": lambda: plain(tiny_tokenizer),
        "template": lambda: tiny_tokenizer,
        "spaces": sentencepiece_like,
        "bert": lambda: AutoTokenizer.from_pretrained(minilm()),
        "roberta": roberta_tokenizer,
    }[request.param]()


def test_among_many_a_datum_has_the_tokens_that_it_has_alone(any_tokenizer: Any) -> None:
    bare = [datum for datum in RICH if any_tokenizer.mask_token is None or not datum.about]
    odd = Datum("odd", "x " * 60, ("a", "b " * 70), grades=(1.0, 2.0))
    turns = Datum("turns", [{"role": "user", "content": "Go"}], ("a", "b"), grades=(1.0, 2.0))
    for limits in (Limits(400), Limits(120, max_prompt_length=30)):
        data = [replace(one, id=str(n)) for n, one in enumerate([*bare, odd, turns, *data_of()] * 20)]
        many, cuts = encode_all(data, any_tokenizer, limits, "drop")
        alone = [encode_all([datum], any_tokenizer, limits, "drop") for datum in data]
        assert [encoded for _, encoded in many] == [kept[0][1] for kept, _ in alone if kept]
        assert cuts.prompts + sum(one.count for one in cuts.dropped.values()) == len(data)
        assert cuts.prompt_tokens_cut == sum(one.prompt_tokens_cut for _, one in alone)


def test_some_hundred_data_are_few_calls(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, calls = plain(tiny_tokenizer), []
    call = type(tokenizer).__call__
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *a, **k: calls.append(1) or call(self, *a, **k))
    made = encoder_of_many(tokenizer, LIMITS)
    calls.clear()
    made(data_of() * 40)
    assert len(calls) <= 3  # prompts, what follows them, and what is read whole


def test_one_bad_datum_of_many_is_dropped_alone(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% if 'secret' in messages[0]['content'] %}{{ raise_exception('no secrets') }}{% endif %}"
        + tiny_tokenizer.chat_template
    )
    good = data_of()
    bad = [
        replace(good[0], id="refused", prompt="a secret"),
        replace(good[0], id="surrogate", responses=("\ud83d", "b")),
        replace(good[0], id="long", prompt="w " * 200),
    ]
    kept, cuts = encode_all([good[0], bad[0], good[1], bad[1], bad[2], *good[2:]], tokenizer, LIMITS, "drop")
    assert [datum for datum, _ in kept] == good
    assert {reason: one.rows for reason, one in cuts.dropped.items()} == {
        "refused by the chat template": ["refused"],
        "half of a surrogate pair": ["surrogate"],
        "no room for a response": ["long"],
    }
    with pytest.raises(UserError, match="3 of 9 prompts are bad, and max_bad_rows 2 allows 2"):
        encode_all([*good, *bad], tokenizer, LIMITS, AtMost(2))


# ---------------------------------------------------------------------------------------------- what was said


def test_what_was_said_by_hand(tiny_tokenizer: Any) -> None:
    """Four data of 2, 3, 4 and 2 answers with all beside them, and two with own prompts and one voted pair each."""
    _, told = prepare(RICH, tiny_tokenizer, Limits(120), voices=Vocabulary.of("annotators", RICH), wanted=ALL)
    assert told.stated.counts == {
        "comparisons": 1 + 3 + 6 + 1 + 2,
        "with votes": 4 + 2,
        "bare labels": 0,
        "marks": 2 + 3 + 4 + 2 + 4,
        "prompts": 4 + 2,
        "contrasts": 4,
        "rationale": 4,
        "rollout": 8,
        "variant": 4,
        "variant_of_worse": 4,
        "voice_grades": 2 + 3 + 4 + 2 + 4,
    }
    assert told.stated.voices == {1, 2, 3} and told.stated.degree == 2.0
    again = Stated.of(json.loads(json.dumps(told.stated.as_dict())))
    assert again == told.stated
    again += Stated.of(told.stated.as_dict())
    assert again.counts["comparisons"] == 26 and again.voices == {1, 2, 3}


@pytest.mark.parametrize("name", ["dpo", *(n for n, entry in CATALOGUE.items() if "rationale" in n or "mask" in n)])
def test_what_a_method_does_not_read_goes_once(name: str) -> None:
    wanted, gone, more = Wanted.by(CATALOGUE[name].build()), Counter[str](), Counter[str]()
    once = [wanted(datum, gone) for datum in RICH]
    assert [wanted(datum, more) for datum in once] == once and not more
    assert (once, dict(gone)) == without_idle(RICH, CATALOGUE[name].build())
    if name == "dpo":
        assert gone == {
            **{f"responses with the role {role}": 8 if role == "rollout" else 4 for role in ROLES},
            "contrasts": 4,
            "marked responses": 15,
        }


# ---------------------------------------------------------------------------------------------- on disk


@pytest.fixture
def on_disk(tmp_path: Path) -> StoredData:
    rows = [{**row, "prompt": f"{n} {row['prompt']}"} for n in range(20) for row in ROWS]
    data = gather(rows_file(tmp_path, rows), Shape(), 3, cache=tmp_path / "cache", workers=1).data
    assert isinstance(data, StoredData) and len(data) == 120
    return data


def small_pieces(monkeypatch: pytest.MonkeyPatch, rows: int = 13) -> None:
    monkeypatch.setattr(preparing, "_ROWS", rows)
    monkeypatch.setattr(preparing, "_FEW", rows)


@pytest.mark.parametrize("workers", [1, 2])
def test_on_disk_as_in_memory(
    workers: int, on_disk: StoredData, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    expected, told = prepare(list(on_disk), tiny_tokenizer, LIMITS)
    found, told_too = prepare(on_disk, tiny_tokenizer, LIMITS, workers=workers)
    assert len(found) == len(expected) == 120 and told == told_too
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert found.folder is not None and found.folder.parent == on_disk.folder.parent
    assert len(list(found.folder.glob("part-*.arrow"))) == 10
    again = pickle.loads(pickle.dumps(found))
    assert same(again[77], expected[77])


def test_known_examples_are_not_made_again(
    on_disk: StoredData, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, told = prepare(on_disk, tiny_tokenizer, LIMITS)
    monkeypatch.setattr(StoredData, "__getitem__", None)
    monkeypatch.setattr(Preparing, "columns", None)
    second, told_too = prepare(on_disk, copy.deepcopy(tiny_tokenizer), LIMITS)
    assert second.folder == first.folder and told == told_too
    assert Collator(0).costs(second).sum() == Collator(0).costs(first).sum()


def test_whatever_changes_the_examples_changes_their_name(
    on_disk: StoredData, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(change: Any) -> Any:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        change(tokenizer)
        return tokenizer

    other = [
        changed(lambda t: setattr(t, "chat_template", None)),
        changed(lambda t: setattr(t, "chat_template", t.chat_template + " ")),
        changed(lambda t: setattr(t, "eos_token", "<s>")),
        changed(lambda t: setattr(t, "split_special_tokens", True)),
        changed(lambda t: t.add_tokens("river")),
        sentencepiece_like(),
    ]
    ways = [
        Preparing(tiny_tokenizer, LIMITS),
        Preparing(tiny_tokenizer, Limits(95)),
        Preparing(tiny_tokenizer, Limits(96, 40)),
        Preparing(tiny_tokenizer, LIMITS, "drop"),
        Preparing(tiny_tokenizer, LIMITS, voices=Vocabulary("annotators", {})),
        Preparing(tiny_tokenizer, LIMITS, voices=Vocabulary("annotators", {"ann": 1})),
        Preparing(tiny_tokenizer, LIMITS, wanted=ALL),
        Preparing(tiny_tokenizer, LIMITS, wanted=replace(ALL, marks=False)),
        *(Preparing(tokenizer, LIMITS) for tokenizer in other),
    ]
    keys = [json.dumps(way.key(on_disk.digest)) for way in ways]
    assert len(set(keys)) == len(keys)
    assert json.dumps(ways[0].key("another")) not in keys
    monkeypatch.setattr("mmpo.batch.preparing.__version__", "another")
    assert json.dumps(ways[0].key(on_disk.digest)) not in keys, "another mmpo may tokenise otherwise"


def test_the_name_of_a_tokenizer(any_tokenizer: Any, tmp_path: Path) -> None:
    before = tokenizer_digest(any_tokenizer)
    any_tokenizer(["a", "a long text"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(any_tokenizer) == before
    any_tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) == before


def test_a_template_that_tells_the_date_is_another_each_day(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow:
        @staticmethod
        def today() -> date:
            return date.today() + timedelta(1)

    dated = copy.deepcopy(tiny_tokenizer)
    dated.chat_template = "{{ strftime_now('%d %B') }}" + tiny_tokenizer.chat_template
    before = [tokenizer_digest(one) for one in (tiny_tokenizer, dated)]
    monkeypatch.setattr(preparing, "date", Tomorrow)
    assert tokenizer_digest(tiny_tokenizer) == before[0] and tokenizer_digest(dated) != before[1]


def test_a_stop_in_the_middle_loses_one_piece(
    on_disk: StoredData, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 20)
    made, columns = [], Preparing.columns

    def stopping(self: Preparing, data: Any) -> Any:
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return columns(self, data)

    monkeypatch.setattr(Preparing, "columns", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(on_disk, tiny_tokenizer, LIMITS)
    found, _ = prepare(on_disk, tiny_tokenizer, LIMITS)
    assert len(made) == 4 + 3  # the fourth again, and the last two
    assert [one.encoded.id for one in found] == [datum.id for datum in on_disk]


def test_a_process_that_is_killed_is_told_and_the_rest_goes_on(
    on_disk: StoredData, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_pieces(monkeypatch, 20)
    parent, columns = os.getpid(), Preparing.columns

    def dying(self: Preparing, data: Any) -> Any:
        if os.getpid() != parent and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return columns(self, data)

    monkeypatch.setattr(Preparing, "columns", dying)
    with pytest.raises(UserError, match="a process that prepared data was killed"):
        prepare(on_disk, tiny_tokenizer, LIMITS, workers=2)
    found, _ = prepare(on_disk, tiny_tokenizer, LIMITS, workers=2)
    assert [one.encoded.id for one in found] == [datum.id for datum in on_disk]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_row_in_a_later_piece(
    workers: int, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_pieces(monkeypatch, 10)
    rows = [{**row, "prompt": f"{n} {row['prompt']}"} for n in range(5) for row in ROWS]
    rows[21]["prompt"] = "w " * 200
    data = gather(rows_file(tmp_path, rows), Shape(), 3, cache=tmp_path / "cache", workers=1).data
    with pytest.raises(UserError, match=r"rows\.jsonl:22: the prompt has .* leaves no room for a response"):
        prepare(data, tiny_tokenizer, LIMITS, workers=workers)
    found, told = prepare(data, tiny_tokenizer, LIMITS, "drop", workers=workers)
    assert len(found) == 29 and told.cuts.dropped["no room for a response"].count == 1
    for _ in range(2):  # made, and known
        with pytest.raises(UserError, match="1 of 30 prompts are bad, and max_bad_rows 0 allows 0"):
            prepare(data, tiny_tokenizer, LIMITS, AtMost(0), workers=workers)


def test_pieces_end_before_they_grow_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "_ROWS", 4)
    monkeypatch.setattr(preparing, "_BYTES", 10)
    sizes = np.array([1, 1, 1, 1, 1, 50, 3, 3, 3, 3, 9])
    assert list(preparing._tasks(sizes)) == [(0, 4), (4, 5), (5, 6), (6, 9), (9, 10), (10, 11)]
    assert list(preparing._tasks(np.array([], np.int64))) == []


@pytest.mark.parametrize(("n", "pieces"), [(1, 1), (640, 10), (6400, 64), (300_000, 74)])
def test_pieces_suit_the_number_of_data(n: int, pieces: int) -> None:
    tasks = list(preparing._tasks(np.ones(n, np.int64)))
    assert len(tasks) == pieces and tasks[0][0] == 0 and tasks[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(tasks))


def test_what_became_of_data_adds_up(tiny_tokenizer: Any) -> None:
    data = [*RICH, *(replace(one, id=f"again {one.id}") for one in RICH)]
    limits = Limits(70, max_prompt_length=20)
    _, whole = prepare(data, tiny_tokenizer, limits, wanted=ALL, on_bad_row="drop")
    total = Told.under(limits)
    for part in (data[:5], data[5:]):
        total += Told.of(json.loads(json.dumps(prepare(part, tiny_tokenizer, limits, "drop", wanted=ALL)[1].as_dict())))
    assert total == whole and whole.cuts.prompts_cut


def test_nothing_left_is_an_error(on_disk: StoredData, tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no data is left after tokenising 120 prompts"):
        prepare(on_disk, tiny_tokenizer, Limits(4), "drop")


def test_a_sample_is_even() -> None:
    assert sampled(range(SAMPLE)) == range(SAMPLE)  # type: ignore[arg-type,comparison-overlap]
    found = sampled(range(3 * SAMPLE + 7))  # type: ignore[arg-type]
    assert len(found) == SAMPLE and set(np.diff(found)) == {3, 4}


def test_a_method_without_its_evidence_is_refused_from_the_counts() -> None:
    labels = Stated(Counter({"comparisons": 5, "bare labels": 5}))
    with pytest.raises(UserError, match="all 5 comparisons are bare labels"):
        check_needs(CATALOGUE["mmpo"].build(), labels)
    assert check_needs(CATALOGUE["dpo"].build(), labels) == {"comparisons": 5, "with votes": 0, "bare labels": 5}
