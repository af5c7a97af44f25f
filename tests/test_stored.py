"""A datum on disk is the datum, and data on disk are a sequence of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpo.data.digests import digest, firsts, joined
from mmpo.data.stored import ORDER, StoredData, decode, encode
from mmpo.errors import UserError
from mmpo.pieces import Pieces, blobs, finish, part, write_piece
from mmpo.types import ROLES, About, Contrast, Datum, Judgement

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs too
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | FLOATS | WORDS, lambda one: st.lists(one, max_size=2))
TEXTS = WORDS | st.lists(
    st.fixed_dictionaries({"role": WORDS, "content": VALUES}, optional={"name": VALUES}), max_size=2
)
MAYBE = st.none() | FLOATS


@st.composite
def data(draw: st.DrawFn) -> Datum:
    k = draw(st.integers(1, 4))
    place = st.integers(0, k - 1)
    line = st.tuples(*[MAYBE] * k)
    span = st.tuples(st.integers(0, 9), st.integers(0, 9))
    own = st.builds(About, st.none() | TEXTS, st.sampled_from(("", *ROLES)), st.lists(span, max_size=2).map(tuple))
    said = st.builds(Judgement, place, place, MAYBE, FLOATS, MAYBE, FLOATS, st.none() | WORDS)
    combined = st.builds(Contrast, st.tuples(*[FLOATS] * k), FLOATS, FLOATS)
    return Datum(
        draw(WORDS),
        draw(TEXTS),
        draw(st.tuples(*[TEXTS] * k)),
        draw(st.none() | line),
        draw(st.none() | st.lists(st.tuples(place, place), max_size=3).map(tuple)),
        draw(st.lists(said, max_size=3).map(tuple)),
        draw(st.dictionaries(WORDS, line, max_size=2)),
        draw(FLOATS),
        draw(st.none() | WORDS),
        draw(WORDS),
        draw(st.booleans()),
        draw(st.just(()) | st.tuples(*[own] * k)),
        draw(st.lists(combined, max_size=2).map(tuple)),
        draw(st.none() | WORDS),
    )


@settings(max_examples=40)
@given(data())
def test_a_datum_comes_back_exactly(datum: Datum) -> None:
    again = decode(encode(datum))
    assert repr(again) == repr(datum) and again == datum
    assert encode(again) == encode(datum)


def test_halves_of_surrogates_stay_apart() -> None:
    """Written as escapes, JSON readers would join the two."""
    apart = Datum("\ud83d\ude00", "\ud83d", ("\ude00", "\U0001f600"))
    assert decode(encode(apart)) == apart and len(apart.id) == 2


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3)))
def test_firsts_are_where_the_same_stood_first(numbers: list[int]) -> None:
    found = firsts(joined(b"".join(digest(str(n)) for n in numbers)))
    assert found.tolist() == [numbers.index(n) for n in numbers]


def stored(folder: Path, sizes: tuple[int, ...], **told: Any) -> tuple[StoredData, list[Datum]]:
    data = [Datum(str(n), f"prompt {n}", ("a", "b"), (1.0, 0.0)) for n in range(sum(sizes))]
    rest = iter(data)
    for n, size in enumerate(sizes):
        write_piece(part(folder, n), {"datum": blobs([encode(next(rest)) for _ in range(size)])})
    finish(folder, {"pieces": list(sizes), "ordered": False, "digest": "d", "voices": {"annotators": ["ann"]}, **told})
    return StoredData.open(folder), data


def test_data_on_disk_are_a_sequence(tmp_path: Path) -> None:
    found, data = stored(tmp_path, (3, 0, 2))
    assert len(found) == 5 and list(found) == data and found[-1] == data[-1]
    assert found[1:4] == data[1:4] and found[::-2] == data[::-2] and data[3] in found
    assert list(pickle.loads(pickle.dumps(found))) == data
    assert found.digest == "d" and found.voices == {"annotators": ["ann"]}
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            found[beyond]


def test_another_order_is_followed(tmp_path: Path) -> None:
    np.save(tmp_path / ORDER, np.array([4, 0, 3, 1, 2]))
    found, data = stored(tmp_path, (2, 3), ordered=True)
    assert [d.id for d in found] == ["4", "0", "3", "1", "2"] == [d.id for d in pickle.loads(pickle.dumps(found))]
    assert found[1:3] == [data[0], data[3]]


def test_more_pieces_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpo.pieces._OPEN", 2)
    found, data = stored(tmp_path, (1,) * 7)
    assert [found[n] for n in (6, 0, 3, 6, 1)] == [data[n] for n in (6, 0, 3, 6, 1)]
    assert Pieces(tmp_path, (1,) * 7).lengths("datum").tolist() == [len(encode(d)) for d in data]


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    found, _ = stored(tmp_path, (2,))
    part(tmp_path, 0).write_bytes(b"ARROW1 no more")
    with pytest.raises(UserError, match=r"part-000000\.arrow: prepared data that cannot be read .* delete"):
        found[0]
    (tmp_path / "account.json").unlink()
    with pytest.raises(UserError, match="holds no prepared data"):
        StoredData.open(tmp_path)
