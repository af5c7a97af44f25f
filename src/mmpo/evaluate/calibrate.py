"""A model's calibration: fitted to what people said, measured on prompts it was not fitted to, kept beside the model.

``calibration.json`` holds the fit, how the model was read, the data in numbers, and the log loss, Brier score and ECE
before and after. It is applied only where the model is read in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data import load, merge
from mmpo.data.ledger import in_words
from mmpo.data.source import Source
from mmpo.data.texts import key
from mmpo.errors import OnBadRow, UserError
from mmpo.evaluate.agreement import brier, nll
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.fit import Fit, from_dict, named
from mmpo.evaluate.recorded import part_record
from mmpo.evaluate.scoring import Scorer
from mmpo.evaluate.summary import means_of, measure
from mmpo.files import write_json
from mmpo.models.outputs import OutputsReader
from mmpo.models.store import adapter_digest, state_digest, weights_digest
from mmpo.run.provenance import versions
from mmpo.run.record import read_record
from mmpo.types import Datum, Text

FILE = "calibration.json"
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """What calibration.json holds.

    Attributes:
        fit: the map from margins to probabilities, fitted to all the data.
        reading: how the model was read: its score, precision, limits, and what its weights, what was learned beside
            them, its reference's and its chat template come to.
        data: ``names``, ``n_comparisons``, ``n_prompts``, and ``prompts``, a short hash of each.
        before, after: metrics as ``summary.measure`` gives them, of the model as it is, and of fits to the other
            prompts (cross-fitting), so that no comparison is measured by a fit that has seen its prompt.
        change: after minus before, of the NLL and the Brier score of each comparison: {value, low, high}.
        folds: into how many parts the prompts were divided for that.
    """

    fit: Fit
    reading: dict[str, Any]
    data: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    change: dict[str, Any]
    folds: int

    def write(self, folder: Path) -> Path:
        """Write calibration.json into the model's folder, whole or not at all; an older one is replaced."""
        record = {**{name: value for name, value in vars(self).items() if name != "fit"}, "fit": self.fit.as_dict()}
        write_json(folder / FILE, {**record, "versions": versions()})
        return folder / FILE

    @classmethod
    def read(cls, folder: str | Path) -> Calibration | None:
        """The calibration in a folder, None where there is none. Raises UserError for a file that is none."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
            fields = {name: record[name] for name in cls.__dataclass_fields__}
            return cls(**{**fields, "fit": from_dict(record["fit"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a calibration ({error}); run mmpo calibrate again, or remove it") from error

    def differs(self, reading: Mapping[str, Any]) -> str | None:
        """In words, what about another reading is not as it was when this was fitted; None where nothing is."""
        then = self.reading
        told = [
            f"{words} ({_short(then.get(name))})"
            for name, words in {"score": "another score", "dtype": "another precision"}.items()
            if reading[name] != then.get(name)
        ]
        digests = {
            "reference": "another reference",
            "model": "other weights",
            "beside": "other people or heads beside it",
            "template": "another chat template",
        }
        # Another precision changes what the weights come to.
        if reading["dtype"] == then.get("dtype"):
            told += [words for name, words in digests.items() if reading[name] != then.get(name)]
        return ", ".join(told) or None

    def cut_otherwise(self, reading: Mapping[str, Any]) -> str:
        """In words, how sequences were cut when this was fitted, where they are now cut otherwise; else ""."""
        then = self.reading.get("limits")
        if then == reading["limits"]:
            return ""
        limits = ", ".join(f"{name} {value}" for name, value in (then or {}).items())
        return f"; it was fitted under other limits ({limits}), so what is cut here has other margins"

    def seen(self, prompts: Iterable[Text]) -> int:
        """How many of these distinct prompts it was fitted to."""
        return len({_hash(prompt) for prompt in prompts} & set(self.data["prompts"]))

    @property
    def name(self) -> str:
        """The fit in a few words."""
        record = self.fit.as_dict()
        if record["method"] != "temperature":
            return f"{record['method']} curve"
        return f"temperature {1 / record['scale']:.3g}" if record["scale"] else "infinite temperature"


def reading_of(scorer: Scorer) -> dict[str, Any]:
    """How a scorer reads its model, as far as margins depend on it."""
    reference = getattr(scorer.reader, "reference", None)
    return {
        "score": part_record(scorer.score),
        "dtype": str(scorer.model.dtype).removeprefix("torch."),
        "model": _weights(scorer.model),
        "beside": state_digest(scorer.reader.learned) if isinstance(scorer.reader, OutputsReader) else None,
        "reference": None if reference is None else _weights(reference.model),
        "template": scorer.tokenizer.chat_template and _hash(str(scorer.tokenizer.chat_template)),
        "limits": asdict(scorer.limits),
    }


def _weights(model: Any) -> str:
    """What the weights of a model come to, those of an adapter included."""
    return "-".join(filter(None, (weights_digest(model), adapter_digest(model))))


def beside(folder: str | Path, scorer: Scorer) -> tuple[Calibration | None, list[str]]:
    """The calibration beside a model, if it was fitted to the model as it is read here, and a sentence about it."""
    found = Calibration.read(folder)
    if found is None:
        return None, []
    reading = reading_of(scorer)
    differs = found.differs(reading)
    if differs is not None:
        return None, [
            f"{Path(folder) / FILE} is not applied: it was fitted to the model read with {differs}; read it "
            "that way, or run mmpo calibrate again"
        ]
    counts = f"{found.data['n_comparisons']:,} comparisons of {found.data['n_prompts']:,} prompts"
    said = f"calibrated with the {found.name} of {Path(folder) / FILE}, fitted to {counts}"
    return found, [said + found.cut_otherwise(reading)]


def trained_on(folder: str | Path, sources: Iterable[Source]) -> list[str]:
    """The sources, path and split, that the run in this folder was trained on, by its own record."""
    told = (read_record(folder).get("identity") or {}).get("data") or []
    seen = {_place(one.get("path", ""), one.get("split")) for one in told if isinstance(one, dict)}
    return [one.path for one in sources if _place(one.path, one.split) in seen]


def _place(path: str, split: str | None) -> tuple[str, str | None]:
    return str(Path(path).resolve()) if Path(path).exists() else path, split


def cross_fitted(c: Comparisons, method: str, folds: int = FOLDS, seed: int = 0) -> Comparisons:
    """The comparisons with margins of fits to the other prompts: prompts are divided at random into ``folds`` parts.

    Raises UserError for fewer than two folds or two prompts.
    """
    _check_folds(folds)
    names, prompt = np.unique(c.group, return_inverse=True)
    if len(names) < 2:
        raise UserError("all comparisons have one prompt, so none is left to measure on; give data with more prompts")
    part = np.random.default_rng(seed).permutation(len(names))[prompt] % min(folds, len(names))
    m = np.empty(len(c))
    for fold in range(part.max() + 1):
        held_out = part == fold
        m[held_out] = named(method).fit(c.where(~held_out)).margins(c.m[held_out])
    return replace(c, m=m)


def _check_folds(folds: int) -> None:
    if folds < 2:
        raise UserError(f"folds is {folds}; give at least 2, so that there are prompts to measure on")


def calibrate(
    c: Comparisons, method: str = "temperature", *, folds: int = FOLDS, seed: int = 0, bootstrap: int = 1000
) -> tuple[Fit, dict[str, Any]]:
    """The fit to all comparisons; and ``before``, ``after`` and ``change``, as ``Calibration`` holds them."""
    after = cross_fitted(c, method, folds, seed)
    change = {name: of(c.p, after.m) - of(c.p, c.m) for name, of in {"nll": nll, "brier": brier}.items()}
    how = {"bootstrap": bootstrap, "seed": seed}
    changed = means_of(c, change, bootstrap=bootstrap, seed=seed)
    return named(method).fit(c), {"before": measure(c, **how), "after": measure(after, **how), "change": changed}


def calibrate_model(
    scorer: Scorer,
    sources: Any,
    *,
    method: str = "temperature",
    folds: int = FOLDS,
    seed: int = 0,
    on_bad_row: OnBadRow = "error",
) -> tuple[Calibration, list[str]]:
    """Fit a calibration to what people say in the data, which the model should not have been trained on.

    Args:
        scorer: the model and how it is read.
        sources: anything ``mmpo.data.load`` takes.
        method: "temperature" or "isotonic".
        folds: parts of the prompts for the cross-fitted numbers.

    Returns:
        The calibration, and what was dropped, merged and cut, one sentence each.
    """
    named(method)
    _check_folds(folds)
    loaded = load(sources, on_bad_row=on_bad_row, seed=seed)
    data, merged = merge(loaded.data)
    scored = scorer(data, on_bad_row)
    c = Comparisons.from_data(scored.data, scored.said, scored.lengths)
    fit, measured = calibrate(c, method, folds=folds, seed=seed)
    made = Calibration(
        fit=fit,
        reading=reading_of(scorer),
        data=_about(scored.data, c, sources),
        folds=min(folds, measured["before"]["n_prompts"]),
        **measured,
    )
    return made, [*loaded.ledger.summary(), *in_words("merging", merged), scored.cuts["summary"]]


def _about(data: Sequence[Datum], c: Comparisons, sources: Any) -> dict[str, Any]:
    compared = set(c.ids["datum"].tolist())
    prompts = {_hash(datum.prompt) for datum in data if datum.id in compared}
    given = sources if isinstance(sources, list | tuple) else [sources]
    return {
        "names": [str(getattr(one, "path", one)) for one in given],
        "n_comparisons": len(c),
        "n_prompts": len(np.unique(c.group)),
        "prompts": sorted(prompts),
    }


def _hash(prompt: Text) -> str:
    return blake2b(key(prompt).encode("utf-8", "replace"), digest_size=5).hexdigest()


def _short(value: Any) -> str:
    if not isinstance(value, Mapping) or "name" not in value:
        return f"then {value}"
    numbers = ", ".join(f"{k} {v:g}" for k, v in value.items() if isinstance(v, float | int))
    return f"then {value['name']}{f' with {numbers}' if numbers else ''}"
