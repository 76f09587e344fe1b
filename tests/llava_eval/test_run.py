import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_eval.backends.base import Answer
from llava_eval.errors import BackendError
from llava_eval.records import ImageRef, Prompt
from llava_eval.run import TaskRun, answer_id, run_task
from llava_eval.store import TaskStore, read_responses
from tests.llava_eval.fakes import ScriptedBackend, make_prompt, make_prompts


def untracked(answers: Iterator[Answer], total: int, done: int) -> Iterator[Answer]:
    return answers


def run(folder: Path, prompts: Sequence[Prompt], backend: ScriptedBackend) -> TaskRun:
    order = [prompt.sample.sample_id for prompt in prompts]
    store = TaskStore(folder)
    return run_task(prompts, order=order, backend=backend, store=store, track=untracked)


def finished(folder: Path) -> bytes:
    return (folder / "responses.jsonl").read_bytes()


def test_a_response_is_llavas_record_and_ours(tmp_path: Path) -> None:
    run(tmp_path, make_prompts(1), ScriptedBackend())
    record = json.loads(finished(tmp_path))
    assert len(record.pop("answer_id")) == 22
    assert record == {
        "sample_id": "0",
        "question_id": 0,
        "prompt": "What?",
        "text": "answer 0 é",
        "model_id": "scripted",
        "metadata": {
            "image": "a.jpg",
            "prompt_hash": "0123",
            "stop": "eos",
            "prompt_tokens": 9,
            "new_tokens": 3,
        },
    }


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    run(tmp_path, make_prompts(3), ScriptedBackend())
    backend = ScriptedBackend()
    result = run(tmp_path, make_prompts(5), backend)
    assert backend.asked == ["3", "4"]
    assert (result.num_asked, result.num_reused) == (2, 3)


def test_a_changed_prompt_is_asked_again(tmp_path: Path) -> None:
    run(tmp_path, make_prompts(2), ScriptedBackend())
    backend = ScriptedBackend()
    run(tmp_path, [make_prompt("0"), make_prompt("1", prompt_hash="4567")], backend)
    assert backend.asked == ["1"]
    hashes = [r.metadata["prompt_hash"] for r in read_responses(tmp_path / "responses.jsonl")]
    assert hashes == ["0123", "4567"]


def about_files(*paths: Path) -> list[Prompt]:
    """One prompt a picture, and a last one about all of them."""
    prompts = make_prompts(len(paths) + 1)
    refs = [ImageRef(key="a.jpg", path=path) for path in paths]
    shown = [*((ref,) for ref in refs), tuple(refs)]
    return [
        replace(prompt, sample=replace(prompt.sample, images=images))
        for prompt, images in zip(prompts, shown, strict=True)
    ]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.jpg", tmp_path / "b.jpg"
    for path in paths:
        path.write_bytes(b"picture")
    return paths


def asked_after(change: Callable[[], object], prompts: Sequence[Prompt], folder: Path) -> list[str]:
    """Which samples are asked again after something has changed."""
    run(folder, prompts, ScriptedBackend())
    change()
    backend = ScriptedBackend()
    run(folder, prompts, backend)
    return backend.asked


def test_what_is_about_a_changed_picture_is_asked_again(
    tmp_path: Path, pictures: tuple[Path, Path]
) -> None:
    change = partial(pictures[1].write_bytes, b"other!!")
    prompts = about_files(*pictures)
    assert asked_after(change, prompts, tmp_path) == ["1", "2"]
    assert asked_after(pictures[0].touch, prompts, tmp_path) == []


def test_an_answer_about_a_lost_picture_is_kept(
    tmp_path: Path, pictures: tuple[Path, Path]
) -> None:
    assert asked_after(pictures[0].unlink, about_files(*pictures), tmp_path) == []


