"""Texts -> tokens before any limit: what the texts of a datum are, and where its prompt ends and its responses begin.

All texts of many data are tokenised by one call, since a fast tokenizer takes longer to be called than to read a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Protocol

from jinja2 import TemplateError

from mmpo.batch import faithful
from mmpo.batch.reading import Ids, Texts
from mmpo.batch.render import opening_text, render_all, response_text
from mmpo.data.texts import is_encodable
from mmpo.errors import UserError
from mmpo.types import Datum, Text


class Unencodable(UserError):
    """A datum that cannot be tokenised; ``reason`` is why, in the words of the count of such data."""

    def __init__(self, datum: Datum, reason: str, message: str) -> None:
        super().__init__(f"{datum.source or datum.id}: {message}, or drop such rows with on_bad_row: drop")
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process is told what is wrong."""
        return UserError, (str(self),)


@dataclass(frozen=True)
class Split:
    """The tokens of a datum before any limit: ``openings`` and ``marks`` have an entry for each response."""

    prompt: Ids
    responses: tuple[Ids, ...]
    openings: Ids
    marks: tuple[Ids, ...]
    moved: bool = False

    def prompt_tokens(self, own: bool) -> int:
        """Tokens of the prompt, or of all ``own`` prompts."""
        return sum(len(self.prompt) + opening for opening in self.openings) if own else len(self.prompt)

    def cut(self, limit: int | None, bos: int | None) -> Split:
        """The same with prompts of at most ``limit`` tokens, each of which has lost its beginning."""
        longest = len(self.prompt) + max(self.openings)
        if limit is None or longest <= limit:
            return self
        if not any(self.openings):
            return replace(self, prompt=_cut_left(self.prompt, limit, bos))
        parts = list(zip(self.responses, self.openings, strict=True))
        prompts = [_cut_left((*self.prompt, *text[:opening]), limit, bos) for text, opening in parts]
        shared = min(_common(prompts[0], prompt) for prompt in prompts)
        openings = tuple(len(prompt) - shared for prompt in prompts)
        return replace(
            self,
            prompt=prompts[0][:shared],
            responses=tuple((*p[shared:], *text[o:]) for p, (text, o) in zip(prompts, parts, strict=True)),
            openings=openings,
            marks=tuple(
                tuple(place - old + new for place in places)
                for places, old, new in zip(self.marks, self.openings, openings, strict=True)
            ),
        )


class Splitter(Protocol):
    """A way in which a tokenizer reads prompts and responses."""

    @property
    def special(self) -> bool:
        """Whether the tokenizer adds its own special tokens to a text."""
        ...

    def texts(self, data: Sequence[Datum]) -> list[Texts | Unencodable]:
        """The texts of each datum, or why it has none."""
        ...

    def split(self, datum: Datum, texts: Texts, ids: Mapping[str, Ids]) -> Split:
        """The tokens of a datum, from those of its texts. Raises Unencodable."""
        ...


def prompts_of(datum: Datum) -> list[Text]:
    """The prompt that each response answers."""
    if not datum.about:
        return [datum.prompt] * len(datum.responses)
    return [datum.prompt if own.prompt is None else own.prompt for own in datum.about]


def broken_text(datum: Datum, special: tuple[str, ...], longest: int) -> Unencodable | None:
    """What is wrong with a datum of which no tokenizer can read a text, or only ``special`` tokens, or that is longer
    than so many characters."""
    prompts = prompts_of(datum)
    if (fault := faithful.unreadable(prompts, datum.responses, special, longest)) is not None:
        return Unencodable(datum, *fault)
    for text in (*{id(prompt): prompt for prompt in prompts}.values(), *datum.responses):
        if not is_encodable(text):
            name = faithful.called(text, prompts)
            message = f"{name} holds half of a surrogate pair, which no tokenizer reads; mend the text"
            return Unencodable(datum, "half of a surrogate pair", message)
    return None


@dataclass(frozen=True)
class Apart:
    """An encoder's text pair: prompt and response are tokenised each alone."""

    special = False

    def texts(self, data: Sequence[Datum]) -> list[Texts | Unencodable]:
        return [
            Texts(
                [opening_text(prompt) for prompt in prompts_of(datum)],
                [response_text(response) for response in datum.responses],
            )
            for datum in data
        ]

    def split(self, datum: Datum, texts: Texts, ids: Mapping[str, Ids]) -> Split:
        responses = tuple(ids[text] for text in texts.wholes)
        nothing = ((),) * len(responses)
        if not any(own.prompt is not None for own in datum.about):
            return Split(ids[texts.prompts[0]], responses, (0,) * len(responses), nothing)
        own = [ids[prompt] for prompt in texts.prompts]
        whole = tuple((*prompt, *response) for prompt, response in zip(own, responses, strict=True))
        return Split((), whole, tuple(map(len, own)), nothing)


