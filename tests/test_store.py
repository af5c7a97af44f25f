"""The cache of reference log-probs: what names a model and a sequence, what a file keeps, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from mmpo.errors import UserError
from mmpo.models import store as room
from mmpo.models.save import save
from mmpo.models.store import ReferenceStore, sequence_key, weights_digest

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: LlamaConfig(**SMALL, num_key_value_heads=1, **more),
    "tied": lambda **more: LlamaConfig(**SMALL, tie_word_embeddings=True, **more),
    "neox": lambda **more: GPTNeoXConfig(**SMALL, **more),
    "gpt2": lambda **more: GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2, **more
    ),
}


def policy(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind](**more))


@pytest.fixture(scope="module", params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_adapter(model: Any, **more: Any) -> Any:
    return get_peft_model(
        model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **more)
    )


def train_a_little(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))


# ---------------------------------------------------------------------------------------------- which model it is


def test_what_does_not_change_the_logits_does_not_change_the_digest(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy(kind)
    digest = weights_digest(model)
    assert len(digest) == 32 and set(digest) <= set("0123456789abcdef")
    model.requires_grad_(False).train()
    model.config.use_cache = False
    model.config._name_or_path = "elsewhere"
    model.config.dtype = "float32"
    model.set_attn_implementation("eager")
    model(input_ids=torch.arange(8)[None])
    assert weights_digest(model) == digest
    assert weights_digest(copy.deepcopy(model)) == digest
    assert weights_digest(torch.compile(model)) == digest
    monkeypatch.setattr(room, "_PIECE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert weights_digest(model) == digest


class NoTokenizer:
    """What ``save`` asks of a tokenizer."""

    model_input_names = ("input_ids", "attention_mask")

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").write_text("{}")


def test_a_saved_model_is_the_same_model(kind: str, tmp_path: Path) -> None:
    model = policy(kind)
    model.save_pretrained(tmp_path / "theirs")
    save(model, NoTokenizer(), tmp_path / "ours")
    for folder in ("theirs", "ours"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / folder, attn_implementation="eager")
        assert weights_digest(again) == weights_digest(model)


def test_an_adapter_is_left_out(kind: str) -> None:
    digest = weights_digest(policy(kind))
    model = with_adapter(policy(kind))
    assert weights_digest(model) == digest
    train_a_little(model)
    assert weights_digest(model) == digest
    with model.disable_adapter():
        assert weights_digest(model) == digest


def test_of_a_module_that_is_trained_whole_the_original_counts(kind: str) -> None:
    digest = weights_digest(policy(kind))
    model = with_adapter(policy(kind), modules_to_save=["lm_head"])
    train_a_little(model)
    assert weights_digest(model) == digest
    with torch.no_grad():
        model.base_model.model.lm_head.original_module.weight[3, 4] += 1
    assert weights_digest(model) != digest


def test_of_tokens_that_are_trained_the_original_counts(kind: str) -> None:
    model = with_adapter(policy(kind), trainable_token_indices=[1, 2])
    train_a_little(model)
    assert weights_digest(model) == weights_digest(policy(kind))


def test_a_merged_adapter_is_refused() -> None:
    model = with_adapter(policy("llama"))
    model.merge_adapter()
    with pytest.raises(UserError, match=r"q_proj, so .*unmerge_adapter"):
        weights_digest(model)


def test_weights_that_are_not_here_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"weight is not whole in this process"):
        weights_digest(model)


def test_tied_weights_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    one = room._sum
    monkeypatch.setattr(room, "_sum", lambda tensor: hashed.append(tensor.numel()) or one(tensor))
    model = policy("tied")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    weights_digest(model)
    assert sorted(hashed) == sorted(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_ulp_of_one_weight_counts(dtype: torch.dtype) -> None:
    model = policy("llama").to(dtype)
    digest = weights_digest(model)
    weight = model.model.layers[1].mlp.down_proj.weight.data
    bits = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    weight.view(bits)[5, 7] ^= 1
    assert weights_digest(model) != digest
    weight.view(bits)[5, 7] ^= 1
    assert weights_digest(model) == digest


def test_names_dtypes_shapes_and_buffers_count() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    digests = [weights_digest(model), weights_digest(nn.Sequential(model[1], model[0], model[2]))]
    model[2].register_buffer("scratch", torch.ones(2), persistent=False)
    assert weights_digest(model) == digests[0]
    model[2].running_mean += 1
    digests.append(weights_digest(model))
    model[2].running_mean = model[2].running_mean.view(3, 1)
    digests.append(weights_digest(model))
    zeros = [
        nn.ParameterDict({"w": nn.Parameter(torch.zeros(4, dtype=dtype))}) for dtype in (torch.half, torch.bfloat16)
    ]
    digests += [weights_digest(model) for model in zeros]
    assert len(set(digests)) == len(digests)


def test_names_count_and_their_order_does_not() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    digest = weights_digest(nn.ModuleDict({"a": first, "b": second}))
    assert weights_digest(nn.ModuleDict({"b": second, "a": first})) == digest
    assert weights_digest(nn.ModuleDict({"a": first, "c": second})) != digest


@pytest.mark.parametrize(
    "setting",
    [
        {"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}},
        {"rms_norm_eps": 1e-5},
        {"hidden_act": "gelu"},
    ],
)
def test_numbers_of_the_config_count(setting: dict[str, Any]) -> None:
    changed = policy("llama", **setting)
    model = policy("llama")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), changed.parameters(), strict=True))
    assert weights_digest(changed) != weights_digest(model)


# ---------------------------------------------------------------------------------------------- which sequence it is


def test_a_key_is_what_the_file_says_it_is() -> None:
    packed = struct.pack("<qq", 2, 3) + "é ".encode() + struct.pack("<qqq", 7, 2**40, -1)
    key = sequence_key([7, 2**40], [-1], "é ")
    assert key == hashlib.blake2b(packed, digest_size=16).digest()


def test_a_key_tells_ids_boundary_and_surroundings_apart() -> None:
    inputs = [
        ([1, 2], [3]), ([1], [2, 3]), ([], [1, 2, 3]), ([1, 2, 3], []), ([1, 2], [4]), ([2, 1], [3]), ([1, 2], [3, 3]),
        ([1, 2], [3], "a"), ([1, 2], [3], "b"), ([1, 2], [3], "\0" * 8), ([0, 1, 2], [3]), ([], []),
    ]  # fmt: skip
    keys = [sequence_key(*given) for given in inputs]
    assert len(set(keys)) == len(keys) and {len(key) for key in keys} == {16}


def test_a_key_is_of_the_numbers_not_of_their_container() -> None:
    key = sequence_key([1, 2], [3])
    for container in (tuple, np.array, torch.tensor, lambda ids: np.array(ids, "int32")):
        assert sequence_key(container([1, 2]), container([3])) == key


# ---------------------------------------------------------------------------------------------- what a file keeps

MODEL = nn.Linear(2, 2)


def key(n: int) -> bytes:
    return sequence_key([n], [n])


def keys(numbers: range) -> list[bytes]:
    return [key(n) for n in numbers]


@pytest.fixture
def store(tmp_path: Path) -> ReferenceStore:
    return ReferenceStore.at(tmp_path, MODEL, "float32")


def test_round_trip(store: ReferenceStore) -> None:
    assert len(store) == 0 and store.get([key(1)]) == [None] and store.get([]) == []
    values = (-100 * torch.rand(1201, generator=torch.Generator().manual_seed(0))).tolist()
    store.put(dict(zip(keys(range(1201)), values, strict=True)))
    assert store.get(keys(range(1201))) == values
    assert store.get([key(3), key(5000), key(3), key(0)]) == [values[3], None, values[3], values[0]]
    store.put({})
    store.put({key(3): -1.5})
    assert store.get([key(3), key(4)]) == [-1.5, values[4]] and len(store) == 1201


def test_what_is_not_finite_is_not_kept(store: ReferenceStore) -> None:
    store.put({key(0): math.nan, key(1): math.inf, key(2): -math.inf, key(3): -3.0})
    assert store.get(keys(range(4))) == [None, None, None, -3.0] and len(store) == 1


def test_precisions_do_not_mix(store: ReferenceStore) -> None:
    half = ReferenceStore.at(store.path.parent, MODEL, "autocast bfloat16")
    assert half.path == store.path
    store.put({key(0): -1.0})
    assert half.get([key(0)]) == [None] and len(half) == 0
    half.put({key(0): -2.0})
    assert store.get([key(0)]) == [-1.0] and half.get([key(0)]) == [-2.0]


def test_models_do_not_mix(store: ReferenceStore) -> None:
    other = ReferenceStore.at(store.path.parent, nn.Linear(2, 2), "float32")
    store.put({key(0): -1.0})
    assert other.get([key(0)]) == [None]


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("MMPO_CACHE", "~/named")
    name = f"reference-{weights_digest(MODEL)}.sqlite"
    assert ReferenceStore.at(None, MODEL, "float32").path == tmp_path / "home" / "named" / name
    monkeypatch.delenv("MMPO_CACHE")
    assert ReferenceStore.at(None, MODEL, "float32").path == tmp_path / "xdg" / "mmpo" / name
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert ReferenceStore.at(None, MODEL, "float32").path == tmp_path / "home" / ".cache" / "mmpo" / name
    assert ReferenceStore.at(str(tmp_path / "asked"), MODEL, "float32").path == tmp_path / "asked" / name


def test_the_file_describes_itself(store: ReferenceStore) -> None:
    with closing(sqlite3.connect(store.path)) as db:
        meta = dict(db.execute("SELECT name, value FROM meta"))
    assert meta["format"] == room.FORMAT and meta["model"] == weights_digest(MODEL) and meta["key"] == room.KEY


def test_a_copy_works_elsewhere(store: ReferenceStore, tmp_path: Path) -> None:
    store.put({key(0): -1.0})
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name], "nothing beside the file to forget"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(store.path, elsewhere)
    store.path.unlink()
    copied = ReferenceStore.at(elsewhere, MODEL, "float32")
    copied.put({key(1): -2.0})
    assert copied.get(keys(range(2))) == [-1.0, -2.0]


# ---------------------------------------------------------------------------------------------- several processes

forked = multiprocessing.get_context("fork")


def run(*jobs: tuple[Any, ...]) -> None:
    """Each job, a function and its arguments, in a process of its own, all at once."""
    processes = [forked.Process(target=job, args=arguments) for job, *arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def put_batches(store: ReferenceStore, start: Any, first: int, count: int) -> None:
    start.wait(30)
    for n in range(first, first + count):
        store.put({key(n): -float(n), key(-1): -1.0})
        assert store.get([key(n)]) == [-float(n)]


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    """They also make the file at the same moment."""
    store = ReferenceStore(tmp_path / "new" / "reference-0123456789abcdef.sqlite", "float32")
    start = forked.Barrier(3)
    run(*[(put_batches, store, start, 100 * writer, 15) for writer in range(3)])
    written = [100 * writer + n for writer in range(3) for n in range(15)]
    assert store.get([key(n) for n in written]) == [-float(n) for n in written]
    assert len(store) == 46


def test_a_store_survives_forks_and_pickling(store: ReferenceStore) -> None:
    store.put({key(0): -1.0})
    run((put_batches, store, forked.Barrier(1), 1, 1))
    again = pickle.loads(pickle.dumps(store))
    assert again == store and again.get(keys(range(2))) == [-1.0, -1.0] and store.get([key(1)]) == [-1.0]


def put_until_killed(store: ReferenceStore, done: Any) -> None:
    for n in range(10**6):
        store.put({sequence_key([n], [i]): -float(i) for i in range(20)})
        done.send(n)


@pytest.mark.parametrize("after", [0.0, 0.002, 0.007])
def test_a_kill_leaves_exactly_the_committed_batches(store: ReferenceStore, after: float) -> None:
    done, said = forked.Pipe(duplex=False)
    process = forked.Process(target=put_until_killed, args=(store, said))
    process.start()
    said.close()
    for _ in range(5):
        assert done.poll(30)
        done.recv()
    time.sleep(after)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    reported = 5
    with pytest.raises(EOFError):
        while True:
            reported = done.recv() + 1
    store = ReferenceStore.at(store.path.parent, MODEL, "float32")
    committed = len(store) // 20
    assert committed in (reported, reported + 1), "a batch may be committed and not yet reported"
    assert len(store) == 20 * committed, "no batch in part"
    for n in range(committed):
        assert store.get([sequence_key([n], [i]) for i in range(20)]) == [-float(i) for i in range(20)]


def test_a_kill_in_the_middle_of_a_large_batch_takes_it_back(store: ReferenceStore) -> None:
    store.put({key(n): -1.0 for n in range(100)})
    before = store.path.stat().st_size
    large = {n.to_bytes(16, "big"): -2.0 for n in range(300_000)}
    process = forked.Process(target=store.put, args=(large,))
    process.start()
    deadline = time.monotonic() + 30
    while store.path.stat().st_size < before + 2**20 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert store.path.stat().st_size >= before + 2**20, "rows that were not committed are in the file"
    store = ReferenceStore.at(store.path.parent, MODEL, "float32")
    assert len(store) == 100 and store.get(keys(range(100))) == [-1.0] * 100
    assert store.get(list(large)[:1000]) == [None] * 1000
    assert store.path.stat().st_size == before
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


# ---------------------------------------------------------------------------------------------- what is refused


def refused(store: ReferenceStore, message: str, folder: Path | None = None) -> None:
    """Every way in raises, names the file and says the mend."""
    ways: list[Callable[[], Any]] = [
        lambda: ReferenceStore.at(folder or store.path.parent, MODEL, "float32"),
        lambda: store.get([key(0)]),
        lambda: store.put({key(0): -1.0}),
        lambda: len(store),
    ]
    for way in ways:
        with pytest.raises(UserError, match=message) as caught:
            way()
        assert str(store.path) in str(caught.value) and "\n" not in str(caught.value)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def test_a_file_that_is_no_database(store: ReferenceStore) -> None:
    store.path.write_bytes(b"log-probs " * 1000)
    refused(store, "damaged.*delete it or move it away")
    assert store.path.read_bytes() == b"log-probs " * 1000, "nothing is written over it"


def test_a_file_cut_short(store: ReferenceStore) -> None:
    store.put({key(n): -1.0 for n in range(2000)})
    with store.path.open("r+b") as file:
        file.truncate(store.path.stat().st_size // 2)
    refused(store, "damaged.*delete it or move it away")


def test_a_file_with_a_hole(store: ReferenceStore) -> None:
    store.put({key(n): -1.0 for n in range(2000)})
    with store.path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(bytes(8 * 4096))
    with pytest.raises(UserError, match=r"damaged.*delete it or move it away"):
        ReferenceStore.at(store.path.parent, MODEL, "float32")


def test_an_empty_file_is_a_new_one(store: ReferenceStore) -> None:
    """A kill between the making of a file and its first transaction leaves one."""
    store.path.write_bytes(b"")
    store.put({key(0): -1.0})
    assert ReferenceStore.at(store.path.parent, MODEL, "float32").get([key(0)]) == [-1.0]


def test_another_format(store: ReferenceStore) -> None:
    change(store.path, "UPDATE meta SET value = '2' WHERE name = 'format'")
    refused(store, "of format 2, and this mmpo reads 1; delete it or move it away")


@pytest.mark.parametrize("table", ["notes (text TEXT)", "meta (key TEXT, number TEXT)"])
def test_a_database_of_something_else(store: ReferenceStore, table: str) -> None:
    store.path.unlink()
    change(store.path, f"CREATE TABLE {table}")
    refused(store, "no cache of reference log-probs; delete it or move it away")


def test_a_renamed_file(store: ReferenceStore, tmp_path: Path) -> None:
    other = ReferenceStore.at(tmp_path / "other", nn.Linear(2, 2), "float32")
    shutil.copy(other.path, store.path)
    refused(store, f"another model; give it back its name {other.path.name}")
    odd = ReferenceStore(tmp_path / "cache.sqlite", "float32")
    with pytest.raises(UserError, match=r"cache.sqlite: call it reference-<digest of the model>.sqlite"):
        odd.get([key(0)])


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Permissions do not bind root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


def test_a_folder_that_cannot_be_written(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    message = (
        "cannot be opened or written; make the file and its folder writable, or choose another folder .*MMPO_CACHE"
    )
    store = ReferenceStore(open_folder / f"reference-{weights_digest(MODEL)}.sqlite", "float32")
    with an_ordinary_user():
        refused(store, message)
        below = ReferenceStore(open_folder / "below" / store.path.name, "float32")
        refused(below, message, below.path.parent)


def test_a_file_that_cannot_be_written_can_be_read(open_folder: Path) -> None:
    store = ReferenceStore.at(open_folder, MODEL, "float32")
    store.put({key(0): -1.0})
    store.path.chmod(0o444)
    open_folder.chmod(0o555)
    with an_ordinary_user():
        assert ReferenceStore.at(open_folder, MODEL, "float32").get(keys(range(2))) == [-1.0, None]
        with pytest.raises(UserError, match=r"cannot be opened or written.*MMPO_CACHE") as caught:
            store.put({key(1): -2.0})
    assert str(store.path) in str(caught.value)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    store = ReferenceStore(tmp_path / "cache" / f"reference-{weights_digest(MODEL)}.sqlite", "float32")
    refused(store, "cannot be opened or written")


def disk_of(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a file may have so many pages."""
    connect = sqlite3.connect

    def with_little_room(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*arguments, **options)
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    monkeypatch.setattr(sqlite3, "connect", with_little_room)


def test_a_full_disk(store: ReferenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put({key(0): -1.0})
    disk_of(6, monkeypatch)
    with pytest.raises(UserError, match=r"disk is full; free some space, or choose another folder") as caught:
        store.put({key(n): -2.0 for n in range(5000)})
    assert str(store.path) in str(caught.value)
    monkeypatch.undo()
    assert store.get([key(0), key(1)]) == [-1.0, None] and len(store) == 1


def test_a_disk_too_full_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReferenceStore(tmp_path / "reference-0123456789abcdef.sqlite", "float32")
    disk_of(2, monkeypatch)
    with pytest.raises(UserError, match="disk is full"):
        store.put({key(0): -1.0})
    monkeypatch.undo()
    store.put({key(0): -1.0})
    assert store.get([key(0)]) == [-1.0], "what was begun is no wrong file"


def test_a_file_that_stays_locked(store: ReferenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAIT", 0.05)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        refused(store, "locked .*end that process")
    store.put({key(0): -1.0})
