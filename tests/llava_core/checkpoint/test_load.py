"""Loading the bundled checkpoint, whole and damaged."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import llava_core
from llava_core import Request
from llava_core.checkpoint import placement
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.keys import from_original
from llava_core.checkpoint.load import load_model
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.placement import choose_placement
from llava_core.config import read_config
from llava_core.errors import CheckpointError, ConfigError
from llava_core.tiny.language import LANGUAGE_CONFIG
from llava_core.tiny.vocabulary import VOCABULARY
from tests.llava_core.toy import MPT_TEXT, toy_config, toy_image

WIDTH = LANGUAGE_CONFIG["hidden_size"]
EMBEDDING = "model.embed_tokens.weight"
TOWER_BIAS = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(bundled_tiny(), tmp_path / "tiny")
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    return tmp_path / "tiny"


def load(folder, dtype="float32", attention="auto"):
    parts = open_checkpoint(folder)
    placement = choose_placement(parts.config, device="cpu", dtype=dtype, attention=attention)
    return load_model(parts, placement)


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def test_every_tensor_of_the_file_is_in_the_model(folder):
    state = load(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    # The bundled model has one table for what is read and what is said.
    assert torch.equal(
        state.pop("language_model.lm_head.weight"), state[f"language_model.{EMBEDDING}"]
    )
    assert state.keys() == {from_original(name) for name in tensors}
    for name, tensor in tensors.items():
        torch.testing.assert_close(state[from_original(name)], tensor.float())


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_all_parts_have_the_asked_type(folder, dtype, expected):
    assert {p.dtype for p in load(folder, dtype=dtype).parameters()} == {expected}


def test_old_pickled_files_load_the_same(folder):
    before = load(folder).state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(load(folder).state_dict(), before)


def test_pickled_files_of_before_torch_1_6_load_the_same(folder):
    before = load(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(load(folder).state_dict(), before)


def test_shards_load_the_same(folder):
    before = load(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {"a.safetensors": sorted(tensors)[::2], "b.safetensors": sorted(tensors)[1::2]}
    for name, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / name)
    index = {key: name for name, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    torch.testing.assert_close(load(folder).state_dict(), before)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="names shards that are not there: b.safetensors"):
        load(folder)


def test_tower_weights_of_the_checkpoint_win(folder):
    tensors = load_file(folder / "model.safetensors")
    prefix = "model.vision_tower.vision_tower."
    own = {
        name.removeprefix(prefix): torch.ones_like(t)
        for name, t in tensors.items()
        if name.startswith(prefix)
    }
    save_file(own, folder.with_name("tiny-clip") / "model.safetensors")
    torch.testing.assert_close(
        load(folder).vision_tower.clip.pre_layrnorm.bias, tensors[TOWER_BIAS].float()
    )


def test_a_tower_that_is_given_for_nothing_is_told(folder, caplog):
    open_checkpoint(folder, vision_tower=str(folder.with_name("tiny-clip")))
    assert "holds the weights of its own vision tower, which are used; of " in caplog.text


def test_tower_weights_come_from_its_repository_otherwise(folder):
    moved = {}

    def edit(tensors):
        for name in [n for n in tensors if "vision_tower" in n]:
            moved[name.removeprefix("model.vision_tower.vision_tower.")] = tensors.pop(name) + 1

    change(folder, edit)
    save_file(moved, folder.with_name("tiny-clip") / "model.safetensors")
    bias = load(folder).vision_tower.clip.pre_layrnorm.bias
    torch.testing.assert_close(bias, moved["vision_model.pre_layrnorm.bias"].float())


def test_missing_unexpected_and_mis_shaped_tensors_are_named_together(folder):
    def edit(tensors):
        del tensors["model.norm.weight"]
        tensors["model.extra"] = torch.zeros(1)
        tensors[EMBEDDING] = tensors[EMBEDDING][:-1].clone()

    change(folder, edit)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "missing: model.norm.weight" in message
    assert "unexpected: model.extra" in message
    shapes = f"({VOCABULARY - 1}, {WIDTH}) instead of ({VOCABULARY}, {WIDTH})"
    assert f"mis-shaped: model.embed_tokens.weight {shapes}" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "96"}, "'hidden_size' expected int, got str"),
        ({"rope_scaling": {"type": "linear"}}, "Missing required keys in `rope_parameters`"),
        ({"mm_vision_select_layer": 9}, "mm_vision_select_layer is 9, expected an index into the "),
        ({"hidden_act": "sillu"}, "makes no llama: 'sillu'"),
        ({"pad_token_id": 10**6}, "makes no llama: Padding_idx must be within num_embeddings"),
        ({"rope_theta": "10000"}, "makes no llama: unsupported operand"),
    ],
)
def test_a_config_that_describes_no_model_is_told(folder, changes, message):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises((CheckpointError, ConfigError), match=f"^.*config.json.*{message}"):
        load(folder)


def test_a_folder_without_weights_says_what_was_looked_for(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="has no weights: looked for model.safetensors, pytorch_model.bin"
    ):
        load(folder)


@pytest.mark.parametrize("content", [b"\x00\x01 broken", b"", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_broken_file_is_named(folder, name, content):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=f"{name} (cannot be read|holds more than tensors, or is broken)"
    ):
        load(folder)


@pytest.mark.parametrize("weight_map", [None, {"model.norm.weight": 1}])
def test_an_index_without_names_of_files_is_told(folder, weight_map):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="index.json is no index of shards: it has no weight"):
        load(folder)


def test_a_file_that_is_cut_off_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"tiny/model\.safetensors cannot be read: "):
        load(folder)


def test_a_file_with_code_is_not_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"a": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="it is not opened because that could run code"):
        load(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' is unknown, expected auto, cpu"),
        ({"device": "mps"}, "device 'mps' is not available here; there is cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available here; there is cpu"),
        (
            {"device_map": "balanced"},
            "device map 'balanced' is unknown, expected auto, offload, tensor$",
        ),
        ({"device_map": "auto"}, "device cpu and device map auto exclude each other: .*; drop one"),
        ({"dtype": "float8"}, "dtype 'float8' is unknown, expected auto, float32"),
        ({"attention": "fast"}, "attention 'fast' is unknown, expected auto, sdpa"),
        ({"quantize": "2bit"}, "quantize '2bit' is unknown, expected 4bit or 8bit"),
    ],
)
def test_unknown_settings_are_refused(folder, fields, message):
    with pytest.raises(ConfigError, match=message):
        choose_placement(
            read_config(folder), **{"device": "cpu", "dtype": "auto", "attention": "auto", **fields}
        )


@pytest.mark.parametrize(("quantize", "error"), [("4bit", 0.5), ("8bit", 0.1)])
@pytest.mark.filterwarnings("ignore")  # bitsandbytes tells of its casts
def test_the_language_model_can_be_quantized(folder, quantize, error):
    pytest.importorskip("bitsandbytes")
    ids = [torch.arange(3, 40)]
    parts = open_checkpoint(folder)
    settings = {"device": "cpu", "dtype": "float32", "attention": "auto"}
    small = load_model(parts, choose_placement(parts.config, quantize=quantize, **settings))
    with torch.inference_mode():
        expected, logits = load(folder)(ids, []).logits, small(ids, []).logits
    assert type(small.language_model.model.layers[0].mlp.up_proj).__name__.startswith("Linear")
    assert small.projector[0].weight.dtype == torch.float32
    assert 0 < (logits - expected).norm() / expected.norm() < error


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.filterwarnings("ignore")  # bitsandbytes tells of its casts
def test_a_quantized_model_with_an_s2_tower_answers(folder, quantize):
    pytest.importorskip("bitsandbytes")
    side = json.loads((folder.with_name("tiny-clip") / "config.json").read_text())["image_size"]
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"s2": True, "s2_scales": f"{side},{2 * side}"}
    fields["mm_hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(fields))
    name = "model.mm_projector.0.weight"
    change(folder, lambda tensors: tensors.update({name: tensors[name].repeat(1, 2) / 2}))
    llava = llava_core.load(str(folder), device="cpu", quantize=quantize)
    assert llava.model.projector[0].in_features == fields["mm_hidden_size"]
    request = Request(images=[toy_image(0)], prompt="<image>\nWhat?", max_new_tokens=4)
    (response,) = llava.generate([request])
    assert response.prompt_tokens == len(llava.logits(request))
    first = int(llava.logits(request)[-1].argmax())
    assert response.token_ids[0] == first


def test_quantization_without_its_library_says_what_to_install(folder, monkeypatch):
    module = "llava_core.checkpoint.placement.is_bitsandbytes_available"
    monkeypatch.setattr(module, lambda: False)
    settings = {"device": "cpu", "dtype": "auto", "attention": "auto"}
    with pytest.raises(ConfigError, match=r"needs the library bitsandbytes: pip install 'llava-"):
        choose_placement(read_config(folder), quantize="4bit", **settings)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_too_little_memory_for_the_weights_says_what_to_do(folder, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("llava_core.checkpoint.load._materialize", fail)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert re.fullmatch(
        r".*tiny: the weights take about 0\.0 GiB as float32, cpu has \d+\.\d GiB free; try "
        r"--dtype bfloat16, --quantize 4bit or 8bit, --device-map auto, a machine with more memory",
        str(caught.value),
    )


def test_another_error_is_no_lack_of_memory(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr("llava_core.checkpoint.load._materialize", fail)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        load(folder)


def test_weights_larger_than_what_is_free_are_loaded_with_a_warning(folder, caplog, monkeypatch):
    monkeypatch.setattr("llava_core.checkpoint.load.free_on", lambda device: 1_000_000)
    load(folder)
    assert "cpu has 0.0 GiB free; try --dtype bfloat16" in caplog.text


@pytest.mark.parametrize(
    ("attention", "warns"), [("auto", False), ("eager", False), ("sdpa", True)]
)
def test_an_mpt_has_one_attention_and_says_so(caplog, attention, warns):
    config = toy_config(backbone="mpt", text=MPT_TEXT)
    placement = choose_placement(config, device="cpu", dtype="auto", attention=attention)
    assert placement.attention == "eager"
    assert ("MPT has no sdpa attention; eager is used instead" in caplog.text) == warns


def test_missing_flash_attention_falls_back_with_a_reason(folder, caplog, monkeypatch):
    monkeypatch.setattr("llava_core.checkpoint.placement.is_flash_attn_2_available", lambda: False)
    assert (
        load(folder, attention="flash_attention_2").language_model.config._attn_implementation
        == "sdpa"
    )
    assert "flash_attention_2 is not installed" in caplog.text


def test_a_type_that_only_the_checkpoint_names_is_told_as_its_own(monkeypatch):
    monkeypatch.setattr(placement, "_choose_device", lambda _: torch.device("cuda"))
    config = read_config(bundled_tiny())
    with pytest.raises(ConfigError, match="the checkpoint's torch_dtype is 'float64', .* --dtype"):
        choose_placement(
            replace(config, torch_dtype="float64"), device="auto", dtype="auto", attention="auto"
        )
