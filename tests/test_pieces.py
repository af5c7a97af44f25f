"""Work in pieces: whole or not at all, made once, in order, by one process of several, and resumed after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from mmpo import pieces
from mmpo.errors import UserError
from mmpo.pieces import Pieces, account, cache_home, finish, in_pieces, kept, numbers, part, write_piece


def squares(task: int, path: Path) -> dict[str, Any]:
    write_piece(path, {"n": numbers(np.full(task, task**2))})
    return {"rows": task, "by": os.getpid()}


def bad_from_3(task: int, path: Path) -> dict[str, Any]:
    if task >= 3:
        time.sleep(0.2 * (task == 3))
        raise UserError(f"task {task} is bad")
    return squares(task, path)


@pytest.mark.parametrize("workers", [1, 2])
def test_pieces_come_in_order_and_are_made_once(tmp_path: Path, workers: int) -> None:
    made = list(in_pieces(range(20), squares, tmp_path, workers, "squares"))
    assert [one["rows"] for one in made] == list(range(20))
    assert (os.getpid() in {one["by"] for one in made}) == (workers == 1)
    assert Pieces(tmp_path, range(20)).column("n").tolist() == [n * n for n in range(20) for _ in range(n)]
    part(tmp_path, 7).with_suffix(".json").unlink()
    again = list(in_pieces(range(20), squares, tmp_path, workers, "squares"))
    assert [a["by"] == b["by"] for a, b in zip(made, again, strict=True)].count(False) <= 1
    assert [one["rows"] for one in again] == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_earliest_error_is_raised_as_it_stands(tmp_path: Path, workers: int) -> None:
    made = []
    with pytest.raises(UserError, match=r"^task 3 is bad$"):
        for one in in_pieces(range(9), bad_from_3, tmp_path, workers, "bad"):
            made.append(one["rows"])
    assert made == [0, 1, 2] and not part(tmp_path, 3).exists()


def test_few_tasks_are_under_way(tmp_path: Path) -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for n in range(50):
            drawn.append(n)
            yield n

    ready = in_pieces(tasks(), squares, tmp_path, 2, "squares")
    next(ready)
    assert len(drawn) <= 6
    ready.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 6


def test_one_worker_draws_a_task_when_the_one_before_is_done(tmp_path: Path) -> None:
    seen: list[str] = []

    def tasks() -> Iterator[int]:
        for n in range(3):
            seen.append(f"drawn {n}")
            yield n

    for one in in_pieces(tasks(), squares, tmp_path, 1, "squares"):
        seen.append(f"done {one['rows']}")
    assert seen == [f"{what} {n}" for n in range(3) for what in ("drawn", "done")]


def dies(task: int, path: Path) -> dict[str, Any]:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(task, path)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_worker_that_is_killed_is_no_hang(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was killed, perhaps for want of memory"):
        list(in_pieces(range(9), dies, tmp_path, 2, "dies"))
    assert [one["rows"] for one in in_pieces(range(9), squares, tmp_path, 2, "squares")] == list(range(9))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def full(task: int, path: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written .*No space left.* make room"):
        list(in_pieces([1], full, tmp_path, 1, "full"))


# ---------------------------------------------------------------------------------------------- the cache


def test_the_folder_is_that_of_the_content(tmp_path: Path) -> None:
    with kept("data", {"a": 1, "b": [2]}, tmp_path) as folder:
        assert folder.parent == tmp_path and account(folder) is None
        finish(folder, {"rows": 3, "half": "\ud800"})
    with kept("data", {"b": [2], "a": 1}, tmp_path) as again:
        assert again == folder and account(again) == {"rows": 3, "half": "\ud800"}
    with kept("data", {"a": 2, "b": [2]}, tmp_path) as other:
        assert other != folder and account(other) is None


def test_what_was_begun_stays_but_for_wrong_input(tmp_path: Path) -> None:
    for error, stays in ((pieces.Unfinished("the disk is full"), True), (UserError("row 3 is bad"), False)):
        with pytest.raises(UserError, match=str(error)), kept("data", {}, tmp_path) as folder:
            list(in_pieces([1], squares, folder, 1, "squares"))
            raise error
        assert part(folder, 0).exists() == stays
    with kept("data", {}, tmp_path) as folder:
        finish(folder, {})
    with pytest.raises(UserError, match="later"), kept("data", {}, tmp_path) as folder:
        raise UserError("later")
    assert account(folder) == {}


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPO_CACHE", "/m")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert [cache_home("/given"), cache_home()] == [Path("/given"), Path("/m")]
    monkeypatch.delenv("MMPO_CACHE")
    assert cache_home() == Path("/x/mmpo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == Path("~/.cache/mmpo").expanduser()


def test_a_damaged_account_is_named(tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text("{")
    with pytest.raises(UserError, match=r"account\.json: cannot be read .* delete that folder"):
        account(tmp_path)


def fill(cache: Path, seconds: float) -> None:
    with kept("data", {}, cache) as folder:
        if account(folder) is None:
            (folder / f"filled-by-{os.getpid()}").touch()
            time.sleep(seconds)
            finish(folder, {})


def test_one_process_fills_and_the_others_read(tmp_path: Path) -> None:
    started = [get_context("fork").Process(target=fill, args=(tmp_path, 0.2)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    assert len(list(tmp_path.glob("data-*/filled-by-*"))) == 1


def test_waiting_is_said_and_the_lock_of_the_dead_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pieces, "_PATIENCE", 0.1)
    holder = get_context("fork").Process(target=fill, args=(tmp_path, 60))
    holder.start()
    while not list(tmp_path.glob("data-*/filled-by-*")):
        time.sleep(0.01)
    waiting = get_context("fork").Process(target=fill, args=(tmp_path, 0))
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    holder.kill()
    waiting.join(10)
    assert waiting.exitcode == 0
    assert "another process prepares it; waiting" in capfd.readouterr().err


KILLED = """
import sys, time
from pathlib import Path
from mmpo.pieces import *
import numpy as np
def work(task, path):
    time.sleep(0.05)
    write_piece(path, {"n": numbers(np.full(3, task))})
    return {"rows": 3}
folder = Path(sys.argv[1])
print("going", flush=True)
list(in_pieces(range(40), work, folder, 2, "n"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_kill_leaves_whole_pieces_and_no_orphans(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline()
    while len(list(tmp_path.glob("*.json"))) < 4:
        time.sleep(0.01)
    children = psutil.Process(run.pid).children()
    run.kill()
    run.wait()
    assert children and not psutil.wait_procs(children, timeout=5)[1]
    there = len(list(tmp_path.glob("*.json")))
    assert 4 <= there < 40
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, capture_output=True)
    assert Pieces(tmp_path, [3] * 40).column("n").tolist() == [n for n in range(40) for _ in range(3)]
