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
from mmpo.batch.collate import by_cost
from mmpo.batch.pack import pack, spread_out
from mmpo.batch.tokenize import Encoded, Frame, pair_frame
from mmpo.data.ledger import Dropped
from mmpo.errors import UserError
from mmpo.models.padded import Padded
from mmpo.types import Datum, Evidence, Judgement
from tiny import batch_of, minilm, plain, roberta_tokenizer, sentencepiece_like, sequences

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
    rows = Padded.of(tokens)
    for row, text in zip((0, 1, 4), (GOOD, BAD, "a fox"), strict=True):
        theirs = tokenizer(PROMPT, text, return_token_type_ids=True)
        n = len(theirs["input_ids"])
        assert rows.input_ids[row, :n].tolist() == theirs["input_ids"]
        assert rows.attention_mask[row].tolist() == [1] * n + [0] * (rows.input_ids.shape[1] - n)
        types = rows.extra["token_type_ids"][row, :n].tolist() if rows.extra else [0] * n
        assert types == theirs["token_type_ids"]
        said = tokens.input_ids[tokens.scored[tokens.sequence == row]].tolist()
        assert said == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokens.lengths[row] == len(said)
        assert (rows.input_ids[row, n:] == tokenizer.pad_token_id).all()
    assert bool(tokens.extra) == bool(rows.extra) == (kind == "bert")


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
    assert len(kept) == 1 and cuts.dropped == {"refused by the chat template": Dropped(1, ["d"])}


@pytest.mark.parametrize("kind", ["plain", "template", "pair"])
@pytest.mark.parametrize("place", ["the prompt", "the response"])
def test_half_of_a_surrogate_pair_is_a_bad_row(
    kind: str, place: str, plain_tokenizer: Any, tiny_tokenizer: Any, bert: Any
) -> None:
    # JSON can write it, no tokenizer can read it.
    tokenizer = {"plain": plain_tokenizer, "template": tiny_tokenizer, "pair": bert}[kind]
    said = place if place == "the prompt" else 'the response "no'
    prompt, answer = ("\ud83d Is it?", "no") if place == "the prompt" else ("Is it?", "no \ude00")
    data = [pair(responses=("yes", "no")), pair(prompt, ("yes", answer))]
    with pytest.raises(UserError, match=f"{said}.* holds half of a surrogate pair.*drop"):
        encode_all(data, tokenizer, Limits())
    kept, cuts = encode_all(data, tokenizer, Limits(), "drop")
    assert len(kept) == 1 and "1 prompts dropped: half of a surrogate pair" in cuts.summary()


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
    assert max(len(asked) + len(said) for asked, said in sequences(tokens)) == 12
    assert (tokens.input_ids[tokens.first] == bert.cls_token_id).all()
    assert (tokens.input_ids[tokens.last] == bert.sep_token_id).all()
    assert [[*asked, *said].count(bert.sep_token_id) for asked, said in sequences(tokens)] == [2, 2]


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


# ---------------------------------------------------------------------------------------------- one row

PAD = 99
TWO = [Encoded("a", (1, 2, 3), ((10, 11), (20,), (30, 31, 32))), Encoded("b", (4,), ((40, 41),))]
"""K = 3 and K = 1."""
PAIRED = [Encoded("a", (1, 2), ((10,), (20, 21)))]
FRAME = Frame(head=(101,), middle=(102,), tail=(103, 104), response_type=1)


def test_a_row_of_two_trees_by_hand() -> None:
    tokens = pack(TWO, 3, PAD)
    assert tokens.input_ids.tolist() == [1, 2, 3, 10, 11, 20, 30, 31, 32, 4, 40, 41]
    assert tokens.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5, 0, 1, 2]
    assert tokens.trees == ((3, 2, 1, 3), (1, 2))
    assert tokens.slot.tolist() == [0, 1, 2, 3]
    assert tokens.lengths.tolist() == [2, 1, 3, 2]
    assert tokens.first.tolist() == [0, 0, 0, 9]
    assert tokens.last.tolist() == [4, 5, 8, 11]
    assert tokens.scored.tolist() == [3, 4, 5, 6, 7, 8, 10, 11]
    # The first token of every response follows the end of the prompt, whatever stands before it on the row.
    assert tokens.before.tolist() == [2, 3, 2, 2, 6, 7, 9, 10]
    assert tokens.sequence.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert tokens.pad_id == PAD and tokens.extra == {}


