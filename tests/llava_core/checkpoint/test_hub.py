import pytest

from llava_core.checkpoint.hub import bundled_tiny, resolve_checkpoint, resolve_vision_tower
from llava_core.errors import CheckpointError


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert resolve_checkpoint(str(tmp_path)) == tmp_path


def test_tiny_is_in_the_package():
    assert resolve_checkpoint("tiny") == bundled_tiny()
    assert (bundled_tiny() / "config.json").is_file()


def test_a_folder_called_tiny_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve_checkpoint("tiny").resolve() == tmp_path / "tiny"


def test_what_is_neither_folder_nor_hub_id_is_refused():
    with pytest.raises(
        CheckpointError, match="^./no/such/folder is neither a folder, nor a Hub id"
    ):
        resolve_checkpoint("./no/such/folder")


def test_an_unreachable_hub_is_said_in_one_line(no_hub):
    with pytest.raises(
        CheckpointError, match="nobody/nothing is no folder here and not in the local Hub cache"
    ):
        resolve_checkpoint("nobody/nothing")


def test_a_tower_is_looked_for_beside_the_checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "clip").mkdir()
    assert resolve_vision_tower("clip", checkpoint=tmp_path / "checkpoint") == tmp_path / "clip"


def test_a_tower_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=f"vision tower clip is no folder, is not at {tmp_path / 'clip'}"
    ):
        resolve_vision_tower("clip", checkpoint=tmp_path / "checkpoint")
