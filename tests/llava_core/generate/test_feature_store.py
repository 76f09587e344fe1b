"""Features on disk: who finds them, who does not, and what becomes of broken files."""

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import llava_core
from llava_core import Request
from llava_core.errors import ConfigError
from llava_core.generate.feature_store import FeatureStore, store_name
from tests.llava_core.toy import toy_config, toy_image, toy_model
from tests.llava_core.toy_hugging_face import make_processor

FEATURES = torch.arange(24.0).reshape(1, 4, 6)
PROCESSOR = make_processor().image_processor


def requests():
    """About four pictures, two questions each, of one the centre only."""
    return [
        Request(
            images=[toy_image(10 + i, 60, 40)],
            messages=[{"role": "user", "content": text}],
            max_new_tokens=6,
            pad=i > 0,
        )
        for i in range(4)
        for text in ("What is it?", "Which color?")
    ]


def answers(llava):
    return {response.id: response for response in llava.generate(requests())}


def load(folder, **settings):
    return llava_core.load("tiny", device="cpu", feature_cache=str(folder), **settings)


def count_tiles(llava, monkeypatch):
    tiles = []
    forward = llava.model.vision_tower.forward
    monkeypatch.setattr(
        llava.model.vision_tower,
        "forward",
        lambda pixels: tiles.append(len(pixels)) or forward(pixels),
    )
    return tiles


def files(folder):
    return sorted(folder.glob("*/*/*.safetensors"))


def test_another_process_does_not_run_the_tower_and_answers_alike(tmp_path, monkeypatch):
    plain = answers(llava_core.load("tiny", device="cpu"))
    first, second = load(tmp_path), load(tmp_path)
    tiles = count_tiles(first, monkeypatch)
    assert answers(first) == plain
    assert sum(tiles) == len(files(tmp_path)) == 4
    tiles = count_tiles(second, monkeypatch)
    assert answers(second) == plain
    assert tiles == []


def test_another_projector_uses_what_the_tower_made(tmp_path, monkeypatch):
    answers(load(tmp_path))
    plain, other = llava_core.load("tiny", device="cpu"), load(tmp_path)
    for llava in (plain, other):
        llava.model.projector[0].register_forward_hook(lambda layer, given, result: -result)
    tiles = count_tiles(other, monkeypatch)
    assert answers(other) == answers(plain)
    assert tiles == []


def test_tiles_of_any_resolution_come_back(tmp_path, reference, monkeypatch):
    folder = str(reference / "golden" / "v16_vicuna")
    plain = answers(llava_core.load(folder, device="cpu"))
    llavas = [llava_core.load(folder, device="cpu", feature_cache=str(tmp_path)) for _ in range(2)]
    assert answers(llavas[0]) == plain
    tiles = count_tiles(llavas[1], monkeypatch)
    assert answers(llavas[1]) == plain
    assert tiles == []


def name(model=None, *, processor=PROCESSOR, dtype=torch.float32, **shape):
    tower = (model or toy_model()).vision_tower
    return store_name(
        tower, dtype=dtype, processor=processor, shape={"aspect_ratio": "pad", **shape}
    )


def changed_tower():
    model = toy_model()
    with torch.no_grad():
        next(model.vision_tower.parameters()).flatten()[0] += 1e-6
    return model


def test_the_language_model_does_not_matter():
    assert name() == name(toy_model(toy_config(projector_type="linear")))


@pytest.mark.parametrize(
    "other",
    [
        lambda: name(changed_tower()),
        lambda: name(toy_model(toy_config(vision_select_layer=-1))),
        lambda: name(toy_model(toy_config(vision_select_feature="cls_patch"))),
        lambda: name(toy_model().to(torch.bfloat16)),
        lambda: name(dtype=torch.float16),
        lambda: name(processor=make_processor(image_mean=[0.5, 0.5, 0.5]).image_processor),
        lambda: name(aspect_ratio="anyres"),
    ],
    ids=["weights", "layer", "class token", "type", "rounding", "processor", "shape"],
)
def test_whatever_changes_the_features_has_a_folder_of_its_own(other):
    assert other() != name()


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, "tower")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_kept_comes_back(store, dtype):
    store.put("abcd", FEATURES.to(dtype))
    found = store.get("abcd")
    assert found.dtype == dtype
    assert torch.equal(found, FEATURES.to(dtype))
    assert store.get("abce") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [cut, flip, lambda path: path.write_bytes(b"")])
