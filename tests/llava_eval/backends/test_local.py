import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import llava_core
from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_eval.backends import local
from llava_eval.backends.local import Decoding, LocalBackend, load_model
from llava_eval.errors import BackendError, ModelError, SampleError
from llava_eval.records import ImageRef, Prompt, Sample
from tests.llava_eval.fakes import make_prompt

IDENTITY = SimpleNamespace(
    model_id="toy",
    fingerprint="f00d",
    conversation="vicuna_v1",
    conversation_reason="asked for",
    aspect_ratio="pad",
    placement=SimpleNamespace(
        device=torch.device("cpu"),
        dtype=torch.float32,
        attention="sdpa",
        compiled=False,
        quantize=None,
        device_map=None,
    ),
    warning="random weights",
)
LOAD = """
import gc, sys
from llava_eval.backends.local import load_model
load_model("tiny", device="cpu")
print(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))
"""
SETTINGS = {"device": "auto", "dtype": "auto", "attention": "auto", "conversation": None}


class FakeLlava:
    """Takes requests as the engine does, a window at a time, and answers with their position."""

    identity = IDENTITY
    busy_s = 0.0

    def __init__(self, *, error: Exception | None = None, impossible: str | None = None) -> None:
        self.requests: list[Any] = []
        self.batch_tokens: int | None = None
        self._error = error
        self._impossible = impossible

    def generate(
        self,
        requests: Iterable[Any],
        *,
        batch_tokens: int | None,
        on_error: Callable[[str, DataError], None],
    ) -> Iterator[llava_core.Response]:
        self.batch_tokens = batch_tokens
        for request in requests:
            self.requests.append(request)
            if request.id == self._impossible:
                on_error(request.id, DataError("the prompt has\n9000 tokens"))
                continue
            yield llava_core.Response(
                id=request.id, text="yes", token_ids=(5, 2), stop_reason="eos", prompt_tokens=9
            )
        if self._error is not None:
            raise self._error


def lacking(prompt: Prompt) -> Prompt:
    """The prompt about a picture that the benchmark's files do not hold."""
    return replace(prompt, sample=replace(prompt.sample, images=(ImageRef(key="k"),)))


def prompt_about(sample_id: str, *pictures: Path | bytes | None) -> Prompt:
    images = tuple(
        ImageRef(key=p.name, path=p) if isinstance(p, Path) else ImageRef(key="k", data=p)
        for p in pictures
    )
    sample = Sample(
        sample_id=sample_id, question_id=0, images=images, question="What?", cluster=sample_id
    )
    prompt = make_prompt("0")
    return Prompt(
        sample=sample,
        text=prompt.text,
        recorded=prompt.recorded,
        max_new_tokens=prompt.max_new_tokens,
        prompt_hash=prompt.prompt_hash,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path, color in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (4, 4), color).save(path)
    return paths


def test_a_prompt_becomes_a_request(pictures: list[Path]) -> None:
    llava = FakeLlava()
    (answer,) = LocalBackend(llava, batch_tokens=99).generate([prompt_about("7", pictures[0])])
    (request,) = llava.requests
    assert request.id == "7"
    assert request.messages == [{"role": "user", "content": "What?\nAnswer briefly."}]
    assert request.max_new_tokens == 8
    assert request.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert llava.batch_tokens == 99
    assert (answer.text, answer.stop, answer.prompt_tokens, answer.new_tokens) == (
        "yes",
        "eos",
        9,
        2,
    )


def test_choices_are_the_options_of_a_request(pictures: list[Path]) -> None:
    llava = llava_core.load("tiny", device="cpu")
    prompt = replace(prompt_about("7", pictures[0]), choices=("Yes", "No"))
    (answer,) = LocalBackend(llava).generate([prompt])
    assert answer.option_logprobs is not None
    assert answer.text == max(answer.option_logprobs, key=answer.option_logprobs.__getitem__)
    assert list(answer.option_logprobs) == ["Yes", "No"]
    assert answer.stop == "option"


def test_a_sample_whose_options_are_not_known_is_not_asked(pictures: list[Path]) -> None:
    llava = FakeLlava()
    prompt = replace(prompt_about("7", pictures[0]), choices=())
    (answer,) = LocalBackend(llava).generate([prompt])
    assert answer.error == "it has no options to choose from"
    assert not llava.requests


