from pathlib import Path

import pytest

from llava_eval import cli


def test_the_mini_data_is_written(capsys) -> None:
    assert cli.main(["data", "mini", "here"]) == 0
    assert capsys.readouterr().out == "mini data: here\n"
    assert Path("here/gqa/llava_gqa_testdev_balanced.jsonl").exists()


def test_a_folder_with_something_in_it_is_refused(capsys) -> None:
    Path("here").mkdir()
    Path("here/file").touch()
    assert cli.main(["data", "mini", "here"]) == 2
    assert "name a new or empty folder" in capsys.readouterr().err


def test_another_action_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "maxi", "here"])
    assert caught.value.code == 2
    assert "invalid choice: 'maxi'" in capsys.readouterr().err
