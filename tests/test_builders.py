"""Data made of data: goals, verifiable instructions, variants, marked phrases, rationales, and the command for them."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpo.batch import Limits, evidence
from mmpo.batch.tokenize import encoder
from mmpo.cli import main
from mmpo.data import load, merge, pairs_of, texts, to_row
from mmpo.data.answers import Beside, around, ranking, with_more
from mmpo.data.build import BUILDERS, build
from mmpo.data.build import KINDS as EVERY
from mmpo.data.goals import add_goals, goal_prompt
from mmpo.data.instructed import add_instructions, build_inter, build_intra
from mmpo.data.instructions import KINDS, Instruction, instructed
from mmpo.data.keywords import add_variants, degree_variants, key_phrases
from mmpo.data.phrases import differing_spans, mark_phrases
from mmpo.data.rationales import attach_rationales, rationale_prompt
from mmpo.errors import UserError
from mmpo.methods import build as build_method
from mmpo.targets import BradleyTerry, Hard
from mmpo.types import About, Contrast, Datum, Judgement, Reading, Text

CHAT = [{"role": "user", "content": "2 + 2?"}]


def pair(*grades: float, prompt: Text = "2 + 2?") -> Datum:
    return Datum("a", prompt, tuple(f"answer {n}" for n in range(len(grades))), grades=grades)


def with_components(d: Datum) -> Datum:
    """The datum with the components of a tutor: the first response is the better one by both."""
    line = tuple(1 / (1 + i) for i in range(len(d.responses)))
    return replace(d, attributes={"outcome": line, "rubric": line})


def p_of(datum: Datum, target: Any) -> torch.Tensor:
    """P of one datum."""
    said = evidence([datum])
    return target(said, torch.zeros_like(said.weight))[0]


# ---------------------------------------------------------------------------------------------- beside the answers


def test_ranking() -> None:
    assert ranking(pair(2, 9, 5)) == [1, 2, 0]
    assert ranking(pair(5, 5)) == []
    votes = Datum("a", "x", ("a", "b", "c"), judgements=(Judgement(0, 1, p=0.2), Judgement(1, 2, p=0.4)))
    assert ranking(votes) == [2, 1, 0]  # 1 beats 0 and 2 beats 1
    assert ranking(replace(votes, judgements=())) == []


def test_more_responses_change_nothing_that_was_said() -> None:
    before = Datum(
        "a", "x", ("a", "b"), (1.0, 2.0), annotator_grades={"ann": (1.0, 2.0)}, contrasts=(Contrast((1.0, -1.0)),)
    )
    after = with_more(before, [Beside("c", About(role="variant"), 7.0), Beside("d", About(prompt="y"))])
    assert after.responses == ("a", "b", "c", "d") and after.grades == (1.0, 2.0, 7.0, None)
    assert after.about == (About(), About(), About(role="variant"), About(prompt="y"))
    assert pairs_of(after) == pairs_of(before) == [(0, 1)]
    assert after.annotator_grades == {"ann": (1.0, 2.0, None, None)}
    assert after.contrasts == (Contrast((1.0, -1.0, 0.0, 0.0)),)
    ungraded = with_more(Datum("a", "x", ("a", "b"), judgements=(Judgement(0, 1, p=1.0),)), [Beside("c", About())])
    assert ungraded.grades is None and pairs_of(ungraded) == [(0, 1)]


def test_words_around_a_message() -> None:
    parts = {"role": "user", "content": [{"type": "image", "url": "i.png"}, {"type": "text", "text": "What?"}]}
    assert around({"role": "user", "content": "What?"}, "A ", " B") == {"role": "user", "content": "A What? B"}
    assert around(parts, before="A ")["content"] == [{"type": "text", "text": "A "}, *parts["content"]]
    assert around(parts, after=" B")["content"] == [*parts["content"], {"type": "text", "text": " B"}]


# ---------------------------------------------------------------------------------------------- goals


@pytest.mark.parametrize(
    ("place", "prompt", "expected"),
    [
        ("system", "2 + 2?", "{goal}\n\n2 + 2?"),
        ("user", "2 + 2?", "{goal}\n\n2 + 2?"),
        ("system", CHAT, [{"role": "system", "content": "{goal}"}, *CHAT]),
        ("user", CHAT, [{"role": "user", "content": "{goal}\n\n2 + 2?"}]),
        (
            "system",
            [{"role": "system", "content": "Be kind."}, *CHAT],
            [{"role": "system", "content": "{goal}\n\nBe kind."}, *CHAT],
        ),
        (
            "user",
            [{"role": "system", "content": "Be kind."}, *CHAT, {"role": "assistant", "content": "4"}, *CHAT],
            [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "{goal}\n\n2 + 2?"},
                {"role": "assistant", "content": "4"},
                *CHAT,
            ],
        ),
    ],
)
def test_the_goal_stands_in_the_prompt(place: Any, prompt: Text, expected: Text) -> None:
    goal = "Answer so that your answer is rated 8."
    assert texts.key(goal_prompt(prompt, 8.0, place)) == texts.key(expected).replace("{goal}", goal)
    assert "rated 8.5." in texts.words(goal_prompt(prompt, 8.5, place))


def test_a_pair_becomes_two_in_which_each_answer_wins_once() -> None:
    data = [pair(8, 5), replace(pair(2, 3), id="b", prompt="3 + 3?")]
    made, counts = add_goals(data)
    assert counts["data in"] == 2 and counts["data out"] == 4
    low, high, first, second = made
    assert [d.prompt for d in made[:2]] == [goal_prompt("2 + 2?", 5), goal_prompt("2 + 2?", 8)]
    assert low.responses == high.responses == data[0].responses
    hard = [p_of(d, Hard()) for d in (low, high, first, second)]
    assert torch.equal(hard[0], hard[1].T) and torch.equal(hard[2], hard[3].T)
    # Without the goal the two are the pair and its flip.
    assert torch.equal(hard[1], p_of(data[0], Hard())) and torch.equal(hard[3], p_of(data[1], Hard()))


def test_p_under_a_goal() -> None:
    """r = 8 and 5: at g = 8 the margin is 0 - (-9) = 9, so p = sigmoid(0.9) and sigmoid(9); at g = 6.5 it is 0."""
    low, middle, high = add_goals([pair(8, 5)], goals=[5, 6.5, 8])[0]
    for gamma, p in ((0.1, 0.710950), (1.0, 0.999877)):
        assert p_of(high, BradleyTerry(gamma))[0, 1].item() == pytest.approx(p, abs=1e-6)
        assert p_of(low, BradleyTerry(gamma))[1, 0].item() == pytest.approx(p, abs=1e-6)
        assert p_of(middle, BradleyTerry(gamma))[0, 1].item() == 0.5


def test_equal_grades_tie_and_are_counted() -> None:
    (made,), counts = add_goals([pair(7, 7)])
    assert counts["comparisons that tie at their goal"] == 1
    assert p_of(made, BradleyTerry(2.0))[0, 1].item() == 0.5
    assert made.grades is not None and math.copysign(1, made.grades[0]) == 1  # no -0.0 in the rows


def test_many_answers_and_what_is_left_out() -> None:
    asked = replace(
        pair(9, 2, 5, 5),
        judgements=(Judgement(0, 1, p=1.0),),
        annotator_grades={"ann": (9.0, None, 5.0, 4.0)},
        about=(About(), About(), About(prompt="own"), About(role="variant")),
        pairs=((0, 1), (0, 2), (1, 2)),
    )
    ranked, judged = replace(asked, ranked=True), Datum("c", "x", ("a", "b"), judgements=(Judgement(0, 1, p=1.0),))
    made, counts = add_goals([asked, ranked, judged])
    assert [d.grades for d in made] == [(-49, 0, -9, 5), (-16, -9, 0, 5), (0, -49, -16, 5)]  # goals 2, 5, 9
    assert made[0].annotator_grades == {"ann": (-49, None, -9, 4)}
    assert made[0].about[2].prompt == goal_prompt("own", 2) and made[0].judgements == ()
    assert counts["ranked data skipped"] == counts["data without grades skipped"] == 1
    assert counts["statements about pairs dropped"] == 1
    assert len({d.id for d in made}) == 3


def test_goals_need_grades() -> None:
    with pytest.raises(UserError, match="goals are made of grades"):
        add_goals([Datum("c", "x", ("a", "b"), judgements=(Judgement(0, 1, p=1.0),))])
    with pytest.raises(UserError, match="finite numbers"):
        add_goals([pair(1, 2)], goals=[math.nan])
    with pytest.raises(UserError, match="place is 'top'"):
        goal_prompt("x", 1, "top")  # type: ignore[arg-type]


@pytest.mark.parametrize("h", [-1.0, -0.1, 0.0, 0.1, 1.0])
def test_a_model_blind_to_the_goal_learns_nothing(h: float) -> None:
    """Its loss over both goals is at least ln 2, at a margin of 0 and nowhere else."""
    said = evidence(add_goals([pair(8, 5)])[0])
    logps = torch.tensor([[100 * h, 0.0]] * 2)
    loss = build_method("reward_augmented")(said, Reading(said.mask, logps, torch.zeros(2, 2))).loss.item()
    assert loss == pytest.approx(math.log(2), abs=1e-6) if h == 0 else loss > math.log(2) + 1e-4


def test_mmpo_on_goals_tends_to_the_published_method() -> None:
    said = evidence(add_goals([pair(8, 5, 6)])[0])
    logps = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    reading = Reading(said.mask, logps, torch.zeros(3, 3))
    limit = build_method("reward_augmented", beta=0.1)(said, reading).loss
    torch.testing.assert_close(build_method("mmpo", gamma=100.0, beta=0.1)(said, reading).loss, limit)


# ---------------------------------------------------------------------------------------------- instructions

ANSWER = "The fox ran, and ran. It was late.\n- one\n- two"
KIND = {kind.name: kind for kind in KINDS}


@pytest.mark.parametrize(
    ("name", "argument", "text", "followed"),
    [
        ("word count", ("at most", 10), "Use at most 10 words.", True),
        ("word count", ("at most", 9), "Use at most 9 words.", False),
        ("sentence count", ("at least", 3), "Use at least 3 sentences.", True),
        ("sentence count", ("at least", 4), "Use at least 4 sentences.", False),
        ("letter frequency", ("w", ("at least", 2)), "Use the letter 'w' at least 2 times.", True),
        ("letter frequency", ("w", ("at most", 1)), "Use the letter 'w' at most 1 time.", False),
        ("keyword", "fox", 'Include the word "fox".', True),
        ("keyword", "ran and", 'Include the words "ran and".', True),
        ("keyword", "ox", 'Include the word "ox".', False),
        ("starts with", "the fox", 'Start with "the fox".', True),
        ("starts with", "fox", 'Start with "fox".', False),
        ("ends with", "one two", 'End with "one two".', True),
        ("ends with", "one", 'End with "one".', False),
        ("bullets", 2, "Give exactly 2 bullet points.", True),
        ("bullets", 0, "Do not use bullet points.", False),
        ("commas", False, "Do not use commas.", False),
        ("commas", True, "Use at least one comma.", True),
        ("letter case", "both", "Use both capital and small letters.", True),
        ("letter case", "capital", "Use capital letters only.", False),
        ("JSON", False, "Do not use JSON.", True),
        ("JSON", True, "Answer with a JSON object or list, and nothing else.", False),
    ],
)
def test_a_verifier(name: str, argument: Any, text: str, followed: bool) -> None:
    """The answer has ten words, three sentences (the list is one), two w and two bullets."""
    instruction = Instruction(KIND[name], argument)
    assert instruction.text == text and instruction.check(ANSWER) == followed
    assert instruction.check([{"role": "assistant", "content": ANSWER}]) == followed


def test_corner_cases_of_verifiers() -> None:
    assert Instruction(KIND["sentence count"], ("at most", 1)).check("Pi is 3.14 and no more")
    assert Instruction(KIND["JSON"], True).check('{"a": [1]}') and not Instruction(KIND["JSON"], True).check("4")
    assert not Instruction(KIND["JSON"], True).check("[" * 100_000)
    assert Instruction(KIND["letter case"], "capital").check("STOP! 1, 2")
    assert not any(Instruction(KIND["letter case"], case).check("1, 2") for case in ("capital", "small", "both"))


def words_of(answer: str) -> list[str]:
    return [w.strip("-’'") for w in re.findall(r"[\w'’-]+", answer.lower().replace("_", " ")) if re.search(r"\w", w)]


def within(n: int, m: re.Match[str]) -> bool:
    return n >= int(m["n"]) if m["bound"] == "least" else n <= int(m["n"])


FOLLOWS: dict[str, Callable[[re.Match[str], str], bool]] = {
    r"Use at (?P<bound>least|most) (?P<n>\d+) words?\.": lambda m, a: within(len(words_of(a)), m),
    r"Use at (?P<bound>least|most) (?P<n>\d+) sentences?\.": lambda m, a: within(
        sum(1 for line in re.split(r"\n\s*\n", a) for s in re.split(r"[.!?]+(?:\s|$)", line) if words_of(s)), m
    ),
    r"Use the letter '(?P<letter>.)' at (?P<bound>least|most) (?P<n>\d+) times?\.": lambda m, a: within(
        sum(c == m["letter"] for c in a.lower()), m
    ),
    r'Include the words? "(?P<phrase>.*)"\.': lambda m, a: any(
        words_of(a)[i:][: len(m["phrase"].split())] == m["phrase"].split() for i in range(len(words_of(a)))
    ),
    r'Start with "(?P<phrase>.*)"\.': lambda m, a: words_of(a)[: len(m["phrase"].split())] == m["phrase"].split(),
    r'End with "(?P<phrase>.*)"\.': lambda m, a: words_of(a)[-len(m["phrase"].split()) :] == m["phrase"].split(),
    r"Give exactly (?P<n>\d+) bullet points?\.": lambda m, a: bullets_of(a) == int(m["n"]),
    r"Do not use bullet points\.": lambda m, a: bullets_of(a) == 0,
    r"Do not use commas\.": lambda m, a: "," not in a,
    r"Use at least one comma\.": lambda m, a: "," in a,
    r"Use both capital and small letters\.": lambda m, a: any(map(str.isupper, a)) and any(map(str.islower, a)),
    r"Use capital letters only\.": lambda m, a: a.isupper(),
    r"Use small letters only\.": lambda m, a: a.islower(),
    r"Answer with a JSON object or list, and nothing else\.": lambda m, a: is_json(a),
    r"Do not use JSON\.": lambda m, a: not is_json(a),
}
"""What an instruction asks, read from its words alone."""


def bullets_of(answer: str) -> int:
    return sum(bool(re.match(r"[ \t]*[-*•][ \t]+\S", line)) for line in answer.split("\n"))


def is_json(answer: str) -> bool:
    try:
        return type(json.loads(answer)) in (dict, list)
    except ValueError:
        return False


def follows(answer: str, prompt: Text, base: Text) -> list[bool]:
    """Which of the instructions that were added to the base prompt the answer follows."""
    said = texts.words(prompt)[len(texts.words(base)) :].strip().split("\n")
    found = [(check, m) for one in said for how, check in FOLLOWS.items() if (m := re.fullmatch(how, one))]
    assert len(found) == len(said), said
    return [check(m, answer) for check, m in found]


SAID = "the fox ran home and THE END it's late 3.14 e.g. lantern Fine, but well-known: violin marble yes no 42 zu über"
WORDS = st.sampled_from(SAID.split())
SENTENCES = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
ANSWERS = st.one_of(
    st.lists(st.tuples(st.sampled_from(["", "- ", "* ", "\n"]), SENTENCES, st.sampled_from([".", "!", "?", "", ","])),
             min_size=1, max_size=4).map(lambda parts: "\n".join(map("".join, parts))),
    SENTENCES.map(str.upper),
    SENTENCES.map(str.lower),
    st.dictionaries(WORDS, st.integers(), max_size=2).map(json.dumps),
)  # fmt: skip


@settings(max_examples=1000)
@given(answer=ANSWERS, seed=st.integers(0, 10**6))
def test_a_proposed_instruction_is_followed_or_broken_as_declared(answer: str, seed: int) -> None:
    rng = random.Random(seed)
    for kind in KINDS:
        for declared in (True, False):
            one = kind.propose(answer, declared, rng)
            if one is not None:
                assert one.check(answer) == declared
                assert follows(answer, instructed("x", [one]), "x") == [declared], one.text


@settings(max_examples=1000)
@given(answers=st.tuples(ANSWERS, ANSWERS), k=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_every_record_satisfies_its_declared_case(answers: tuple[str, str], k: int, seed: int) -> None:
    base: Text = "Tell me." if seed % 2 else [{"role": "user", "content": "Tell me."}]
    d = Datum("a", base, answers, grades=(1.0, 0.0))
    for made in build_intra([d], k, seed)[0]:
        assert made.responses[0] == made.responses[1] and made.responses[0] in answers
        better, worse = (follows(made.responses[0], own.prompt or "", base) for own in made.about)
        assert len(better) == len(worse) == k
        assert made.grades == (sum(better), sum(worse))
        assert (all(better) and not all(worse)) or (any(better) and not any(worse))
    (made,), counts = build_inter([d], k, seed)
    if not counts["contrasts"]:
        assert made == d
        return
    assert made.responses == (*answers, *answers) and pairs_of(made) == [(0, 1)]
    prompts = [own.prompt for own in made.about]
    assert prompts[:2] == [None, None] and prompts[2] == prompts[3]
    (contrast,) = made.contrasts
    mirrored = bool(counts["mirrored contrasts"])
    assert contrast.coefficients == ((1, -1, -1, 1) if mirrored else (-1, 1, 1, -1))
    of_better, of_worse = (follows(a, prompts[2] or "", base) for a in answers)
    assert 1 <= len(of_better) <= k
    assert all(of_worse if mirrored else of_better) and not any(of_better if mirrored else of_worse)


def test_both_cases_and_both_signs_occur() -> None:
    data = [replace(pair(2, 1), id=str(n), responses=(ANSWER, "A plain line")) for n in range(200)]
    made, counts = add_instructions(data, k=2, seed=1)
    assert counts["data in"] == counts["answers with two prompts"] == 200 and len(made) == 400
    assert 60 < counts["mirrored contrasts"] < 140 < counts["contrasts"] + 1
    seen = {d.grades for d in made[200:]}
    assert seen == {(2.0, 1.0), (2.0, 0.0), (1.0, 0.0)}
    assert len({d.id for d in made}) == 400
    assert add_instructions(data, k=2, seed=1)[0] == made != add_instructions(data, k=2, seed=2)[0]


def test_other_comparisons_stay() -> None:
    d = replace(pair(3, 2, 1), responses=("A line", ANSWER, "{}"), annotator_grades={"ann": (3.0, 2.0, 1.0)})
    (made,), _ = build_inter([d])
    assert pairs_of(made) == [(0, 1), (0, 2), (1, 2)] and made.grades == (3, 2, 1, None, None)
    assert sum(made.contrasts[0].coefficients) == 0
    assert torch.equal(p_of(made, Hard())[:3, :3], p_of(d, Hard())) and not p_of(made, Hard())[3:].any()


def test_what_no_instruction_parts_stays_and_is_counted() -> None:
    tie, same = pair(1, 1), replace(pair(2, 1), responses=("same words", "same  words"))
    made, counts = build_inter([tie, same])
    assert made == [tie, same] and counts["contrasts"] == 0
    assert counts["data without a better answer"] == counts["data whose answers no instruction parts"] == 1
    dots = replace(tie, responses=("...", "..."))
    made, counts = build_intra([dots], k=10)
    assert made == [] and counts["answers that too few instructions fit skipped"] == 1
    with pytest.raises(UserError, match="k is 0; give 1 to 10"):
        build_intra([tie], k=0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("2 + 2?\n", "2 + 2?{said}\n"),
        ("Human: 2 + 2?\n\nAssistant:", "Human: 2 + 2?{said}\n\nAssistant:"),
        ("[INST] 2 + 2? [/INST] ", "[INST] 2 + 2?{said} [/INST] "),
        ("Assistant: 3.\nHuman: 2 + 2?", "Assistant: 3.\nHuman: 2 + 2?{said}"),
        ([*CHAT, {"role": "assistant", "content": "4"}, *CHAT], None),
    ],
)
def test_instructions_stand_where_the_question_ends(prompt: Text, expected: str | None) -> None:
    one = Instruction(KIND["commas"], False)
    said = "\n\nDo not use commas."
    made = instructed(prompt, [one])
    if expected is None:
        assert made == [*prompt[:2], {"role": "user", "content": "2 + 2?" + said}]
    else:
        assert made == expected.replace("{said}", said)


# ---------------------------------------------------------------------------------------------- variants


def test_rake() -> None:
    """deep: frequency 2, degree 3 + 2; learning and methods 3 / 1; models 2 / 1."""
    found = key_phrases("Deep learning methods and deep models.")
    assert found == [("deep learning methods", 2.5 + 3 + 3), ("deep models", 2.5 + 2)]
    assert key_phrases("It is the one, and that's it. Don't you?") == []
    # Punctuation parts phrases; a phrase said twice counts once, its words twice.
    assert key_phrases("red fox, red fox, snow") == [("red fox", 4.0), ("snow", 1.0)]


def test_variants_lose_the_best_phrases_first() -> None:
    text = "Deep learning methods and deep models, they say.\n- The snow"
    assert degree_variants(text, 3) == [
        text,
        "and deep models, they say.\n- The snow",
        "and, they say.\n- The snow",
        "and, they say.\n- The",
    ]
    with pytest.raises(UserError, match="0 degrees"):
        degree_variants(text, 0)


@settings(max_examples=300)
@given(text=ANSWERS, n=st.integers(1, 5))
def test_variants(text: str, n: int) -> None:
    variants = degree_variants(text, n)
    assert variants[0] == text and len(variants) == n + 1
    content = [sum(map(str.isalnum, v)) for v in variants]
    assert content == sorted(content, reverse=True)
    assert key_phrases(variants[-1]) == []
    if not key_phrases(text):
        assert set(variants) == {text}


def test_variants_stand_beside_the_answers() -> None:
    better, worse = "Paris is the capital and Lyon is not.", [{"role": "assistant", "content": "Rome by the river?"}]
    d = Datum("a", CHAT, ([{"role": "assistant", "content": better}], worse), grades=(9.0, 2.0))
    (made,), counts = add_variants([d], degrees=2)
    assert counts["variants"] == 6
    assert [own.role for own in made.about] == ["", "", *["variant"] * 3, *["variant_of_worse"] * 3]
    assert made.grades == (9, 2, 0, 1, 2, 0, 1, 2)
    assert made.responses[2] == d.responses[0]
    assert made.responses[5:] == (
        worse,
        [{"role": "assistant", "content": "by the river?"}],
        [{"role": "assistant", "content": "by the?"}],
    )
    assert pairs_of(made) == [(0, 1)]


def test_variants_that_cannot_be_are_counted() -> None:
    turns = [{"role": "assistant", "content": "red fox"}] * 2
    data = [
        pair(1, 1),
        replace(pair(2, 1), responses=("It is so.", "Snow.")),
        replace(pair(2, 1), responses=(turns, "fox of snow")),
        replace(pair(2, 1), responses=("red fox", "of foxes in snow")),
    ]
    made, counts = add_variants(data, degrees=1)
    assert made[:1] == data[:1] and counts["data in"] == 4 and counts["data without a better answer skipped"] == 1
    assert counts["answers with too few key phrases skipped"] == counts["answers of several messages skipped"] == 1
    assert counts["variants without a word skipped"] == 2  # of "Snow." and "red fox"
    assert [len(d.responses) for d in made] == [2, 3, 4, 5] and counts["variants"] == 6
    assert [own.role for own in made[1].about] == ["", "", "variant_of_worse"]


# ---------------------------------------------------------------------------------------------- phrases


def test_differing_phrases() -> None:
    a, b = "The fox is red and quick.", "The fox  was blue and very quick!"
    here, there = differing_spans(a, b)
    assert [a[s:e] for s, e in here] == ["is red", "."]
    assert [b[s:e] for s, e in there] == ["was blue", "very", "!"]
    assert differing_spans("one  two", "one two") == ((), ())


@settings(max_examples=300)
@given(a=ANSWERS, b=ANSWERS)
def test_outside_the_marks_two_answers_read_the_same(a: str, b: str) -> None:
    def rest(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
        kept = "".join(" " if any(s <= i < e for s, e in spans) else c for i, c in enumerate(text))
        return re.findall(r"\w+|[^\w\s]", kept)

    here, there = differing_spans(a, b)
    assert rest(a, here) == rest(b, there)
    assert (here == there == ()) == (re.findall(r"\w+|[^\w\s]", a) == re.findall(r"\w+|[^\w\s]", b))


def test_each_answer_is_held_against_the_best() -> None:
    answers = ("a red fox", "a blue fox", "a red dog", "other")
    d = Datum("a", "x", answers, grades=(9.0, 5.0, 1.0, None))
    (made,), counts = mark_phrases([d])
    said = [[r[s:e] for s, e in own.marks] for r, own in zip(answers, made.about, strict=True)]
    assert said == [["red", "fox"], ["blue"], ["dog"], []]  # nobody compared the last one
    assert counts == {"data in": 1, "phrases": 4, "answers without a difference": 0}
    overlapping = replace(d, responses=("one two three", "one", "one two four", "x"))
    assert mark_phrases([overlapping])[0][0].about[0].marks == ((4, 13),)


def test_a_tie_has_no_best_answer_to_hold_against() -> None:
    tie, spaces = pair(1, 1), replace(pair(2, 1), responses=("so  it is", "so it is"))
    made, counts = mark_phrases([tie, spaces])
    assert made[0] == tie and counts["data without a better answer skipped"] == 1
    assert counts["answers without a difference"] == 2 and counts["phrases"] == 0


# ---------------------------------------------------------------------------------------------- rationales


def test_the_prompt_of_a_rationale() -> None:
    assert rationale_prompt("2 + 2?\n", ["4", "5"]) == (
        "Prompt:\n2 + 2?\n\nAnswer 1:\n4\n\nAnswer 2:\n5\n\nAnswer 1 was preferred. Why?\n"
    )
    turns = [{"role": "system", "content": "Be brief."}, *CHAT]
    (asked,) = rationale_prompt(turns, [[{"role": "assistant", "content": "4"}], "5"])
    assert asked["role"] == "user" and asked["content"].startswith("Prompt:\nSystem: Be brief.\nUser: 2 + 2?\n\n")


def test_rationales_are_attached() -> None:
    asked: list[tuple[Text, list[Text]]] = []

    def write(prompt: Text, answers: Sequence[Text]) -> str:
        asked.append((prompt, list(answers)))
        return "" if prompt == "unclear" else " It is right. "

    chat = Datum("c", CHAT, ([{"role": "assistant", "content": "5"}], [{"role": "assistant", "content": "4"}]), (1, 2))
    data = [pair(5, 9, 1), pair(3, 3), pair(2, 1, prompt="unclear"), chat]
    (first, *others, last), counts = attach_rationales(data, write)
    assert counts == {"rationales": 2, "data without a better answer": 1, "data without a reason": 1}
    assert asked[0] == ("2 + 2?", ["answer 1", "answer 2"]) and len(asked) == 3
    prompt = rationale_prompt("2 + 2?", ["answer 1", "answer 2"])
    assert first.responses[3] == "It is right." and first.about[3] == About(prompt=prompt, role="rationale")
    assert pairs_of(first) == pairs_of(data[0]) and others == data[1:3]
    assert last.responses[2] == [{"role": "assistant", "content": "It is right."}]


# ---------------------------------------------------------------------------------------------- the command

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Where is Paris?", "responses": ["In France, on the river Seine.", "In Rome I think."],
     "scores": [9, 2]},
    {"id": "b", "prompt": CHAT, "responses": [[{"role": "assistant", "content": "Four, of course, my dear friend."}],
     [{"role": "assistant", "content": "Five or six is the likely answer."}]], "scores": [8, 3]},
]  # fmt: skip


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code or 0)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "flags", "options"),
    [
        ("goals", [], {}),
        ("goals", ["--goals", "1,10", "--place", "user"], {"goals": [1.0, 10.0], "place": "user"}),
        ("instructions", ["--k", "2", "--seed", "4"], {"k": 2, "seed": 4}),
        ("variants", ["--degrees", "1"], {"degrees": 1}),
        ("phrases", [], {}),
    ],
)
def test_what_is_built_loads_back(
    kind: str, flags: list[str], options: dict[str, Any], rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "built.jsonl"
    assert run("build", kind, rows, "--out", str(out), *flags) == 0
    said = capsys.readouterr().out
    made, counts = build(kind, load(rows).data, **options)
    assert "rows: 2 in, 2 used, 0 dropped" in said and f"built {len(made)} prompts of 2" in said
    assert all(f"{name} {count}" in said for name, count in counts.items() if count)
    assert [replace(d, source="") for d in load(str(out)).data] == [replace(d, source="") for d in made]


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_is_built_becomes_tokens(kind: str, rows: str, tiny_tokenizer: Any) -> None:
    encode = encoder(tiny_tokenizer, Limits(1024))
    made = build(kind, [with_components(d) for d in load(rows).data])[0]
    for d, one in zip(made, map(encode, made), strict=True):
        whole = [tiny_tokenizer.decode([*one.prompt, *ids]) for ids in one.responses]
        assert len(whole) == len(d.responses)
        for i, response in enumerate(d.responses):
            own = d.about[i] if d.about else About()
            assert texts.words(response) in whole[i]
            assert texts.words(d.prompt if own.prompt is None else own.prompt).split("\n")[-1] in whole[i]
            marked = tiny_tokenizer.decode([one.responses[i][place] for place in one.marks[i]] if one.marks else [])
            assert all(texts.words(response)[a:b] in marked for a, b in own.marks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["goal"], "unknown kind of data 'goal'. Did you mean 'goals'?"),
        (["phrases", "--seed", "1"], "--seed is no option of build phrases; it has none; leave it out"),
        (["variants", "--goals", "1"], "--goals is no option of build variants; it has degrees; leave it out"),
        (["goals", "--goals", "1,high"], "--goals is 'high'; give numbers, as 1,5,10"),
        (["goals", "--place", "top"], "place is 'top'; give 'system' or 'user'"),
        (["instructions", "--k", "11"], "k is 11; give 1 to 10 instructions a prompt"),
        (["variants", "--degrees", "0"], "0 degrees leave no variant; give at least 1"),
    ],
)
def test_a_wrong_option_is_one_line(
    words: list[str], message: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", words[0], rows, "--out", str(tmp_path / "o.jsonl"), *words[1:]) == 2
    assert capsys.readouterr().err == f"mmpo: {message}\n"
    assert not (tmp_path / "o.jsonl").exists()


def test_the_data_are_not_written_over(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "phrases", rows, "--out", rows) == 2
    assert "is the data itself" in capsys.readouterr().err


PAGE = (Path(__file__).parents[1] / "docs" / "builders.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^    (mmpo build .*?)$\s*```json\n(.*?)```\s*becomes\s*```json\n(.*?)```", PAGE, re.M | re.S)


@pytest.mark.parametrize(("command", "given", "made"), SHOWN, ids=[shown[0].split()[2] for shown in SHOWN])
def test_the_page_shows_what_a_command_makes(command: str, given: str, made: str, tmp_path: Path) -> None:
    _, _, kind, source, _, out, *flags = command.split()
    (tmp_path / source).write_text(given, encoding="utf-8")
    assert run("build", kind, str(tmp_path / source), "--out", str(tmp_path / out), *flags) == 0
    lines = (tmp_path / out).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in made.splitlines()]


def test_the_page_shows_every_kind() -> None:
    assert sorted(shown[0].split()[2] for shown in SHOWN) == sorted(EVERY)


@pytest.mark.parametrize("kind", BUILDERS)
def test_real_data(kind: str, shared_data: Path, tmp_path: Path) -> None:
    data = load({"path": str(shared_data / "ukp_convincing_arguments.jsonl.gz"), "limit": 100}).data
    if kind == "goals":
        data = [Datum(d.id, d.prompt, d.responses, grades=(4.0, 2.5)) for d in data]
    if kind == "strength":
        grades = [tuple(float(len(response)) for response in d.responses) for d in data]
        data = [replace(d, grades=g, annotator_grades={"m": g}) for d, g in zip(data, grades, strict=True)]
    if kind in ("outcomes", "weighted"):
        data = [replace(with_components(d), prompt=f"{d.id}\n{d.prompt}") for d in data]
    made, counts = build(kind, data)
    assert counts["data in"] == 100 and len(made) >= 100
    (tmp_path / "built.jsonl").write_text("".join(json.dumps(to_row(d)) + "\n" for d in made), encoding="utf-8")
    more = {"attributes": "all"} if kind in ("outcomes", "weighted") else {}
    again = load({"path": str(tmp_path / "built.jsonl"), **more}).data
    assert [replace(d, source="") for d in again] == [replace(d, source="") for d in made]
    merged, _ = merge(again)
    if kind == "weighted":  # the same weights may be drawn twice
        made = list({texts.key(d.prompt): d for d in made}.values())
    assert sum(len(pairs_of(d)) for d in merged) == sum(len(pairs_of(d)) for d in made)
    assert sum(len(d.contrasts) for d in merged) == sum(len(d.contrasts) for d in made)
    if kind == "goals":
        assert sum(p_of(d, Hard())[0, 1] for d in made) == sum(p_of(d, Hard())[1, 0] for d in made) == 100
    else:
        done = {
            "instructions": "contrasts",
            "variants": "variants",
            "phrases": "phrases",
            "weighted": "data out",
            "outcomes": "pairs kept",
        }.get(kind, "labels flipped")
        assert counts[done] > 15
