"""Work on large data in pieces: in parallel, each piece on disk whole or not at all, kept by what it was made from.

A folder of the cache holds what was made from one input. Its name is a digest of that input, ``account.json`` is
written last and says that all is there, and pieces that a killed process left are not made again.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mmpo.errors import UserError, first_line
from mmpo.files import write_whole

Task = TypeVar("Task")

ACCOUNT = "account.json"

_PATIENCE = 3.0
"""Seconds that a process waits for another before it says so."""

_OPEN = 256
"""Pieces that a process keeps open at once, below what systems allow by default."""

_PR_SET_PDEATHSIG = 1
"""Of Linux' prctl: the signal that a process gets when its parent dies."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class Unfinished(UserError):
    """What was begun cannot be finished now, and goes on from there once the disk or the memory allows it."""


# ---------------------------------------------------------------------------------------------- folders of the cache


def cache_home(folder: Path | str | None = None) -> Path:
    """The folder of what is kept between runs: the given one, else $MMPO_CACHE, else $XDG_CACHE_HOME/mmpo, else
    ~/.cache/mmpo."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder or os.environ.get("MMPO_CACHE") or Path(caches, "mmpo")).expanduser()


def digest(key: Mapping[str, Any]) -> str:
    """32 hex digits that stand for exactly this mapping of plain JSON values."""
    return blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextmanager
def kept(kind: str, key: Mapping[str, Any], cache: Path | str | None = None) -> Iterator[Path]:
    """The folder ``<cache>/<kind>-<digest of the key>``, to read where ``account`` knows it, else to fill.

    Of several processes that ask for it one fills it, and the others wait and then read; they say so after a few
    seconds. The lock of a process that died is free. What was begun stays, so that it can go on, but for input that is
    wrong. Raises UserError where the cache cannot be written.
    """
    folder = cache_home(cache) / f"{kind}-{digest(key)}"
    if account(folder) is not None:
        yield folder
        return
    with ExitStack() as stack:
        with on_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            folder.mkdir(exist_ok=True)
        try:
            yield folder
        except UserError as error:
            if not isinstance(error, Unfinished) and account(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        tqdm.write(f"{folder}: another process prepares it; waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def account(folder: Path) -> dict[str, Any] | None:
    """What ``finish`` left: None until all of the folder is there."""
    try:
        found: dict[str, Any] = json.loads((folder / ACCOUNT).read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / ACCOUNT}: cannot be read ({first_line(error)}); delete that folder") from error
    return found


def finish(folder: Path, told: Mapping[str, Any]) -> None:
    """Say that the folder is whole, and keep the account of it. Written last, and at once."""
    with on_disk(folder):
        write_whole(folder / ACCOUNT, json.dumps(told, allow_nan=False) + "\n")


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Raise UserError, with the mend, where the disk is full or the folder cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise Unfinished(
            f"{folder}: cannot be written ({first_line(error)}); make room, make it writable, or choose another folder "
            "(data_cache in the recipe, or the environment variable MMPO_CACHE)"
        ) from error


# ---------------------------------------------------------------------------------------------- making pieces


def in_pieces(
    tasks: Iterable[Task],
    work: Callable[[Task, Path], dict[str, Any]],
    folder: Path,
    workers: int,
    desc: str,
    total: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Task n becomes the piece ``part-00000n.arrow`` of the folder, and a summary; the summaries come in order.

    ``work`` writes the piece to the path that it is given and returns its summary, plain JSON with the number of its
    ``rows``. Pieces that are there are not made again, so the same tasks must come again. With one worker, a single
    task, or where a process cannot be forked, all happens here, each task drawn when the one before is done; else in
    ``workers`` processes, with a bounded number of tasks under way. An error of the earliest task that has one is
    raised here as it stands.

    Args:
        desc: what the progress bar says.
        total: rows in all pieces, where that is known.
    """
    tasks = iter(tasks)
    if workers > 1:
        head = list(islice(tasks, 2))
        workers = workers if len(head) > 1 and sys.platform == "linux" else 1
        tasks = chain(head, tasks)
    with tqdm(total=total, desc=desc, unit=" rows", unit_scale=True, delay=2, disable=None) as bar:
        for summary in _in_order(tasks, partial(_piece, work, folder), folder, workers):
            bar.update(summary["rows"])
            yield summary


def part(folder: Path, n: int) -> Path:
    """Where the n-th piece lies."""
    return folder / f"part-{n:06d}.arrow"


