"""The terminal conversation: driven in a real terminal, and by lines."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llava_core
from llava_core.conversation import Message, render
from llava_core.generate import engine
from llava_core.generate.sampling import choose_tokens
from llava_core.serve.__main__ import main
from llava_core.serve.chat import Chat, ChatSettings, open_source
from llava_core.templates import get_template
from tests.llava_core.toy import toy_image

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


def talk(tiny, *lines, images=(), **settings):
    """What a conversation of these lines shows; a callable stands for what happens then."""
    waiting, shown = list(lines), []

    def read(_):
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    fields = {"temperature": 0, "max_new_tokens": 8, **settings}
    chat = Chat(tiny, ChatSettings(**fields), read=read, write=shown.append)
    for image in images:
        chat.show(open_source(image), name=image)
    chat.run()
    return "".join(shown), chat


def answers(shown):
    return re.findall(r"ASSISTANT: (.*?)(?: \(cut.*)?\n", shown)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    toy_image(0).save(path)
    return str(path)


def test_answers_are_those_of_the_conversation_so_far(tiny, picture):
    shown, _ = talk(tiny, f"/image {picture}", "What?", "And?")
    turns = [{"role": "user", "content": "<image>\nWhat?"}]
    for said, text in zip(answers(shown), ["And?", ""], strict=True):
        request = llava_core.Request(
            images=[toy_image(0)], messages=list(turns), as_demo=True, max_new_tokens=8
        )
        assert next(tiny.generate([request])).text == said
        turns += [{"role": "assistant", "content": said}, {"role": "user", "content": text}]


def test_the_template_is_that_of_the_demo_unless_another_is_asked_for(tiny, tmp_path):
    for llava, name in (
        (tiny, "llava_v1"),
        (llava_core.load("tiny", device="cpu", conversation="vicuna_v1"), "vicuna_v1"),
    ):
        shown, _ = talk(llava, "Hi", f"/save {tmp_path / name}")
        assert json.loads((tmp_path / name).read_text())["conversation"] == name
        turns = [Message(role="user", text="Hi"), Message(role="assistant", text=None)]
        prompt = render(get_template(name), turns)
        (expected,) = llava.generate([llava_core.Request(prompt=prompt, max_new_tokens=8)])
        assert answers(shown) == [expected.text]


def test_an_answer_ends_at_an_end_mark_that_is_no_token(tiny, monkeypatch):
    (text,) = answers(talk(tiny, "Hi")[0])
    mark = text[1]
    monkeypatch.setattr(tiny._prompts, "_ends", (mark,))
    shown, chat = talk(tiny, "Hi", "And?")
    assert answers(shown)[0] == text.split(mark)[0].strip() == chat._turns[1]["content"]


def test_the_history_holds_no_special_tokens(tiny):
    _, chat = talk(tiny, "Hi", "And?", "More?")
    request = llava_core.Request(messages=[*chat._turns, {"role": "user", "content": "x"}])
    prompt = tiny.render(request)
    assert prompt.count("</s>") == 3
    assert "<s>" not in prompt
    assert "</s></s>" not in prompt


def test_two_pictures_may_be_compared(tiny, picture):
    _, chat = talk(tiny, f"/image {picture}", "Compare.", images=[picture])
    assert chat._turns[0]["content"] == "<image>\n<image>\nCompare."


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/image ~nobody-at-all/a.png", "~nobody-at-all/a.png: Could not determine home"),
        ("/save ~nobody-at-all/talk.json", "~nobody-at-all/talk.json: Could not determine home"),
        ("/image http://[x", "http://[x is no http address: Invalid IPv6 URL"),
    ],
)
def test_a_path_that_is_mistyped_loses_nothing(tiny, line, told):
    shown, chat = talk(tiny, "Hi", line)
    assert f"error: {told}" in shown
    assert [turn["role"] for turn in chat._turns] == ["user", "assistant"]


def test_reset_forgets_turns_and_pictures(tiny, picture):
    shown, chat = talk(tiny, f"/image {picture}", "What?", "/reset", "Hi")
    alone, _ = talk(tiny, "Hi")
    assert answers(shown)[-1] == answers(alone)[0]
    assert len(chat._turns) == 2


def test_save_writes_the_conversation_once(tiny, picture, tmp_path):
    path = tmp_path / "said.json"
    shown, _ = talk(tiny, f"/image {picture}", "What?", f"/save {path}", f"/save {path}")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["images"] == [picture]
    assert [turn["role"] for turn in saved["messages"]] == ["user", "assistant"]
    assert saved["messages"][1]["content"] == answers(shown)[0]
    assert f"error: {path} is there already" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image nowhere.png", "picture nowhere.png is not there"),
        ("/image", "/image needs a file"),
        ("/image http://127.0.0.1:1/x.png", "cannot be read"),
        ("/save", "/save needs the name"),
        ("/save nowhere/at/all", "cannot be written"),
        ("word " * 5000, "the model reads 2048"),
    ],
)
def test_what_is_wrong_is_said_and_the_talk_goes_on(tiny, line, message):
    shown, chat = talk(tiny, line, "Hi")
    assert re.search(rf"^(ASSISTANT: )?error: .*{re.escape(message)}", shown, re.MULTILINE)
    assert len(chat._turns) == 2


def test_an_unknown_command_shows_all(tiny):
    assert "/reset" in talk(tiny, "/what")[0]


def test_an_answer_stops_where_the_model_reads_no_further(tiny, monkeypatch):
    messages = [{"role": "user", "content": "Hi"}]
    alone = next(tiny.generate([llava_core.Request(messages=messages)]))
    limit = alone.prompt_tokens + 3
    monkeypatch.setattr(tiny._engine, "_eos_ids", frozenset())
    monkeypatch.setattr(type(tiny.config), "num_positions", property(lambda _: limit))
    shown, _ = talk(tiny, "Hi", max_new_tokens=1000)
    assert f"the model reads no more than {limit} tokens: /reset" in shown


def test_with_beams_the_likeliest_answer_is_shown_when_it_is_whole(tiny, picture):
    written = []
    chat = Chat(
        tiny,
        ChatSettings(temperature=0, num_beams=4, max_new_tokens=8),
        read=lambda _: "",
        write=written.append,
    )
    chat.show(open_source(picture), name=picture)
    chat._ask("What is it?")
    messages = [{"role": "user", "content": "<image>\nWhat is it?"}]
    asked = llava_core.Request(
        images=[toy_image(0)], messages=messages, as_demo=True, max_new_tokens=8, num_beams=4
    )
    (response,) = tiny.generate([asked])
    assert len(written) == 2
    assert written[1].split(" (cut")[0].rstrip("\n") == response.text
    assert chat._turns[-1]["content"] == response.text


def test_beams_are_not_sampled(capsys):
    flags = ["chat", "--model", "tiny", "--num-beams", "4", "--temperature", "0.5"]
    assert main(flags) == 2
    assert "--num-beams 4: beams are not sampled; drop --temperature 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], 0.2), (["--num-beams", "2"], 0.0), (["--temperature", "0.7"], 0.7)],
)
def test_answers_are_sampled_a_little_unless_they_have_beams(flags, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(Chat, "run", lambda chat: seen.append(chat._settings.temperature))
    assert main(["chat", "--model", "tiny", "--device", "cpu", *flags]) == 0
    assert seen == [expected]


def test_50_tokens_are_sampled_from(tiny, monkeypatch):
    seen = set()

    def choose(logits, requests, generators):
        seen.update(request.top_k for request in requests)
        return choose_tokens(logits, requests, generators)

    monkeypatch.setattr(engine, "choose_tokens", choose)
    talk(tiny, "Hi", temperature=0.2)
    assert seen == {50}


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments):
        self.keys, end = pty.openpty()
        # Tests that run behind a shell may have inherited that Ctrl-C is ignored.
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = f"{heeding}; from llava_core.serve.__main__ import main; raise SystemExit(main())"
        command = [sys.executable, "-c", program, "chat", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, cwd=ROOT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(end)
        self.shown, self.seen = "", 0

    def wait_for(self, text, timeout_s=40):
        """Reads on until a text is shown, beyond the last that was waited for."""
        end = time.monotonic() + timeout_s
        while text not in self.shown[self.seen :]:
            ready, _, _ = select.select([self.keys], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self.shown[self.seen :]!r}"
            self.shown += os.read(self.keys, 65536).decode(errors="replace")
        self.seen = self.shown.index(text, self.seen) + len(text)

    def type(self, text):
        os.write(self.keys, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.keys)


@pytest.fixture
def terminal(picture):
    terminal = Terminal(
        "--model", "tiny", "--device", "cpu", "--image", picture, "--temperature", "0",
        "--max-new-tokens", "100000",
    )  # fmt: skip
    yield terminal
    terminal.close()


def test_control_c_stops_the_answer_and_control_d_the_program(terminal):
    terminal.wait_for("USER: ")
    terminal.type("Describe this picture.\n")
    terminal.wait_for("ASSISTANT: ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("USER: ")
    assert "(stopped)" in terminal.shown
    time.sleep(0.5)  # A signal between the prompt and readline's waiting is heeded at the next key.
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("(/exit or Ctrl-D ends)")
    terminal.type("/what\n")
    terminal.wait_for("/reset")
    terminal.wait_for("USER: ")
    terminal.type("\x04")
    assert terminal.process.wait(10) == 0


def test_a_missing_picture_is_one_line():
    command = [sys.executable, "-m", "llava_core.serve", "chat", "--model", "tiny"]
    finished = subprocess.run(
        [*command, "--image", "nowhere.png"], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 2
    last = finished.stderr.splitlines()[-1]
    assert last == "llava_core.serve: error: picture nowhere.png is not there"
