from collections import defaultdict
from pathlib import Path

import pytest

from llava_eval.errors import TaskError
from llava_eval.metrics import FAMILIES
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.resources import tasks_folder
from llava_eval.spec import PAPER_TASKS

GQA = (tasks_folder() / "gqa.yaml").read_text()


# Task -> its variants.
SHIPPED: dict[str, list[str]] = {
    "gqa": [],
    "llava_bench_wild": ["pad"],
    "mm_vet": ["pad"],
    "mmbench": ["text"],
    "mmbench_cn": ["text"],
    "mme": [],
    "pope": ["strict"],
    "qbench": ["test"],
    "qbench_cn": ["clean", "test"],
    "scienceqa": ["pad", "lenient"],
    "seed": ["letter"],
    "textvqa": ["noocr"],
    "vizwiz": [],
    "vizwiz_val": ["own", "raw2021", "raw2017", "leaveoneout"],
    "vqav2": [],
    "vqav2_val": ["raw2021", "raw2017", "leaveoneout"],
}


def write_tasks(folder: Path, **texts: str) -> Path:
    folder = folder / "tasks"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(TaskError) as caught:
        load_tasks(folder)
    return str(caught.value).splitlines()


def test_the_shipped_files_are_valid():
    variants = defaultdict(list)
    for spec in load_tasks().values():
        variants[spec.variant_of or spec.name] += [spec.protocol] if spec.variant_of else []
    assert variants == SHIPPED


# Source: docs/MODEL_ZOO.md of haotian-liu/LLaVA at c121f04.
@pytest.mark.parametrize(
    ("task", "num_samples", "headline", "values"),
    [
        ("vqav2", 107394, "accuracy", [78.5, 80.0, 79.1, 80.0, 81.8, 82.8, 82.2, 83.7]),
        ("vizwiz", 8000, "accuracy", [50.0, 53.6, 47.8, 58.9, 57.6, 60.5, 60.0, 63.8]),
        ("scienceqa", 4241, "image_accuracy", [66.8, 71.6, 68.4, 71.2, 70.1, 73.6, 72.8, 81.8]),
        ("gqa", 12578, "accuracy", [62.0, 63.3, 63.0, 63.3, 64.2, 65.4, 64.8, 67.1]),
        ("pope", 8910, "f1", [85.9, 85.9, 86.4, 86.7, 86.5, 86.2, 86.7, 87.7]),
        ("mmbench", 4377, "circular_accuracy", [64.3, 67.7, 66.1, 68.5, 67.4, 70.0, 68.7, 79.3]),
        ("mmbench_cn", 4329, "circular_accuracy", [58.3, 63.6, 58.9, 61.5, 60.6, 64.4, 61.2, 79]),
        ("mm_vet", 218, "total", [31.1, 36.1, 30.2, 38.3, 43.9, 48.4, 47.3, 57.4]),
        ("textvqa", 5000, "accuracy", [58.2, 61.3, 58.2, 60.2]),
    ],
)
def test_published_values_are_those_of_the_model_zoo(task, num_samples, headline, values):
    spec = load_tasks()[task]
    assert (spec.num_samples, spec.headline) == (num_samples, headline)
    v15 = ["llava-v1.5-7b", "llava-v1.5-13b", "llava-v1.5-7b-lora", "llava-v1.5-13b-lora"]
    v16 = ["vicuna-7b", "vicuna-13b", "mistral-7b", "34b"]
    names = [*v15, *(f"llava-v1.6-{name}" for name in v16)]
    assert spec.published == {headline: dict(zip(names, values, strict=False))}


def test_published_values_of_llava_bench_go_back_to_the_first_checkpoints():
    spec = load_tasks()["llava_bench_wild"]
    assert (spec.num_samples, spec.headline, spec.pad) == (60, "relative", False)
    values = [65.4, 72.5, 67.9, 69.5, 81.6, 87.3, 83.2, 89.6, 70.1, 67.9, 62.8]
    assert list(spec.published["relative"].values()) == values
    assert load_tasks()["llava_bench_wild-pad"].pad


