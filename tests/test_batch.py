"""The threshold: the exact tokens of every response, what the limits cut, and what people said as tensors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmpo.batch import Collator, Example, Limits, encode_all, encoder, evidence, prepare
from mmpo.batch.collate import by_length
from mmpo.batch.tokenize import Encoded, pair_frame
from mmpo.errors import UserError
from mmpo.types import Datum, Evidence, Judgement
from tiny import batch_of, minilm, plain, roberta_tokenizer, sentencepiece_like

PROMPT, GOOD, BAD = "What is the capital of France? ", "It is Paris.", "Rome"
NAN = math.nan


def pair(prompt: Any = PROMPT, responses: tuple[Any, ...] = (GOOD, BAD), **more: Any) -> Datum:
    return Datum("d", prompt, responses, grades=tuple(range(len(responses), 0, -1)), source="rows.jsonl:7", **more)


def encoded(datum: Datum, tokenizer: Any, limits: Limits | None = None) -> Encoded:
    return encoder(tokenizer, limits or Limits(256))(datum)


@pytest.fixture(scope="module")
def plain_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    return plain(tiny_tokenizer)


@pytest.fixture(scope="module")
def bert() -> Any:
    return AutoTokenizer.from_pretrained(minilm())


# ---------------------------------------------------------------------------------------------- decoders, plain text


def test_plain_text_is_what_a_consumer_would_tokenise(plain_tokenizer: Any) -> None:
    out = encoded(pair(), plain_tokenizer)
    for response, text in zip(out.responses, (GOOD, BAD), strict=True):
        whole = plain_tokenizer(PROMPT + text + plain_tokenizer.eos_token)["input_ids"]
        assert (*out.prompt, *response) == tuple(whole)
        assert response[-1] == plain_tokenizer.eos_token_id
    ids = [*out.prompt, *out.responses[0]]
    assert ids.count(plain_tokenizer.bos_token_id) == ids.count(plain_tokenizer.eos_token_id) == 1
    assert plain_tokenizer.decode(out.prompt, skip_special_tokens=True) == PROMPT
    assert plain_tokenizer.decode(out.responses[1], skip_special_tokens=True) == BAD
    assert not out.boundary_moved and out.prompt_cut == 0 and out.response_cut == (0, 0)


def test_an_end_of_text_token_already_there_is_not_doubled(plain_tokenizer: Any) -> None:
    written = encoded(pair(responses=(GOOD + "</s>", BAD)), plain_tokenizer)
    assert written.responses == encoded(pair(), plain_tokenizer).responses


def test_a_tokenizer_that_adds_its_own_end_of_text(tiny_tokenizer: Any) -> None:
    closing = plain(tiny_tokenizer)
    special = [("<s>", closing.bos_token_id), ("</s>", closing.eos_token_id)]
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=special
    )
    assert closing("a")["input_ids"][-1] == closing.eos_token_id
    out = encoded(pair(), closing)
    assert out.prompt[-1] != closing.eos_token_id
    assert (*out.prompt, *out.responses[0]) == tuple(closing(PROMPT + GOOD)["input_ids"])


def test_messages_without_a_template_are_lines_with_roles(plain_tokenizer: Any) -> None:
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    out = encoded(pair(prompt, ([{"role": "assistant", "content": "Hi"}], "Go")), plain_tokenizer)
    assert plain_tokenizer.decode(out.prompt[1:]) == "System: Be kind.\nUser: Hello\nAssistant: "
    assert [plain_tokenizer.decode(r) for r in out.responses] == ["Hi</s>", "Go</s>"]


def test_an_empty_prompt(plain_tokenizer: Any) -> None:
    out = encoded(pair(prompt=""), plain_tokenizer)
    assert out.prompt == (plain_tokenizer.bos_token_id,)
    assert plain_tokenizer.decode(out.responses[1]) == "Rome</s>"


# ---------------------------------------------------------------------------------------------- decoders, chat template


def test_a_chat_template_writes_every_special_token_once(tiny_tokenizer: Any) -> None:
    out = encoded(pair(), tiny_tokenizer)
    assert tiny_tokenizer.decode(out.prompt) == f"<s><|user|>{PROMPT}<|assistant|>"
    assert tiny_tokenizer.decode(out.responses[0]) == f"{GOOD}</s>"
    turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": GOOD}]
    whole = tiny_tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    assert (*out.prompt, *out.responses[0]) == tuple(whole)
    generation = tiny_tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)
    assert out.prompt == tuple(generation["input_ids"])


def test_messages_and_plain_text_render_alike(tiny_tokenizer: Any) -> None:
    as_messages = pair([{"role": "user", "content": PROMPT}], ([{"role": "assistant", "content": GOOD}], BAD))
    assert encoded(as_messages, tiny_tokenizer) == encoded(pair(), tiny_tokenizer)


# ---------------------------------------------------------------------------------------------- the boundary


def test_a_boundary_that_merges_is_counted(plain_tokenizer: Any) -> None:
    """ "Is t" + "he" is tokenised together as "Is the": the prompt ends before the token that they share."""
    prompt, tail = "Is t", "he fox"
    alone = plain_tokenizer(prompt)["input_ids"]
    whole = plain_tokenizer(prompt + tail)["input_ids"]
    assert alone != whole[: len(alone)], "the example must merge, or it shows nothing"
    kept, cuts = encode_all([pair(prompt, (tail, "wo")), pair()], plain_tokenizer, Limits(256))
    moved = kept[0][1]
    assert moved.boundary_moved and not kept[1][1].boundary_moved and cuts.boundaries_moved == 1
    assert (*moved.prompt, *moved.responses[0]) == (*whole, plain_tokenizer.eos_token_id)
    assert plain_tokenizer.decode((*moved.prompt[1:], *moved.responses[1])) == "Is two</s>"


def test_a_tokenizer_that_writes_a_space_in_front() -> None:
    """The response is not tokenised alone, where it would get a space of its own."""
    tokenizer = sentencepiece_like()
    out = encoded(pair("Is 17 a prime number?", ("Yes", "No")), tokenizer)
    whole = tokenizer("Is 17 a prime number?Yes</s>")["input_ids"]
    assert (*out.prompt, *out.responses[0]) == tuple(whole)
    alone = tokenizer("Yes", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(out.responses[0])[0].startswith("▁")


# ---------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_reads_a_pair_as_its_tokenizer_joins_one(kind: str, bert: Any) -> None:
    tokenizer = bert if kind == "bert" else roberta_tokenizer()
    tokens = batch_of([pair(), pair(responses=(GOOD, BAD, "a fox"))], tokenizer).tokens
    for row, text in zip((0, 1, 4), (GOOD, BAD, "a fox"), strict=True):
        theirs = tokenizer(PROMPT, text, return_token_type_ids=True)
        n = len(theirs["input_ids"])
        assert tokens.input_ids[row, :n].tolist() == theirs["input_ids"]
        assert tokens.attention_mask[row].tolist() == [1] * n + [0] * (tokens.input_ids.shape[1] - n)
        types = tokens.extra["token_type_ids"][row, :n].tolist() if tokens.extra else [0] * n
        assert types == theirs["token_type_ids"]
        said = tokens.input_ids[row][tokens.response_mask[row].bool()].tolist()
        assert said == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (tokens.input_ids[row, n:] == tokenizer.pad_token_id).all()
    assert bool(tokens.extra) == (kind == "bert")


def test_a_decoder_that_names_cls_and_sep_is_no_encoder(plain_tokenizer: Any, tiny_tokenizer: Any) -> None:
    for tokenizer in (copy.deepcopy(plain_tokenizer), copy.deepcopy(tiny_tokenizer)):
        tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
        assert pair_frame(tokenizer) is None


def test_what_a_chat_template_refuses_is_named_or_counted(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + (tiny_tokenizer.chat_template)
    )
    data = [pair([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go"}]), pair("Go")]
    with pytest.raises(UserError, match=r"^rows\.jsonl:7: the chat template refuses .* \(no system turn\)"):
        encode_all(data, tokenizer, Limits(64))
    kept, cuts = encode_all(data, tokenizer, Limits(64), "drop")
    assert len(kept) == 1 and cuts.dropped == {"refused by the chat template": ["d"]}


def test_a_response_without_any_token_is_a_bad_row(plain_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="a response has no token of its own"):
        encode_all([pair(responses=("", "word"))], tokenizer, Limits(64))


def test_frames_of_encoders_and_decoders(bert: Any, tiny_tokenizer: Any) -> None:
    cls, sep = bert.cls_token_id, bert.sep_token_id
    assert pair_frame(bert) is not None and pair_frame(tiny_tokenizer) is None
    frame = pair_frame(bert)
    assert frame is not None
    assert (frame.head, frame.middle, frame.tail, frame.response_type) == ((cls,), (sep,), (sep,), 1)
    frame = pair_frame(roberta_tokenizer())
    assert frame is not None
    assert (frame.head, frame.middle, frame.tail, frame.response_type) == ((0,), (2, 2), (2,), 0)


def test_token_types_only_where_a_consumer_would_have_them(bert: Any) -> None:
    """DistilBERT shares BERT's tokenizer and has no token types."""
    without = AutoTokenizer.from_pretrained(minilm())
    without.model_input_names = ["input_ids", "attention_mask"]
    assert batch_of([pair()], bert).tokens.extra and not batch_of([pair()], without).tokens.extra


