"""What a run leaves beside its model: run.json, and a model card for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpo import markdown
from mmpo.batch import Vocabulary
from mmpo.batch.tokenize import pair_frame
from mmpo.data.digests import digest
from mmpo.data.stored import StoredData, encode
from mmpo.errors import UserError
from mmpo.files import write_whole
from mmpo.run.provenance import versions
from mmpo.types import Datum

STARTED, STOPPED = "started", "stopped: "
"""How the status of a run begins that is not finished; the second is followed by why it had to stop."""


def check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Raise UserError if an output folder holds another run, or anything that this run would write over.

    A run that never took a step is no result. Of the recorded identity only the keys of ``identity`` count, so that the
    folder can be checked before the data are read.
    """
    record = read_record(folder)
    if not record:
        theirs = [name for name in ("config.json", "README.md", "model.safetensors") if (folder / name).exists()]
        if theirs:
            raise UserError(
                f"output_dir: {folder} holds {theirs[0]}, which is not of a run of mmpo and would be written over; "
                "choose another output_dir"
            )
        return
    now = json.loads(json.dumps(identity))
    before = {key: value for key, value in (record.get("identity") or {}).items() if key in now}
    unfinished = str(record.get("status")).startswith((STARTED, STOPPED))
    begun = not unfinished or list(folder.glob("checkpoint-*"))
    if not begun or (before == now and unfinished):
        return
    if before == now:
        raise UserError(
            f"output_dir: {folder} holds this very run, finished; choose another output_dir, or remove that folder to "
            "train anew"
        )
    old, new = _flat(before), _flat(now)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    raise UserError(
        f"output_dir: {folder} holds another run (it differs in {', '.join(changed)}); choose another output_dir, or "
        "remove that folder"
    )


def run_of(model: str | Path) -> Path:
    """The folder of the run that a model is of: of a checkpoint the one that holds it, else the model's own."""
    return Path(model).parent if Path(model).name.startswith("checkpoint-") else Path(model)


def read_record(folder: str | Path) -> dict[str, Any]:
    """The run.json of a folder; empty where there is none."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it from a copy, or remove it") from error
    return record


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for k, v in content.items() for key, value in _flat(v, f"{name}.{k}" if name else k).items()}


def fingerprint(data: Sequence[Datum]) -> str:
    """A short name for exactly these data, to tell whether a run goes on with what it began with."""
    known = data.digest if isinstance(data, StoredData) else digest(b"".join(digest(encode(d)) for d in data)).hex()
    return f"{len(data)} prompts, {known[:16]}"


LONG = 16
"""Rows of more numbers, such as gradients, are no reading matter."""


def write_memory(folder: Path, memory: Mapping[str, Tensor], vocabulary: Vocabulary | None) -> None:
    """What the method learned about voices and data, as memory.json; a number for each voice goes by its name. Tables
    with rows of more than ``LONG`` numbers are left to the checkpoints."""
    names = {} if vocabulary is None else {number: name for name, number in vocabulary.numbers.items()}
    told: dict[str, Any] = {}
    for name, value in memory.items():
        if value.dim() > 1 and value.shape[-1] > LONG:
            continue
        by_voice = value.dim() > 0 and len(value) == 1 + len(names)
        numbers = value.tolist() if by_voice else value[value.isfinite()].tolist()
        told[name] = {names.get(n, "(no name)"): number for n, number in enumerate(numbers)} if by_voice else numbers
    (folder / "memory.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def open_record(folder: Path, identity: dict[str, Any], known: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """Claim an output folder for a run, with what is known of it before its first step. Returns the record so far.

    Args:
        start: of this start of the run: where it goes on from, and on what machine. Those of earlier starts are kept.
    """
    check_folder(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    before = read_record(folder)
    same = before.get("identity") == json.loads(json.dumps(identity))
    starts = [*(before.get("starts", []) if same else []), {"at": moment(), **start}]
    record = {"identity": identity, "status": STARTED, "versions": versions(), **known, "starts": starts}
    write_record(folder, record)
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json whole or not at all."""
    record = {"written": moment(), **record}
    write_whole(folder / "run.json", json.dumps(record, indent=2, default=str) + "\n")


def moment() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_card(folder: Path, record: dict[str, Any]) -> None:
    """Write README.md, the model card, from the record."""
    data = record.get("data") or {}
    named = [part["name"] for part in data.get("parts") or [data] if "name" in part]
    # A hub id stands as it is; of a path only the file is for others to see.
    sources = [Path(name).name if Path(name).exists() else name for name in named]
    template = markdown.environment().get_template("card.md.j2")
    write_whole(folder / "README.md", template.render(**record, sources=sources))


def usage(tokenizer: Any, task: str, outputs: Sequence[str] = ()) -> str:
    """How to ask a saved model, as lines of Python: a policy to ``generate``, a reward ``model`` for its score, or for
    all its ``outputs`` where it has several."""
    if task == "policy":
        prompt = '[{"role": "user", "content": "Your prompt"}]' if tokenizer.chat_template else '"Your prompt"'
        return f"print(generate({prompt}))"
    if pair_frame(tokenizer) is not None:
        text = 'inputs = tokenizer(prompt, response, return_tensors="pt")'
    elif tokenizer.chat_template:
        text = (
            'turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]\n'
            'inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)'
        )
    elif tokenizer.eos_token is None or tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        text = 'inputs = tokenizer(prompt + response, return_tensors="pt")'
    else:
        text = 'inputs = tokenizer(prompt + response + tokenizer.eos_token, return_tensors="pt")'
    if outputs:
        return f"{text}\noutputs = dict(zip(model.config.id2label.values(), model(**inputs).logits[0].tolist()))"
    return f"{text}\nscore = model(**inputs).logits[0, 0].item()"