@dataclass(frozen=True)
class Together:
    """Prompt and response are tokenised together, as any consumer of the saved model would, and parted afterwards.

    A template already writes the special tokens; plain text gets the tokenizer's own, and one end-of-text token.
    """

    tokenizer: Any
    special: bool
    begin: int | None
    end: int | None
    end_text: str | None

    @classmethod
    def of(cls, tokenizer: Any) -> Together:
        # A tokenizer takes some microseconds to say what its special tokens are.
        return cls(
            tokenizer,
            not tokenizer.chat_template,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.eos_token,
        )

    def texts(self, data: Sequence[Datum]) -> list[Texts | Unencodable]:
        pairs = [(prompts_of(datum), datum.responses) for datum in data]
        try:
            return [
                self._kept(datum, Texts(*texts))
                for datum, texts in zip(data, render_all(pairs, self.tokenizer), strict=True)
            ]
        except TemplateError as error:
            if len(data) > 1:
                return [texts for datum in data for texts in self.texts([datum])]
            refused = Unencodable(
                data[0],
                "refused by the chat template",
                f"the chat template refuses the conversation ({error}); change it",
            )
            refused.__cause__ = error
            return [refused]

    def _kept(self, datum: Datum, texts: Texts) -> Texts | Unencodable:
        """The texts, unless the chat template lost what the datum says."""
        if self.special:
            return texts
        fault = faithful.rewritten(prompts_of(datum), datum.responses, texts.prompts, texts.wholes)
        return texts if fault is None else Unencodable(datum, *fault)

    def split(self, datum: Datum, texts: Texts, ids: Mapping[str, Ids]) -> Split:
        begin, eos = self.begin, self.end
        head_of = {text: self._ended(text, ids[text]) for text in texts.prompts}
        heads = [head_of[text] for text in texts.prompts]
        wholes = [self._ended(text, ids[text]) for text in texts.wholes]
        if begin is not None and any(head[:2] == (begin, begin) for head in head_of.values()):
            raise Unencodable(
                datum,
                "begin-of-text token twice",
                f"the prompt begins with {self.tokenizer.bos_token} twice; text, chat template or tokenizer "
                "adds one too many, so take it out of the text or of the template",
            )
        if self.special and eos is not None:
            wholes = [whole if whole[-1:] == (eos,) else (*whole, eos) for whole in wholes]
        ends = [_common(head, whole) for head, whole in zip(heads, wholes, strict=True)]
        moved = any(end < len(head) for end, head in zip(ends, heads, strict=True))
        if len(head_of) == 1:
            shared = min(ends)
            ends = [shared] * len(ends)
        else:
            shared = min(*ends, *(_common(heads[0], head) for head in heads))
        return Split(
            heads[0][:shared],
            tuple(whole[shared:] for whole in wholes),
            tuple(end - shared for end in ends),
            tuple(tuple(place - shared for place in self._marked(datum, n, texts)) for n in range(len(wholes))),
            moved,
        )

    def _ended(self, text: str, ids: Ids) -> Ids:
        """Without the end-of-text token that the tokenizer added, for the text may go on."""
        added = self.special and len(ids) > 1 and ids[-1] == self.end
        return ids[:-1] if added and not text.endswith(self.end_text or "") else ids

    def _marked(self, datum: Datum, n: int, texts: Texts) -> Iterator[int]:
        """Places of the tokens that touch a marked span of response ``n``, in the tokens of prompt and response."""
        spans = datum.about[n].marks if datum.about else ()
        if not spans:
            return
        if not self.tokenizer.is_fast:
            raise UserError(
                "marks need a tokenizer that knows where its tokens stand in the text; take a fast tokenizer"
            )
        opening, whole = texts.prompts[n], texts.wholes[n]
        response = response_text(datum.responses[n])
        start = whole.find(response, len(opening) if whole.startswith(opening) else 0)
        if start < 0:
            raise Unencodable(
                datum,
                "marks lost in the chat template",
                "the chat template changes the text of a marked response, so its marks have no place; strip the spaces "
                "around the response, or remove its marks",
            )
        found = self.tokenizer(whole, add_special_tokens=self.special, return_offsets_mapping=True)
        for place, (begin, end) in enumerate(found["offset_mapping"]):
            if begin < end and any(begin < start + b and start + a < end for a, b in spans):
                yield place


def _cut_left(prompt: Ids, limit: int | None, bos: int | None) -> Ids:
    """The last ``limit`` tokens; a leading beginning-of-text token stays in front."""
    if limit is None or len(prompt) <= limit:
        return prompt
    if bos is not None and prompt[0] == bos and limit > 1:
        return (bos, *prompt[len(prompt) - limit + 1 :])
    return prompt[len(prompt) - limit :]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    if a == b[: len(a)]:
        return len(a)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
