"""Real human votes: reward models on 16,927 pairs of arguments with five votes each, whole debates held out.

A pretrained sentence encoder is fine-tuned on the training debates with hard Bradley-Terry, with MMPO on the vote
margin at gamma = 2, and with MMPO at the gamma fitted to the training votes; accuracy, NLL, ECE and Brier score against
the votes of the four held-out debates are measured after several numbers of epochs, up to a length at which hard labels
are memorised.
"""

from __future__ import annotations

from typing import Any

from evidence.common import DATA, METRICS, over_seeds, paired, table, write
from evidence.reward import train_and_measure
from mmpo.batch import Limits
from mmpo.data import Source, fit_gamma, load, merge
from mmpo.methods.reward import bradley_terry, mmpo_reward
from mmpo.types import Datum

EPOCHS = (2, 4, 8)
SEEDS = (0, 1, 2)


def data(split: str) -> list[Datum]:
    return merge(load(Source(str(DATA / "ukp_convincing_arguments.jsonl.gz"), split=split)).data)[0]


def main() -> None:
    train, held_out = data("train"), data("validation") + data("test")
    gamma = fit_gamma(train)
    methods = {"hard": bradley_terry(), "mmpo": mmpo_reward(2.0), "mmpo auto": mmpo_reward(gamma.gamma)}
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for name, method in methods.items():
            measured = train_and_measure(
                method, train, held_out, epochs=EPOCHS, seed=seed, limits=Limits(256, 128), learning_rate=1e-4
            )
            rows += [{"method": name, **row} for row in measured]
            write("ukp", summary(rows, gamma.as_dict()))
    print(table(summary(rows, gamma.as_dict())["means"], ("method", "set", "epochs"), METRICS))


def summary(rows: list[dict[str, Any]], gamma: dict[str, Any]) -> dict[str, Any]:
    """Single runs, means over seeds, and differences to hard labels."""
    means = over_seeds(rows, ("method", "set", "epochs"), METRICS)
    differences = [
        {"method": name, **row}
        for name in ("mmpo", "mmpo auto")
        if any(r["method"] == name for r in rows)
        for row in paired(rows, name, "hard", ("set", "epochs"), METRICS)
    ]
    return {"runs": rows, "means": means, "minus hard": differences, "gamma": gamma}
