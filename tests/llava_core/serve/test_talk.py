from dataclasses import replace
from pathlib import Path

import pytest

from llava_core.serve.talk import Talk, Turn, begin, begin_again

CAT, DOG = Path("cat.png"), Path("dog.png")
URLS = {CAT: "data:cat", DOG: "data:dog"}


def ask(talks=(), question="What?", *, models=("a",), picture=CAT):
    return begin(talks, models=models, picture=picture, question=question)


def answered(talks, *answers):
    return tuple(talk.grown(answer, "stop") for talk, answer in zip(talks, answers, strict=True))


def roles(talk):
    return [(message["role"], message["content"]) for message in talk.messages(URLS)]


def parts(url, text):
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def test_a_model_is_sent_what_was_said_and_the_picture_in_front():
    (talk,) = ask(answered(ask(), "A cat."), "Which colour?")
    assert talk.messages(URLS) == [
        {"role": "user", "content": parts("data:cat", "What?")},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Which colour?"},
    ]


def test_another_picture_goes_with_its_question():
    talks = answered(ask(answered(ask(), "A cat."), "And this?", picture=DOG), "A dog.")
    (talk,) = ask(talks, "Which is larger?", picture=None)
    assert roles(talk) == [
        ("user", parts("data:cat", "What?")),
        ("assistant", "A cat."),
        ("user", parts("data:dog", "And this?")),
        ("assistant", "A dog."),
        ("user", "Which is larger?"),
    ]
    assert talk.pictures == [CAT, DOG]


def test_a_picture_is_sent_once():
    talks = answered(ask(answered(ask(), "A cat."), "And this?", picture=DOG), "A dog.")
    for picture in (CAT, DOG):
        (talk,) = ask(talks, "Again?", picture=picture)
        assert talk.pictures == [CAT, DOG]


def test_another_model_goes_on():
    (talk,) = ask(answered(ask(), "A cat."), models=("b",))
    assert (talk.model, len(talk.turns)) == ("b", 2)


@pytest.mark.parametrize("end", ["failed", "left"])
def test_a_question_without_answer_is_as_if_never_asked(end):
    (talk,) = ask()
    talk = talk.failed("worker gone") if end == "failed" else talk.left()
    (talk,) = ask((talk,), "Again?")
    assert roles(talk) == [("user", parts("data:cat", "Again?"))]


def test_a_picture_that_failed_can_be_left_out():
    (talk,) = ask(answered(ask(), "A cat."), "And this?", picture=DOG)
    (talk,) = ask((talk.failed("too many pictures"),), "Its colour?", picture=None)
    assert talk.pictures == [CAT]
    assert roles(talk)[-1] == ("user", "Its colour?")


def test_beside_a_model_that_failed_the_other_one_keeps_the_picture():
    first, second = ask(models=("a", "b"))
    talks = (first.failed("gone"), *answered((second,), "A cat."))
    first, second = ask(talks, "Colour?", models=("a", "b"))
    assert roles(first) == [("user", parts("data:cat", "Colour?"))]
    assert roles(second)[-1] == ("user", "Colour?")
    assert first.pictures == second.pictures == [CAT]


def test_half_an_answer_of_a_failure_is_not_sent_but_a_stopped_one_is():
    (begun,) = (talk.grown("A c", None) for talk in ask(picture=None))
    (failed,) = ask((begun.failed("gone"),), "And?", picture=None)
    (stopped,) = ask((begun.left(),), "And?", picture=None)
    assert roles(failed) == [("user", "And?")]
    assert roles(stopped)[1] == ("assistant", "A c")


def test_regenerating_drops_the_last_answer_alone():
    talks = answered(ask(answered(ask(), "A cat."), "And this?", picture=DOG), "A dog.")
    (talk,) = begin_again(talks, models=("b",))
    assert talk.model == "b"
    assert talk.turns == (
        Turn(question="What?", picture=CAT, answer="A cat.", finish="stop"),
        Turn(question="And this?", picture=DOG),
    )


def test_what_is_seen_tells_how_an_answer_stands():
    (talk,) = ask()

    def seen(talk):
        return talk.shown()[-1]["content"]

    assert seen(talk) == "▌"
    assert seen(talk.grown("A c", None)) == "A c▌"
    assert seen(talk.grown("A c", "stop")) == "A c"
    assert seen(talk.grown("A c", "length")) == "A c\n\n*(cut: no tokens are left)*"
    assert seen(talk.grown("A c", None).left()) == "A c\n\n*(stopped)*"
    assert seen(talk.grown("A c", None).failed("gone")) == "A c\n\n**Error:** gone"
    assert talk.grown("", "stop").left().turns[-1].finish == "stop"


def test_an_error_does_not_tell_a_hidden_name():
    talk = Talk(model="llava-7b", turns=(Turn(question="llava-7b?"),)).failed("no llava-7b here")
    assert talk.shown(name="Model A")[-1]["content"] == "**Error:** no Model A here"
    assert talk.shown()[-1]["content"] == "**Error:** no llava-7b here"


def test_marks_are_seen_and_not_taken_for_tags():
    (talk,) = ask((), "3 <image> & more?", picture=None)
    question, answer = talk.failed("3 <image> marks").shown()
    assert question["content"] == "3 &lt;image&gt; &amp; more?"
    assert answer["content"] == "**Error:** 3 &lt;image&gt; marks"
    assert roles(talk) == [("user", "3 <image> & more?")]


def test_pictures_are_seen_where_they_were_given():
    (talk,) = ask(answered(ask(), "A cat."), "And this?", picture=DOG)
    first, _, second, _ = talk.shown()
    assert first["content"] == [{"path": "cat.png"}, "What?"]
    assert second["content"] == [{"path": "dog.png"}, "And this?"]


def test_the_log_holds_roles_and_texts_and_where_pictures_were():
    (talk,) = answered(ask(answered(ask(), "A cat."), "And this?", picture=DOG), "A dog.")
    talk = replace(talk, sent={CAT: "c47", DOG: "d06"})
    assert talk.logged() == {
        "messages": [
            ["user", "What?"],
            ["assistant", "A cat."],
            ["user", "And this?"],
            ["assistant", "A dog."],
        ],
        "images": ["c47", None, "d06", None],
    }
