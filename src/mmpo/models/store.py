"""The reference's log-probs on disk: one file a reference model, one row a sequence, shared by every run."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from tqdm.auto import tqdm

from mmpo.errors import UserError, first_line
from mmpo.models.save import OLDER_ROPE
from mmpo.pieces import cache_home

# ---------------------------------------------------------------------------------------------- which model it is

_PIECE = 1 << 26
"""Bytes hashed at once, and the most of main memory that a thread takes for weights on an accelerator."""

_LARGE = 1_000_000_000
"""Parameters from which on a bar shows how far the hashing is."""

_NEUTRAL = frozenset({
    # Where it came from and who saved it.
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map",
    # The precision (that of each weight is hashed), and the kernels, which give the same numbers up to rounding.
    "dtype", "torch_dtype", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_experts_implementation", "experts_implementation",
    # What is returned beside the logits.
    "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_cache", "cache_implementation",
    # What is read only where texts are classified or generated.
    "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "do_sample", "early_stopping",
    "num_beams", "num_return_sequences", "max_length", "min_length", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "bad_words_ids",
})  # fmt: skip
"""Keys of a config that cannot change the logits. An unknown key counts: a cache missed is better than a wrong one."""

_NEUTRAL_OF_ADAPTERS = frozenset({"base_model_name_or_path", "revision", "inference_mode", "peft_version"})
"""The same of an adapter's config."""

_SHARDED = ("full_tensor", "_fsdp_flattened", "ds_id")
"""What weights have that FSDP2, FSDP1 or DeepSpeed ZeRO-3 has divided."""


def weights_digest(model: Any) -> str:
    """What the model computes, in 32 hex digits: SHA-256 over its weights and the numbers of its config.

    Names, shapes, dtypes and bytes of all parameters and persistent buffers count, and every key of the config that
    may change the logits. A model with a PEFT adapter has the digest of its base: the model with the adapter switched
    off. The folder, the device, ``requires_grad``, training mode, the attention kernel and the tying of equal weights
    do not count.

    Raises UserError where a weight is not whole in this process, or where an adapter is merged into its base.
    """
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config: Any = getattr(base, "config", None)
    return _digest(_weights(base), {} if config is None else _settings(config.to_dict()))


def adapter_digest(model: Any) -> str | None:
    """What the adapter adds to the base that ``weights_digest`` names, in 32 hex digits: SHA-256 over its weights and
    settings; None where there is no adapter."""
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    settings = getattr(model, "peft_config", None)
    if not settings:
        return None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    of_base = {id(tensor) for _, tensor in _weights(base)}
    state = model.state_dict(keep_vars=True)
    own = ((name, tensor) for name, tensor in state.items() if isinstance(tensor, Tensor) and id(tensor) not in of_base)
    told = {
        name: {key: value for key, value in one.to_dict().items() if key not in _NEUTRAL_OF_ADAPTERS}
        for name, one in settings.items()
    }
    return _digest(own, told)


def state_digest(tensors: Mapping[str, Tensor]) -> str | None:
    """What was learned beside a model, by name, in 32 hex digits; None where that is nothing."""
    return _digest(tensors.items(), {}) if tensors else None


def _digest(named: Iterable[tuple[str, Tensor]], settings: Mapping[str, Any]) -> str:
    weights = sorted(named, key=lambda one: one[0])
    sums = _sums({id(tensor): tensor for _, tensor in weights})
    found = sha256()
    for name, tensor in weights:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {sums[id(tensor)]}\n".encode())
    found.update(json.dumps(settings, sort_keys=True, default=_plain).encode())
    return found.hexdigest()[:32]


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _weights(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers under the names that they have without adapters; a tied one under each name."""
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        if getattr(module, "merged", False):
            raise UserError(
                f"model: the adapter is merged into {prefix[:-1]}, so the reference's weights are not at hand; call "
                "unmerge_adapter() first"
            )
        wrapper = isinstance(module, AuxiliaryTrainingWrapper)
        module = module.original_module if wrapper else module.base_layer
    own: dict[str, Any] = {}
    # Not the parameters alone: a quantised layer keeps its scales elsewhere and gives them here.
    module._save_to_state_dict(own, prefix, keep_vars=True)
    for name, tensor in own.items():
        if isinstance(tensor, Tensor):
            yield name, _whole(name, tensor)
    for name, child in module._modules.items():
        if child is not None:
            yield from _weights(child, f"{prefix}{name}.")


def _whole(name: str, tensor: Tensor) -> Tensor:
    """The weight, if all of it is here. Shards would give every process, and every number of them, its own digest."""
    if tensor.is_meta or any(hasattr(tensor, mark) for mark in _SHARDED):
        raise UserError(
            f"model: {name} is not whole in this process (sharded, offloaded or not loaded yet); the cache of "
            "reference log-probs needs the model as it is before FSDP or DeepSpeed divides it"
        )
    return tensor


def _sums(tensors: Mapping[int, Tensor]) -> dict[int, str]:
    """The SHA-256 of each tensor's bytes, as many at once as torch has threads."""
    few = sum(tensor.numel() for tensor in tensors.values()) < _LARGE
    total = sum(tensor.nbytes for tensor in tensors.values())
    sums = {}
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        tqdm(total=total, desc="fingerprint of the reference", unit="B", unit_scale=True, disable=few or None) as bar,
    ):
        for (key, tensor), found in zip(tensors.items(), pool.map(_sum, tensors.values()), strict=True):
            sums[key] = found
            bar.update(tensor.nbytes)
    return sums


