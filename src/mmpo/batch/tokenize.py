"""Text -> tokens: each prompt once, each response once, and a count of everything that had to be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from tqdm.auto import tqdm

from mmpo.batch.cuts import Cuts
from mmpo.batch.faithful import longest, special_texts
from mmpo.batch.reading import Ids, Texts, Tokens
from mmpo.batch.split import Apart, Split, Splitter, Together, Unencodable, broken_text
from mmpo.data.texts import words
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Datum

_AT_ONCE, _CHARACTERS = 256, 1_000_000
"""Data, and characters of them, that one call of a tokenizer reads at most (or one datum)."""


@dataclass(frozen=True)
class Limits:
    """How long a sequence may be, in tokens.

    A prompt longer than ``max_prompt_length`` loses its beginning. A response that still does not fit loses its end,
    and with it the end-of-text token. A prompt that leaves no room for a response is a bad row.
    """

    max_length: int = 1024
    max_prompt_length: int | None = None

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"max_length is {self.max_length}; at least 2 tokens are needed, prompt and response")
        if self.max_prompt_length is not None and not 0 < self.max_prompt_length < self.max_length:
            raise UserError(
                f"max_prompt_length is {self.max_prompt_length}; it must be positive and below max_length "
                f"({self.max_length}), or no response fits"
            )


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a datum: the prompt that its K responses share, and what follows it for each response.

    ``prompt_cut`` and ``response_cut`` count the tokens that the limits took; ``boundary_moved`` says that prompt and
    response, tokenised together, merge across their boundary, so that the prompt here ends earlier than at generation.
    Where responses have prompts of their own, ``prompt`` is what these begin with in common, and the first
    ``openings[i]`` tokens of response i are the rest of its prompt. ``marks`` holds the places of the marked tokens in
    each response. Both are empty where no response has any.
    """

    id: str
    prompt: Ids
    responses: tuple[Ids, ...]
    prompt_cut: int = 0
    response_cut: tuple[int, ...] = ()
    boundary_moved: bool = False
    openings: Ids = ()
    marks: tuple[Ids, ...] = ()

    def opening(self, i: int) -> int:
        """Tokens of response i that belong to its own prompt."""
        return self.openings[i] if self.openings else 0

    def parted(self, i: int) -> tuple[Ids, Ids]:
        """The whole prompt of response i, and the response."""
        at = self.opening(i)
        return (*self.prompt, *self.responses[i][:at]), self.responses[i][at:]

    def only(self, i: int) -> Encoded:
        """The datum with response i alone."""
        return replace(
            self, responses=self.responses[i : i + 1], openings=self.openings[i : i + 1], marks=self.marks[i : i + 1]
        )


@dataclass(frozen=True)
class Frame:
    """The special tokens around a text pair: ``head prompt middle response tail``, and the response's type id."""

    head: Ids
    middle: Ids
    tail: Ids
    response_type: int


def pair_frame(tokenizer: Any) -> Frame | None:
    """How an encoder's tokenizer joins two texts (``[CLS] a [SEP] b [SEP]``); ``None`` for a decoder's tokenizer.

    Some decoders name a cls and a sep token as well; they have no mask token, or they have a chat template.
    """
    if tokenizer.chat_template or None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id):
        return None
    word = next(token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids)
    text = tokenizer.decode([word])
    inside = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    both = tokenizer(text, text)
    # A tokenizer that does not return type ids leaves them to the model, which then takes 0 for every token.
    ids, types = both["input_ids"], both.get("token_type_ids") or [0] * len(both["input_ids"])
    special = [token in tokenizer.all_special_ids for token in ids]
    head = special.index(False)
    after = head + inside
    middle = special.index(False, after) - after
    return Frame(
        tuple(ids[:head]),
        tuple(ids[after : after + middle]),
        tuple(ids[after + middle + inside :]),
        types[after + middle],
    )


def encoder_of_many(tokenizer: Any, limits: Limits) -> Callable[[Sequence[Datum]], list[Encoded | Unencodable]]:
    """The function that turns data into tokens under this tokenizer and these limits, by one call of the tokenizer.

    A datum is Unencodable where the prompt leaves no room for a response, a response has no token, the chat template
    refuses the conversation, or a text holds half of a surrogate pair. The others are not touched by that.
    """
    frame = pair_frame(tokenizer)
    way: Splitter = Apart() if frame else Together.of(tokenizer)
    read = Tokens.of(tokenizer, way.special)
    special, bos = special_texts(tokenizer), tokenizer.bos_token_id
    most = limits.max_length - (len(frame.head) + len(frame.middle) + len(frame.tail) if frame else 0)

    def one(datum: Datum, texts: Texts | Unencodable, ids: Mapping[str, Ids]) -> Encoded | Unencodable:
        if isinstance(texts, Unencodable):
            return texts
        try:
            return _within(limits, most, datum, way.split(datum, texts, ids), bos)
        except Unencodable as error:
            return error

    def encode(data: Sequence[Datum]) -> list[Encoded | Unencodable]:
        texts = _texts(data, way, special, longest(limits.max_length))
        ids = read([found for found in texts if isinstance(found, Texts)])
        return [one(datum, found, ids) for datum, found in zip(data, texts, strict=True)]

    return encode


