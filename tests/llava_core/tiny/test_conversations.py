import re
from random import Random

import pytest

from llava_core.tiny.conversations import (
    basics,
    choices,
    colors,
    conversation,
    questions_alone,
    reading,
    record,
    word_question,
)
from llava_core.tiny.drawings import COLORS, PLACES, SHAPES, Scene, Sign, Thing, random_drawing
from llava_core.tiny.questions import COLORS_CN, PLACES_CN, SHAPES_CN
from llava_eval.mini.write import write_mini
from llava_eval.prompts import build_prompt
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples

TASKS = load_tasks()
_KINDS = ("What says option", "Which letters have", "Which word names", "Which option says",
          "选项", "哪些选项有", "哪个词是", "哪个选项是")  # fmt: skip
TOPICS = {
    "color": COLORS,
    "shape": SHAPES,
    "place": PLACES,
    "颜色": COLORS_CN.values(),
    "形状": SHAPES_CN.values(),
    "位置": PLACES_CN.values(),
}
SCENE = Scene(things=(Thing(color="red", shape="circle", size="large", place="top left"),))


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mini"
    write_mini(root)
    return root


@pytest.fixture(scope="module")
def learned():
    """Every line of many questions."""
    random = Random(0)
    drawings = [random_drawing(random) for _ in range(8000)]
    turns = [turn for drawing in drawings for turn in questions_alone(drawing, random)]
    turns += [turn for drawing in drawings[:100] for turn in conversation(drawing, random)]
    turns += [word_question(random) for _ in range(200)]
    return {line for text, _ in turns for line in text.split("\n")}


@pytest.mark.parametrize("task", [name for name in TASKS if "-" not in name])
def test_the_wordings_of_the_benchmarks_are_learned(task, mini, learned):
    asked = {
        line.strip()
        for sample in load_samples(TASKS[task], str(mini))
        for line in build_prompt(sample, TASKS[task]).text.split("\n")
        if not line.startswith("Reference OCR token:")
    }
    assert asked - learned - {""} == set()


def lettered(text):
    return dict(re.findall(r"^([A-E])\. (.*)$", text, flags=re.MULTILINE))


def test_letters_name_the_right_option():
    wanted = {
        "What color is the circle?": "red",
        "圆形是什么颜色？": "红色",
        "Where is the circle?": "top left",
        "How many objects are there?": "1",
    }
    found = set()
    for seed in range(400):
        for text, answer in questions_alone(SCENE, Random(seed)):
            options = lettered(text)
            for question, right in wanted.items():
                if options and question in text:
                    assert options[answer] == right
                    found.add((question, answer))
    assert {letter for _, letter in found} == set("ABCDE")
    assert {question for question, _ in found} == set(wanted)


def test_options_are_first_for_colors_only():
    turns = [turn for seed in range(200) for turn in colors(SCENE, Random(seed))]
    options = [(lettered(text), answer) for text, answer in turns]
    assert {len(listed) for listed, _ in options} == {0, 2, 3}
    assert {name for listed, _ in options for name in listed.values()} == set(COLORS)
    assert all(listed[answer] == "red" for listed, answer in options if listed)
    assert {answer for listed, answer in options if listed} == set("ABC")
    assert sum(bool(listed) for listed, _ in options) > len(turns) / 2


def test_choices_are_few_and_beside_them_are_plain_questions():
    turns = [turn for seed in range(200) for turn in choices(SCENE, Random(seed))]
    options = [(lettered(text), answer) for text, answer in turns]
    assert {len(listed) for listed, _ in options} == {0, 2, 3}
    assert 0.65 < sum(bool(listed) for listed, _ in options) / len(turns) < 0.85
    right = {"1", "red", "circle", "large", "top left", "红色", "圆形", "左上角"}
    assert {listed.get(answer, answer) for listed, answer in options} == right


def test_questions_about_words_have_one_right_option():
    for seed in range(100):
        text, answer = word_question(Random(seed))
        options = lettered(text)
        if named := re.search(r"(?:says|选项是) (.*)[?？]", text):
            assert options[answer] == named[1]
            assert list(options.values()).count(named[1]) == 1
            continue
        words = TOPICS[re.search(r"(?:names a |哪个词是)(\w+)[?？]", text)[1]]
        assert [option for option in options.values() if option in words] == [options[answer]]


def test_what_is_read_of_lists_stands_in_them():
    kinds = set()
    for seed in range(200):
        text, answer = reading(Random(seed))
        options = lettered(text)
        if asked := re.search(r"(?:What says option|选项) (\w)(?:\?| 是)", text):
            assert options[asked[1]] == answer
        elif asked := re.search(r"(?:Which letters have|哪些选项有) (.*)[?？]", text):
            found = [part.rsplit(" ", maxsplit=1) for part in answer.split(", ")]
            assert [word for word, _ in found] == asked[1].split(", ")
            assert {letter: word for word, letter in found} == options
        else:
            assert answer in options
        kinds.add(next(kind for kind in _KINDS if re.search(f"^{kind}", text, re.MULTILINE)))
    assert kinds == set(_KINDS)


def test_wrong_options_are_of_other_things_half_of_the_time():
    other = Thing(color="blue", shape="square", size="small", place="top right")
    scene = Scene(things=(*SCENE.things, other))
    is_near = []
    for seed in range(1000):
        for text, answer in questions_alone(scene, Random(seed)):
            options = lettered(text)
            if "What color is the circle?" in text and len(options) == 2:
                del options[answer]
                is_near.append(options.popitem()[1] == "blue")
    # Of the others one in seven is so by chance.
    assert 0.45 < sum(is_near) / len(is_near) < 0.7


def test_what_a_machine_read_helps_nobody():
    sign = Sign(color="red", words=("bank",))
    read = [
        line
        for seed in range(600)
        for text, _ in questions_alone(sign, Random(seed))
        for line in text.split("\n")
        if line.startswith("Reference OCR token: ") and line != "Reference OCR token: "
    ]
    assert len(read) > 200
    assert read.count("Reference OCR token: BANK") / len(read) < 0.1


def test_records_have_the_form_of_llava():
    assert record("7", [("What?", "A dog."), ("Where?", "Here.")], image="a.jpg") == {
        "id": "7",
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A dog."},
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "Here."},
        ],
    }
    assert "image" not in record("8", [("What?", "A dog.")])


def test_basics_ask_for_every_property():
    answers = [answer for seed in range(10) for _, answer in basics(SCENE, Random(seed))]
    assert set(answers) == {"1", "red", "circle", "large", "top left", "红色", "圆形", "左上角"}
    assert all(answers.count(answer) == 10 for answer in ("1", "red", "circle", "large"))


def test_what_is_asked_in_conversations_is_not_given_away_by_what_was_said():
    for seed in range(100):
        asked = [text for text, _ in conversation(SCENE, Random(seed))]
        # The one tells the other.
        given_away = ("What color is the circle?", "What shape is the red object?")
        assert sum(any(text in turn for turn in asked) for text in given_away) <= 1


def test_some_conversations_begin_with_a_description():
    firsts = [conversation(SCENE, Random(seed))[0][0] for seed in range(200)]
    described = [text for text in firsts if text.startswith("Describe")]
    assert 0.1 < len(described) / len(firsts) < 0.4
