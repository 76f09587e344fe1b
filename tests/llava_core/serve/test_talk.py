from pathlib import Path

import pytest

from llava_core.serve.talk import Talk, Turn, begin, begin_again

CAT, DOG = Path("cat.png"), Path("dog.png")


def ask(talks=(), question="What?", *, models=("a",), picture=CAT):
    return begin(talks, models=models, picture=picture, question=question)


def answered(talks, *answers):
    return tuple(talk.grown(answer, "stop") for talk, answer in zip(talks, answers, strict=True))


def roles(talk):
    return [(message["role"], message["content"]) for message in talk.messages(None)]


def test_a_model_is_sent_what_was_said_and_the_picture_in_front():
    talks = ask(answered(ask(), "A cat."), "Which colour?")
    first, *rest = talks[0].messages("data:x")
    assert first["content"] == [
        {"type": "image_url", "image_url": {"url": "data:x"}},
        {"type": "text", "text": "What?"},
    ]
    assert rest == [
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Which colour?"},
    ]


def test_another_picture_begins_another_conversation():
    before = answered(ask(), "A cat.")
    assert [len(talk.turns) for talk in ask(before, picture=CAT)] == [2]
    for picture in (DOG, None):
        assert [len(talk.turns) for talk in ask(before, picture=picture)] == [1]


def test_another_model_goes_on():
    (talk,) = ask(answered(ask(), "A cat."), models=("b",))
    assert (talk.model, len(talk.turns)) == ("b", 2)


@pytest.mark.parametrize("end", ["failed", "left"])
def test_a_question_without_answer_is_as_if_never_asked(end):
    (talk,) = ask()
    talk = talk.failed("worker gone") if end == "failed" else talk.left()
    (talk,) = ask((talk,), "Again?")
    assert roles(talk) == [("user", "Again?")]
    assert talk.messages("data:x")[0]["content"][0]["type"] == "image_url"


def test_half_an_answer_of_a_failure_is_not_sent_but_a_stopped_one_is():
    (begun,) = (talk.grown("A c", None) for talk in ask())
    (failed,) = ask((begun.failed("gone"),), "And?")
    (stopped,) = ask((begun.left(),), "And?")
    assert roles(failed) == [("user", "And?")]
    assert roles(stopped)[1] == ("assistant", "A c")


def test_regenerating_drops_the_last_answer_alone():
    talks = answered(ask(answered(ask(), "A cat."), "Colour?"), "Red.")
    (talk,) = begin_again(talks, models=("b",))
    assert talk.model == "b"
    assert talk.turns == (
        Turn(question="What?", answer="A cat.", finish="stop"),
        Turn(question="Colour?"),
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
    (talk,) = ask((), "3 <image> & more?")
    question, answer = talk.failed("3 <image> marks").shown()
    assert question["content"] == "3 &lt;image&gt; &amp; more?"
    assert answer["content"] == "**Error:** 3 &lt;image&gt; marks"
    assert talk.messages(None)[0]["content"] == "3 <image> & more?"


def test_the_log_holds_roles_and_texts():
    (talk,) = answered(ask(), "A cat.")
    assert talk.logged() == {"messages": [["user", "What?"], ["assistant", "A cat."]]}