def test_published_values_of_llava_1_6_on_mme_and_seed():
    names = [f"llava-v1.6-{name}" for name in ("vicuna-7b", "vicuna-13b", "mistral-7b", "34b")]
    mme, seed = load_tasks()["mme"], load_tasks()["seed"]
    assert (mme.num_samples, mme.headline) == (2374, "perception")
    assert [mme.published["perception"][name] for name in names] == [1519, 1575, 1498, 1631]
    assert [mme.published["cognition"][name] for name in names] == [332, 326, 321, 397]
    assert (seed.num_samples, seed.headline) == (19242, "accuracy")
    assert [seed.published["image"][name] for name in names] == [70.2, 71.9, 72.2, 75.9]
    assert not seed.published["accuracy"].keys() & set(names)


def test_published_values_of_llava_1_5_on_mme_and_seed():
    names = [f"llava-v1.5-{name}" for name in ("7b", "13b", "7b-lora", "13b-lora")]
    mme, seed = load_tasks()["mme"].published, load_tasks()["seed"].published
    assert [mme["perception"][name] for name in names] == [1510.7, 1531.3, 1476.9, 1541.7]
    assert [seed["accuracy"][name] for name in names] == [58.6, 61.6, 60.1, 61.3]
    # The paper's whole is that of its parts: 14,233 questions about images, 5,009 about videos.
    for name in names[:2]:
        whole = (14233 * seed["image"][name] + 5009 * seed["video"][name]) / 19242
        assert seed["accuracy"][name] == pytest.approx(whole, abs=0.05)


def test_published_values_of_llava_1_6_on_textvqa_are_without_ocr():
    accuracy = load_tasks()["textvqa-noocr"].published["accuracy"]
    names = ["vicuna-7b", "vicuna-13b", "mistral-7b", "34b"]
    values = zip(names, [64.9, 67.1, 65.7, 69.5], strict=True)
    assert accuracy == {f"llava-v1.6-{name}": value for name, value in values}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "reader: gqa",
            "reader: gqqa",
            "sources.llava_layout.reader: unknown name 'gqqa'; did you mean gqa?",
        ),
        (
            "hub:\n    reader: gqa",
            "hub:\n    reader: gqqa",
            "sources.hub.reader: unknown name 'gqqa'; did you mean gqa?",
        ),
        (
            "tsv:\n    reader: gqa",
            "tsv:\n    reader: gqqa",
            "sources.tsv.reader: unknown name 'gqqa'; did you mean gqa?",
        ),
        ("verbatim", "verbatin", "prompt.style: unknown name 'verbatin'; did you mean verbatim?"),
        (
            "metric: gqa",
            "metric: xyz",
            f"metric: unknown name 'xyz'; known are {', '.join(FAMILIES)}",
        ),
        (
            "headline: accuracy",
            "headline: acuracy",
            "headline: gqa has no 'acuracy'; did you mean accuracy?",
        ),
        ("name: gqa", "name: gqa2", "name: 'gqa2' in a file called gqa.yaml"),
    ],
)
def test_an_unknown_name_is_refused(old, new, fault, tmp_path):
    folder = write_tasks(tmp_path, gqa=GQA.replace(old, new, 1))
    assert faults_of(folder) == [f"tasks/gqa.yaml: {fault}"]


def test_all_faults_of_all_files_are_told_together(tmp_path):
    broken = GQA.replace("metric: gqa", "metric: gqqa").replace("  style:", "  styl:")
    folder = write_tasks(tmp_path, gqa=broken, pope="- 1", textvqa="a: [")
    assert faults_of(folder) == [
        "tasks/gqa.yaml: prompt.style: missing",
        "tasks/gqa.yaml: prompt.styl: unknown key; did you mean style?",
        "tasks/gqa.yaml: metric: unknown name 'gqqa'; did you mean gqa?",
        "tasks/pope.yaml: expected a mapping of keys, got list",
        next(
            fault for fault in faults_of(folder) if fault.startswith("tasks/textvqa.yaml: not YA")
        ),
    ]