def test_an_answer_that_says_nothing_of_its_picture_is_kept(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    change = partial(picture.write_bytes, b"picture")
    assert asked_after(change, about_files(picture), tmp_path) == []


def test_a_sample_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    backend = ScriptedBackend(errors={"1": "a.jpg: broken"})
    result = run(tmp_path, make_prompts(3), backend)
    responses = read_responses(tmp_path / "responses.jsonl")
    assert [r.error for r in responses] == [None, "a.jpg: broken", None]
    assert responses[1].text == ""
    assert (result.num_failed, result.first_failure) == (1, "1: a.jpg: broken")


def test_a_sample_that_failed_is_asked_again(tmp_path: Path) -> None:
    run(tmp_path, make_prompts(2), ScriptedBackend(errors={"1": "a.jpg: broken"}))
    backend = ScriptedBackend()
    result = run(tmp_path, make_prompts(2), backend)
    assert backend.asked == ["1"]
    assert result.num_failed == 0
    assert read_responses(tmp_path / "responses.jsonl")[1].text == "answer 1 é"


def test_a_shorter_run_keeps_the_answers_of_a_longer_one(tmp_path: Path) -> None:
    prompts = make_prompts(4)
    run(tmp_path, prompts, ScriptedBackend())
    before = finished(tmp_path)
    order = [prompt.sample.sample_id for prompt in prompts]
    store = TaskStore(tmp_path)
    backend = ScriptedBackend()
    run_task(prompts[:2], order=order, backend=backend, store=store, track=untracked)
    assert backend.asked == []
    assert finished(tmp_path) == before


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_prompts(5), ScriptedBackend(stop_after=3))
    assert not (tmp_path / "responses.jsonl").exists()
    backend = ScriptedBackend()
    run(tmp_path, make_prompts(5), backend)
    assert backend.asked == ["3", "4"]


def test_a_backend_that_leaves_prompts_unanswered_is_reported(tmp_path: Path) -> None:
    class Lazy(ScriptedBackend):
        def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
            return super().generate(prompts[:1])

    told = "2 samples got no answer, the first is 1; the same command asks"
    with pytest.raises(BackendError, match=told):
        run(tmp_path, make_prompts(3), Lazy())


def test_progress_knows_the_total_and_what_is_done(tmp_path: Path) -> None:
    run(tmp_path, make_prompts(2), ScriptedBackend())
    seen = []

    def track(answers: Iterator[Answer], total: int, done: int) -> Iterator[Answer]:
        seen.append((total, done))
        return answers

    prompts = make_prompts(5)
    order = [prompt.sample.sample_id for prompt in prompts]
    store = TaskStore(tmp_path)
    run_task(prompts, order=order, backend=ScriptedBackend(), store=store, track=track)
    assert seen == [(5, 2)]


@given(order=st.permutations(range(6)))
@settings(max_examples=20)
def test_the_order_of_answers_does_not_show(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    class Shuffled(ScriptedBackend):
        def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
            return super().generate([prompts[number] for number in order])

    plain, shuffled = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("shuffled")
    run(plain, make_prompts(6), ScriptedBackend())
    run(shuffled, make_prompts(6), Shuffled())
    assert finished(shuffled) == finished(plain)


@given(cut=st.floats(0, 1), failed=st.sets(st.sampled_from("0123")))
@settings(max_examples=50)
def test_resuming_after_a_cut_at_any_byte_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, cut: float, failed: set[str]
) -> None:
    plain, resumed = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("resumed")
    run(plain, make_prompts(6), ScriptedBackend())
    errors = dict.fromkeys(failed, "broken for now")
    with pytest.raises(KeyboardInterrupt):
        run(resumed, make_prompts(6), ScriptedBackend(errors=errors, stop_after=5))
    (part,) = resumed.glob("responses.part-*.jsonl")
    whole = part.read_bytes()
    part.write_bytes(whole[: round(cut * len(whole))])
    run(resumed, make_prompts(6), ScriptedBackend())
    assert finished(resumed) == finished(plain)


def test_answer_ids_look_like_llavas() -> None:
    identifier = answer_id("model", "sample", "hash")
    assert identifier == answer_id("model", "sample", "hash")
    assert len(identifier) == 22
    assert set(identifier).isdisjoint("01IOl")


@given(st.lists(st.tuples(st.text(), st.text()), unique=True, max_size=20))
def test_answer_ids_differ_where_their_parts_differ(parts: list[tuple[str, str]]) -> None:
    assert len({answer_id(*pair) for pair in parts}) == len(parts)
