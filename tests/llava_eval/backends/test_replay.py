from pathlib import Path

import pytest

from llava_eval.backends.base import Answer
from llava_eval.backends.replay import ReplayBackend
from llava_eval.errors import RunError
from llava_eval.run import to_response
from llava_eval.store import response_line
from tests.llava_eval.fakes import make_prompt, make_prompts


def test_known_texts_are_repeated() -> None:
    backend = ReplayBackend({"0": "yes", "1": "no"}, model_id="m")
    assert [a.text for a in backend.generate(make_prompts(2))] == ["yes", "no"]


def test_a_prompt_without_a_text_fails() -> None:
    (answer,) = ReplayBackend({}, model_id="m").generate([make_prompt("3")])
    assert answer == Answer(sample_id="3", text="", error="no stored answer")


def test_a_finished_file_is_repeated_except_for_its_failures(tmp_path: Path) -> None:
    answers = [Answer(sample_id="0", text="yes"), Answer(sample_id="1", text="", error="broken")]
    path = tmp_path / "responses.jsonl"
    path.write_bytes(
        b"".join(
            response_line(to_response(make_prompt(a.sample_id), a, model_id="m")) for a in answers
        )
    )
    backend = ReplayBackend.from_file(path)
    assert backend.model_id == "m"
    assert [a.error for a in backend.generate(make_prompts(2))] == [None, "no stored answer"]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.touch()
    with pytest.raises(RunError, match=r"responses\.jsonl holds no answers to repeat"):
        ReplayBackend.from_file(path)
