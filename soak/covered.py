"""The loaders under atheris: bytes led by coverage, under the laws of ``soak.fuzz``. Started by it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mmpo.data", "mmpo.safe_yaml"]):
    from mmpo.data import load, read  # noqa: F401 (imported under instruments)
    from mmpo.errors import UserError

from soak import fuzz, near

FOLDER = Path(tempfile.mkdtemp())
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv")


def one(data: bytes) -> None:
    """The first byte chooses the kind of file, the others are it."""
    kind, content = data[:1], data[1:]
    path = FOLDER / f"rows{SUFFIXES[kind[0] % len(SUFFIXES)] if kind else '.jsonl'}"
    path.write_bytes(content)
    found = fuzz.loads(path)
    if not isinstance(found, UserError) and path.suffix == ".jsonl":
        fuzz.drops_only_bad_rows(path, found)


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for n, row in enumerate(near.ROWS):
        for kind in (0, 2):
            (corpus / f"{n}-{kind}").write_bytes(
                bytes([kind]) + json.dumps(row if kind == 0 else [row]).encode() + b"\n"
            )
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