# ---------------------------------------------------------------------------------------------- limits


def test_a_prompt_loses_its_beginning_and_keeps_its_first_token(plain_tokenizer: Any) -> None:
    whole = encoded(pair(), plain_tokenizer)
    cut = encoded(pair(), plain_tokenizer, Limits(256, max_prompt_length=5))
    assert cut.prompt == (plain_tokenizer.bos_token_id, *whole.prompt[-4:])
    assert cut.prompt_cut == len(whole.prompt) - 5
    assert cut.responses == whole.responses and cut.response_cut == (0, 0)


def test_a_response_loses_its_end_and_the_end_of_text_with_it(plain_tokenizer: Any) -> None:
    whole = encoded(pair(), plain_tokenizer)
    long, short = map(len, whole.responses)
    assert long > short
    limit = len(whole.prompt) + short
    cut = encoded(pair(), plain_tokenizer, Limits(limit))
    assert cut.responses == (whole.responses[0][:short], whole.responses[1])
    assert cut.response_cut == (long - short, 0)
    assert cut.responses[0][-1] != plain_tokenizer.eos_token_id


def test_an_encoder_keeps_its_frame_under_a_limit(bert: Any) -> None:
    tokens = batch_of([pair()], bert, Limits(12)).tokens
    assert tokens.input_ids.shape[1] == 12
    assert (tokens.input_ids[:, 0] == bert.cls_token_id).all()
    last = tokens.attention_mask.sum(-1) - 1
    assert (tokens.input_ids.gather(1, last[:, None]) == bert.sep_token_id).all()
    assert (tokens.input_ids == bert.sep_token_id).sum(-1).tolist() == [2, 2]


