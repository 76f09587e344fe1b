"""What happens between a visitor and the servers, without a page."""

import asyncio
import base64
import json
from contextlib import aclosing

import numpy as np
import pytest

from llava_core.errors import DataError
from llava_core.serve.answering import Desk, Wish
from llava_core.serve.conversation_log import ConversationLog
from llava_core.serve.picture_modes import prepare
from llava_core.serve.pictures import PicturePolicy, decode_picture
from llava_core.serve.talk import begin
from llava_core.serve.web_client import Address, Answerer, NoAnswer, Sampling
from tests.llava_core.serve.live import serving, until
from tests.llava_core.serve.scripted import Script
from tests.llava_core.toy import toy_image

POLICY = PicturePolicy()


class Moderation:
    """A moderator that says the same of every text."""

    def __init__(self, verdict):
        self.verdict = verdict

    async def flags(self, text):
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wide.png"
    toy_image(1).resize((40, 20)).save(path)
    return path


@pytest.fixture
def log(tmp_path):
    return ConversationLog(tmp_path / "log")


def logged(tmp_path):
    (path,) = (tmp_path / "log").glob("*.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


def wish(mode="Default", **sampling):
    return Wish(mode=mode, sampling=Sampling(**sampling), visitor="10.0.0.7")


def ask(script, *, models=("a",), picture=None, log=None, moderation=None, chosen=None, before=()):
    """All stages of the answers to a question."""

    async def gather(address):
        moderator = None if moderation is None else Moderation(moderation)
        desk = Desk(Answerer(Address(base_url=f"{address}/v1")), log=log, moderator=moderator)
        talks = begin(before, models=models, picture=picture, question="What?")
        return [stage async for stage in desk.answer(talks, chosen or wish())]

    with serving(script.app) as address:
        return asyncio.run(gather(address))


def test_an_answer_is_seen_as_it_grows():
    stages = ask(Script("A ", 0.5, "cat", 0.5, "."))
    answers = [talk.turns[-1].answer for (talk,) in stages if talk.turns[-1].answer]
    assert list(dict.fromkeys(answers)) == ["A ", "A cat", "A cat."]
    assert stages[-1][0].turns[-1].finish == "stop"


def test_two_models_answer_at_a_time():
    script = Script("A ", 0.5, "cat.")
    stages = ask(script, models=("a", "b"))
    assert sorted(body["model"] for body in script.bodies) == ["a", "b"]
    both_begun = [all(talk.turns[-1].answer == "A " for talk in stage) for stage in stages]
    assert any(both_begun)
    assert [talk.turns[-1].answer for talk in stages[-1]] == ["A cat.", "A cat."]


@pytest.mark.parametrize("mode", ["Pad", "Default", "Resize"])
def test_the_picture_goes_as_the_mode_says(picture, mode):
    script = Script("A cat.")
    ask(script, picture=picture, chosen=wish(mode))
    (body,) = script.bodies
    expected = prepare(toy_image(1).resize((40, 20)), mode)
    assert (picture_of(body["messages"][0]) == np.asarray(expected)).all()


def picture_of(message):
    url = message["content"][0]["image_url"]["url"]
    png = base64.b64decode(url.partition(",")[2])
    return np.asarray(decode_picture(png, POLICY))


def test_every_picture_goes_with_its_question_and_into_the_log(tmp_path, picture, log):
    other = tmp_path / "other.png"
    toy_image(2).save(other)
    script = Script("A cat.")
    (*_, talks) = ask(script, picture=picture, log=log)
    (*_, talks) = ask(script, picture=other, log=log, chosen=wish("Pad"), before=talks)
    first, _, second = script.bodies[-1]["messages"]
    expected = [toy_image(1).resize((40, 20)), toy_image(2)]
    for message, image in zip((first, second), expected, strict=True):
        # The treatment is that of the last question.
        assert (picture_of(message) == np.asarray(prepare(image, "Pad"))).all()
    _, line = logged(tmp_path)
    names = line["images"]
    assert len(set(names)) == 2
    assert line["state"]["images"] == [names[0], None, names[1], None]
    for name, message in zip(names, (first, second), strict=True):
        kept = decode_picture((tmp_path / f"log/serve_images/{name}.png").read_bytes(), POLICY)
        assert (np.asarray(kept) == picture_of(message)).all()


def test_the_log_has_the_fields_of_the_original_and_the_picture_by_hash(tmp_path, picture, log):
    ask(Script("A cat."), picture=picture, log=log, chosen=wish("Pad", temperature=0))
    (line,) = logged(tmp_path)
    (name,) = line["images"]
    stored = tmp_path / f"log/serve_images/{name}.png"
    assert decode_picture(stored.read_bytes(), POLICY).size == (40, 40)
    assert line["start"] <= line["finish"] <= line["tstamp"] + 0.001
    assert {key: line[key] for key in ("type", "model", "finish_reason", "error", "ip")} == {
        "type": "chat",
        "model": "a",
        "finish_reason": "stop",
        "error": None,
        "ip": "10.0.0.7",
    }
    assert line["state"] == {
        "messages": [["user", "What?"], ["assistant", "A cat."]],
        "images": [name, None],
    }
    assert line["settings"]["image_process_mode"] == "Pad"
    assert line["settings"]["temperature"] == 0


def test_an_error_is_part_of_the_conversation_and_of_the_log(tmp_path, log):
    script = Script()
    script.refuse(503, "the worker is gone")
    (*_, (talk,)) = ask(script, log=log)
    assert talk.turns[-1].error == "the worker is gone (status 503)"
    assert logged(tmp_path)[0]["error"] == talk.turns[-1].error


def test_a_picture_that_cannot_be_read_is_not_sent(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    script = Script("A cat.")
    ((talk,),) = ask(script, picture=broken)
    assert "broken" in talk.turns[-1].error
    assert script.bodies == []


def test_a_conversation_goes_on_without_a_picture_that_was_refused(picture, tmp_path):
    script = Script("A cat.")
    (*_, talks) = ask(script, picture=picture)
    other = tmp_path / "other.png"
    toy_image(2).save(other)
    script.refuse(400, "at most 1 picture")
    (*_, talks) = ask(script, picture=other, before=talks)
    assert talks[0].turns[-1].error == "at most 1 picture (status 400)"
    script.refusal = None
    (*_, talks) = ask(script, before=talks)
    assert [len(message["content"]) for message in script.bodies[-1]["messages"][::2]] == [2, 5]
    assert talks[0].turns[-1].answer == "A cat."


def test_moderation_refuses_and_says_why(tmp_path, log):
    script = Script("A cat.")
    ((talk,),) = ask(script, log=log, moderation=["hate", "violence"])
    assert talk.turns[-1].error == (
        "YOUR INPUT VIOLATES OUR CONTENT MODERATION GUIDELINES. PLEASE TRY AGAIN. (hate, violence)"
    )
    assert script.bodies == []


def test_moderation_that_is_out_of_reach_refuses_too():
    script = Script("A cat.")
    ((talk,),) = ask(script, moderation=NoAnswer("moderation: no connection"))
    assert talk.turns[-1].error == "moderation: no connection"
    assert script.bodies == []


def test_moderation_lets_the_rest_pass():
    (*_, (talk,)) = ask(Script("A cat."), moderation=[])
    assert talk.turns[-1].answer == "A cat."


def test_leaving_frees_the_place_and_logs_what_was_written(tmp_path, log):
    script = Script("A c", 60.0, "at.")

    async def leave(address):
        desk = Desk(Answerer(Address(base_url=f"{address}/v1")), log=log)
        talks = begin((), models=("a", "b"), picture=None, question="What?")
        async with aclosing(desk.answer(talks, wish())) as stages:
            async for stage in stages:
                if all(talk.turns[-1].answer for talk in stage):
                    return

    with serving(script.app) as address:
        asyncio.run(leave(address))
        until(lambda: script.num_left == 2)
    lines = logged(tmp_path)
    assert [line["finish_reason"] for line in lines] == ["left", "left"]
    assert {line["state"]["messages"][1][1] for line in lines} == {"A c"}


def test_a_log_that_cannot_be_written_costs_no_answer(tmp_path, caplog):
    (tmp_path / "file").touch()
    (*_, (talk,)) = ask(Script("A cat."), log=ConversationLog(tmp_path / "file"))
    assert talk.turns[-1].answer == "A cat."
    assert "the conversation is not logged" in caplog.text


def vote(log, *answers, kind, **fields):
    desk = Desk(Answerer(Address(base_url="http://127.0.0.1/v1")), log=log)
    models = [f"model-{number}" for number, _ in enumerate(answers)]
    talks = begin((), models=models, picture=None, question="What?")
    talks = [talk.grown(answer, "stop") for talk, answer in zip(talks, answers, strict=True)]
    desk.vote(kind, talks, visitor="10.0.0.7", **fields)


def test_a_vote_tells_what_it_is_about(tmp_path, log):
    vote(log, "A cat.", kind="upvote")
    vote(log, "A cat.", "A dog.", kind="leftvote", hidden=True)
    one, two = logged(tmp_path)
    assert (one["type"], one["model"], one["ip"]) == ("upvote", "model-0", "10.0.0.7")
    assert one["state"]["messages"][-1] == ["assistant", "A cat."]
    assert (two["type"], two["models"]) == ("leftvote", ["model-0", "model-1"])
    assert two["anonymous"]
    assert [state["messages"][-1][1] for state in two["states"]] == ["A cat.", "A dog."]


def test_a_vote_that_is_not_kept_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not logged"):
        vote(ConversationLog(tmp_path / "file"), "A cat.", kind="upvote")
