"""Conversions by the command line, against golden checkpoints and the original's answers."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import llava_core
from benchmarks.convert_memory import build, measure
from llava_core import Request, convert
from llava_core.checkpoint import destination
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.tiny.language import LANGUAGE_CONFIG

WIDTH = LANGUAGE_CONFIG["hidden_size"]
ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(
    r"^    python -m llava_core\.convert (.+)$",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)
HELP = """
import sys
from llava_core.convert import main
try:
    main(["--help"])
except SystemExit:
    pass
print({"torch", "transformers", "rich"} & set(sys.modules))
"""
NEW_TOKENS = 24


@pytest.fixture
def golden(reference):
    return reference / "golden"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Conversions of a checkpoint of 202 MB in shards of 10 MB."""
    folder = tmp_path_factory.mktemp("large")
    yield folder, build(folder, layers=8, width=1024, shard_bytes=10**7)
    shutil.rmtree(folder)


def run(*arguments):
    assert convert.main([str(argument) for argument in arguments]) == 0


def refused(capsys, *arguments):
    """The one line that a refused command says."""
    capsys.readouterr()
    assert convert.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def answers(folder, cases, images, **settings):
    """Logits and tokens of a checkpoint for golden cases."""
    conversation = cases[0]["conv_mode"]
    llava = llava_core.load(str(folder), device="cpu", conversation=conversation, **settings)
    for case in cases:
        image = Image.open(images / case["image"]).convert("RGB")
        messages = [{"role": "user", "content": case["question"]}]
        request = Request(images=[image], messages=messages, max_new_tokens=NEW_TOKENS)
        (response,) = llava.generate([request])
        yield llava.logits(request), list(response.token_ids)


def assert_golden(folder, golden, name, **settings):
    cases = json.loads((golden / name / "golden.json").read_text())
    found = answers(folder, cases, golden / "images", **settings)
    for case, (logits, tokens) in zip(cases, found, strict=True):
        assert logits[-1][:512].tolist() == pytest.approx(case["last_logits"][:512], abs=2e-4)
        assert tokens == case["greedy_ids"][1:]