def test_cuts_are_counted_by_side(plain_tokenizer: Any) -> None:
    whole = encoded(pair(), plain_tokenizer)
    n = len(whole.prompt)
    _, cuts = encode_all([pair(), pair("Go: ")], plain_tokenizer, Limits(n - 3 + 4, max_prompt_length=n - 3))
    told = cuts.as_dict()
    assert (told["prompts"], told["prompts_cut"], told["prompt_tokens_cut"]) == (2, 1, 3)
    lost = max(0, len(whole.responses[0]) - 4) + max(0, len(whole.responses[1]) - 4)
    assert told["responses"] == 4 and told["response_tokens_cut"] >= lost > 0
    assert "1 of 2 prompts lost their beginning" in cuts.summary()


def test_a_prompt_without_room_is_an_error_or_a_counted_drop(plain_tokenizer: Any) -> None:
    data = [pair(), pair("Go: ")]
    with pytest.raises(UserError, match=r"^rows\.jsonl:7: the prompt has \d+ tokens and max_length 8 .* max_length"):
        encode_all(data, plain_tokenizer, Limits(8))
    kept, cuts = encode_all(data, plain_tokenizer, Limits(8), "drop")
    assert [datum.prompt for datum, _ in kept] == ["Go: "]
    assert cuts.as_dict()["dropped"] == {"no room for a response": {"count": 1, "ids": ["d"]}}
    assert "1 prompts dropped: no room for a response" in cuts.summary()
    with pytest.raises(UserError, match="no data is left"):
        prepare(data[:1], plain_tokenizer, Limits(8), "drop")