def _in_order(
    tasks: Iterable[Task], make: Callable[[int, Task], dict[str, Any]], folder: Path, workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        for n, task in enumerate(tasks):
            yield _summary(folder, n) or make(n, task)
        return
    under_way: deque[Callable[[], dict[str, Any]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (make, os.getpid()))
    try:
        for n, task in enumerate(tasks):
            known = _summary(folder, n)
            under_way.append(partial(dict, known) if known else pool.submit(_forked, n, task).result)
            if len(under_way) > 2 * workers:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()
    except BrokenProcessPool as error:
        raise Unfinished(
            f"{folder}: a process that prepared data was killed, perhaps for want of memory; start again, and it goes "
            "on from there, if need be with fewer of them (data_workers)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _piece(work: Callable[[Task, Path], dict[str, Any]], folder: Path, n: int, task: Task) -> dict[str, Any]:
    """The piece is renamed to its name when it is whole, and its summary, written after it, says that it is there."""
    path = part(folder, n)
    draft = path.with_suffix(".draft")
    with on_disk(folder):
        summary = work(task, draft)
        draft.replace(path)
        write_whole(path.with_suffix(".json"), json.dumps(summary, allow_nan=False) + "\n")
    return summary


def _summary(folder: Path, n: int) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(part(folder, n).with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):  # not there, or cut off when the machine went down
        return None
    return found


_make: Callable[[int, Any], dict[str, Any]]
"""In a forked process, what it does with a task; inherited, so that it need not be pickled."""


def _begin(make: Callable[[int, Any], dict[str, Any]], parent: int) -> None:
    """Make a forked process a quiet one that dies with its parent and leaves signals to it."""
    global _make
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked to tell
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what is here already stays, and is shared with the parent as long as nobody touches it
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the threads of OpenMP did not come along
    _make = make


def _forked(n: int, task: Any) -> dict[str, Any]:
    return _make(n, task)


# ---------------------------------------------------------------------------------------------- reading pieces


def write_piece(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """The columns, all of one length, as one Arrow record batch in a file that can be memory-mapped."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as out:
        out.write_batch(batch)


def numbers(values: NDArray[Any]) -> pa.Array:
    """Numbers, or bytes of one length (dtype V), as a column: [rows]."""
    values = np.ascontiguousarray(values)
    kind = pa.binary(values.itemsize) if values.dtype.kind == "V" else pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values.view("u1"))])


def blobs(values: Sequence[bytes]) -> pa.Array:
    """Bytes as a column; together they may be larger than 2 GiB."""
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


class Pieces:
    """The pieces of a folder as one memory-mapped sequence of rows; in another process it opens them anew.

    Args:
        folder: holds the pieces.
        rows: the number of rows of each.
    """

    def __init__(self, folder: Path, rows: Iterable[int]) -> None:
        self.folder, self.rows = folder, tuple(rows)
        self._ends = list(accumulate(self.rows))
        self._opened = lru_cache(_OPEN)(partial(_mapped, folder))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __reduce__(self) -> tuple[type[Pieces], tuple[Path, tuple[int, ...]]]:
        return Pieces, (self.folder, self.rows)

    def piece(self, n: int) -> pa.RecordBatch:
        """The n-th piece, none of it read yet."""
        return self._opened(n)

    def find(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The piece that holds a row (0 <= row < len), and which of its rows that is."""
        n = bisect_right(self._ends, row)
        return self._opened(n), row - (self._ends[n] - self.rows[n])

    def column(self, name: str) -> NDArray[Any]:
        """A column of ``numbers`` over all pieces, [rows]."""
        return self._joined(lambda piece: _as_numpy(piece.column(name)))

    def lengths(self, name: str) -> NDArray[np.int64]:
        """The number of bytes of each of the ``blobs`` of a column, [rows]."""
        return self._joined(lambda piece: np.diff(np.frombuffer(piece.column(name).buffers()[1], np.int64)))

    def _joined(self, read: Callable[[pa.RecordBatch], NDArray[Any]]) -> NDArray[Any]:
        parts = [read(self.piece(n)) for n in range(len(self.rows))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_numpy(column: pa.Array) -> NDArray[Any]:
    fixed = pa.types.is_fixed_size_binary(column.type)
    return np.frombuffer(column.buffers()[1], f"V{column.type.byte_width}" if fixed else column.type.to_pandas_dtype())


def _mapped(folder: Path, n: int) -> pa.RecordBatch:
    path = part(folder, n)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: prepared data that cannot be read ({first_line(error)}); delete {folder}, and they are made anew"
        ) from error