def test_prompts_about_one_picture_follow_each_other_and_share_it(pictures: list[Path]) -> None:
    a, b = pictures
    prompts = [prompt_about("0", a), prompt_about("1", b), prompt_about("2", a)]
    llava = FakeLlava()
    list(LocalBackend(llava).generate(prompts))
    assert [request.id for request in llava.requests] == ["0", "2", "1"]
    assert llava.requests[0].images is llava.requests[1].images


def test_half_of_a_character_costs_its_own_sample(pictures: list[Path]) -> None:
    llava = llava_core.load("tiny", device="cpu")
    broken = replace(prompt_about("0", pictures[0]), text="What is \ud83d?")
    answers = LocalBackend(llava).generate([broken, prompt_about("1", pictures[0])])
    errors = {answer.sample_id: answer.error for answer in answers}
    assert errors == {
        "0": "the prompt holds '\\ud83d', half of a character; write it whole, or take it out",
        "1": None,
    }


def test_an_encoded_picture_is_decoded(pictures: list[Path]) -> None:
    llava = FakeLlava()
    list(LocalBackend(llava).generate([prompt_about("0", pictures[1].read_bytes())]))
    assert llava.requests[0].images[0].getpixel((0, 0)) == (0, 0, 255)


def test_a_broken_picture_costs_its_own_samples(pictures: list[Path], tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.png", tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:30])
    prompts = [
        prompt_about("0", pictures[0]),
        prompt_about("1", missing),
        prompt_about("2", broken),
        prompt_about("3", missing),
        lacking(prompt_about("4")),
    ]
    answers = {a.sample_id: a for a in LocalBackend(FakeLlava()).generate(prompts)}
    assert answers["0"].error is None
    assert answers["1"].error == answers["3"].error == f"picture {missing} is not there"
    assert answers["1"].missing == answers["3"].missing == str(missing)
    assert "broken.png" in str(answers["2"].error)
    assert answers["4"].error == "the benchmark's files hold no picture for it"


def test_a_question_about_text_alone_is_asked_without_picture(pictures: list[Path]) -> None:
    fake = FakeLlava()
    prompts = [prompt_about("0", pictures[0]), prompt_about("1")]
    answers = list(LocalBackend(fake).generate(prompts))
    assert [answer.error for answer in answers] == [None, None]
    assert [len(request.images) for request in fake.requests] == [1, 0]


def test_a_stray_image_mark_costs_its_own_sample(pictures: list[Path]) -> None:
    stray = replace(prompt_about("0", pictures[0]), text="What does <image> or <image> mean?")
    prompts = [stray, prompt_about("1", pictures[0])]
    answers = {a.sample_id: a for a in LocalBackend(FakeLlava()).generate(prompts)}
    assert answers["0"].error == "its text holds <image>, which stands for a picture"
    assert answers["1"].error is None


def test_pictures_are_opened_a_bounded_number_ahead(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    picture = Image.new("L", (1, 1))
    monkeypatch.setattr(local, "open_image", lambda source: opened.append(source) or picture)
    prompts = [prompt_about(str(number), Path(f"{number}.png")) for number in range(500)]
    answers = LocalBackend(FakeLlava()).generate(prompts)
    next(answers)
    assert len(opened) <= 16
    assert len(list(answers)) == 499


def test_a_picture_is_read_when_its_turn_comes(pictures: list[Path]) -> None:
    read = []

    def load() -> bytes:
        read.append(pictures[0])
        return pictures[0].read_bytes()

    image = ImageRef(key="k", load=load)
    prompts = [
        replace(prompt, sample=replace(prompt.sample, images=(image,)))
        for prompt in (prompt_about("0"), prompt_about("1"))
    ]
    llava = FakeLlava()
    assert {a.error for a in LocalBackend(llava).generate(prompts)} == {None}
    assert len(read) == 1
    assert llava.requests[0].images is llava.requests[1].images


def test_a_picture_that_cannot_be_read_costs_its_own_samples(pictures: list[Path]) -> None:
    def load() -> bytes:
        raise SampleError("T.tsv: cannot be read")

    broken = prompt_about("0")
    image = ImageRef(key="k", load=load)
    broken = replace(broken, sample=replace(broken.sample, images=(image,)))
    prompts = [broken, prompt_about("1", pictures[0])]
    answers = {a.sample_id: a.error for a in LocalBackend(FakeLlava()).generate(prompts)}
    assert answers == {"0": "T.tsv: cannot be read", "1": None}


def test_the_model_is_described() -> None:
    backend = LocalBackend(FakeLlava())
    assert (backend.model_id, backend.warning) == ("toy", "random weights")
    assert backend.describe() == {
        "fingerprint": "f00d",
        "conversation": "vicuna_v1",
        "conversation_reason": "asked for",
        "image_aspect_ratio": "pad",
        "device": "cpu",
        "threads": str(torch.get_num_threads()),
        "dtype": "float32",
        "attention": "sdpa",
        "compiled": "no",
        "quantize": "none",
        "device_map": "none",
        "num_beams": "1",
        "sampling": "none",
    }


def test_every_prompt_is_answered_with_as_many_beams(pictures: list[Path]) -> None:
    llava = FakeLlava()
    backend = LocalBackend(llava, decoding=Decoding(num_beams=4))
    list(backend.generate([prompt_about(name, pictures[0]) for name in ("0", "1")]))
    assert [request.num_beams for request in llava.requests] == [4, 4]
    assert backend.describe()["num_beams"] == "4"


def test_every_sample_is_drawn_by_itself(pictures: list[Path]) -> None:
    prompts = [prompt_about(name, pictures[0]) for name in ("0", "1")]
    seeds = []
    for seed in (7, 7, 8):
        llava = FakeLlava()
        decoding = Decoding(temperature=0.2, top_p=0.9, seed=seed)
        list(LocalBackend(llava, decoding=decoding).generate(prompts[:: 1 if seed == 7 else -1]))
        assert {(r.temperature, r.top_k, r.top_p) for r in llava.requests} == {(0.2, 50, 0.9)}
        seeds.append({request.id: request.seed for request in llava.requests})
    assert seeds[0] == seeds[1]
    assert len({*seeds[0].values(), *seeds[2].values()}) == 4


def test_a_prompt_that_the_model_cannot_be_given_costs_its_own_sample(
    pictures: list[Path],
) -> None:
    prompts = [prompt_about(name, pictures[0]) for name in ("0", "1", "2")]
    answers = {a.sample_id: a for a in LocalBackend(FakeLlava(impossible="1")).generate(prompts)}
    assert [answers[name].error for name in ("0", "1", "2")] == [
        None,
        "the prompt has 9000 tokens",
        None,
    ]


def test_a_failure_of_the_model_is_one_line(pictures: list[Path]) -> None:
    backend = LocalBackend(FakeLlava(error=ConfigError("4 tiles do not make a grid")))
    with pytest.raises(BackendError, match="the model failed: 4 tiles do not make a grid"):
        list(backend.generate([prompt_about("0", pictures[0])]))


@pytest.mark.parametrize(
    "error", [CheckpointError("no config.json"), ConfigError("no config.json")]
)
def test_a_model_that_cannot_be_loaded_is_wrong_input(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(path: str, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(llava_core, "load", load, raising=False)
    with pytest.raises(ModelError, match=r"--model here: no config\.json") as caught:
        load_model("here", **SETTINGS)
    assert caught.value.exit_code == 2


def test_settings_reach_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llava_core, "load", lambda path, **given: (path, given), raising=False)
    settings = {**SETTINGS, "device": "cpu", "conversation": "plain"}
    assert load_model("here", **settings) == ("here", settings)


def test_garbage_is_looked_for_but_not_among_modules() -> None:
    process = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["True", "True"]


@pytest.mark.parametrize(
    ("choices", "reason"),
    [(("red", "red"), "expected all to be different"), (("red", ""), "adds no tokens of its own")],
)
def test_options_that_cannot_be_told_apart_cost_their_own_sample(
    pictures: list[Path], choices: tuple[str, ...], reason: str
) -> None:
    alike = replace(prompt_about("0", pictures[0]), choices=choices)
    prompts = [alike, prompt_about("1", pictures[0])]
    answers = {a.sample_id: a for a in LocalBackend(FakeLlava()).generate(prompts)}
    assert reason in str(answers["0"].error)
    assert answers["1"].error is None
