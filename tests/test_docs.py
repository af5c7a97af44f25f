"""The documentation says what the code does: its rows load, its recipes parse, its names, flags and links exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast
from typer.main import get_command

from mmpo.batch import evidence
from mmpo.cli import app, main
from mmpo.data import Source, load, merge
from mmpo.evaluate import Comparisons, summarise
from mmpo.evaluate.report import write_report
from mmpo.methods import CATALOGUE
from mmpo.recipe import Recipe, Shape, read_recipe
from mmpo.targets import BradleyTerry, Hard, Votes
from mmpo.types import Datum

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.stem}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in FENCE.finditer(text)]


def every(language: str) -> list[Any]:
    return [pytest.param(b, id=b.name) for page in PAGES for b in blocks(page) if b.language == language]


# ---------------------------------------------------------------------------------------------- rows


def examples() -> Iterator[Any]:
    """The rows of docs/data.md, the source options that follow them, and what the page says becomes of them."""
    found = blocks(DOCS / "data.md")
    for n, rows in enumerate(found):
        if rows.language == "json":
            options = found[n + 1] if found[n + 1].language == "yaml" else None
            yield pytest.param(rows, options, found[n + 2 if options else n + 1], id=rows.name)


@pytest.mark.parametrize(("rows", "options", "said"), list(examples()))
def test_a_row_becomes_what_the_page_says(rows: Block, options: Block | None, said: Block, tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_text(rows.text, encoding="utf-8")
    source = {**yaml.safe_load(options.text)["data"], "path": str(path)} if options else str(path)
    (datum,), _ = merge(load(source).data)
    told = said.text.splitlines()
    pairs = list(combinations(range(len(datum.responses)), 2))
    assert [line[:4] for line in told] == [f"P_{i}{j}" for i, j in pairs]
    stated = evidence([datum])
    for line, (i, j) in zip(told, pairs, strict=True):
        if line.endswith("not compared"):
            assert stated.weight[0, i, j] == 0
            continue
        words = dict(re.findall(r"(hard|graded|votes) +(\S+)", line))
        for name, target in (("hard", Hard()), ("graded", BradleyTerry(1.0)), ("votes", Votes())):
            if words[name] == "-":
                assert stated.vote_share[0, i, j].isnan()
            else:
                p = float(target(stated, torch.zeros_like(stated.weight))[0, i, j])
                assert p == pytest.approx(float(words[name]), abs=6e-4), f"{name} at line {said.line}"


def test_the_row_of_the_readme_loads(tmp_path: Path) -> None:
    (rows,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "json"]
    (tmp_path / "prefs.jsonl").write_text(rows, encoding="utf-8")
    assert load(str(tmp_path / "prefs.jsonl")).data[0].grades is not None


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_accepted(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.output_dir == Path("runs") / path.stem


@pytest.mark.parametrize("block", every("yaml"))
def test_a_fragment_of_a_recipe_is_accepted(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(block.text, encoding="utf-8")
    whole = {"model": "m", "method": "dpo", "data": "prefs.jsonl", "output_dir": "runs/x"}
    read_recipe(path, {key: value for key, value in whole.items() if key not in yaml.safe_load(block.text)})


@pytest.mark.parametrize(
    ("recipe", "row"),
    [
        ("policy-mmpo-lora", {"prompt": "2 + 2?", "responses": ["4", "5", "Four."], "scores": [9, 2, 8]}),
        ("reward-mmpo", {"prompt": "2 + 2?", "responses": ["4", "5"], "votes": [0, 0, 1]}),
    ],
)
def test_a_recipe_trains(
    recipe: str, row: dict[str, Any], tmp_path: Path, tiny_policy: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_policy().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps({**row, "prompt": f"{n} + 2?"}) + "\n" for n in range(4)))
    out = tmp_path / "run"
    rows = str(tmp_path / "prefs.jsonl")
    own = {"model": tmp_path / "tiny", "data": rows, "eval_data": rows, "output_dir": out}
    small = {"max_steps": 1, "gradient_accumulation_steps": 1, "disable_tqdm": True}
    flags = [word for key, value in {**own, **small}.items() for word in (f"--{key}", str(value))]
    with pytest.raises(SystemExit) as done:
        main(["train", str(ROOT / "recipes" / f"{recipe}.yaml"), *flags])
    assert done.value.code == 0
    said = (DOCS / "training.md").read_text(encoding="utf-8")
    left = {re.sub(r"\d+", "N", path.name) for path in out.iterdir()}
    assert not {name for name in left if f"`{name}" not in said}
    tests = [line[5:].split(":")[0] for line in json.loads((out / "run.json").read_text())["self_test"]]
    assert not {name for name in tests if f"| {name} |" not in said}


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("data.md", [field.name for field in fields(Source)]),
        ("data.md", list(Shape.model_fields)),
        ("training.md", [key for key in Recipe.model_fields if key != "training"]),
        ("methods/choose.md", list(CATALOGUE)),
    ],
    ids=["source", "shape", "recipe", "methods"],
)
def test_every_name_is_explained(page: str, names: list[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_report_has_the_form_of_the_page(tmp_path: Path) -> None:
    datum = Datum("0", "2 + 2?", ("4", "5", "Four."), grades=(9, 2, 8))
    c = Comparisons.from_data([datum], [[2.0, 0.5, 1.0]])
    write_report(summarise(c, bootstrap=10), c, tmp_path, title="", model_name="")
    report = json.loads((tmp_path / "report.json").read_text())
    (shown,) = [json.loads(block.text) for block in blocks(DOCS / "evaluation.md") if block.language == "json"]
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert shown.keys() == report.keys()
    assert shown["by_length"].keys() == report["by_length"].keys()
    assert shown["overall"].keys() <= report["overall"].keys()
    assert not {name for name in report["overall"] if f"`{name}`" not in text and name not in shown["overall"]}
    for name in ("accuracy", "best_possible", "coin"):
        assert shown["overall"][name].keys() == report["overall"][name].keys()


@pytest.mark.parametrize("block", every("python"))
def test_python_compiles_and_its_names_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def command_lines() -> Iterator[Any]:
    """Every ``mmpo ...`` that a page tells the reader to type."""
    for page in PAGES:
        for n, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for told in re.findall(r"^ {4}(mmpo .*)$|`(mmpo [^`]+)`|^(mmpo .*)$", line):
                yield pytest.param("".join(told).split("#")[0].split(), id=f"{page.stem}:{n}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_commands_and_flags_exist(words: list[str]) -> None:
    command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    flags = [word[2:].split("=")[0] for word in words if word.startswith("--")]
    if command.context_settings.get("ignore_unknown_options"):  # the keys of a recipe
        whole: dict[str, Any] = {"model": "m", "method": {"name": "mmpo"}, "data": "d", "output_dir": "o"}
        own = {option for parameter in command.params for option in parameter.opts}
        places = [n for n, word in enumerate(words) if word.startswith("--") and word not in own]
        given = {words[n][2:]: yaml.safe_load(words[n + 1]) for n in places}
        read_recipe(None, {**whole, **given})
        return
    known = {option.lstrip("-").replace("_", "-") for p in command.params for option in p.opts}
    assert not {flag.replace("_", "-") for flag in flags} - known


# ---------------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), target