def _sum(tensor: Tensor) -> str:
    found = sha256()
    # As bytes, because numpy knows no bfloat16; in pieces, because a copy from an accelerator takes main memory.
    for piece in tensor.detach().reshape(-1).view(torch.uint8).split(_PIECE):
        found.update(piece.cpu().numpy())
    return found.hexdigest()


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what cannot change the logits and without older names of what is in rope_parameters."""
    rope = config.get("rope_parameters") or {}
    left_out = _NEUTRAL | {name for key in rope for name in OLDER_ROPE.get(key, ()) if config.get(name) == rope[key]}
    return {
        str(key): _settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in left_out
    }


# ---------------------------------------------------------------------------------------------- which sequence it is

KEY = (
    "BLAKE2b with 16 bytes of: the number of prompt tokens and of bytes of the surroundings, the surroundings in "
    "UTF-8, the ids of the prompt's tokens, those of the response's; all numbers as little-endian int64"
)


def sequence_key(prompt: Sequence[int], response: Sequence[int], around: str = "") -> bytes:
    """16 bytes that stand for exactly these token ids and the boundary between prompt and response.

    ``around`` names whatever else of the input changes the log-probs, token types say.
    """
    surroundings = around.encode()
    found = blake2b(np.array([len(prompt), len(surroundings)], "<i8").tobytes() + surroundings, digest_size=16)
    found.update(np.asarray(prompt, "<i8").tobytes())
    found.update(np.asarray(response, "<i8").tobytes())
    return found.digest()


# ---------------------------------------------------------------------------------------------- the file

FORMAT = "1"

_WAIT = 60.0
"""Seconds that a call waits for other processes to finish their transactions."""

_ROWS = 500
"""Keys looked up by one statement; between statements others may write."""

_ELSEWHERE = "or choose another folder (the environment variable MMPO_CACHE names the default one)"
_ANEW = "delete it or move it away, and its log-probs are computed again"
_NOT_WRITABLE = f"it cannot be opened or written; make the file and its folder writable, {_ELSEWHERE}"
_DAMAGED = f"it is damaged, or no cache of reference log-probs; {_ANEW}"
_MENDS = {
    sqlite3.SQLITE_FULL: f"the disk is full; free some space, {_ELSEWHERE}",
    sqlite3.SQLITE_IOERR: f"the disk cannot be read or written; look after its space and its health, {_ELSEWHERE}",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {_WAIT:.0f} s; end that process, {_ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: _NOT_WRITABLE,
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_ERROR: _DAMAGED,  # a table or a column that should be there is not
}


@dataclass(frozen=True)
class ReferenceStore:
    """log pi_ref(y|x) by sequence, for one reference model, in one SQLite file.

    The file may be shared, also over a network disk, and written by several processes at once. What was put before a
    process is killed stays, and a call that was under way leaves nothing. The file may be copied, moved or sent while
    nobody writes it, as long as it keeps its name. It keeps a rollback journal beside it only during a write; where a
    kill has left one, open the file once before copying it.

    ``path``: ``reference-<digest of the model>.sqlite``. ``precision``: what the log-probs were computed in, for
    example ``float32`` or ``autocast bfloat16``; those of other precisions are not seen.

    Every method raises UserError, naming the file and the mend, where the file is damaged, of another format or of
    another model, cannot be read or written, or is kept locked.
    """

    path: Path
    precision: str

    @classmethod
    def at(cls, folder: Path | str | None, model: Any, precision: str) -> ReferenceStore:
        """The store of a model in a folder: by default $MMPO_CACHE, else $XDG_CACHE_HOME/mmpo, else ~/.cache/mmpo.

        The file is made if there is none and checked if there is one, so that a wrong one is refused before anything
        is computed.
        """
        store = cls(cache_home(folder) / f"reference-{weights_digest(model)}.sqlite", precision)
        with store._open() as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise UserError(f"{store.path}: {_DAMAGED}")
        return store

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """The log-prob of each key (nats, summed over the response), None where it is not known."""
        found: list[float | None] = []
        with self._open() as db:
            for start in range(0, len(keys), _ROWS):
                chunk = keys[start : start + _ROWS]
                marks = ", ".join("?" * len(chunk))
                rows = db.execute(
                    f"SELECT key, logp FROM logps WHERE precision = ? AND key IN ({marks})",  # noqa: S608 (marks are ?)
                    (self.precision, *chunk),
                )
                found += map(dict(rows).get, chunk)
        return found

    def put(self, items: Mapping[bytes, float]) -> None:
        """Keep these log-probs, all or none of them. NaN and infinities are left out: they are nobody's log-prob.

        A key that is known takes the new value; two passes over one sequence differ by rounding at most.
        """
        known = ((self.precision, key, float(items[key])) for key in sorted(items) if math.isfinite(items[key]))
        with self._open() as db, db:
            db.executemany("INSERT OR REPLACE INTO logps VALUES (?, ?, ?)", known)

    def beside(self, name: str) -> Path:
        """Where all log-probs of the data of this name may lie in one file, worth nothing without the store."""
        return self.path.with_name(f"{self.path.stem}-{self.precision.replace(' ', '-')}-{name}.npy")

    def holds_any(self) -> bool:
        """Whether a log-prob of this precision is known."""
        with self._open() as db:
            found = db.execute("SELECT 1 FROM logps WHERE precision = ? LIMIT 1", (self.precision,)).fetchone()
            return found is not None

    def __len__(self) -> int:
        """How many log-probs of this precision are known."""
        with self._open() as db:
            return int(db.execute("SELECT count(*) FROM logps WHERE precision = ?", (self.precision,)).fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call, to a file that is what its name says: nothing open crosses a fork or a pickle.

        The journal is SQLite's default, a file that goes with the transaction: unlike a write-ahead log it works on
        network disks, and what is committed lies in the one file.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_WAIT, isolation_level="IMMEDIATE")) as db:
                self._check(db)
                yield db
        except OSError as error:
            raise UserError(f"{self.path}: {_NOT_WRITABLE} ({first_line(error)})") from error
        except sqlite3.DatabaseError as error:
            mend = _MENDS.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
            if mend is None:
                raise
            raise UserError(f"{self.path}: {mend} ({first_line(error)})") from error

    def _check(self, db: sqlite3.Connection) -> None:
        """Raise UserError unless the file says that it is of this format and this model. A new file is made so."""
        named = re.fullmatch(r"reference-([0-9a-f]{16,64})\.sqlite", self.path.name)
        if named is None:
            raise UserError(f"{self.path}: call it reference-<digest of the model>.sqlite, as it was made")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _create(db, named[1])
        meta = dict(db.execute("SELECT name, value FROM meta"))
        if meta.get("format") != FORMAT:
            raise UserError(f"{self.path}: it is of format {meta.get('format')}, and this mmpo reads {FORMAT}; {_ANEW}")
        if meta.get("model") != named[1]:
            raise UserError(
                f"{self.path}: it holds the log-probs of another model; give it back its name "
                f"reference-{meta.get('model')}.sqlite, or delete it"
            )


def _create(db: sqlite3.Connection, digest: str) -> None:
    """The tables of a new file, in one transaction; another process may have been faster."""
    about = {
        "about": "log-probs of responses under a reference model, kept by mmpo; a cache, safe to delete",
        "format": FORMAT,
        "model": digest,
        "key": KEY,
        "logp": "natural log of the response's probability given the prompt, summed over the response's tokens",
    }
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        db.execute(
            "CREATE TABLE IF NOT EXISTS logps (precision TEXT, key BLOB, logp REAL NOT NULL, "
            "PRIMARY KEY (precision, key)) WITHOUT ROWID"
        )
        db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", about.items())