def test_broken_files_are_made_again_and_told_once(tmp_path, monkeypatch, caplog, spoil):
    plain = answers(load(tmp_path))
    for path in files(tmp_path)[:3]:
        spoil(path)
    again = load(tmp_path)
    tiles = count_tiles(again, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert answers(again) == plain
    assert sum(tiles) == 3
    (record,) = caplog.records
    assert record.message.endswith("it is made again")
    assert all("features" in load_file(path) for path in files(tmp_path))


def test_what_the_system_does_not_let_read_is_named_once(store, tmp_path, caplog):
    (tmp_path / "tower/ab").write_text("in the way")
    assert store.get("abcd") is None
    (record,) = caplog.records
    path = tmp_path / "tower/ab/abcd.safetensors"
    assert record.message == f"{path} cannot be read (Not a directory); it is made again"


def test_the_least_recently_used_files_leave(tmp_path):
    store = FeatureStore(tmp_path, "tower")
    store.put("aa", FEATURES)
    size = files(tmp_path)[0].stat().st_size
    store = FeatureStore(tmp_path, "tower", max_bytes=4 * size)
    for age, key in enumerate(["ba", "ca", "da"]):
        store.put(key, FEATURES)
        os.utime(tmp_path / "tower" / key[:2] / f"{key}.safetensors", (100 + age, 100 + age))
    os.utime(tmp_path / "tower/aa/aa.safetensors", (50, 50))
    assert store.get("aa") is not None
    store.put("ea", FEATURES)
    assert [path.stem for path in files(tmp_path)] == ["aa", "da", "ea"]


def test_what_cannot_be_removed_costs_the_bound_and_not_the_run(tmp_path, caplog):
    stuck = tmp_path / "tower/aa/aa.safetensors"
    stuck.mkdir(parents=True)
    os.utime(stuck, (0, 0))
    store = FeatureStore(tmp_path, "tower", max_bytes=1)
    for key in ("ba", "ca"):
        store.put(key, FEATURES)
    assert files(tmp_path) == [stuck]
    (record,) = caplog.records
    assert record.message == (
        f"{stuck} cannot be removed: Is a directory; features may take more than their bound"
    )


def test_what_cannot_be_looked_at_does_not_count(tmp_path, monkeypatch):
    FeatureStore(tmp_path, "gone").put("aa", FEATURES)
    loop = tmp_path / "gone/aa/ab.safetensors"
    loop.symlink_to(loop)
    store = FeatureStore(tmp_path, "tower", max_bytes=1)
    scan = os.scandir

    def scan_the_rest(path):
        if "gone" in os.fspath(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_the_rest)
    store.put("ba", FEATURES)
    assert not list((tmp_path / "tower/ba").iterdir())


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(store, tmp_path, caplog):
    (tmp_path / "tower/ab").write_text("in the way")
    store.put("abcd", FEATURES)
    store.put("abce", FEATURES)
    (record,) = caplog.records
    assert record.message == f"features cannot be kept in {tmp_path}: File exists"


def test_a_full_disk_leaves_nothing_half(store, tmp_path, monkeypatch, caplog):
    def write(path, content):
        with path.open("wb") as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    store.put("abcd", FEATURES)
    assert not list((tmp_path / "tower/ab").iterdir())
    assert "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="features cannot be kept in .*below: Not a directory"):
        load(tmp_path / "file" / "below")


def test_many_may_write_the_same_picture(tmp_path):
    stores = [FeatureStore(tmp_path, "tower") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda store: store.put("abcd", FEATURES), stores * 8))
    assert [path.name for path in (tmp_path / "tower/ab").iterdir()] == ["abcd.safetensors"]
    assert torch.equal(stores[0].get("abcd"), FEATURES)
