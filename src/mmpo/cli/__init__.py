"""The front door."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Annotated, Any

import typer

from mmpo import __version__
from mmpo.cli import adapt, calibrate, catalogue, changes, data, evaluate, judged, train
from mmpo.cli.options import command
from mmpo.errors import GoneBad, UserError
from mmpo.plain import plain

app = typer.Typer(
    help="Train policies and reward models on graded feedback: how much better, not only which.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
FLAGS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
COMMANDS: tuple[tuple[Callable[..., None], dict[str, Any]], ...] = (
    (data.inspect, {}),
    (train.train, FLAGS),
    (train.doctor, FLAGS),
    (evaluate.score, {}),
    (evaluate.evaluate, {}),
    (judged.judge, {}),
    (calibrate.calibrate, {}),
    (adapt.adapt, {}),
    (changes.compare, {}),
    (changes.dissect, {}),
    (data.build, {}),
    (catalogue.methods, {}),
    (catalogue.demo, {}),
)

for _command, _settings in COMMANDS:
    app.command(context_settings=_settings)(command(_command))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"mmpo {__version__}")
        raise typer.Exit


WRONG_PATH = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
"""What is the matter with a path that the user gave, and not with the machine."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.excepthook = _crashed
    _run(lambda: app(args=list(arguments) if arguments is not None else None))


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback as Python prints it, but for what would steer the terminal or give a password away."""
    print(plain("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _run(whole: Callable[[], Any]) -> None:
    try:
        whole()
    except UserError as error:
        _say_once(f"mmpo: {error}")
        sys.exit(2)
    except GoneBad as error:
        _say_once(f"mmpo: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nmmpo: stopped; the same command goes on from what was kept, if it keeps anything", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in WRONG_PATH:
            raise
        print(f"mmpo: {plain(str(error.filename)[:200])}: {error.strerror}; choose another path", file=sys.stderr)
        sys.exit(2)


def _say_once(line: str) -> None:
    """Say why this process leaves. Of several that are about to say the same the first does, and its launcher ends the
    others; what only another one has met it says itself, a little later."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(3)
    print(line, file=sys.stderr, flush=True)