def test_a_row_with_repeated_prompts_by_hand() -> None:
    tokens = pack(TWO, 3, PAD, shared=False)
    assert tokens.input_ids.tolist() == [1, 2, 3, 10, 11, 1, 2, 3, 20, 1, 2, 3, 30, 31, 32, 4, 40, 41]
    assert tokens.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert tokens.trees == ((3, 2), (3, 1), (3, 3), (1, 2))
    assert tokens.slot.tolist() == [0, 1, 2, 3]
    assert tokens.lengths.tolist() == [2, 1, 3, 2]
    assert tokens.first.tolist() == [0, 5, 9, 15]
    assert tokens.last.tolist() == [4, 8, 14, 17]
    assert tokens.scored.tolist() == [3, 4, 8, 12, 13, 14, 16, 17]
    assert tokens.before.tolist() == [2, 3, 7, 11, 12, 13, 15, 16]
    assert tokens.sequence.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]


def test_the_slots_of_a_wider_grid() -> None:
    """Responses of the second prompt stand in the second row of the grid, wherever the first one ends."""
    assert pack([PAIRED[0], TWO[1]], 2, PAD).slot.tolist() == [0, 1, 2]
    assert pack([TWO[1], PAIRED[0]], 4, PAD).slot.tolist() == [0, 4, 5]


@pytest.mark.parametrize("shared", [True, False])
def test_one_response_is_one_sequence(shared: bool) -> None:
    tokens = pack([TWO[1]], 1, PAD, shared=shared)
    assert tokens.input_ids.tolist() == [4, 40, 41] and tokens.position_ids.tolist() == [0, 1, 2]
    assert tokens.trees == ((1, 2),) and tokens.slot.tolist() == [0] and tokens.lengths.tolist() == [2]
    assert (tokens.first.item(), tokens.last.item()) == (0, 2)
    assert tokens.scored.tolist() == [1, 2] and tokens.before.tolist() == [0, 1] and tokens.sequence.tolist() == [0, 0]


@pytest.mark.parametrize("shared", [True, False])
def test_an_empty_prompt_leaves_first_tokens_unscored(shared: bool) -> None:
    """Nothing stands before them, so they have no probability; they count as tokens of the response all the same."""
    tokens = pack([Encoded("a", (), ((10, 11), (20,), (30, 31)))], 3, PAD, shared=shared)
    assert tokens.input_ids.tolist() == [10, 11, 20, 30, 31]
    assert tokens.position_ids.tolist() == [0, 1, 0, 0, 1]
    assert tokens.trees == (((0, 2, 1, 2),) if shared else ((0, 2), (0, 1), (0, 2)))
    assert tokens.lengths.tolist() == [2, 1, 2]
    assert tokens.first.tolist() == [0, 2, 3] and tokens.last.tolist() == [1, 2, 4]
    assert tokens.scored.tolist() == [1, 4] and tokens.before.tolist() == [0, 3] and tokens.sequence.tolist() == [0, 2]


def test_nothing_to_score_is_an_empty_index() -> None:
    tokens = pack([Encoded("a", (), ((10,),))], 1, PAD)
    for index in (tokens.scored, tokens.before, tokens.sequence):
        assert index.tolist() == [] and index.dtype == torch.long


