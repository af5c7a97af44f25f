"""The hostile set: what a stranger may send, and what must not come of it. Nothing executes, nothing escapes its place,
nothing leaks."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tools.audit import told
from transformers import TrainerCallback, TrainingArguments

from judged_world import answered, judging
from mmpo import markdown
from mmpo.asking import Endpoint
from mmpo.cli import main
from mmpo.data import inspect, load
from mmpo.errors import UserError
from mmpo.evaluate.suites import evaluate_suite
from mmpo.evaluate.suites.page import write_suites
from mmpo.files import write_whole
from mmpo.methods import build
from mmpo.models.load import load_config, load_policy, load_reward_model, load_tokenizer
from mmpo.plain import from_cell, one_line, plain, plain_output, to_cell
from mmpo.run import checkpoints
from mmpo.run.record import write_card
from mmpo.safe_yaml import read_yaml
from mmpo.train import train
from tiny import ROWS, data_of, rows_file, saved
from tiny import plain as plain_tokenizer

REPOSITORY = Path(__file__).parents[1]
EVIL_TEXT = (
    "<script>taken()</script></style></title>--> {{ 7 * 7 }} {% raw %} <img src=x onerror=taken()> "
    "\"'><a href='javascript:taken()'>x</a> \u2028 \u202eabc\u202c \x1b]0;taken\x07\x1b[2J `x` [y](javascript:z) | =1+1"
)
HOSTILE_NAMES = (
    "../../escaped",
    "/tmp/mmpo-escaped",
    "a/b\\c",
    "CON",
    "nul\0byte",
    "x" * 5000,
    "..",
    "$(touch x)",
    "~",
)


class Pwned:
    """What makes a folder when somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A place where hostile code leaves a mark; none may be there at the end."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists(), "hostile code was run"


