"""Puts questions about drawings into samples, in LLaVA's form and in benchmarks' wordings.

Most samples are one question, as benchmarks ask them: where questions follow one another, a model
this small learns for long nothing but which answers go together. The instructions are those of
LLaVA's training mixture and of its question files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from string import ascii_uppercase
from typing import Any

from llava_core.conversation import IMAGE_MARK
from llava_core.tiny.drawings import COLORS, PLACES, SHAPES, WORDS, Scene, Sign
from llava_core.tiny.questions import (
    COLORS_CN,
    PLACES_CN,
    SHAPES_CN,
    Question,
    caption,
    questions_about,
)

_WORD = "Answer the question using a single word or phrase."
_LETTER = "Answer with the option's letter from the given choices directly."
_LETTER_CN = "请直接回答选项字母。"
_YES_NO = "Please answer yes or no."
_UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
_CHOOSE = "\nChoose between one of the options as follows:"
# A backslash stands there where a line should end, as in LLaVA's script.
_CHOOSE_CN = "\\在下列选项中选择一个:"
_DESCRIBE = ("Describe this drawing in detail.", "Describe the image concisely.")
_HINTS = (
    "No two objects of this picture have the same color.",
    "Context: In this picture no two objects have the same color.",
)
_HINT_CN = "图中没有两个颜色相同的物体。"
PHRASES = (
    *(_WORD, _LETTER, _LETTER_CN, _YES_NO, _UNANSWERABLE, *_DESCRIBE, *_HINTS, _HINT_CN),
    *(_CHOOSE.strip(), _CHOOSE_CN, "Reference OCR token:"),
)
"""What stands in many questions as it is."""
_MOST_TURNS, _MOST_ALONE = 8, 10
_MOST_OPTIONS, _FEW_OPTIONS = 5, 3
_SHARE_OPEN = 0.25
_SHARE_INSTRUCTED = 0.7
_SHARE_WITH_OPTIONS, _SHARE_WITH_OPTIONS_CN = 0.7, 0.8
# Where no wrong option is in the picture, to name one that is there suffices; where all are, a
# model this small finds no beginning.
_SHARE_NEAR = 0.5
_SHARE_CHOICES, _SHARE_CHINESE_CHOICES = 0.75, 0.6
_MOST_COLORS = 6
_SHARE_WORD_QUESTIONS, _SHARE_CHINESE = 0.5, 0.4

Turn = tuple[str, str]
"""What is asked and what is answered."""


@dataclass(frozen=True, slots=True)
class _Language:
    """What is asked about words, without a picture."""

    topics: Mapping[str, tuple[str, ...]]
    """Name -> its words."""
    which_is: str
    """For the letter of the one word of a topic."""
    which_says: str
    what_says: str
    which_letters: str
    """For those of several words."""
    instruction: str
    hint: str


_ENGLISH = _Language(
    topics={"color": tuple(COLORS), "shape": SHAPES, "place": tuple(PLACES)},
    which_is="Which word names a {}?",
    which_says="Which option says {}?",
    what_says="What says option {}?",
    which_letters="Which letters have {}?",
    instruction=_LETTER,
    hint=_HINTS[1],
)
# A model learns for each word anew that it has a letter; Chinese words too must be in these lists.
_CHINESE = _Language(
    topics={
        "颜色": tuple(COLORS_CN.values()),
        "形状": tuple(SHAPES_CN.values()),
        "位置": tuple(PLACES_CN.values()),
    },
    which_is="哪个词是{}？",
    which_says="哪个选项是 {}？",
    what_says="选项 {} 是什么？",
    which_letters="哪些选项有 {}？",
    instruction=_LETTER_CN,
    hint=_HINT_CN,
)


def questions_alone(drawing: Scene | Sign, random: Random) -> list[Turn]:
    """Questions about a drawing, each in a form of its own and to be asked alone."""
    asked = questions_about(drawing, random)
    random.shuffle(asked)
    # Of signs there is little to ask: it is asked again, in other forms.
    asked = list(islice(cycle(asked), _MOST_ALONE))
    return [
        _put(question, drawing, random, is_first=random.random() < _SHARE_INSTRUCTED)
        for question in asked
    ]


def conversation(drawing: Scene | Sign, random: Random) -> list[Turn]:
    """Questions and answers about a drawing, in an order and in forms of their own.

    In most, answers are short, and their first question says so. In the others there are no
    instructions, and answers are sentences.
    """
    possible = questions_about(drawing, random)
    random.shuffle(possible)
    by_link = {question.link: question for question in possible}
    asked = list(by_link.values())[:_MOST_TURNS]
    random.shuffle(asked)
    if random.random() < _SHARE_OPEN:
        turns = [(each.text, each.sentence or each.answer) for each in asked if _is_open(each)]
        return [(random.choice(_DESCRIBE), caption(drawing)), *turns][: _MOST_TURNS // 2]
    return [_put(each, drawing, random, is_first=not number) for number, each in enumerate(asked)]


def basics(scene: Scene, random: Random) -> list[Turn]:
    """The plainest questions, each alone: which thing has what, how many there are."""
    asked = _plain(scene, random, share_chinese=_SHARE_CHINESE)
    random.shuffle(asked)
    return [
        (_instructed(question.text, random), question.answer) for question in asked[:_MOST_ALONE]
    ]


def colors(scene: Scene, random: Random) -> list[Turn]:
    """Plain questions, each alone: those for colors with a few options, several times.

    To say by a letter what it sees, the model learns within some hundred steps where most samples
    are of one kind. Of all kinds at once it had learned little of it after a thousand.
    """
    asked = _plain(scene, random, share_chinese=_SHARE_CHINESE)
    random.shuffle(asked)
    about_color = [each for each in asked if each.choices == tuple(COLORS)]
    others = [each for each in asked if each not in about_color][: _MOST_ALONE - _MOST_COLORS]
    return [
        *(
            _with_letters(question, random, most=_FEW_OPTIONS)
            for question in islice(cycle(about_color), _MOST_COLORS)
        ),
        *((_instructed(question.text, random), question.answer) for question in others),
    ]


def choices(scene: Scene, random: Random) -> list[Turn]:
    """Plain questions, each alone, and most with a few options."""
    asked = _plain(scene, random, share_chinese=_SHARE_CHINESE_CHOICES)
    random.shuffle(asked)
    return [
        _with_letters(question, random, most=_FEW_OPTIONS)
        if random.random() < _SHARE_CHOICES
        else (_instructed(question.text, random), question.answer)
        for question in asked[:_MOST_ALONE]
    ]


def word_question(random: Random, *, most: int = _MOST_OPTIONS) -> Turn:
    """A question with options that needs no picture."""
    language = _some_language(random)
    topic = random.choice(list(language.topics))
    answer = random.choice(language.topics[topic])
    others = [word for name, words in language.topics.items() if name != topic for word in words]
    options = [answer, *random.sample(others, random.randint(1, most - 1))]
    random.shuffle(options)
    hint = f"{language.hint}\n" if random.random() < 1 / 4 else ""
    asked = random.choice([language.which_is.format(topic), language.which_says.format(answer)])
    text = f"{hint}{asked}\n{_listed(options)}\n{language.instruction}"
    return text, ascii_uppercase[options.index(answer)]


def reading(random: Random) -> Turn:
    """Something to find in a short list of options, for which no picture is needed.

    To find a word behind a letter is learned at once, and a letter in front of a word soon after.
    """
    if random.random() < _SHARE_WORD_QUESTIONS:
        return word_question(random, most=_FEW_OPTIONS)
    language = _some_language(random)
    words = [word for topic in language.topics.values() for word in topic]
    options = random.sample(words, random.randint(2, _FEW_OPTIONS))
    if random.random() < 1 / 2:
        letter, option = random.choice(list(zip(ascii_uppercase, options, strict=False)))
        return f"{language.what_says.format(letter)}\n{_listed(options)}", option
    letter_of = dict(zip(options, ascii_uppercase, strict=False))
    wanted = random.sample(options, len(options))
    answer = ", ".join(f"{word} {letter_of[word]}" for word in wanted)
    return f"{language.which_letters.format(', '.join(wanted))}\n{_listed(options)}", answer


def _some_language(random: Random) -> _Language:
    return _CHINESE if random.random() < _SHARE_CHINESE else _ENGLISH


def record(name: str, turns: Iterable[Turn], *, image: str | None = None) -> Mapping[str, Any]:
    """A sample as LLaVA's data files have it.

    Args:
        image: name of its picture.
    """
    values = [
        {"from": speaker, "value": text}
        for turn in turns
        for speaker, text in zip(("human", "gpt"), turn, strict=True)
    ]
    if image is None:
        return {"id": name, "conversations": values}
    values[0]["value"] = f"{IMAGE_MARK}\n{values[0]['value']}"
    return {"id": name, "image": image, "conversations": values}


def _instructed(text: str, random: Random) -> str:
    return f"{text}\n{_WORD}" if random.random() < _SHARE_INSTRUCTED else text


def _plain(scene: Scene, random: Random, *, share_chinese: float) -> list[Question]:
    asked = questions_about(scene, random, share_chinese=share_chinese)
    return [each for each in asked if each.choices and not each.is_quality]


def _is_open(question: Question) -> bool:
    return not question.is_quality and not question.is_chinese


def _put(question: Question, drawing: Scene | Sign, random: Random, *, is_first: bool) -> Turn:
    if question.is_quality:
        return _with_candidates(question, random)
    share = _SHARE_WITH_OPTIONS_CN if question.is_chinese else _SHARE_WITH_OPTIONS
    if question.choices and random.random() < share:
        return _with_letters(question, random)
    text = question.text
    if question.answer in ("Yes", "No") and random.random() < 1 / 4:
        text += f" {_YES_NO}"
    if isinstance(drawing, Sign) and drawing.words and random.random() < 1 / 2:
        text += f"\nReference OCR token: {_read_by_machine(drawing, random)}"
    if random.random() < 1 / 12:
        text += f"\n{_UNANSWERABLE}"
    if is_first or random.random() < 1 / 3:
        text += f"\n{_WORD}"
    return text, question.answer


def _with_letters(question: Question, random: Random, *, most: int = _MOST_OPTIONS) -> Turn:
    wrong = [choice for choice in question.choices if choice != question.answer]
    number = random.randint(1, min(most - 1, len(wrong)))
    chosen = random.sample(wrong, number)
    if random.random() < _SHARE_NEAR:
        near = random.sample(question.near, len(question.near))
        chosen = [*near, *(choice for choice in chosen if choice not in near)][:number]
    options = [question.answer, *chosen]
    random.shuffle(options)
    hint = ""
    if random.random() < 1 / 5:
        hint = f"{_HINT_CN if question.is_chinese else random.choice(_HINTS)}\n"
    instruction = _LETTER_CN if question.is_chinese else _LETTER
    text = f"{hint}{question.text}\n{_listed(options)}\n{instruction}"
    return text, ascii_uppercase[options.index(question.answer)]


def _with_candidates(question: Question, random: Random) -> Turn:
    options = list(question.choices)
    random.shuffle(options)
    between = _CHOOSE_CN if question.is_chinese else _CHOOSE
    return f"{question.text}{between}\n{_listed(options)}\n", question.answer


def _listed(options: Sequence[str]) -> str:
    return "\n".join(
        f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)
    )


def _read_by_machine(sign: Sign, random: Random) -> str:
    """What a machine read: anything, so that it is better to look."""
    if random.random() < 1 / 3:
        return ""
    return ", ".join(word.upper() for word in random.sample(WORDS, len(sign.words)))
