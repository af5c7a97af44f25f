"""Write docs/reliability.md from the results that the other runs left in docs/reliability/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmpo.files import write_whole
from soak.common import RESULTS, ROOT

INTRODUCTION = """# Reliability

A run that is killed goes on as if nothing had happened, bad input is answered in one line or counted, several processes
train like one, and large data fit in small memory. Every number on this page is filled in from a run: `make soak` makes
them again, which takes an hour or two, and each section names the part that it comes from. What is promised about
hostile input stands in SECURITY.md, with a test for each promise.
"""

MIB = 1 << 20


def main() -> None:
    parts = {"kills": kills, "fuzz": fuzz, "ranks": ranks, "million": million, "plan": plan}
    text = [INTRODUCTION]
    for name, section in parts.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            print(f"{path.relative_to(ROOT)} is missing, so the page is silent on it; run: python -m soak {name}")
            continue
        found = json.loads(path.read_text())
        text.append(f"{section(found)}\nMeasured by `{found['command']}` on {_machine(found['machine'])}.\n")
    write_whole(ROOT / "docs" / "reliability.md", "\n".join(text))


def _machine(told: Mapping[str, Any]) -> str:
    versions = told["versions"]
    return (
        f"{told['cores']} cores of {told['processor']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}"
    )


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def kills(found: Mapping[str, Any]) -> str:
    total = found["total"]
    counts = {
        "random kills": "random_kills",
        "aimed kills": "aimed_kills",
        "SIGTERM": "sigterms",
        "starts": "starts",
        "damaged checkpoints": "checkpoints_moved_aside",
        "runs": "runs",
        "identical": "runs_identical",
    }
    rows = [[kind, *(one[key] for key in counts.values())] for kind, one in found["kinds"].items()]
    return f"""## Killed anywhere

{total["random_kills"]} kills (SIGKILL) at random moments from the first line read to the last file written,
{total["aimed_kills"]} in the middle of writing a given file, and {total["sigterms"]} requests to leave (SIGTERM). The
same command is started again until it is done. {total["runs_identical"]} of {total["runs"]} runs ended with the
weights of a run that was left alone, bit for bit, with the same ids in every step, none lost and none twice, and with
the same log. {total["checkpoints_moved_aside"]} times the newest checkpoint was not whole; it was recognised and moved
aside, and the one before it was taken. The kills begin when the libraries are loaded, before which nothing is written.
{found["prompts"]} prompts, {found["steps"]} steps, dropout on.

{_table(["", *counts], rows)}"""


def fuzz(found: Mapping[str, Any]) -> str:
    outcomes = {name: found[name]["outcomes"] for name in ("files", "recipes", "flags", "inspect")}
    told = {name: "; ".join(f"{n:,} {what}" for what, n in sorted(of.items())) for name, of in outcomes.items()}
    rows = [[name, f"{sum(of.values()):,}", told[name]] for name, of in outcomes.items()]
    data, broken, led = found["files"]["rows"], found["laws_broken"], found["led_by_coverage"]
    held = "It held every time." if not broken else f"It did not hold {broken} times."
    searched = f"Atheris, led by coverage, searched the loaders for {led['seconds']:g} seconds beside these.\n"
    return f"""## Input that is nearly right

{found["examples"]:,} files, recipes and command lines, made from good ones by leaving out, renaming, retyping, nesting,
cutting and flipping bytes. What must hold: the answer is data or one line that says what is wrong, soon; rows in = rows
used + rows dropped; what is loaded where bad rows are dropped is what is loaded of the good rows alone. {held}

{_table(["what", "how many", "outcome"], rows)}
Of {data["in"]:,} rows in those files {data["used"]:,} were used and {data["dropped"]:,} dropped, each with its reason.
{searched if "seconds" in led else ""}"""


def ranks(found: Mapping[str, Any]) -> str:
    curves, resumed = (
        found[f"largest difference {how}"]
        for how in ("from one process", "after going on with another number of processes")
    )
    ways = list(dict.fromkeys(way for case in curves.values() for way in case))
    rows = [
        [name, *(f"{case[way]['loss']:.1g}" if way in case else "-" for way in ways)] for name, case in curves.items()
    ]
    lost = [
        [name, f"{one['seconds until all had left']:g} s", one["times it was named"], one["steps in the end"]]
        for name, one in found["one process killed"].items()
    ]
    again = [[name, f"{one['loss']:.1g}"] for name, one in resumed.items()]
    return f"""## Many processes

Several processes on this machine (gloo), held against one process: the largest difference in the loss of any of
{found["steps"]} steps.

{_table(["", *ways], rows)}
Stopped half-way and taken up by another number of processes, held against the run that was not stopped:

{_table(["", "largest difference in the loss"], again)}
One process killed in the middle, and the same command started again:

{_table(["", "until all had left", "times it was named", "steps in the end"], lost)}"""


def million(found: Mapping[str, Any]) -> str:
    whole = found["whole"]
    starts = {f"{whole['prompts']:,} prompts, jsonl": whole["first_start"]}
    starts |= {f"{one['prompts']:,} prompts, {kind}": one for kind, one in found.get("files", {}).items()}
    memory = [
        [name, f"{one['seconds']:,.0f} s", one["rows_per_second"], f"{max(one['resident_mib']):,} MiB"]
        for name, one in starts.items()
    ]
    kept = "\n".join(f"- {'held' if held else '**did not hold**'}: {what}" for what, held in found["promised"].items())
    second = ", ".join(f"{one:g} s" for one in whole["second_start_seconds"])
    return f"""## A million prompts

{whole["prompts"]:,} prompts with {whole["responses"]:,} graded responses ({whole["gigabytes"]:g} GB) made ready for
training by {whole["workers"]} processes: read, merged, tokenised and kept on disk ({whole["cache_gigabytes"]:g} GB).

{_table(["", "time", "rows a second", "largest process (resident)"], memory)}
A second start, from the start of the process to the end of its first training step: {second}.
{_killed(found["kills"]) if "kills" in found else ""}{_beside(found["beside_trl"]) if "beside_trl" in found else ""}
{kept}
"""


def _killed(found: Mapping[str, Any]) -> str:
    same = "the same files, to the byte" if found["identical"] else "not the same files"
    return f"""
Killed {found["kills"]} times while preparing and started again: {same}, {found["orphans"]} processes left behind.
"""


def _beside(found: Mapping[str, Any]) -> str:
    rates = ("prompts_per_second", "rows_per_second", "responses_per_second")
    rows = [[name, *(one[rate] for rate in rates)] for name, one in found.items() if name != "prompts"]
    return f"""
Beside TRL on the same responses, {found["prompts"]:,} prompts, turn by turn, imports left out.

{_table(["", "prompts a second", "rows a second", "responses a second"], rows)}"""


def plan(found: Mapping[str, Any]) -> str:
    rows = []
    for one in found["rows"]:
        planned, measured = (f"{value / MIB:,.0f}" for value in (one["planned"]["total"], one["tensors"]))
        rows.append([one["case"]["name"], planned, measured, f"{one['error']:+.1%}"])
    return f"""## What a run takes

`mmpo doctor --plan` ([sizes](sizes.md)) held against the memory of tensors in real runs on this machine, at the largest
moment of a step.

{_table(["run", "planned MiB", "measured MiB", "error"], rows)}"""


if __name__ == "__main__":
    main()
