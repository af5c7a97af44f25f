"""Data made ready for the first step by one side, through its own front door, the clock started when all is imported.

``python -m soak.preparing ours RECIPE`` or ``... trl FILE MODEL PROCESSES`` prints the seconds as JSON: on the clock,
and those that processors spent on it in all processes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = self._now()

    def read(self) -> dict[str, float]:
        return {name: now - self.began[name] for name, now in self._now().items()}

    @staticmethod
    def _now() -> dict[str, float]:
        used = [getrusage(whose) for whose in (RUSAGE_SELF, RUSAGE_CHILDREN)]
        return {"seconds": time.perf_counter(), "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used)}


def ours(recipe: str) -> dict[str, float]:
    from mmpo.recipe import read_recipe
    from mmpo.run.setup import from_recipe

    read = read_recipe(recipe)
    clock = Clock()
    setup = from_recipe(read)
    return {**clock.read(), "rows": len(setup.examples)}


def trl(file: str, model: str, processes: str) -> dict[str, float]:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder, report_to="none", use_cpu=True, max_length=256, dataset_num_proc=int(processes)
        )
        clock = Clock()
        rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=f"{folder}/cache")
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(model),
            args=args,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        return {**clock.read(), "rows": len(trainer.train_dataset)}


if __name__ == "__main__":
    side, *words = sys.argv[1:]
    print(json.dumps({"ours": ours, "trl": trl}[side](*words)))
