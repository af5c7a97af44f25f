"""Results -> docs/performance.md and its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.catalogue import EVERY
from bench.pictures import Ratio, curve, ratios, save
from bench.workload import Target

Result = Mapping[str, Any]

INTRODUCTION = """# Speed

How long a training step takes with mmpo and with TRL, on one machine, each row in one run, turn by turn: the same
model, the same rows in the same order, the same optimiser, the same precision, no gradient checkpointing on either
side. Both sides run their own Trainer as it ships. A trainer on pairs is given all comparisons as pairs: it has no
other way to see them.

"Faster" is mmpo's pairs a second over TRL's. Each turn gives one such ratio; the table says the median over the turns,
and the least and the most of them in brackets. Memory is what training takes at its height on top of what stood in
memory before it, model and reference included. The target of a row stands beside it, met or missed.
"""

HOW = """## How it is measured

- The model is a decoder of the Qwen2 architecture with random weights: hidden size 256, 6 layers, vocabulary 32,000,
  tied embeddings. How fast a step is does not hang on what the weights are.
- Texts have natural lengths: prompts lognormal around 150 tokens, responses around 130, at most 512 together, nothing
  cut. A step has 8 prompts with two responses each (8 pairs) or four (48 pairs).
- `make bench` measures all of it again. Each side of each turn is a process of its own, which sets up, takes one step
  that is not timed, and is timed from the end of each step to the end of the next: batching, forward, backward and
  optimiser. The sides take turns.
- mmpo reads a step in micro-batches by itself, of 2,048 tokens on a CPU, and adds up their gradients; that is part of
  why it takes less memory. TRL can be told to do likewise: in the row where it takes one pair at a time, it does so
  eight times a step, which also spares it padding.
- With a cached reference both sides compute the reference's log-probs before the clock starts.
- bf16 is autocast over fp32 weights, as `bf16: true` does it. Every process checks in which precision its model ran,
  and the run stops if the two sides were given different sequences.
- The graph of votes is UKPConvArg1: about 1,000 arguments of 32 debate sides, which people compared in some 16,500
  different pairs, five votes each. mmpo makes one pass over all of it, a debate side a step. One pass would take TRL
  too long here, so it is timed on pairs drawn at random, 64 a step, and the rates are compared.
- The numbers of turns differ, as the table says; a row of one turn has no spread to show. The graph of votes was
  measured with micro-batches of 1,024 tokens.
"""

LIMITS = """## Where it does not help

- Where prompts are short next to their responses, or have one response each, there is little to share. What is left is
  that nothing is padded.
- A reward model has no vocabulary to score, so that on pairs it gains least.
- On a CPU, TRL 1.16 puts every position through its vocabulary head, prompts and padding too, and in bf16 multiplies
  there in fp32. On a GPU with Triton it picks the response tokens first and multiplies in bf16. So part of the policy
  rows comes from the head, the more the larger its share of the model (here it is large: a small model with a large
  vocabulary), and that part is not to be had on a GPU. The reward rows show what is left without it.
- The gain with four responses is over a trainer that reads every pair anew. To train on the best and the worst response
  alone is one pair in place of six, and sees nothing of the other five.