def encoder(tokenizer: Any, limits: Limits) -> Callable[[Datum], Encoded]:
    """The same for one datum; it raises what makes it Unencodable."""
    encode = encoder_of_many(tokenizer, limits)

    def one(datum: Datum) -> Encoded:
        (found,) = encode([datum])
        if isinstance(found, Unencodable):
            raise found
        return found

    return one


def _texts(data: Sequence[Datum], way: Splitter, special: tuple[str, ...], most: int) -> list[Texts | Unencodable]:
    """The texts of each datum; those that no tokenizer reads do not reach the chat template."""
    broken = [broken_text(datum, special, most) for datum in data]
    found = iter(way.texts([datum for datum, wrong in zip(data, broken, strict=True) if wrong is None]))
    return [next(found) if wrong is None else wrong for wrong in broken]


def _within(limits: Limits, most: int, datum: Datum, whole: Split, bos: int | None) -> Encoded:
    """The tokens that the limits leave; ``most`` is max_length without the special tokens of a text pair."""
    found = whole.cut(limits.max_prompt_length, bos)
    prompt, openings, texts = found.prompt, found.openings, found.responses
    room = most - len(prompt)
    if room < 1 + max(openings):
        raise Unencodable(
            datum,
            "no room for a response",
            f"the prompt has {len(prompt) + max(openings)} tokens and max_length {limits.max_length} leaves no "
            "room for a response; raise max_length, or set max_prompt_length to cut the prompt's beginning",
        )
    if any(len(text) == opening for text, opening in zip(texts, openings, strict=True)):
        raise Unencodable(
            datum,
            "a response without tokens",
            "a response has no token of its own and the tokenizer has no end-of-text token; remove the response",
        )
    return Encoded(
        id=datum.id,
        prompt=prompt,
        responses=tuple(text[:room] for text in texts),
        prompt_cut=whole.prompt_tokens(any(whole.openings)) - found.prompt_tokens(any(whole.openings)),
        response_cut=tuple(max(0, len(text) - room) for text in texts),
        boundary_moved=found.moved,
        openings=openings if any(openings) else (),
        marks=tuple(tuple(place for place in places if place < room) for places in found.marks)
        if any(found.marks)
        else (),
    )


def encode_all(
    data: Iterable[Datum], tokenizer: Any, limits: Limits, on_bad_row: OnBadRow = "error"
) -> tuple[list[tuple[Datum, Encoded]], Cuts]:
    """Encode all data; what cannot be is an error, or where ``on_bad_row`` lets it, it is left out and counted."""
    cuts = Cuts(limits.max_length, limits.max_prompt_length)
    bar = tqdm(data, desc="tokenising", unit="prompt", leave=False, mininterval=1.0)
    kept = list(chain.from_iterable(encoding(bar, tokenizer, limits, on_bad_row, cuts)))
    cuts.check(on_bad_row)
    return kept, cuts


def encoding(
    data: Iterable[Datum], tokenizer: Any, limits: Limits, on_bad_row: OnBadRow, cuts: Cuts
) -> Iterator[list[tuple[Datum, Encoded]]]:
    """Data with their tokens, some hundred at a time; what that cost is added to ``cuts``."""
    encode = encoder_of_many(tokenizer, limits)
    for some in _some(data):
        kept = []
        for datum, encoded in zip(some, encode(some), strict=True):
            if isinstance(encoded, Encoded):
                cuts.add(encoded)
                kept.append((datum, encoded))
            elif on_bad_row == "error":
                raise encoded
            else:
                cuts.drop(datum, encoded.reason)
        yield kept


def _some(data: Iterable[Datum]) -> Iterator[list[Datum]]:
    """The data in lists that one call of a tokenizer reads."""
    some: list[Datum] = []
    room = _CHARACTERS
    for datum in data:
        some.append(datum)
        room -= sum(len(words(text)) for text in (datum.prompt, *datum.responses))
        if len(some) == _AT_ONCE or room <= 0:
            yield some
            some, room = [], _CHARACTERS
    if some:
        yield some