def test_names_of_other_types_are_left_to_the_schema(tmp_path):
    folder = write_tasks(tmp_path, gqa=GQA.replace("metric: gqa", "metric: [gqa]"))
    (fault,) = faults_of(folder)
    assert fault.startswith("tasks/gqa.yaml: metric: Input should be a valid string")


def test_a_file_that_is_no_text_is_a_fault(tmp_path):
    folder = write_tasks(tmp_path)
    (folder / "gqa.yaml").write_bytes(b"name: \xff")
    (fault,) = faults_of(folder)
    assert fault.startswith("tasks/gqa.yaml: 'utf-8' codec can't decode byte 0xff")


def test_a_folder_without_task_files_is_refused(tmp_path):
    assert faults_of(tmp_path) == [f"no task files (*.yaml) in {tmp_path}"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("pope,gqa", ["pope", "gqa"]),
        (" gqa , gqa,pope,gqa", ["gqa", "pope"]),
        ("all", [name for name in PAPER_TASKS if name in SHIPPED]),
        ("all, gqa,qbench", [*PAPER_TASKS, "qbench"]),
    ],
)
def test_tasks_come_once_and_in_the_order_named(names, expected):
    assert [spec.name for spec in select_tasks(names, load_tasks())] == expected


def test_unknown_tasks_are_all_named():
    with pytest.raises(TaskError) as caught:
        select_tasks("textqva,gqa,sqa123x", load_tasks())
    assert str(caught.value).splitlines() == [
        "unknown task 'textqva'; did you mean textvqa or textvqa-noocr?",
        f"unknown task 'sqa123x'; known are {', '.join(load_tasks())}",
    ]


@pytest.mark.parametrize("names", ["", " , "])
def test_no_task_is_refused(names):
    with pytest.raises(TaskError, match=f"no task named; known are {', '.join(load_tasks())}"):
        select_tasks(names, load_tasks())


VARIANT = """
variants:
  short:
    title: GQA, short
    notes: At most 16 tokens.
    generation: {max_new_tokens: 16}
"""


def test_a_variant_is_the_task_but_for_what_it_says(tmp_path):
    tasks = load_tasks(write_tasks(tmp_path, gqa=GQA + VARIANT))
    own, variant = tasks["gqa"], tasks["gqa-short"]
    assert list(tasks) == ["gqa", "gqa-short"]
    assert (own.variant_of, variant.variant_of) == (None, "gqa")
    assert (own.protocol, variant.protocol) == ("published", "short")
    assert (variant.max_new_tokens, variant.layout) == (16, own.layout)
    assert variant.published == {}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("max_new", "maxnew", "variants.short.generation.maxnew_tokens: unknown key; did you mean"),
        ("    notes: At most 16 tokens.\n", "", "variants.short: must say its title and, in notes"),
        (
            "    notes:",
            "    protocol: published\n    notes:",
            "variants.short: drop protocol, which",
        ),
        (
            "    notes:",
            "    name: pope\n    notes:",
            "variants.short: drop name, which its own name",
        ),
        ("  short:", "  Sh-ort:", "variants: 'Sh-ort' must be lower-case letters and digits"),
    ],
)
def test_faults_of_a_variant_name_it(old, new, fault, tmp_path):
    (told,) = faults_of(write_tasks(tmp_path, gqa=GQA + VARIANT.replace(old, new, 1)))
    assert told.startswith(f"tasks/gqa.yaml: {fault}")


def test_a_fault_of_the_task_is_told_once(tmp_path):
    folder = write_tasks(tmp_path, gqa=GQA.replace("metric: gqa", "metric: gqqa") + VARIANT)
    (fault,) = faults_of(folder)
    assert fault == "tasks/gqa.yaml: metric: unknown name 'gqqa'; did you mean gqa?"
