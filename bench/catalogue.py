"""What is measured, and what it should reach."""

from __future__ import annotations

from dataclasses import replace

from bench.workload import QWEN, Lengths, Side, Target, Workload


def twice(prompts: int = 8, responses: int = 2, steps: int = 2, repeats: int = 3, pieces: int = 1) -> dict[str, Side]:
    """The same rows for us and for the peer; ours is timed over them several times, as it takes less time."""
    ours = Side(prompts=prompts, responses=responses, steps=steps)
    return {"mmpo": replace(ours, repeats=repeats), "trl": replace(ours, peer=True, pieces=pieces)}


LONG = Lengths(prompt=1500, prompt_most=1900, response=100, response_most=146, spread=0.15)
CHAT = Lengths(prompt=170, prompt_most=700, response=300, response_most=1346)
THIRD = 1 / 3

WORKLOADS: dict[str, Workload] = {
    "a": Workload(
        "Pairs, a live reference",
        twice(),
        targets=(
            Target("speed", 7, precision="fp32"),
            Target("speed", 10, precision="bf16"),
            Target("memory", THIRD, least=False),
            Target("of peak", 0.55, precision="fp32"),
        ),
    ),
    "a1": Workload("Pairs, TRL takes one at a time", twice(pieces=8), precisions=("fp32",), turns=2),
    "b": Workload("Pairs, a cached reference", twice(), cached=True, turns=2),
    "c": Workload(
        "Four responses, all six comparisons",
        twice(responses=4, steps=1, repeats=4),
        turns=2,
        targets=(Target("speed", 25),),
    ),
    "d2": Workload("Reward model, pairs", twice(repeats=4), task="reward", targets=(Target("speed", 1.7),)),
    "d4": Workload(
        "Reward model, four responses",
        twice(responses=4, steps=1, repeats=4),
        task="reward",
        targets=(Target("speed", 6),),
    ),
    "e": Workload(
        "Reward model on a graph of votes",
        {"mmpo": Side(prompts=1), "trl": Side(peer=True, pairs=64)},
        task="reward",
        data="votes",
        targets=(Target("speed", 15),),
    ),
    "f": Workload(
        "Long prompts, shared or not",
        {
            "mmpo": Side(prompts=2, repeats=2),
            "separate": Side(prompts=2, layout="separate"),
            "trl": Side(prompts=2, peer=True),
        },
        versus=("mmpo", "separate"),
        lengths=LONG,
        targets=(Target("speed", 1.7),),
    ),
    "g": Workload(
        "Prompts a step",
        {str(n): Side(prompts=n, steps=64 // n) for n in (8, 16, 32, 64)},
        versus=None,
        precisions=("fp32",),
        turns=2,
        targets=(Target("flat", 1.1, least=False),),
    ),
    "h": Workload(
        "Responses a prompt",
        {str(n): Side(responses=n, steps=1, repeats=2) for n in (2, 4, 8, 16)},
        versus=None,
        precisions=("fp32",),
        turns=2,
        targets=(Target("off the line", 0.1, least=False),),
    ),
    "i": Workload(
        "A second run on the same reference",
        {"mmpo": Side()},
        versus=None,
        cached=True,
        measure="again",
        precisions=("fp32",),
        turns=1,
        targets=(Target("passes", 0, least=False),),
    ),
}

GPU = "gpu-"
"""How the names of the workloads begin that want a CUDA device."""

EVERY = {
    **WORKLOADS,
    f"{GPU}pairs": Workload(
        "Pairs, a live reference", twice(steps=8), lengths=CHAT, shape=QWEN, precisions=("bf16",), warm=3
    ),
    f"{GPU}four": Workload(
        "Four responses, all six comparisons",
        # All 48 pairs at once would not fit into the memory of one device.
        twice(responses=4, steps=4, repeats=4, pieces=6),
        lengths=CHAT,
        shape=QWEN,
        precisions=("bf16",),
        warm=3,
    ),
}