@pytest.fixture(scope="module")
def policy(tiny_policy: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(saved(tiny_policy(), plain_tokenizer(tiny_tokenizer), tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def reward(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(saved(tiny_reward(), plain_tokenizer(tiny_tokenizer), tmp_path_factory.mktemp("reward")))


@pytest.fixture
def copy(policy: Path, tmp_path: Path) -> Path:
    """A model of a stranger, to be changed."""
    return Path(shutil.copytree(policy, tmp_path / "stranger"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    return int(done.value.code or 0)


def recipe(folder: Path, model: Path, **more: Any) -> Path:
    content = {
        "model": str(model),
        "data": rows_file(folder),
        "method": {"name": "mmpo", "gamma": 0.5},
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "save_steps": 1,
        "max_length": 64,
        "disable_tqdm": True,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# ---------------------------------------------------------------------------------------------- pickles


def test_weights_that_are_a_pickle_are_refused_with_the_mend(copy: Path, mark: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"x": Pwned(mark)}, copy / "pytorch_model.bin")
    for load_model in (load_policy, load_reward_model):
        with pytest.raises(UserError, match=r"no weights as safetensors.*pickle.*convert it"):
            load_model(str(copy), load_tokenizer(str(copy)))


@pytest.mark.parametrize("content", ["pickle", "torch", "header", "empty"])
def test_a_pickle_by_the_name_of_safetensors_is_refused(content: str, copy: Path, mark: Path) -> None:
    path = copy / "model.safetensors"
    if content == "torch":
        torch.save({"x": Pwned(mark)}, path)
    else:
        kinds = {"pickle": pickle.dumps(Pwned(mark)), "header": b"\xff" * 8 + b"{}", "empty": b""}
        path.write_bytes(kinds[content])
    with pytest.raises(UserError, match="no safetensors"):
        load_policy(str(copy), load_tokenizer(str(copy)))


@pytest.mark.parametrize("base_too", [False, True])
def test_an_adapter_that_is_a_pickle_is_refused(base_too: bool, policy: Path, copy: Path, mark: Path) -> None:
    adapter = copy.parent / "adapter"
    model = load_policy(str(policy), load_tokenizer(str(policy)))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(adapter)
    assert load_policy(str(adapter), load_tokenizer(str(policy))), "what is whole can be read"
    if base_too:
        (copy / "model.safetensors").rename(copy / "elsewhere")
        torch.save({"x": Pwned(mark)}, copy / "pytorch_model.bin")
        change(adapter / "adapter_config.json", base_model_name_or_path=str(copy))
    else:
        (adapter / "adapter_model.safetensors").unlink()
        torch.save({"x": Pwned(mark)}, adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="no weights as safetensors"):
        load_policy(str(adapter), load_tokenizer(str(policy)))


def test_weights_that_are_missing_are_not_drawn_at_random(copy: Path, policy: Path) -> None:
    """Of a model that was not saved whole, or an adapter of another one."""
    weights = load_file(copy / "model.safetensors")
    for kept in ({k: v for k, v in weights.items() if "layers.1." not in k}, {"x": torch.zeros(1)}):
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        for load_model in (load_policy, load_reward_model):
            with pytest.raises(UserError, match=r"lacks \d+ of its weights, such as model.layers.\d"):
                load_model(str(copy), load_tokenizer(str(copy)))
    adapter = copy.parent / "adapter"
    model = load_policy(str(policy), load_tokenizer(str(policy)))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(adapter)
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"lacks \d+ of its weights, such as .*lora_A"):
        load_policy(str(adapter), load_tokenizer(str(policy)))


@pytest.fixture(scope="module")
def stopped(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped after its first step: what is to be gone on from."""

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("stopped")
    args = TrainingArguments(str(folder / "run"), max_steps=3, save_steps=1, use_cpu=True, disable_tqdm=True)
    with pytest.raises(KeyboardInterrupt):
        train(str(policy), build("mmpo"), data_of(), args, callbacks=[Stop()])
    shutil.copytree(folder / "run", folder / "kept")
    return folder / "run"


PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_in_a_checkpoint_runs_nothing(name: str, stopped: Path, policy: Path, mark: Path) -> None:
    """Even if its seal was made to fit. The arguments are never read back."""
    shutil.rmtree(stopped)
    shutil.copytree(stopped.parent / "kept", stopped)
    for planted in (name, "training_args.bin"):
        assert (stopped / "checkpoint-1" / planted).is_file(), "the test must plant it where a checkpoint has one"
        torch.save({"x": Pwned(mark)}, stopped / "checkpoint-1" / planted)
    checkpoints.seal(stopped / "checkpoint-1")
    args = TrainingArguments(str(stopped), max_steps=3, save_steps=1, use_cpu=True, disable_tqdm=True)
    with pytest.raises(UserError, match="could run code"):
        train(str(policy), build("mmpo"), data_of(), args)


def test_no_row_of_data_is_a_pickle(tmp_path: Path, mark: Path) -> None:
    """Under any name of data that mmpo reads."""
    for suffix in ("jsonl", "jsonl.gz", "json", "csv", "parquet"):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(pickle.dumps(Pwned(mark)))
        with pytest.raises(UserError, match="rows"):
            load(str(path))


def test_a_saved_data_set_carries_no_code(tmp_path: Path, mark: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "set"
    Dataset.from_list([dict(row) for row in ROWS]).save_to_disk(folder)
    evil = f"import os\nos.mkdir({str(mark)!r})\n"
    for name in ("set.py", "__init__.py", "dataset.py"):
        (folder / name).write_text(evil)
    assert len(load(str(folder)).data) == len(ROWS)
    for path in folder.glob("*.arrow"):
        path.write_bytes(pickle.dumps(Pwned(mark)))
    with pytest.raises(UserError):
        load(str(folder))


def test_a_column_of_pictures_opens_no_file_and_no_address(tmp_path: Path) -> None:
    """A row says where its picture lies: any file of this machine, any address."""
    import pyarrow.parquet as parquet
    from datasets import Dataset, Features, Image, List, Value

    words = {"prompt": Value("string"), "responses": List(Value("string")), "scores": List(Value("float64"))}
    features = Features({**words, "picture": Image(), "pictures": List(Image()), "deep": {"picture": Image()}})
    there = {"bytes": None, "path": str(tmp_path / "opened")}
    rows = [{**ROWS[0], "picture": there, "pictures": [there], "deep": {"picture": there}}]
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    with pytest.raises(FileNotFoundError, match="opened"):
        Dataset(table)[:]
    parquet.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "opened").touch()
    Dataset(table).save_to_disk(tmp_path / "saved")
    (tmp_path / "opened").unlink()
    for name in ("rows.parquet", "saved"):
        loaded = load(str(tmp_path / name))
        assert len(loaded.data) == 1 and {"picture", "pictures", "deep"} <= loaded.ledger.columns_unused


# ---------------------------------------------------------------------------------------------- code of models


def planted(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(
        f"import os\nos.mkdir({str(mark)!r})\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'unheard_of'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokens:\n    pass\n"
    )


def test_code_of_a_model_is_not_run_unasked(copy: Path, mark: Path) -> None:
    planted(copy, mark)
    change(copy / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    assert load_policy(str(copy), load_tokenizer(str(copy))), "a known kind of model needs no code of its own"
    change(copy / "config.json", model_type="unheard_of")
    for loading in (load_config, lambda name: load_policy(name, load_tokenizer(name))):
        with pytest.raises(UserError, match=r"not run unasked.*--trust-remote-code"):
            loading(str(copy))


def test_code_of_a_tokenizer_is_not_run_unasked(copy: Path, mark: Path) -> None:
    planted(copy, mark)
    change(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Tokens"]}, tokenizer_class="Evil")
    with pytest.raises(UserError, match=r"not run unasked.*--trust-remote-code"):
        load_tokenizer(str(copy))


def test_code_is_run_where_the_command_line_says_so_and_it_is_said(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    planted(copy, ran)
    change(
        copy / "config.json",
        model_type="unheard_of",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    path = recipe(tmp_path, copy)
    assert run("train", str(path)) == 2 and not ran.exists()
    assert run("train", str(path), "--trust-remote-code", "yes") == 2 and not ran.exists()
    assert "trust_remote_code" in capsys.readouterr().err
    assert run("train", str(recipe(tmp_path, copy, trust_remote_code=True))) == 2 and not ran.exists()
    assert "not run because a file says so" in capsys.readouterr().err
    assert run("train", str(path), "--trust-remote-code") == 0 and ran.exists()
    assert "trust_remote_code: code that comes with the models is run" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["trust_remote_code"] is True
    assert run("train", str(tmp_path / "run" / "run.json"), "--output-dir", str(tmp_path / "again")) == 2
    assert "not run because a file says so" in capsys.readouterr().err


@pytest.mark.parametrize("values", [{"hidden_size": "x"}, {"hidden_size": 1e30}, {"vocab_size": None}])
def test_a_config_that_cannot_be_is_one_line(values: dict[str, Any], copy: Path) -> None:
    change(copy / "config.json", **values)
    with pytest.raises(UserError, match=rf"^model: .*{copy.name}.*{next(iter(values))}"):
        load_policy(str(copy), load_tokenizer(str(copy)))


@pytest.mark.parametrize("content", ['{"peft_type": "NONE_SUCH", "base_model_name_or_path": "BASE"}', "[]", "{}", "{"])
def test_an_adapter_that_cannot_be_is_one_line(content: str, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content.replace("BASE", str(policy)))
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"^model: "):
        load_policy(str(tmp_path), load_tokenizer(str(policy)))


def test_a_kernel_that_a_config_names_is_not_fetched(copy: Path) -> None:
    change(copy / "config.json", attn_implementation="stranger/kernel")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(str(copy), load_tokenizer(str(copy)))


TEMPLATES = {
    "reaching the interpreter": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaching a module": "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
    "by an attribute filter": "{{ (messages | attr('append')) | attr('__self__') | attr('__class__') }}",
    "including a file": "{% include '/etc/passwd' %}",
    "changing what it was given": "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "a format string": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "a range without end": "{% for i in range(10000000000) %}x{% endfor %}",
}


@pytest.mark.parametrize("attack", TEMPLATES)
def test_a_hostile_chat_template_reaches_nothing(
    attack: str, copy: Path, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most attempts are refused; what an attribute filter may not see is nothing, and nothing is what it shows."""
    said = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (copy / "chat_template.jinja").write_text(said + TEMPLATES[attack].replace("MARK", str(mark)))
    asked = [{"role": "user", "content": "a"}]
    if attack == "by an attribute filter":
        assert load_tokenizer(str(copy)).apply_chat_template(asked, tokenize=False) == "a"
        return
    rows = [{"prompt": asked, "responses": ["b", "c"], "scores": [1, 0]}]
    assert run("train", str(recipe(tmp_path, copy, data=rows_file(tmp_path, rows, "chat.jsonl")))) == 2
    told = capsys.readouterr()
    assert told.err.count("mmpo: ") == 1 and "Traceback" not in told.err, told.err
    assert "root:" not in told.out + told.err


# ---------------------------------------------------------------------------------------------- recipes

NESTED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))
RECIPES = {
    "a call": "model: !!python/object/apply:os.mkdir ['MARK']",
    "a new object": "model: !!python/object/new:os.mkdir ['MARK']",
    "a module": "model: !!python/module:os",
    "a name": "model: !!python/name:os.system",
    "a tag of its own": "model: !evil x",
    "aliases of aliases": NESTED,
    "merges of merges": MERGED,
    "a value in itself": "model: &a [*a]",
    "nested too deeply": "model: " + "[" * 500,
    "a number without end": "seed: " + "9" * 10_000,
    "a hexadecimal one": "seed: 0x" + "f" * 10_000,
    "too long": "# " + "x" * 1_100_000,
    "a key twice": "model: a\nmodel: b",
    "no day": "model: 2024-13-40",
}


@pytest.mark.parametrize("attack", RECIPES)
def test_a_hostile_recipe_is_refused(
    attack: str, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES[attack].replace("MARK", str(mark)))
    assert run("train", str(path)) == 2
    said = capsys.readouterr().err
    assert said.startswith("mmpo: ") and "not valid YAML" in said and len(said) < 1000


def test_what_people_write_is_still_read() -> None:
    text = "a: &a {x: 1, y: 1e-5}\nb: {<<: *a, x: 2}\nc: {<<: *a}\nd: [*a, *a]\nsave_strategy: no\nbf16: true\n"
    x = {"x": 1, "y": 1e-5}
    assert read_yaml(text) == {
        "a": x, "b": {"x": 2, "y": 1e-5}, "c": x, "d": [x, x], "save_strategy": "no", "bf16": True,
    }  # fmt: skip


KEYS = {
    "hub_token": "hf_secret",
    "push_to_hub": True,
    "hub_model_id": "stranger/model",
    "torch_compile_backend": "os:system",
    "lora": {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
    "resume_from_checkpoint": "/tmp",
    "accelerator_config": "/etc/passwd",
    "report_to": "no_such_tracker",
    "debug": "os.system",
    "optim": "os.system",
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_would_reach_outside_are_refused(
    key: str, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", str(recipe(tmp_path, policy, **{key: KEYS[key]}))) == 2
    said = capsys.readouterr().err
    assert (key in said or str(KEYS[key]) in said) and "hf_secret" not in said


# ---------------------------------------------------------------------------------------------- pages


class Tags(HTMLParser):
    """The elements and attributes of a page as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(path: Path) -> str:
    """The page, after a look at each of its elements."""
    html = path.read_text(encoding="utf-8")
    for tag, attrs in Tags(html).found:
        assert tag not in ("iframe", "object", "embed", "base", "form", "link"), tag
        assert not any(name.startswith("on") for name in attrs), attrs
        assert (attrs.get("href") or "#").startswith("#"), attrs
        assert tag != "img" or str(attrs["src"]).startswith("data:image/svg+xml;base64,")
    assert "default-src 'none'" in html
    for script in re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL):
        assert "taken" not in script
    return html


def hostile_rows(n: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{HOSTILE_NAMES[k % len(HOSTILE_NAMES)]}-{k}",
            "prompt": f"{EVIL_TEXT} {k}",
            "responses": [f"{k % 5} {EVIL_TEXT}", f"{(k * 3) % 7} other"],
            "scores": [k % 3, 1],
            "subset": HOSTILE_NAMES[k % 3],
            "annotator": EVIL_TEXT,
            f"column {EVIL_TEXT}": 1,
        }
        for k in range(n)
    ]


def inspected(folder: Path) -> Path:
    inspect(rows_file(folder, hostile_rows()), folder / "page")
    return folder / "page"


def suites(folder: Path) -> Path:
    names = ("alpacaeval-easy", "mt-bench-med")
    rows = [
        {
            "id": f"../{k}",
            "prompt": EVIL_TEXT + str(k),
            "chosen": f"1 {EVIL_TEXT}",
            "rejected": "0",
            "subset": names[k % 2],
        }
        for k in range(8)
    ]
    outcome = evaluate_suite(
        "rewardbench", lambda data: [[1.0, 0.0] for _ in data], rows_file(folder, rows), bootstrap=5
    )
    write_suites([outcome], folder / "page", model=EVIL_TEXT)
    return folder / "page"


def test_a_page_of_a_hostile_data_set_is_harmless(tmp_path: Path) -> None:
    html = harmless(inspected(tmp_path) / "report.html")
    assert "taken()" in html and "{{ 7 * 7 }}" in html, "the text is there, as text"


def test_a_page_of_hostile_benchmarks_is_harmless(tmp_path: Path) -> None:
    assert "taken()" in harmless(suites(tmp_path) / "report.html")


def test_a_hostile_card_is_text(tmp_path: Path) -> None:
    evil = EVIL_TEXT + "\n# A heading\n\n```\n---\n"
    record = {
        "name": evil, "base_model": evil, "task": "policy", "method": evil, "reference": evil, "prompts": 1,
        "data": {"parts": [{"name": evil}]}, "comparisons": {"comparisons": 1}, "gamma": None, "epochs": 1, "steps": 1,
        "kept": None, "tokens": {"summary": evil}, "equation": "e", "metrics": {evil: 1.0}, "health": [evil],
        "called": evil, "starts": [{}], "usage": "u", "versions": {"mmpo": evil}, "citation": "c",
        "outputs": [evil], "voices": "annotators",
    }  # fmt: skip
    write_card(tmp_path, record)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(re.findall(r"\A---\n(.*?)\n---\n", card, flags=re.DOTALL)[0])
    assert front["base_model"].startswith("<script>") and set(front) >= {"base_model", "tags"}
    for line in card.splitlines():
        outside = re.sub(r"`[^`]*`", "", line.replace("\\`", ""))
        if "from_pretrained(" in line or "pipeline(" in line or line.startswith("base_model:"):
            compile(line if not line.startswith("base_model:") else "0", "card", "exec")
            continue
        assert not re.search(r"(?<!\\)<(script|img|a )", outside), line
        assert not re.search(r"(?<!\\)\[y\](?!\\)", outside), line
    assert not re.search(r"^# A heading", card, flags=re.MULTILINE)
    assert "\x1b" not in card and "\u202e" not in card


def test_markdown_of_ours_is_left_alone() -> None:
    template = markdown.environment().from_string("{{ a }} {{ a | code }} {{ b | safe }} {{ n }}")
    assert template.render(a="x|[y]", b="[z](u)", n=1.5) == r"x\|\[y\] `x\|[y]` [z](u) 1.5"


# ---------------------------------------------------------------------------------------------- the terminal


def test_text_that_steers_a_terminal_is_shown() -> None:
    assert plain("\x1b]0;x\x07 a\rb \x9b2J \u202e \u2028 \u2066 \ud83d") == (
        r"\x1b]0;x\x07 a\rb \x9b2J \u202e \u2028 \u2066 \ud83d"
    )
    assert plain("é 日本 שלום \t a\nb 👍🏽") == "é 日本 שלום \t a\nb 👍🏽", "what people write stays"
    assert plain("https://me:p@ss@host/v1 and s3://:key@b") == "https://***@host/v1 and s3://***@b"
    assert one_line("a\nmmpo: all is well") == r"a\nmmpo: all is well"
    with redirect_stdout(io.StringIO()) as out, plain_output():
        print("a\x1b[2J", 1)
    assert out.getvalue() == "a\\x1b[2J 1\n"


def test_errors_and_output_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows_file(tmp_path, [{**hostile_rows(1)[0], "scores": [f"\x1b[2J\r{EVIL_TEXT}", 1]}])
    assert run("inspect", path, "--out", str(tmp_path / "out"), "--on-bad-row", "error") == 2
    assert run("inspect", f"\x1b[2J\r\n{EVIL_TEXT}", "--out", str(tmp_path / "out")) == 2
    assert run("inspect", rows_file(tmp_path, hostile_rows()), "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr()
    assert r"\x1b" in said.err
    for text in (said.out, said.err):
        assert not re.search("[\x1b\x07\u202e\u2028]", text)
    lines = said.err.splitlines()
    assert [line[:6] for line in lines if line.startswith("mmpo")] == ["mmpo: "] * 2


def test_a_cell_of_a_table_is_no_formula() -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "tame", "'quoted'", ""):
        cell = to_cell(text)
        assert not cell.startswith(("=", "+", "-", "@", "\t")) and from_cell(cell) == text
    assert to_cell(-1.5) == -1.5


# ---------------------------------------------------------------------------------------------- secrets

SECRETS = {
    name: f"sk-marker-{n}-0123456789abcdef"
    for n, name in enumerate(
        ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "JUDGE_KEY", "DATABASE_PASSWORD")
    )
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def leaks(folder: Path, said: Any) -> list[str]:
    """Where a secret stands, in anything that was written or said."""
    told = {"what was printed": (said.out + said.err).encode(errors="replace")}
    told |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [f"{name} in {place}" for place, text in told.items() for name, s in SECRETS.items() if s.encode() in text]


@pytest.mark.usefixtures("secrets")
def test_no_secret_of_the_environment_is_written_or_said(
    policy: Path, reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By training, scoring, evaluating, inspecting, nor by a judge whose server repeats the key in its refusal."""
    assert run("train", str(recipe(tmp_path, policy))) == 0
    data = rows_file(tmp_path)
    assert run("score", str(reward), data, "--out", str(tmp_path / "scored.jsonl")) == 0
    assert run("evaluate", str(tmp_path / "run"), data, "--out", str(tmp_path / "report")) == 0
    assert run("inspect", data, "--out", str(tmp_path / "inspected")) == 0
    assert (tmp_path / "run" / "checkpoint-1" / "training_args.bin").exists()
    assert leaks(tmp_path, capsys.readouterr()) == []


@pytest.mark.usefixtures("secrets")
def test_the_key_of_a_judge_is_in_no_answer_and_no_record(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = rows_file(tmp_path, [{"question_id": "../../q", "turns": [EVIL_TEXT], "category": "=1+1"}], "q.jsonl")
    mine = rows_file(tmp_path, answered([{"question_id": "../../q"}], EVIL_TEXT), "mine.jsonl")
    heard: list[dict[str, Any]] = []

    def script(prompt: str, body: dict[str, Any]) -> str:
        heard.append(body)
        return f"{EVIL_TEXT} Rating: [[7]]"

    with judging(script) as (url, _):
        code = run(
            "judge", "mt-bench", "mine", "--questions", questions, "--answers", mine, "--judge-url", url,
            "--judge-model", "judge", "--judge-key-env", "JUDGE_KEY", "--out", str(tmp_path / "out"),
            "--prompts", str(shared_data / "mt_bench" / "judge_prompts.jsonl"),
        )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0 and heard, said.err
    assert leaks(tmp_path, said) == []
    assert "taken()" in harmless(tmp_path / "out" / "report.html")
    assert not (tmp_path.parent / "q").exists()


@pytest.mark.parametrize(
    "url", ["https://me:sk-secret@host/v1", "https://host/v1?api_key=sk-secret", "https://host/v1#sk-secret"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError) as refused:
        Endpoint(url, "judge")
    assert "sk-secret" not in str(refused.value)


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["inspect", "https://me:sk-secret@host/rows.jsonl", "--out", str(tmp_path / "a")],
        ["score", "https://me:sk-secret@host/model", rows_file(tmp_path), "--out", str(tmp_path / "b.jsonl")],
    ):
        assert run(*words) == 2
    said = capsys.readouterr()
    assert "sk-secret" not in said.err + said.out and "https://***@host" in said.err


def test_a_token_in_the_arguments_is_refused_before_a_checkpoint_holds_it(policy: Path, tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path / "run"), hub_token="hf_secret", max_steps=1, use_cpu=True)
    with pytest.raises(UserError, match="HF_TOKEN") as refused:
        train(str(policy), build("mmpo"), data_of(), args)
    assert "hf_secret" not in str(refused.value)
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------- names that are paths


def test_no_name_in_data_becomes_a_path(reward: Path, tmp_path: Path) -> None:
    """Only what a command is there to write is written, whatever ids and subsets are called."""
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    data = rows_file(inside, hostile_rows())
    before = set(tmp_path.rglob("*"))
    assert run("inspect", data, "--out", str(inside / "inspected")) == 0
    assert run("score", str(reward), data, "--out", str(inside / "scored.jsonl"), "--max-length", "256") == 0
    assert run("evaluate", str(reward), data, "--out", str(inside / "report"), "--max-length", "256") == 0
    assert run("build", "flip", data, "--out", str(inside / "built.jsonl")) in (0, 2)
    made = {str(path.relative_to(inside)) for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert made - {"built.jsonl"} == {
        "inspected/report.html", "inspected/report.json", "scored.jsonl", "report/report.html", "report/report.json",
    }  # fmt: skip
    assert not Path("/tmp/mmpo-escaped").exists()
    harmless(inside / "report" / "report.html")


def test_a_link_in_an_output_folder_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("report.json", "report.json.tmp"):
        (out / name).symlink_to(precious)
    write_whole(out / "report.json", "{}")
    assert precious.read_text() == "precious" and (out / "report.json").read_text() == "{}"


# ---------------------------------------------------------------------------------------------- what is installed


def test_the_tested_set_is_locked_by_hash() -> None:
    """All of constraints.txt, at the same versions, but torch, whose build the user chooses."""
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock, flags=re.MULTILINE)

    def alike(pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
        return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pairs}

    assert alike(locked) == {(name, version) for name, version in alike(pinned) if name != "torch"}
    assert lock.count("==") == len(locked), "one without a hash"


def test_every_requirement_is_in_the_tested_set() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[\[><= ]", one)[0].lower().replace("_", "-") for one in asked}
    pinned = (REPOSITORY / "constraints.txt").read_text().lower().replace("_", "-")
    # A quantised base wants a GPU for any real work; the tests of it are skipped aloud without bitsandbytes.
    assert names - {line.split("==")[0] for line in pinned.splitlines()} == {"mmpo", "bitsandbytes"}


def test_the_audit_tells_what_it_found_and_whom_it_could_not_ask() -> None:
    hole = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    versions = [
        {"name": "a", "version": "1.0", "vulns": [hole]},
        {"name": "b", "version": "1.0", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
    lines, found = told({"dependencies": versions})
    assert found == 1 and lines[0].startswith("audit: 2 of 3") and "not found" in lines[1]
    assert lines[2] == "a 1.0: PYSEC-1, mended in 2.0"
    assert told({"dependencies": versions[1:2]})[1] == 0
