"""Reference log-probs of large data: read once, kept in one file, found there without a look at the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo.batch import Collator, Limits, StoredExamples, prepare
from mmpo.models import cache_reference, packed, reference
from mmpo.models.reference import FrozenCopy
from mmpo.models.store import ReferenceStore
from mmpo.recipe import Shape
from mmpo.run.gather import gather
from mmpo.types import Batch
from tiny import ROWS, data_of, rows_file

LIMITS = Limits(96)


@pytest.fixture
def model(tiny_policy: Any, tiny_tokenizer: Any) -> Any:
    made = tiny_policy(0)
    packed.enable(made, tiny_tokenizer, "shared")
    return made


@pytest.fixture
def examples(tmp_path: Path, tiny_tokenizer: Any) -> StoredExamples:
    rows = [{**row, "prompt": f"{n} {row['prompt']}"} for n in range(6) for row in ROWS]
    data = gather(rows_file(tmp_path, rows), Shape(), 3, cache=tmp_path / "cache", workers=1).data
    return prepare(data, tiny_tokenizer, LIMITS)[0]


@pytest.fixture
def collator(tiny_tokenizer: Any) -> Collator:
    return Collator.of(tiny_tokenizer)


@pytest.fixture
def store(tmp_path: Path, model: Any) -> ReferenceStore:
    return ReferenceStore.at(tmp_path / "references", model, "autocast bfloat16")


def numbers(examples: StoredExamples) -> np.ndarray:
    assert examples.ref_logps is not None
    return examples.ref_logps


def test_the_log_probs_of_each_response_stand_with_it(
    model: Any, examples: StoredExamples, collator: Collator, store: ReferenceStore
) -> None:
    filled, read = cache_reference(model, examples, collator, store)
    assert read == examples.sizes.k.sum() == len(store) == len(numbers(filled))
    for n in (0, 17, len(filled) - 1):
        alone = FrozenCopy(model)(model, collator.batch([filled[n]]))[0]
        torch.testing.assert_close(filled[n].ref_logps, alone[: len(filled[n].encoded.responses)], rtol=0, atol=1e-4)


def test_the_next_time_one_file_is_read(
    model: Any, examples: StoredExamples, collator: Collator, store: ReferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, _ = cache_reference(model, examples, collator, store)
    assert examples.folder is not None
    (beside,) = store.path.parent.glob("*.npy")
    assert beside.name == f"{store.path.stem}-autocast-bfloat16-{examples.folder.name}.npy"
    monkeypatch.setattr(ReferenceStore, "get", None)
    monkeypatch.setattr(FrozenCopy, "__call__", None)
    again, read = cache_reference(model, examples, collator, store)
    assert read == 0 and numbers(again).tobytes() == numbers(filled).tobytes()


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_file_that_is_damaged_or_lost_is_made_again_from_the_store(
    model: Any,
    examples: StoredExamples,
    collator: Collator,
    store: ReferenceStore,
    damage: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference, "LOOKED_UP", 5)
    filled, _ = cache_reference(model, examples, collator, store)
    (beside,) = store.path.parent.glob("*.npy")
    whole = beside.read_bytes()
    beside.unlink() if damage is None else beside.write_bytes(damage)
    again, read = cache_reference(model, examples, collator, store)
    assert read == 0 and numbers(again).tobytes() == numbers(filled).tobytes()
    assert beside.read_bytes() == whole


def test_what_the_store_knows_is_not_read_again(
    model: Any, examples: StoredExamples, collator: Collator, store: ReferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collator.chunks, "__defaults__", (80,))
    batches: list[int] = []
    read = FrozenCopy.__call__

    def stopping(self: FrozenCopy, model: Any, batch: Batch) -> torch.Tensor:
        if len(batches) == 5:
            raise KeyboardInterrupt
        batches.append(int(batch.evidence.mask.sum()))
        return read(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FrozenCopy, "__call__", stopping)
        cache_reference(model, examples, collator, store)
    assert len(store) == sum(batches)
    assert not list(store.path.parent.glob("*.npy"))
    filled, rest = cache_reference(model, examples, collator, store)
    assert rest == examples.sizes.k.sum() - sum(batches) > 0
    assert np.isfinite(numbers(filled)).all()


def test_without_its_store_the_file_is_worth_nothing(
    model: Any, examples: StoredExamples, collator: Collator, store: ReferenceStore
) -> None:
    _, first = cache_reference(model, examples, collator, store)
    store.path.unlink()
    _, again = cache_reference(model, examples, collator, store)
    assert again == first == len(store)


def test_examples_in_memory_leave_no_file(model: Any, tiny_tokenizer: Any, collator: Collator, tmp_path: Path) -> None:
    store = ReferenceStore.at(tmp_path, model, "float32")
    held, _ = prepare(data_of(), tiny_tokenizer, LIMITS)
    filled, read = cache_reference(model, held, collator, store)
    assert read == len(numbers(filled)) == len(store) and not list(tmp_path.rglob("*.npy"))
    assert cache_reference(model, filled, collator)[1] == read  # without a store nothing is known


def test_responses_that_stand_twice_have_one_number(
    model: Any, tiny_tokenizer: Any, collator: Collator, store: ReferenceStore
) -> None:
    twice, _ = prepare([*data_of(), *data_of()], tiny_tokenizer, LIMITS)
    filled, _ = cache_reference(model, twice, collator, store)
    half = len(numbers(filled)) // 2
    np.testing.assert_allclose(numbers(filled)[:half], numbers(filled)[half:], rtol=0, atol=1e-4)
    assert len(store) == half
