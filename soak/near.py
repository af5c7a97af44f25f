"""Input that is nearly right: rows, files, recipes and command lines with a few things wrong, for hypothesis."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmpo.batch import Limits
from mmpo.data import Source
from mmpo.recipe import Recipe, Shape

Draw = Any

# ---------------------------------------------------------------------------------------------- rows

_USER, _ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
_TWO: dict[str, Any] = {"prompt": "2 + 2?", "responses": ["4", "5"]}
_PAIR: dict[str, Any] = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}

ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "2 + 2?", "responses": ["4", "5", "Four."], "scores": [9.0, 2, 7.5], "id": "a", "weight": 0.5},
    {"prompt": "2 + 2?", "responses": ["4", "5", "Four."], "ranks": [1, 3, 2], "split": "train"},
    {**_TWO, "votes": [0, 0, 1, -1], "annotators": ["ann", "bob", "cy", "dee"], "weights": [1, 1, 0.5, 2]},
    {**_TWO, "p_first": 0.8, "p_first_swapped": 0.35},
    {**_TWO, "preferred": 0, "annotator": "ann"},
    {**_TWO, "annotators": ["ann", "bob"], "annotator_scores": [[5, 2], [4, None]]},
    {**_TWO, "attributes": {"helpfulness": [4, 1]}, "scores": [1, 2]},
    {**_TWO, "scores": [1, 2], "marks": [[[0, 1]], None], "rollouts": ["Four."], "rationale": "It is 4."},
    {"prompt": "2 + 2?", "responses": ["4", "5", "6"], "pairwise": [[0, 1, 0], [2, 1, -1]]},
    {**_TWO, "judgements": [{"first": 0, "second": 1, "p": 0.9, "count": 10, "annotator": "judge", "gap": 1.5}]},
    {"prompts": ["a?", "b?"], "responses": ["4", "5"], "contrasts": [{"coefficients": [1, -1], "p": 0.9}]},
    {**_TWO, "scores": [9, None], "about": [{"marks": [[0, 1]]}, {"role": "variant", "prompt": "c?"}]},
    {**_PAIR, "score_chosen": 9.0, "score_rejected": 7.5},
    {**_PAIR, "votes_chosen": 4, "votes_total": 5, "p_chosen": 0.8},
    {
        **_PAIR,
        "scores_chosen": [2.5, 1],
        "scores_rejected": [1, 1.5],
        "variants": [{"of": 0, "degree": 1, "text": "x"}],
    },
    {"chosen": [_USER, _ASSISTANT], "rejected": [_USER, {**_ASSISTANT, "content": "5"}]},
    {"chosen": "Human: a?\n\nAssistant: 4", "rejected": "Human: a?\n\nAssistant: 5"},
    {"prompt_chosen": "a?", "chosen": "4", "prompt_rejected": [_USER], "rejected": "5"},
    {"prompt": "2 + 2?", "response": "4", "helpfulness": 4, "correctness": 4},
    {"prompt": "2 + 2?", "response": "5", "helpfulness": 1, "correctness": 0},
    {"instruction": "a?", "completions": [{"response": c, "overall_score": n} for n, c in enumerate("xyz")]},
    {"prompt": "a?", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]},
    {"history": "a?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_A": 5, "score_B": 3},
    {"prompt": "a?", "response_1": "4", "response_2": "5", "preference_strength": -2},
    {
        "context": [_USER],
        "response1": "4",
        "response2": "5",
        "overall_preference": -2,
        "individual_preference": [{"score": -2}, {"score": 1}],
    },
    {
        "chosen": ["a?", "4"],
        "rejected": ["a?", "5"],
        "GPT4 label": 1,
        "chosen score list": [2.5, 1.5],
        "rejected score list": [1.0, 1.0],
    },
)
"""A right row of every schema."""

RAW = {'"@deep@"': "[" * 3000 + "]" * 3000, '"@huge@"': "1e400", '"@digits@"': "9" * 5000}
"""JSON that no Python value writes, by the text that stands for it."""

TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "\u2028",
    "\ufeffx",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    "e\u0301" * 30,
    "<s>",
    "</s>",
    "<MASK>a</MASK>",
    "<MASK>",
    "[1, 2]",
    "[[",
    "{{ 7 }}",
    "../../x",
    "nan",
    "long " * 4000,
)
ODD: tuple[Any, ...] = (
    *TEXTS,
    *RAW.keys(),
    None,
    True,
    0,
    -1,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    2**70,
    [],
    {},
    [[]],
    [None],
    ["4", "4"],
    [_USER, _ASSISTANT],
    [{"role": "user"}],
    [{"role": "assistant", "content": None, "tool_calls": [{}]}],
    [{"role": "user", "content": [{"type": "text", "text": 3}]}],
    {"a": {"b": [1]}},
)
ODD = tuple(json.loads(one) if isinstance(one, str) and one in RAW else one for one in ODD)
NAMES = sorted(
    {name for row in ROWS for name in row} | {"margin", "score", "rating", "segments", "", "\u202e", "votes "}
)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _spots(value[key])


def _change(draw: Draw, value: Any, odd: st.SearchStrategy[Any], names: list[str]) -> None:
    """One thing about a mapping, anywhere inside it: gone, renamed, another value, wrapped, twice, added."""
    spots = list(_spots(value))
    kind = draw(st.sampled_from(("replace", "replace", "replace", "drop", "rename", "wrap", "twice", "add")))
    if kind == "add" or not spots:
        value[draw(st.sampled_from(names))] = draw(odd)
        return
    inside, key = draw(st.sampled_from(spots))
    if kind == "replace":
        inside[key] = draw(odd)
    elif kind == "wrap":
        inside[key] = [inside[key]]
    elif kind == "drop":
        del inside[key]
    elif isinstance(inside, dict):
        inside[draw(st.sampled_from(names))] = inside.pop(key) if kind == "rename" else copy.deepcopy(inside[key])
    else:
        inside.append(copy.deepcopy(inside[key]))


@st.composite
def changed(draw: Draw, values: tuple[Any, ...], odd: tuple[Any, ...], names: list[str], most: int = 3) -> Any:
    """One of the values with up to so many changes."""
    value = copy.deepcopy(draw(st.sampled_from(values)))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 1, *range(2, most + 1))))):
        _change(draw, value, st.sampled_from(odd).map(copy.deepcopy), names)
    return value


rows = changed(ROWS, ODD, NAMES)

# ---------------------------------------------------------------------------------------------- files


class File(NamedTuple):
    """A file of data: how its name ends, and its bytes."""

    suffix: str
    content: bytes


def _json(row: Any, ascii_only: bool) -> bytes:
    text = json.dumps(row, ensure_ascii=ascii_only)
    for stand_in, raw in RAW.items():
        text = text.replace(stand_in, raw)
    # Half of a surrogate pair is no UTF-8, and is a wrong byte in the file.
    return text.encode("utf-8", "surrogatepass")


@st.composite
def broken(draw: Draw, content: bytes) -> bytes:
    """Bytes with one thing wrong: cut off, a byte turned, put in, taken out, in another encoding."""
    at = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(("cut", "turn", "insert", "remove", "utf-16", "bom")))
    if kind == "cut":
        return content[:at]
    if kind == "utf-16":
        return content.decode("utf-8", "replace").encode("utf-16")
    if kind == "bom":
        return b"\xef\xbb\xbf" + content
    if kind == "insert":
        more = (b"\x00", b"\n", b"\r", b"\xff", b"{", b"]", b'"', b'{"prompt": 1, ')
        return content[:at] + draw(st.sampled_from(more)) + content[at:]
    turned = bytes([content[at] ^ draw(st.integers(1, 255))]) if kind == "turn" and at < len(content) else b""
    return content[:at] + turned + content[at + 1 :]


def _table(found: list[dict[str, Any]], suffix: str) -> bytes:
    """Rows as a table; cells that a table does not hold become JSON."""
    cells = [{k: v if isinstance(v, str | None) else json.dumps(v) for k, v in row.items()} for row in found]
    cells = [{k: v and v.encode("utf-8", "replace").decode() for k, v in row.items()} for row in cells]
    names = list(dict.fromkeys(name.encode("utf-8", "replace").decode() for row in cells for name in row)) or ["prompt"]
    out = io.BytesIO()
    if suffix == ".parquet":
        try:
            pq.write_table(pa.Table.from_pylist(found), out)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):  # what no one column holds
            out = io.BytesIO()
            texts = {name: pa.array([row.get(name) for row in cells], pa.string()) for name in names}
            pq.write_table(pa.table(texts), out)
        return out.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue().encode()


@st.composite
def files(
    draw: Draw, suffixes: tuple[str, ...] = (".jsonl", ".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
) -> File:
    """A few rows in a file of any kind, which may be broken."""
    found = draw(st.lists(rows, min_size=0 if draw(st.integers(0, 30)) == 0 else 2, max_size=8))
    suffix = draw(st.sampled_from(suffixes))
    lines = [_json(row, draw(st.booleans())) for row in found]
    if suffix.startswith(".jsonl"):
        lines = [draw(broken(line)) if draw(st.integers(0, 9)) == 0 else line for line in lines]
        content = draw(st.sampled_from((b"\n", b"\r\n", b"\n\n"))).join(lines) + draw(st.sampled_from((b"", b"\n")))
        content = gzip.compress(content, 1, mtime=0) if suffix.endswith(".gz") else content
    elif suffix == ".json":
        content = b"[" + b", ".join(lines) + b"]"
    else:
        content = _table(found, suffix)
    return File(suffix, draw(broken(content)) if draw(st.integers(0, 9)) == 0 else content)


options = st.fixed_dictionaries(
    {},
    optional={
        "margin": st.sampled_from(("gap", "offset", "ignore")),
        "grade": st.sampled_from(("helpfulness", "correctness", "overall_score", "no such")),
        "marks": st.just("tags"),
        "limit": st.integers(1, 3),
        "split": st.sampled_from(("train", "[1, 2]")),
        "weight": st.sampled_from((0.5, 2, 1.3)),
        "feedback": st.just("optional"),
        "ignore": st.sampled_from((["score"], ["margin", "rating"])),
    },
)
"""How a source is read, mostly as it comes."""

sources = st.tuples(files(), st.one_of(st.just({}), st.just({}), options))

# ---------------------------------------------------------------------------------------------- recipes and flags

RECIPES = tuple(
    yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
)
KEYS = sorted(
    {*Recipe.model_fields, *Shape.model_fields, *Source.__dataclass_fields__, *Limits.__dataclass_fields__}
    | {key for recipe in RECIPES for key in recipe}
    | {
        "gamma",
        "beta",
        "name",
        "fp16",
        "optim",
        "warmup_ratio",
        "logging_strategy",
        "no_such_key",
        "learning-rate",
        "x.y",
    }
)
SETTINGS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-5, 1e308, float("nan"), float("inf"), 2**70),
    *("", " ", "no", "auto", "mmpo", "dpo", "cached", "adapter", "1e-5", "\x00", "\u202e", "x" * 5000, "drop", "steps"),
    *([], [1], ["a"], {}, {"a": 1}, {"name": "mmpo"}, {"path": "x", "weight": 0}, [{"path": "x"}], [[[]]], {1: 2}),
)
recipes = changed(RECIPES, SETTINGS, KEYS)


@st.composite
def yaml_texts(draw: Draw) -> bytes:
    """A recipe as a file, which may be broken."""
    text: bytes = yaml.safe_dump(draw(recipes), allow_unicode=True).encode("utf-8", "replace")
    return draw(broken(text)) if draw(st.integers(0, 5)) == 0 else text


@st.composite
def flags(draw: Draw) -> list[str]:
    """Flags behind a recipe."""
    words: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from((*KEYS, "method.gamma", "method.name", "data.path", "shape.spread", "health.every")))
        value = draw(st.sampled_from((*map(str, SETTINGS), "[", "{a: ", "!!python/name:os.system", "*x", "--", "-1")))
        # The words of a command line hold no NUL: the system itself ends them there.
        words += [f"--{key}", value.replace("\x00", "")] if draw(st.booleans()) else [f"--{key}={value}"]
        if draw(st.integers(0, 7)) == 0:
            words.pop()
    return words


# ---------------------------------------------------------------------------------------------- tokenizers

TEMPLATES = (
    None,
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    # One that joins, and so fails on what is no text; one that trims; one that leaves all but the last turn out.
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}",
    "{{ messages[-1].content }}{{ eos_token }}",
    "{{ '' }}",
)


def tokenizers() -> list[Any]:
    """Tokenizers of single bytes: without a chat template, and with right and wrong ones."""
    special = ["<s>", "</s>", "<pad>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: n for n, token in enumerate([*special, *sorted(letters)])}
    found = []
    for template in TEMPLATES:
        bytes_alone = Tokenizer(models.BPE(vocabulary, []))
        bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bytes_alone.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        found.append(PreTrainedTokenizerFast(tokenizer_object=bytes_alone, **names))
        found[-1].chat_template = template
    return found
