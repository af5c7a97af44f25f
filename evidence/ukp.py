"""Real human votes: reward models on 16,927 pairs of arguments with five votes each, whole debates held out.

A pretrained sentence encoder is fine-tuned on the training debates with hard Bradley-Terry, with MMPO on the vote
margin, and with the vote shares themselves; accuracy, NLL, ECE and Brier score against the votes of the four held-out
debates are measured after several numbers of epochs, up to a length at which hard labels are memorised.
"""

from __future__ import annotations

from typing import Any

from evidence.common import DATA, METRICS, over_seeds, paired, table, write
from evidence.reward import train_and_measure
from mmpo.batch import Limits
from mmpo.data import Source, load, merge
from mmpo.methods.reward import bradley_terry, mmpo_reward
from mmpo.objectives import Logistic
from mmpo.scores import Given
from mmpo.targets import Votes
from mmpo.types import Datum, Method

METHODS: dict[str, Method] = {
    "hard": bradley_terry(),
    "mmpo": mmpo_reward(gamma=2.0),
    "votes": Method(Votes(), Given(), Logistic()),
}
EPOCHS = (2, 4, 8)
SEEDS = (0, 1, 2)


def data(split: str) -> list[Datum]:
    return merge(load(Source(str(DATA / "ukp_convincing_arguments.jsonl.gz"), split=split)).data)[0]


def main() -> None:
    train, held_out = data("train"), data("validation") + data("test")
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for name, method in METHODS.items():
            measured = train_and_measure(
                method, train, held_out, epochs=EPOCHS, seed=seed, limits=Limits(256, 128), learning_rate=1e-4
            )
            rows += [{"method": name, **row} for row in measured]
            means = over_seeds(rows, ("method", "set", "epochs"), METRICS)
            differences = paired(rows, "mmpo", "hard", ("set", "epochs"), METRICS)
            write("ukp", {"runs": rows, "means": means, "mmpo minus hard": differences})
    print(table(means, ("method", "set", "epochs"), METRICS))