- Only training steps were timed: not loading, evaluation or generation.
"""


def write_page(out: Path) -> None:
    """The page beside the results, and its pictures in a folder of the same name."""
    results = json.loads(out.read_text())
    there = out.with_name(f"{out.stem}-gpu.json")
    gpu = json.loads(there.read_text()) if there.is_file() else {}
    pictures = out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    lines = [
        INTRODUCTION,
        *main_table(results, pictures),
        HOW,
        *work(results),
        *growth(results, pictures),
        *again(results),
    ]
    lines += [LIMITS, *on_gpu(gpu), *where({**results, **gpu})]
    out.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


# ---------------------------------------------------------------------------------------------- words


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def span(value: Mapping[str, float]) -> str:
    return f"{number(value['median'])} [{number(value['low'])}, {number(value['high'])}]"


def target_of(result: Result, metric: str) -> Target | None:
    """What the workload should reach in a metric, in the precision of the result."""
    for target in EVERY[result["workload"]].targets:
        if target.metric == metric and target.precision in (None, result["precision"]):
            return target
    return None


def verdict(result: Result, metric: str) -> str:
    """The target, and whether it was met; a dash where there is none."""
    target = target_of(result, metric)
    if target is None:
        return "-"
    met = target.met(result["summary"][metric]["median"])
    return f"{'at least' if target.least else 'at most'} {number(target.bound)}: {'met' if met else '**missed**'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]] + [""]


def compared(results: Mapping[str, Result]) -> list[Result]:
    return [result for result in results.values() if "speed" in result["summary"]]


def versus(result: Result) -> tuple[str, str]:
    pair = EVERY[result["workload"]].versus
    assert pair is not None
    return pair


# ---------------------------------------------------------------------------------------------- sections


HEAD = ("", "precision", "mmpo, pairs/s", "TRL, pairs/s", "faster", "turns", "target", "memory, mmpo / TRL, MiB")


def speed_row(result: Result) -> list[str]:
    (ours, theirs), summary = versus(result), result["summary"]
    sides = summary["sides"]
    memory = f"{number(sides[ours]['memory']['median'])} / {number(sides[theirs]['memory']['median'])}"
    if (held := verdict(result, "memory")) != "-":
        memory += f" (ratio {held})"
    rates = [number(sides[name]["pairs/s"]["median"]) for name in (ours, theirs)]
    speed = [span(summary["speed"]), str(len(result["turns"])), verdict(result, "speed")]
    return [title(result), result["precision"], *rates, *speed, memory]


def dot(result: Result) -> Ratio:
    target = target_of(result, "speed")
    bound = None if target is None else target.bound
    return Ratio(title(result), result["precision"], **result["summary"]["speed"], target=bound)


def title(result: Result) -> str:
    return EVERY[result["workload"]].title


def main_table(results: Mapping[str, Result], pictures: Path) -> Iterator[str]:
    peers = [result for result in compared(results) if versus(result)[1] == "trl"]
    if not peers:
        return
    save(ratios([dot(result) for result in peers], "times faster than TRL"), pictures / "speed.svg")
    yield from table(HEAD, [speed_row(result) for result in peers])
    yield f"![How many times faster than TRL, with targets]({pictures.name}/speed.svg)"
    yield ""
    yield from unshared([result for result in compared(results) if versus(result)[1] != "trl"])


def unshared(results: Sequence[Result]) -> Iterator[str]:
    if not results:
        return
    yield (
        "Long prompts of about 1,500 tokens with two responses of 100, at most 2,048 together, 2 prompts a step: mmpo "
        'with the prompt read once, mmpo with the prompt read before each response (`layout="separate"`), and TRL.\n'
    )
    head = ("", "precision", "shared, pairs/s", "not shared, pairs/s", "TRL, pairs/s", "faster for sharing", "target")
    rows = []
    for result in results:
        rates = [number(side["pairs/s"]["median"]) for side in result["summary"]["sides"].values()]
        rows.append(
            [title(result), result["precision"], *rates, span(result["summary"]["speed"]), verdict(result, "speed")]
        )
    yield from table(head, rows)


def work(results: Mapping[str, Result]) -> Iterator[str]:
    if not compared(results):
        return
    yield "## How close to the machine\n"
    yield (
        "The work that a step needs is counted by hand: every prompt token and every response token once, the "
        "vocabulary only where a response token is scored, attention only where a token may look; forward and twice "
        "that backward, and forward once for a live reference. That work over the time of the step is compared with "
        "the fastest matrix product that the same run measured in that precision. Beside it stands how many positions "
        "the trained model read for one pair, padding and repetition included.\n"
    )
    head = ("", "precision", "mmpo, of the peak", "target", "positions a pair, mmpo", "TRL")
    rows = []
    for result in compared(results):
        sides = result["summary"]["sides"]
        share = result["summary"]["of peak"]
        read = [f"{sides[name]['positions/pair']:,.0f}" if name in sides else "-" for name in ("mmpo", "trl")]
        shown = f"{share['median']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
        rows.append([title(result), result["precision"], shown, verdict(result, "of peak"), *read])
    yield from table(head, rows)
    peaks = {result["precision"]: result["peak"] for result in compared(results)}
    yield f"Peak: {', '.join(f'{peak / 1e9:,.0f} GFLOP/s in {name}' for name, peak in peaks.items())}."
    yield ""


def growth(results: Mapping[str, Result], pictures: Path) -> Iterator[str]:
    """What a token costs as steps grow, and what a step costs as responses are added."""
    grown = [results[key] for key in ("g fp32", "h fp32") if key in results]
    if not grown:
        return
    yield "## As steps grow\n"
    for result in grown:
        summary, name = result["summary"], EVERY[result["workload"]].title.lower()
        sizes = [int(size) for size in summary["cost"]]
        if "off the line" in summary:
            steps = [side["step"] for side in summary["sides"].values()]
            picture = curve(sizes, steps, name, "seconds a step")
            text = (
                "The time of a step of 8 prompts against the number of responses lies within "
                f"{summary['off the line']['median']:.1%} of a straight line "
                f"(target {verdict(result, 'off the line')})."
            )
        else:
            costs = [
                {
                    key: 1e6 / side["tokens/s"][other]
                    for key, other in (("median", "median"), ("low", "high"), ("high", "low"))
                }
                for side in summary["sides"].values()
            ]
            picture = curve(sizes, costs, name, "microseconds a token")
            text = (
                f"From {min(sizes)} to {max(sizes)} prompts a step a token's dearest cost is "
                f"{summary['flat']['median']:.2f} times its cheapest (target {verdict(result, 'flat')})."
            )
        save(picture, pictures / f"{result['workload']}.svg")
        yield f"{text}\n\n![{name}]({pictures.name}/{result['workload']}.svg)\n"


def again(results: Mapping[str, Result]) -> Iterator[str]:
    if "i fp32" not in results:
        return
    result = results["i fp32"]
    measured = result["turns"][0]["mmpo"]
    passes, computed, seconds = measured["passes"], measured["computed"], measured["seconds"]
    yield "## A second run\n"
    yield (
        f'With `reference="cached"` the first run read its reference once: {computed[0]} responses in {passes[0]} '
        f"forward passes. A second run on the same folder, with another beta and another gamma, made {passes[1]} "
        f"(target {verdict(result, 'passes')}); it was set up in {number(seconds[1])} s, the first in "
        f"{number(seconds[0])} s.\n"
    )


def on_gpu(results: Mapping[str, Result]) -> Iterator[str]:
    if not results:
        return
    yield "## On a GPU\n"
    yield (
        "A decoder of the shape of Qwen2.5-0.5B, prompts around 170 tokens, responses around 300, at most 2,048 "
        "together, 8 prompts a step, a live reference. With four responses TRL takes its 48 pairs in six pieces of 8 "
        "and adds up the gradients.\n"
    )
    yield from table(
        (*HEAD, "mmpo, of the peak"), [[*speed_row(r), span(r["summary"]["of peak"])] for r in results.values()]
    )


def where(results: Mapping[str, Result]) -> Iterator[str]:
    """Every machine behind the page, and what was measured on it."""
    yield "## Machine\n"
    said: dict[str, list[Result]] = {}
    for result in results.values():
        m = result["machine"]
        device = m["device"] if m["device"] != "cpu" else f"{m['processor']}, {m['cores']} cores"
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        said.setdefault(f"{device}, {m['torch_threads']} threads; {versions}", []).append(result)
    for machine, measured in said.items():
        titles = dict.fromkeys(f"{title(result).lower()} ({result['precision']})" for result in measured)
        yield f"- {machine}: {'; '.join(titles) if len(said) > 1 else 'everything on this page'}."
    yield ""
    yield "Each step, and the command that measures it again, is in the JSON file beside this page in the repository."
