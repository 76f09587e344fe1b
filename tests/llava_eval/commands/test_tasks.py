import pytest

from llava_eval import cli
from llava_eval.registry import load_tasks


def test_every_task_is_listed(capsys) -> None:
    assert cli.main(["tasks"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in load_tasks())


@pytest.mark.parametrize("name", load_tasks())
def test_a_task_is_shown_in_full_with_its_first_prompt(name: str, capsys) -> None:
    assert cli.main(["tasks", name]) == 0
    output = capsys.readouterr().out
    spec = load_tasks()[name]
    assert f"questions: {spec.layout.questions}" in output
    for printed in spec.published.values():
        assert all(f"{model}: {value}" in output for model, value in printed.items())
    assert "First prompt of the mini data" in output


def test_a_task_tells_what_its_variants_do_otherwise(capsys) -> None:
    assert cli.main(["tasks", "textvqa"]) == 0
    assert "\ntextvqa-noocr: TextVQA, val v0.5.1, without OCR tokens\n" in capsys.readouterr().out


def test_an_unknown_task_gets_the_nearest(capsys) -> None:
    assert cli.main(["tasks", "textqva"]) == 2
    assert "'textqva'" in (error := capsys.readouterr().err)
    assert "textvqa" in error