@pytest.mark.parametrize(("length", "prompt"), [(1, None), (8, 8), (8, 0)])
def test_impossible_limits(length: int, prompt: int | None) -> None:
    with pytest.raises(UserError, match=r"^max_(prompt_)?length is"):
        Limits(length, prompt)


def test_a_missing_pad_token_is_said(plain_tokenizer: Any) -> None:
    tokenizer = plain(plain_tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="no pad token; name one with pad_token"):
        Collator.of(tokenizer)


# ---------------------------------------------------------------------------------------------- evidence


def test_grades_compare_every_pair_or_the_named_ones() -> None:
    said = evidence([Datum("d", "", ("a", "b", "c"), grades=(3.0, 1.0, None), weight=2.0)])
    assert said.quality.nan_to_num(nan=-1).tolist() == [[3, 1, -1]]
    assert said.weight.tolist() == [[[0, 2, 0], [2, 0, 0], [0, 0, 0]]]
    assert said.gap.tolist() == [[[0, 2, 0], [-2, 0, 0], [0, 0, 0]]]
    some = evidence([Datum("d", "", ("a", "b", "c"), grades=(3.0, 1.0, 2.0), pairs=((2, 0),))])
    assert some.compared.tolist() == [[[False, False, True], [False, False, False], [True, False, False]]]


def test_judgements_add_up() -> None:
    """Two say 0 over 1 with shares 1 (3 votes) and 1/2 (1 vote), weights 1 and 3; one states a gap of -2 for 1, 2."""
    statements = (
        Judgement(0, 1, p=1.0, count=3.0),
        Judgement(1, 0, p=0.5, weight=3.0),
        Judgement(1, 2, gap=-2.0, weight=0.5),
    )
    said = evidence([Datum("d", "", ("a", "b", "c"), judgements=statements, weight=2.0)])
    # 3 * 1 * 1 + 1 * 0.5 * 3, and 1 * 0.5 * 3: a vote counts by its weight
    assert said.votes[0, 0, 1] == 4.5 and said.votes[0, 1, 0] == 1.5
    assert said.vote_share[0, 0, 1] == 4.5 / 6
    assert said.weight[0].tolist() == [[0, 4, 0], [4, 0, 1], [0, 1, 0]]  # the mean of the weights, times the datum's
    assert said.stated[0, 1, 2] == -2 and said.stated[0, 2, 1] == 2 and said.stated[0, 0, 1].isnan()
    assert said.gap[0].tolist() == [[0, 0.5, 0], [-0.5, 0, -2], [0, 2, 0]]


def test_a_share_stands_for_its_votes() -> None:
    """3/4 of 8 votes are 6 against 2, from whichever side it is told."""
    for judgement in (Judgement(0, 1, p=0.75, count=8.0), Judgement(1, 0, p=0.25, count=8.0)):
        votes = evidence([Datum("d", "", ("a", "b"), judgements=(judgement,))]).votes
        assert votes.tolist() == [[[0, 6], [2, 0]]]


def test_grades_win_over_stated_gaps_and_votes() -> None:
    statements = (Judgement(0, 1, p=0.0, gap=-5.0),)
    assert evidence([Datum("d", "", ("a", "b"), grades=(3.0, 1.0), judgements=statements)]).gap[0, 0, 1] == 2


def test_a_pair_of_which_nothing_is_said_is_not_compared() -> None:
    said = evidence([Datum("d", "", ("a", "b"), grades=(3.0, None), pairs=((0, 1),))])
    assert not said.compared.any()


LABEL = Judgement(0, 1, p=1.0)


