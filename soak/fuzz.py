"""20,000 rows, files, recipes and command lines that are nearly right, and what becomes of each.

Laws: whatever comes in, the answer is data or one line that says what is wrong, within five seconds of work. Rows in =
rows used + rows dropped. What is loaded where bad rows are dropped is what is loaded of the good rows alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is no file would be looked for on the hub

from hypothesis import HealthCheck, Phase, given, seed, settings
from tqdm.auto import tqdm

from mmpo.batch import Limits, encode_all
from mmpo.cli import main as command_line
from mmpo.data import Loaded, load, merge
from mmpo.errors import UserError
from mmpo.recipe import read_recipe
from soak import near
from soak.common import ROOT, write

PATIENCE = 5.0
"""Seconds of work within which everything must be answered; sixty times as long by the clock, for a busy machine."""

COVERED = ROOT / "soak" / "covered.py"


class Broken(AssertionError):
    """A law that does not hold."""


# ---------------------------------------------------------------------------------------------- the laws


@contextlib.contextmanager
def in_time(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise Broken where something hangs."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Broken(f"no answer within {seconds:g} s")

    clocks = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 60 * seconds))
    before = [signal.signal(number, stop) for _, number, _ in clocks]
    for clock, _, after in clocks:
        signal.setitimer(clock, after)
    try:
        yield
    finally:
        for (clock, number, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def answered(work: Callable[[], Any]) -> Any:
    """What comes out, or the UserError. Raises what else is raised, and Broken for an error of several lines."""
    try:
        with in_time():
            return work()
    except UserError as error:
        if not str(error).strip() or len(str(error).splitlines()) > 1:
            raise Broken(f"the error is no line: {str(error)!r}") from error
        return error


def loads(path: Path, options: Mapping[str, Any] = {}) -> Loaded | UserError:
    """The laws of loading, for a file of few rows: it holds fewer than the ledger lists by name."""
    source = {"path": str(path), **options}
    found = answered(lambda: load(source, on_bad_row="drop"))
    strict = answered(lambda: load(source))
    if isinstance(found, UserError):
        if not isinstance(strict, UserError):
            raise Broken(f"refused where bad rows are dropped ({found}), and loaded where they are errors")
        return found
    ledger = found.ledger
    if ledger.rows_in != ledger.rows_used + ledger.rows_dropped:
        raise Broken(f"rows in {ledger.rows_in}, used {ledger.rows_used}, dropped {ledger.rows_dropped}")
    if isinstance(strict, UserError) != bool(ledger.rows_bad):
        raise Broken(f"{ledger.rows_bad} bad rows, and without dropping: {strict}")
    if not ledger.rows_bad and strict.data != found.data:
        raise Broken("no bad rows, and other data where they are errors")
    return found


def drops_only_bad_rows(path: Path, found: Loaded, options: Mapping[str, Any] = {}) -> None:
    """Law: with bad lines taken out of a .jsonl the rest loads alike, and without an error."""
    lines = path.read_bytes().split(b"\n")
    for dropped in found.ledger.dropped.values():
        for row in dropped.rows if dropped.mend else ():
            lines[int(row.rsplit(":", 1)[-1]) - 1] = b""
    path.write_bytes(b"\n".join(lines))
    alone = answered(lambda: load({"path": str(path), **options}))
    if isinstance(alone, UserError) or alone.data != found.data:
        raise Broken(f"the good rows alone are not what was loaded: {alone}")


def tokenises(found: Loaded, tokenizer: Any) -> Counter[str]:
    """The law of tokenising: each merged datum is kept, or dropped and counted. Returns the reasons."""
    merged = answered(lambda: merge(found.data))
    done = answered(lambda: encode_all(merged[0], tokenizer, Limits(96, 48), "drop"))
    kept, cuts = done
    dropped = Counter({reason: told["count"] for reason, told in cuts.as_dict()["dropped"].items()})
    if len(kept) + dropped.total() != len(merged[0]):
        raise Broken(f"of {len(merged[0])} data {len(kept)} were kept and {dropped.total()} dropped")
    return dropped


def reads(text: bytes, folder: Path) -> str:
    """The law of recipes: read, or refused by one line."""
    path = folder / "recipe.yaml"
    path.write_bytes(text)
    return "refused" if isinstance(answered(lambda: read_recipe(path)), UserError) else "read"


def obeys(words: list[str]) -> str:
    """The law of the command line: exit code 0, or 2 with an answer on stderr and no traceback."""
    said = io.StringIO()
    code: Any = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), in_time(4 * PATIENCE):
        try:
            command_line(words)
        except SystemExit as done:
            code = done.code or 0
    if code not in (0, 2) or (code == 2 and not said.getvalue().strip()) or "Traceback" in said.getvalue():
        raise Broken(f"exit code {code}: {said.getvalue()[-300:]}")
    return "refused" if code else "done"


# ---------------------------------------------------------------------------------------------- the run


@dataclass
class Findings:
    """What became of each example, and the first example of everything that broke a law."""

    outcomes: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)

    def judge(self, work: Callable[[], str], example: Any) -> None:
        try:
            self.outcomes[work()] += 1
        except Exception as error:  # whatever it is, it is a finding
            self.outcomes["law broken"] += 1
            spot = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(spot.filename).name}:{spot.lineno}: {str(error)[:200]}"
            if isinstance(error, Broken):
                where = str(error)[:200]
            self.broken.setdefault(where, repr(example)[:2000])

    def count(self, loaded: Loaded) -> None:
        ledger = loaded.ledger
        self.rows.update({"in": ledger.rows_in, "used": ledger.rows_used, "dropped": ledger.rows_dropped})
        self.rows.update({f"dropped: {reason}": told.count for reason, told in ledger.dropped.items()})

    def as_dict(self) -> dict[str, Any]:
        return {"outcomes": dict(self.outcomes), "rows": dict(self.rows), "laws_broken": self.broken}


def run(strategy: Any, examples: int, work: Callable[[Any, Findings], str], desc: str) -> Findings:
    """So many examples of a strategy, the same on every run."""
    findings = Findings()
    bar = tqdm(total=examples, desc=desc)

    @seed(0)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: Any) -> None:
        findings.judge(lambda: work(example, findings), example)
        bar.update()

    each()
    bar.close()
    return findings


def of_source(folder: Path) -> Callable[[tuple[near.File, dict[str, Any]], Findings], str]:
    tokenizers = cycle(near.tokenizers())

    def work(source: tuple[near.File, dict[str, Any]], findings: Findings) -> str:
        file, options = source
        path = folder / f"rows{file.suffix}"
        path.write_bytes(file.content)
        found = loads(path, options)
        if isinstance(found, UserError):
            return "refused"
        findings.count(found)
        findings.rows.update({f"not tokenised: {why}": n for why, n in tokenises(found, next(tokenizers)).items()})
        if file.suffix == ".jsonl":
            drops_only_bad_rows(path, found, options)
        return "loaded with rows dropped" if found.ledger.rows_bad else "loaded whole"

    return work


def of_flags(folder: Path) -> Callable[[list[str], Findings], str]:
    """``mmpo train`` on a model that is not there: everything before it is loaded is tried."""
    path = folder / "ratings.jsonl"
    path.write_text('{"prompt": "a?", "responses": ["x", "y"], "scores": [1, 2]}\n' * 3)
    base = ["--model", "./absent", "--data", str(path), "--method", "mmpo", "--output_dir", str(folder / "run")]

    def work(words: list[str], _findings: Findings) -> str:
        given_keys = {word.lstrip("-").partition("=")[0] for word in words if word.startswith("--")}
        ours = [word for n in range(0, len(base), 2) if base[n][2:] not in given_keys for word in base[n : n + 2]]
        return obeys(["train", *ours, *words])

    return work


def of_inspect(folder: Path) -> Callable[[near.File, Findings], str]:
    def work(file: near.File, _findings: Findings) -> str:
        path = folder / f"rows{file.suffix}"
        path.write_bytes(file.content)
        return obeys(["inspect", str(path), "--out", str(folder / "report")])

    return work


def covered(seconds: int, folder: Path) -> dict[str, Any]:
    """Rounds of atheris, led by coverage, in a Python of its own where MMPO_ATHERIS names one that has it."""
    python = os.environ.get("MMPO_ATHERIS", sys.executable)
    if subprocess.run([python, "-c", "import atheris"], capture_output=True, check=False).returncode:
        print("atheris is not installed, so no round was led by coverage; name a Python that has it in MMPO_ATHERIS")
        return {"skipped": "atheris is not installed"}
    path = os.pathsep.join([str(ROOT), *(one for one in sys.path if one)])
    done = subprocess.run(
        [
            python,
            str(COVERED),
            str(folder / "corpus"),
            f"-max_total_time={seconds}",
            "-timeout=5",
            "-rss_limit_mb=4096",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        check=False,
    )
    lines = done.stderr.splitlines()
    told = [line for line in lines if "cov:" in line]
    # atheris ends at the first exception, and tells it between what it covered and the input that did it.
    broken = [] if not done.returncode else lines[lines.index(told[-1]) + 1 if told else 0 :]
    print("\n".join(broken or lines[-1:]))
    return {"seconds": seconds, "last": told[-1].strip() if told else "", "law_broken": "\n".join(broken)[:3000]}


def main() -> None:
    """Fuzz, and write docs/reliability/fuzz.json."""
    # A relative path among what is drawn must not lead into the folder where this was started.
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        parts = {
            "files": run(near.sources, 8_000, of_source(folder), "files"),
            "recipes": run(near.yaml_texts(), 10_000, lambda text, _: reads(text, folder), "recipes"),
            "flags": run(near.flags(), 1_500, of_flags(folder), "flags"),
            "inspect": run(near.files(), 500, of_inspect(folder), "inspect"),
        }
        result: dict[str, Any] = {part: findings.as_dict() for part, findings in parts.items()}
        result["led_by_coverage"] = covered(300, folder)
    total: Counter[str] = sum((findings.outcomes for findings in parts.values()), Counter())
    write("fuzz", {"examples": total.total(), "laws_broken": total["law broken"], **result})