def weights(folder):
    """All tensors of a folder's files, by the names that they have there."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for path in sorted(folder.glob("pytorch_model*.bin")):
        tensors |= torch.load(path, weights_only=True)
    return {name: t for name, t in tensors.items() if "inv_freq" not in name}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


# Answers


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_a_merged_lora_answers_as_the_original_does(tmp_path, golden, layout):
    source, base = golden / "llava-v15-lora", golden / "vicuna-base"
    if layout == "original":
        run("merge-lora", source, tmp_path / "merged", "--base", base)
    else:
        run(source, tmp_path / "merged", "--to", "hf", "--base", base)
    assert_golden(tmp_path / "merged", golden, "llava-v15-lora")


def test_a_projector_extracted_from_a_checkpoint_is_the_one_that_went_in(tmp_path, golden):
    pretrain, base = golden / "llava-v15-pretrain", golden / "vicuna-base"
    run(pretrain, tmp_path / "whole", "--to", "original", "--base", base)
    run("extract-projector", tmp_path / "whole", tmp_path / "projector")
    assert {path.name for path in (tmp_path / "projector").iterdir()} == {
        "config.json",
        "mm_projector.bin",
    }
    assert_equal(*[
        torch.load(folder / "mm_projector.bin", weights_only=True)
        for folder in (tmp_path / "projector", pretrain)
    ])  # fmt: skip
    assert_golden(tmp_path / "projector", golden, "llava-v15-pretrain", base=str(base))


@pytest.mark.parametrize(
    ("name", "layout"), [("v15", "original"), ("v15", "hf"), ("v1_linear_startend", "original")]
)
def test_a_projector_and_the_language_model_it_was_taken_from_answer_alike(
    tmp_path, golden, name, layout
):
    """The language model is given without rows for the marks, which come with the projector."""
    run(golden / name, tmp_path / layout, "--to", layout)
    run("extract-projector", tmp_path / layout, tmp_path / "projector")
    base = shutil.copytree(golden / "vicuna-base", tmp_path / "base", copy_function=shutil.copyfile)
    rows = {
        n: tensor[:512] if tensor.shape[0] == 514 else tensor
        for n, tensor in weights(golden / name).items()
        if "mm_projector" not in n
    }
    save_file({n: tensor.clone() for n, tensor in rows.items()}, base / "model.safetensors")
    assert_golden(tmp_path / "projector", golden, name, base=str(base))


# Round trips


def in_process(folder, *arguments):
    run(*arguments)


def as_command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llava_core.convert", *map(str, arguments)]
    subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.mark.parametrize(
    ("name", "call"),
    [("v15", in_process), ("v16_vicuna", as_command), ("v16_mistral", in_process)],
)
def test_to_hugging_face_and_back_is_exact(tmp_path, golden, name, call):
    source = golden / name
    for layout in ("hf", "original"):
        flags = ("--to", layout, "--max-shard-size", "100KB")
        call(tmp_path, source, tmp_path / layout, *flags)
        source = tmp_path / layout
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    assert_equal(weights(tmp_path / "original"), weights(golden / name))


def test_a_delta_made_and_applied_is_the_target(tmp_path, golden):
    base, target = golden / "vicuna-base", golden / "v1_linear_startend"
    run("make-delta", base, target, tmp_path / "delta", "--dtype", "float32")
    run("apply-delta", base, tmp_path / "delta", tmp_path / "again")
    expected = weights(target)
    delta, again = weights(tmp_path / "delta"), weights(tmp_path / "again")
    assert again.keys() == delta.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=2e-7)
    assert not torch.allclose(delta["model.norm.weight"], expected["model.norm.weight"])
    assert_golden(tmp_path / "again", golden, target.name)


# What travels, what is said


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_what_a_whole_checkpoint_needs_travels_with_it(tmp_path, layout):
    run("tiny", tmp_path / "new", "--to", layout, "--dtype", "bfloat16")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer_config.json"} < names
    assert ("preprocessor_config.json" in names) == (layout == "hf")
    assert {tensor.dtype for tensor in weights(tmp_path / "new").values()} == {torch.bfloat16}
    llava = llava_core.load(str(tmp_path / "new"), device="cpu")
    assert llava.chat(Image.new("RGB", (30, 20)), "What colour?", max_new_tokens=4)


def test_a_delta_has_its_targets_tokenizer_and_says_what_it_is(tmp_path, capsys):
    base = plain_language_model(tmp_path / "base")
    run("make-delta", base, "tiny", tmp_path / "delta")
    names = {path.name for path in (tmp_path / "delta").iterdir()}
    assert {"tokenizer.model", "tokenizer_config.json", "config.json"} < names
    error = refused(capsys, tmp_path / "delta", tmp_path / "hf", "--to", "hf")
    assert "holds delta weights, which are no model yet" in error


def plain_language_model(folder, **changes):
    """The language model inside tiny, as a folder of its own."""
    folder.mkdir()
    tensors = {name: t for name, t in tiny().items() if "vision" not in name and "mm_" not in name}
    save_file({**tensors, **changes}, folder / "model.safetensors")
    return folder


def tiny():
    return weights(bundled_tiny())


def test_progress_is_a_line_for_every_shard(tmp_path, capsys):
    run("tiny", tmp_path / "new", "--to", "original", "--max-shard-size", "900kB")
    output = capsys.readouterr()
    lines = output.err.splitlines()
    shards = len(list((tmp_path / "new").glob("model-*.safetensors")))
    assert shards - 1 <= len(lines) <= shards + 1
    assert all(re.fullmatch(r"weights: \S+ [kM]B of \S+ [kM]B", line) for line in lines)
    assert len(set(lines)) == len(lines)
    assert re.fullmatch(r"weights: (\S+ [kM]B) of \1", lines[-1])
    assert output.out == f"written: {tmp_path / 'new'}\n"


@pytest.mark.parametrize(
    "command", [("--to", "original"), ("extract-projector",)], ids=lambda words: words[-1]
)
def test_room_is_looked_for_as_much_as_is_written(tmp_path, monkeypatch, command):
    # Its tower is published nowhere, so it is written too.
    run("tiny", tmp_path / "hf", "--to", "hf")
    wanted, free = [], destination.new_folder

    def note(path, *, num_bytes):
        wanted.append(num_bytes)
        return free(path, num_bytes=num_bytes)

    monkeypatch.setattr(destination, "new_folder", note)
    run(*command, tmp_path / "hf", tmp_path / "new")
    files = [*(tmp_path / "new").rglob("*.safetensors"), *(tmp_path / "new").rglob("*.bin")]
    written = sum(file.stat().st_size for file in files)
    assert wanted == [pytest.approx(written, rel=0.02)]


def test_a_trained_tower_that_stays_behind_is_told(tmp_path, golden, caplog):
    run("extract-projector", golden / "v16_vicuna", tmp_path / "projector")
    assert "holds weights of its vision tower, but a projector's folder only names" in caplog.text


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_a_template_that_only_the_hub_id_tells_is_kept(tmp_path, monkeypatch, layout):
    name = "liuhaotian/llava-llama-2-13b-chat-lightning-preview"
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    snapshot = shutil.copytree(bundled_tiny(), repository / "snapshots" / ("a" * 40))
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), snapshot.with_name("tiny-clip"))
    fields = json.loads((snapshot / "config.json").read_text())
    del fields["conversation"]
    (snapshot / "config.json").write_text(json.dumps(fields))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run(f"{name}@main", tmp_path / "new", "--to", layout)
    for asked in (f"{name}@main", str(tmp_path / "new")):
        identity = llava_core.load(asked, device="cpu").identity
        assert identity.conversation == "llava_llama_2"


def test_a_template_that_only_the_old_chat_template_tells_is_kept(tmp_path, golden):
    run(golden / "v16_mistral", tmp_path / "hf", "--to", "hf")
    template = "{{ messages[0]['content'] }} image USER: ASSISTANT:"
    (tmp_path / "hf" / "chat_template.jinja").write_text(template)
    run(tmp_path / "hf", tmp_path / "original", "--to", "original")
    identity = llava_core.load(str(tmp_path / "original"), device="cpu").identity
    assert identity.conversation == "vicuna_v1"


# Mistakes


def test_an_existing_folder_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    error = refused(capsys, "tiny", tmp_path / "there", "--to", "hf")
    assert error.startswith("llava_core.convert: error: ")
    assert error.endswith(
        "there is there and not empty; give a new folder, nothing is overwritten\n"
    )
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("~nobody-here/new", "error: ~nobody-here/new: ~nobody-here is nobody's home folder"),
        ("new" * 100, "newnew cannot be written: .*File name too long"),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(capsys, destination, message):
    assert re.search(message, refused(capsys, "tiny", destination, "--to", "hf"))


def test_a_wrong_base_is_told_before_anything_is_written(tmp_path, capsys, golden):
    lora = golden / "llava-v15-lora"
    error = refused(capsys, "merge-lora", lora, tmp_path / "new", "--base", "tiny")
    assert re.search(
        rf"is for another base: \S+ is \({WIDTH}, {WIDTH}\) there, the update is \(48, 48\)", error
    )
    base = plain_language_model(tmp_path / "base", **{"model.norm.weight": torch.zeros(7)})
    error = refused(capsys, "make-delta", base, "tiny", tmp_path / "new")
    assert f"model.norm.weight is (7,) in the base, ({WIDTH},) here" in error
    error = refused(capsys, "tiny", tmp_path / "new", "--to", "hf", "--base", base)
    assert "is a whole checkpoint; --model-base has no effect" in error
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_missing_base_is_asked_for(tmp_path, capsys, golden):
    error = refused(capsys, golden / "llava-v15-lora", tmp_path / "new", "--to", "hf")
    assert "give --model-base; it was trained on vicuna-base" in error


def test_a_truncated_file_is_named(tmp_path, capsys):
    source = shutil.copytree(bundled_tiny(), tmp_path / "source")
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    error = refused(capsys, source, tmp_path / "new", "--to", "hf")
    assert "source/model.safetensors cannot be read: " in error
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_before_and_while_writing(tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 10**5)
    with monkeypatch.context() as patch:
        patch.setattr(destination.shutil, "disk_usage", lambda path: usage)
        error = refused(capsys, "tiny", tmp_path / "new", "--to", "original")
    assert re.search(r"new needs \S+ [kM]B, \S+ has 100 kB free: make room", error)
    # No file may grow beyond this, which fails where a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, hard))
    try:
        run_code = convert.main(["tiny", str(tmp_path / "new"), "--to", "original"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run_code == 2
    assert re.search(r"error: weights cannot be written to \S+: .*\n$", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_make_no_model_are_named(tmp_path, capsys):
    source = shutil.copytree(bundled_tiny(), tmp_path / "source")
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    tensors = {name: tensor for name, tensor in tiny().items() if name != "model.norm.weight"}
    save_file(tensors, source / "model.safetensors")
    error = refused(capsys, source, tmp_path / "new", "--to", "original")
    assert "does not fit its config.json; missing: model.norm.weight" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny", "new"], "the following arguments are required: --to"),
        (["tiny", "new", "--to", "gguf"], "invalid choice: 'gguf'"),
        (["tiny", "new", "--to", "hf", "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["merge-lora", "lora", "new"], "the following arguments are required: --base"),
        (["apply-delta", "base", "delta"], "the following arguments are required: DST"),
        (["tiny", "new", "--to", "hf", "--max-shard-size", "5 apples"], "expected a size such as"),
        (["tiny", "new", "--to", "hf", "--max-shard-size", "0.1"], "expected a size such as"),
        (["tiny", "new", "--to", "hf", "--max-shard-size", "9" * 400], "expected a size such as"),
    ],
)
def test_wrong_usage_ends_with_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        convert.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("5GB", 5 * 10**9), ("200mb", 2 * 10**8), ("1.5GiB", 3 * 2**29), ("10 KB", 10**4), ("7", 7)],
)
def test_sizes_of_shards_are_read(text, num_bytes):
    parsed = convert.parse(["tiny", "new", "--to", "hf", "--max-shard-size", text])
    assert parsed.max_shard_size == num_bytes


def test_debug_shows_where_an_error_arose(tmp_path, capsys):
    assert convert.main(["nothing-here", str(tmp_path / "new"), "--to", "hf", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "nothing-here is neither a folder, nor a Hub id" in error.splitlines()[-1]


# Ends that nobody planned


def test_an_interrupted_conversion_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("llava_core.checkpoint.save.write_tensors", interrupt)
    assert convert.main(["tiny", str(tmp_path / "new"), "--to", "hf"]) == 130
    assert capsys.readouterr().err == "llava_core.convert: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_checkpoint_and_can_be_repeated(large, tmp_path):
    folder, conversions = large
    new, partial = tmp_path / "new", tmp_path / ".new.partial"
    arguments = [*conversions["merge-lora"], str(new), "--max-shard-size", "10MB"]
    with subprocess.Popen(
        [sys.executable, "-m", "llava_core.convert", *arguments],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not list(partial.glob("*.part")):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.kill()
    assert not new.exists()
    assert not (partial / "config.json").exists()
    run(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert weights(new).keys() == weights(folder / "llava").keys()


# Help


def test_help_imports_nothing_heavy(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HELP]
    durations_s = []
    for _ in range(3):  # the best of them: another process may hold the machine for a moment
        start = time.perf_counter()
        finished = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        durations_s.append(time.perf_counter() - start)
    assert min(durations_s) < 1.0
    assert finished.stdout.splitlines()[-1] == "set()"
    assert "extract-projector" in finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_parses(command):
    parsed = convert.parse(shlex.split(command.replace("hf|original", "hf")))
    assert parsed.dst == Path("DST")


def test_there_are_commands_in_the_readme():
    assert len(COMMANDS) == 5


# Memory


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("merge-lora", ()),
        pytest.param("apply-delta", (), marks=pytest.mark.slow),
        pytest.param("convert --to hf", ("--dtype", "float32"), marks=pytest.mark.slow),
    ],
)
def test_a_shard_is_held_and_not_the_model(large, tmp_path, name, flags):
    folder, conversions = large
    result = measure([*conversions[name], *flags], tmp_path / "written", shard="10MB")
    model = sum(path.stat().st_size for path in (folder / "llava").glob("*.safetensors"))
    assert model > 2e8
    assert result.anonymous - result.started < 1e8