@pytest.mark.parametrize("shared", [True, False])
def test_an_encoder_gets_whole_text_pairs(shared: bool) -> None:
    """It reads in both directions, so a prompt is repeated whatever was asked; its closing tokens are no response."""
    tokens = pack(PAIRED, 2, PAD, FRAME, shared)
    assert tokens.input_ids.tolist() == [101, 1, 2, 102, 10, 103, 104, 101, 1, 2, 102, 20, 21, 103, 104]
    assert tokens.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 7]
    assert tokens.extra["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert tokens.trees == ((4, 3), (4, 4)) and tokens.slot.tolist() == [0, 1] and tokens.lengths.tolist() == [1, 2]
    assert tokens.first.tolist() == [0, 7] and tokens.last.tolist() == [6, 14]
    assert tokens.scored.tolist() == [4, 11, 12] and tokens.before.tolist() == [3, 10, 11]
    assert tokens.sequence.tolist() == [0, 1, 1]
    assert pack(PAIRED, 2, PAD, replace(FRAME, response_type=0), shared).extra == {}


def test_a_row_spread_out_by_hand() -> None:
    at, real = spread_out(pack(TWO, 3, PAD))
    assert real.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    assert [row[there].tolist() for row, there in zip(at, real, strict=True)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 5],
        [0, 1, 2, 6, 7, 8],
        [9, 10, 11],
    ]
    assert ((at >= 0) & (at < 12)).all(), "where nothing stands the index must still be one"
    apart, _ = spread_out(pack(TWO, 3, PAD, shared=False))
    assert apart[1, :4].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("shared", [True, False])
def test_padded_rows_by_hand(shared: bool) -> None:
    rows = Padded.of(pack(TWO, 3, PAD, shared=shared))
    assert rows.input_ids.tolist() == [
        [1, 2, 3, 10, 11, PAD],
        [1, 2, 3, 20, PAD, PAD],
        [1, 2, 3, 30, 31, 32],
        [4, 40, 41, PAD, PAD, PAD],
    ]
    assert rows.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 1, 0, 0, 0]]
    assert rows.number.tolist() == [
        [-1, -1, -1, 0, 1, -1],
        [-1, -1, -1, 2, -1, -1],
        [-1, -1, -1, 3, 4, 5],
        [-1, 6, 7, -1, -1, -1],
    ]
    assert rows.extra == {}


def test_padded_rows_of_an_encoder_by_hand() -> None:
    rows = Padded.of(pack(PAIRED, 2, PAD, FRAME))
    assert rows.input_ids.tolist() == [[101, 1, 2, 102, 10, 103, 104, PAD], [101, 1, 2, 102, 20, 21, 103, 104]]
    assert rows.extra["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert rows.number.tolist() == [[-1, -1, -1, -1, 0, -1, -1, -1], [-1, -1, -1, -1, 1, 2, -1, -1]]


def test_some_rows_are_cut_to_the_longest_of_them() -> None:
    some = Padded.of(pack(PAIRED, 2, PAD, FRAME)).rows(torch.tensor([0]))
    assert some.input_ids.tolist() == [[101, 1, 2, 102, 10, 103, 104]]
    assert some.attention_mask.tolist() == [[1] * 7] and some.number.tolist() == [[-1, -1, -1, -1, 0, -1, -1]]
    assert some.extra["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_padded_rows_of_like_length_stand_together() -> None:
    """Lengths 5, 4, 6, 3: in twos by length; where little is padding, or all fit, they stay one block."""
    rows = Padded.of(pack(TWO, 3, PAD))
    (short, first), (long, second) = rows.chunks(2)
    assert short.tolist() == [3, 1] and long.tolist() == [0, 2]
    assert first.input_ids.tolist() == [[4, 40, 41, PAD], [1, 2, 3, 20]]
    assert second.number.tolist() == [[-1, -1, -1, 0, 1, -1], [-1, -1, -1, 3, 4, 5]]
    ((all_of_them, whole),) = rows.chunks(4)
    assert all_of_them.tolist() == [0, 1, 2, 3] and whole is rows
    alike = rows.rows(torch.tensor([0, 2, 0, 2]))
    assert len(alike.chunks(2)) == 1, "2 of 24 places are padding"


# ---------------------------------------------------------------------------------------------- batches


def test_a_batch_of_unequal_k(plain_tokenizer: Any) -> None:
    data = [pair(responses=("a", "bb", "c")), pair("Go: ")]
    examples, _ = prepare(data, plain_tokenizer, Limits(256))
    for shared in (True, False):
        batch = Collator.of(plain_tokenizer, shared).batch(examples)
        tokens = batch.tokens
        assert len(batch) == 2 and batch.evidence.mask.tolist() == [[True] * 3, [True, True, False]]
        assert tokens.slot.tolist() == [0, 1, 2, 3, 4]
        codes = [(examples[n].encoded, i) for n, i in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
        assert sequences(tokens) == [(list(code.prompt), list(code.responses[i])) for code, i in codes]
        said = tokens.input_ids[tokens.scored]
        assert [said[tokens.sequence == n].tolist() for n in range(5)] == [list(code.responses[i]) for code, i in codes]
        assert tokens.lengths.tolist() == [len(code.responses[i]) for code, i in codes]
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
    assert moved.tokens.trees and moved.tokens.pad_id == plain_tokenizer.pad_token_id


def test_groups_of_like_cost_by_hand() -> None:
    """The costliest first; a group is closed when the next one does not fit; what is too large stands alone."""
    assert by_cost([5, 9, 1, 4, 20], 10) == [[4], [1], [0, 3, 2]]
    assert by_cost([3, 3, 3], 6) == [[0, 1], [2]]
    assert by_cost([7, 8], 1) == [[1], [0]]
    assert by_cost([], 10) == []


shapes = st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(1, 30), min_size=1, max_size=6)), max_size=30)