@pytest.mark.parametrize(
    ("statements", "grades", "bare"),
    [
        ((LABEL,), None, True),
        ((Judgement(0, 1, p=0.5),), None, True),
        ((Judgement(0, 1, p=0.0),), None, True),
        ((Judgement(0, 1, p=0.7),), None, False),
        ((Judgement(0, 1, p=1.0, count=5),), None, False),
        ((LABEL, LABEL), None, False),
        ((Judgement(0, 1, p=1.0, gap=2.0),), None, False),
        ((Judgement(0, 1, gap=2.0),), None, False),
        ((LABEL,), (2.0, 1.0), False),
        ((), (2.0, 1.0), False),
    ],
)
def test_a_bare_label_says_only_who_won(
    statements: tuple[Judgement, ...], grades: tuple[float, ...] | None, bare: bool
) -> None:
    said = evidence([Datum("d", "", ("a", "b"), grades=grades, judgements=statements)])
    assert said.labels.tolist() == [[[False, bare], [bare, False]]]


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=2, max_size=5), min_size=1, max_size=5))
def test_padding_to_the_largest_k_adds_nothing(grades: list[list[int | None]]) -> None:
    data = [Datum(str(n), "", ("x",) * len(line), grades=tuple(line)) for n, line in enumerate(grades)]
    together = evidence(data)
    for n, datum in enumerate(data):
        alone, k = evidence([datum]), len(datum.responses)
        for name in ("mask", "quality"):
            assert_close(getattr(together, name)[n, :k], getattr(alone, name)[0], equal_nan=True)
        for name in ("stated", "votes", "weight", "gap", "compared", "labels"):
            assert_close(getattr(together, name)[n, :k, :k], getattr(alone, name)[0], equal_nan=True)
        assert not together.mask[n, k:].any()
        assert not together.compared[n, k:].any() and not together.compared[n, :, k:].any()
        assert together.quality[n, k:].isnan().all()


# ---------------------------------------------------------------------------------------------- batches


def test_a_batch_of_unequal_k(plain_tokenizer: Any) -> None:
    data = [pair(responses=("a", "bb", "c")), pair("Go: ")]
    examples, _ = prepare(data, plain_tokenizer, Limits(256))
    batch = Collator.of(plain_tokenizer)(examples)["batch"]
    tokens = batch.tokens
    assert len(batch) == 2 and batch.evidence.mask.tolist() == [[True] * 3, [True, True, False]]
    assert tokens.slot.tolist() == [0, 1, 2, 3, 4]
    for row, (n, i) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        code = examples[n].encoded
        said = tokens.input_ids[row][tokens.attention_mask[row].bool()].tolist()
        assert said == [*code.prompt, *code.responses[i]]
        assert tokens.input_ids[row][tokens.response_mask[row].bool()].tolist() == list(code.responses[i])
    assert not (tokens.response_mask > tokens.attention_mask).any()
    assert batch.ref_logps is None


def test_reference_logps_travel_where_all_know_them(plain_tokenizer: Any) -> None:
    examples, _ = prepare([pair(responses=("a", "b", "c")), pair()], plain_tokenizer, Limits(256))
    known = [replace(e, ref_logps=torch.arange(len(e.encoded.responses)) - 9.0) for e in examples]
    collator = Collator.of(plain_tokenizer)
    joined = collator.batch(known).ref_logps
    assert joined is not None and joined.tolist() == [[-9, -8, -7], [-9, -8, 0]]
    assert collator.batch([known[0], examples[1]]).ref_logps is None


def test_a_batch_moves_as_one(plain_tokenizer: Any) -> None:
    moved = batch_of([pair()], plain_tokenizer).to("meta")
    assert moved.ids == ("d",) and moved.evidence.votes.is_meta and moved.tokens.input_ids.is_meta


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(2, 6)), min_size=1, max_size=30))
def test_batches_by_length_hold_everything_once_within_their_budget(shapes: list[tuple[int, int, int]]) -> None:
    nothing = evidence([Datum("d", "", ("a", "b"))])
    examples = [Example(Encoded(str(n), (1,) * p, ((1,) * r,) * k), nothing) for n, (p, r, k) in enumerate(shapes)]
    batches = by_length(examples, tokens=200)
    assert sorted(n for batch in batches for n in batch) == list(range(len(examples)))
    for batch in batches:
        longest = max(examples[n].length for n in batch)
        padded = sum(longest * len(examples[n].encoded.responses) for n in batch)
        assert padded <= 200 or len(batch) == 1


def test_evidence_is_a_record_of_tensors() -> None:
    said = evidence([pair()])
    assert isinstance(said.to(torch.float64), Evidence)
