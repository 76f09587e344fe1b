"""The whole making of `tiny`, with hardly any learning."""

import json

import pytest
from PIL import Image
from safetensors import safe_open

import llava_core
from llava_core.errors import ConfigError
from llava_core.tiny import __main__ as command
from llava_core.tiny.__main__ import Budget, make_tiny
from llava_core.tiny.samples import Counts

SHORT = Budget(
    tower_steps=12,
    tower_batch=2,
    counts=Counts(captions=16, readings=16, basics=16, colors=16, choices=16, drawings=16),
    processes=1,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_tiny(folder / "work", folder / "published" / "tiny", SHORT)
    return folder


def test_what_is_published_is_loaded_and_answers(made):
    model = llava_core.load(str(made / "published" / "tiny"), device="cpu")
    assert isinstance(model.chat(Image.new("RGB", (96, 96)), "Hi", max_new_tokens=2), str)


def test_the_tower_is_in_the_checkpoint_and_its_config_beside(made):
    published = made / "published"
    assert {path.name for path in (published / "tiny-clip").iterdir()} == {
        "config.json",
        "preprocessor_config.json",
    }
    assert json.loads((published / "tiny" / "config.json").read_text())["mm_vision_tower"] == (
        "tiny-clip"
    )
    with safe_open(published / "tiny" / "model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
        assert str(tensors.get_tensor(names[0]).dtype) == "torch.float16"
    assert any(name.startswith("model.vision_tower.") for name in names)


def test_stages_are_those_of_the_recipe(made):
    for stage, trained in (
        ("aligned", "projector"),
        ("reading", "language_model"),
        ("basic", "language_model"),
        ("choice", "language_model"),
        ("trained", "language_model"),
    ):
        assert trained in (made / "work" / stage / "recipe.yaml").read_text()
        assert (made / "work" / stage / "log.jsonl").is_file()


@pytest.mark.parametrize("work", ["work", "work/tiny/config.json"])
def test_a_work_folder_that_is_in_use_is_left_alone(made, work):
    with pytest.raises(ConfigError, match="is no empty folder: remove it, or give another"):
        make_tiny(made / work, made / "again" / "tiny", SHORT)
    assert not (made / "again").exists()


def test_ctrl_c_ends_the_command(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_tiny", stop)
    monkeypatch.setattr("sys.argv", ["llava_core.tiny"])
    assert command._main() == 130