def shaped(prompt: int, responses: list[int]) -> Example:
    code = Encoded("d", (1,) * prompt, tuple((1,) * length for length in responses))
    return Example.of(Datum("d", "", ("",) * len(responses)), code)


@given(shapes, st.sampled_from([True, False]), st.sampled_from([None, FRAME]), st.integers(1, 400))
def test_chunks_hold_everything_once_within_their_budget(
    drawn: list[tuple[int, list[int]]], shared: bool, frame: Frame | None, budget: int
) -> None:
    collator = Collator(PAD, frame, shared)
    examples = [shaped(*shape) for shape in drawn]
    chunks = collator.chunks(examples, budget)
    assert sorted(n for chunk in chunks for n in chunk) == list(range(len(examples)))
    for chunk in chunks:
        tokens = collator.batch([examples[n] for n in chunk]).tokens
        assert len(tokens.input_ids) == collator.costs(examples)[chunk].sum()
        assert len(tokens.input_ids) <= budget or len(chunk) == 1
        assert Padded.of(tokens).input_ids.shape[1] == collator.longest([examples[n] for n in chunk])


def test_what_an_example_costs_by_hand() -> None:
    example = shaped(3, [2, 1, 3])
    assert Collator(PAD).costs([example, shaped(1, [2])]).tolist() == [3 + 6, 1 + 2]
    assert Collator(PAD, shared=False).costs([example]).tolist() == [3 * 3 + 6]
    for shared in (True, False):
        assert Collator(PAD, FRAME, shared).costs([example]).tolist() == [3 * (3 + 4) + 6]
    assert Collator(PAD).longest([example, shaped(1, [2])]) == 6
    assert Collator(PAD, FRAME).longest([example]) == 10
    assert Collator(PAD).longest([]) == 0 and Collator(PAD).costs([]).tolist() == []


def test_a_step_comes_in_micro_batches(plain_tokenizer: Any) -> None:
    data = [pair(responses=("a", "bb", "c")), pair("Stop it: ", ("x", "y")), pair("Go: ", ("x", "y"))]
    examples, _ = prepare([replace(datum, id=str(n)) for n, datum in enumerate(data)], plain_tokenizer, Limits(256))
    cost = Collator.of(plain_tokenizer).costs(examples).tolist()
    assert cost[0] > cost[1] > cost[2]
    for budget, expected in (
        (1, [["0"], ["1"], ["2"]]),
        (cost[1] + cost[2], [["0"], ["1", "2"]]),
        (sum(cost), [["0", "1", "2"]]),
    ):
        parts = Collator.of(plain_tokenizer, micro_batch_tokens=budget)(examples)["batch"]
        assert [list(part.ids) for part in parts] == expected
        # Each is only as wide as its own prompts need.
        assert [part.evidence.mask.shape[1] for part in parts] == [3 if "0" in ids else 2 for ids in expected]


def test_evidence_is_a_record_of_tensors() -> None:
    said = evidence([pair()])
    assert isinstance(said.to(torch.float64), Evidence)
