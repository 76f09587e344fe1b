import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from llava_eval.errors import DataError, SampleError
from llava_eval.plan import plan_tasks
from llava_eval.prompts import build_prompt
from llava_eval.records import Sample
from llava_eval.registry import load_tasks
from llava_eval.sources.hub import read_hub
from llava_eval.sources.hub_rows import HUB_READERS
from llava_eval.sources.open import load_samples
from llava_eval.spec import HubSource, TaskSpec
from tests.llava_eval.sources.other_forms import (
    HUB_ROWS,
    gqa_pictures,
    write_card,
    write_parquet,
)

TASKS = load_tasks()


def as_hub(task: str, mini: Path, folder: Path) -> TaskSpec:
    """The task with its data set in a folder instead of on the Hub."""
    spec = TASKS[task]
    config = spec.hub.config or "data"
    configs = {config: spec.hub.split}
    rows = HUB_ROWS[task](mini)
    if spec.hub.pictures_config:
        configs[spec.hub.pictures_config] = spec.hub.split
        write_parquet(folder / spec.hub.pictures_config, gqa_pictures(mini), spec.hub.split)
    write_parquet(folder / config, rows, spec.hub.split)
    write_card(folder, configs)
    return replace(spec, hub=replace(spec.hub, dataset=str(folder)))


def content(sample: Sample) -> bytes:
    (image,) = sample.images
    return image.path.read_bytes() if image.path else image.data or image.load()


def facts(sample: Sample, spec: TaskSpec) -> tuple[Any, ...]:
    """What must be the same whatever a sample was read from, its id aside."""
    prompt = build_prompt(sample, spec)
    return (
        prompt.text,
        prompt.recorded,
        sample.options,
        sample.answers,
        # The Hub's SEED-Bench has numbers in the place of the types' names.
        None if spec.name == "seed" else sample.group,
        set(sample.tags),
        content(sample),
    )


@pytest.mark.parametrize("task", sorted(set(HUB_ROWS) - {"scienceqa"}))
def test_the_hub_gives_the_samples_of_llavas_files(task, mini, tmp_path):
    spec = as_hub(task, mini, tmp_path)
    ours, theirs = (
        {sample.sample_id: (sample.question_id, *facts(sample, spec)) for sample in samples}
        for samples in (load_samples(spec, "hub"), load_samples(spec, str(mini)))
    )
    assert ours == theirs


def test_science_problems_have_no_ids_on_the_hub(mini, tmp_path):
    spec = as_hub("scienceqa", mini, tmp_path)
    ours = [facts(sample, spec) for sample in load_samples(spec, "hub")]
    assert ours == [facts(s, spec) for s in load_samples(spec, str(mini)) if s.images]
    assert len(ours) >= 10


# Keys decide the hash of a prompt, so an answer to one source is an answer to the other.
@pytest.mark.parametrize("task", sorted(set(HUB_ROWS) - {"scienceqa", "mm_vet"}))
def test_pictures_are_called_as_in_llavas_files(task, mini, tmp_path):
    spec = as_hub(task, mini, tmp_path)
    hashes = [
        {build_prompt(sample, spec).prompt_hash for sample in load_samples(spec, data)}
        for data in ("hub", str(mini))
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("task", ["vqav2_val", "gqa", "textvqa", "pope", "mme", "mmbench"])
def test_samples_about_one_picture_share_it(task, mini, tmp_path):
    samples = load_samples(as_hub(task, mini, tmp_path), "hub")
    loads, contents = defaultdict(set), defaultdict(set)
    for sample in samples:
        loads[sample.cluster].add(sample.images[0].load)
        contents[sample.cluster].add(content(sample))
    assert {len(each) for each in loads.values()} == {1}
    assert {len(each) for each in contents.values()} == {1}
    assert len(loads) < len(samples)


def test_every_reader_belongs_to_a_task():
    assert {spec.hub.reader for spec in TASKS.values() if spec.hub} == set(HUB_READERS)


def test_what_the_set_differs_in_is_told_and_kept(mini, tmp_path, caplog):
    spec = as_hub("pope", mini, tmp_path)
    with caplog.at_level(logging.WARNING):
        (plan,) = plan_tasks([spec], data="hub")
    assert [m.split(", ")[0] for m in caplog.messages] == [
        "pope: 60 samples",
        "pope: The Hub's set is the later version of POPE",
    ]
    assert plan.record["source"] == "hub"
    assert plan.record["note"] == spec.hub.note
    assert list(plan.record["files"]) == [
        "data/test-00000-of-00002.parquet",
        "data/test-00001-of-00002.parquet",
    ]


def test_a_task_without_a_data_set_is_refused():
    with pytest.raises(DataError, match="qbench has no data set on the Hub; give --data a folder"):
        load_samples(TASKS["qbench"], "hub")


def test_missing_columns_are_named(mini, tmp_path):
    spec = as_hub("pope", mini, tmp_path)
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in HUB_ROWS["pope"](mini)]
    write_parquet(tmp_path / "data", rows, "test")
    with pytest.raises(DataError, match=r"test: no column answer; has question_id, question, im"):
        load_samples(spec, "hub")


def test_a_config_or_split_that_is_not_there_names_those_that_are(mini, tmp_path):
    spec = as_hub("pope", mini, tmp_path)
    other = replace(spec, hub=replace(spec.hub, split="val"))
    with pytest.raises(DataError, match=f"{tmp_path}: no split val; has test"):
        load_samples(other, "hub")
    other = replace(spec, hub=replace(spec.hub, config="Full"))
    with pytest.raises(DataError, match=r"'Full' not found. Available: \['data'\]"):
        load_samples(other, "hub")


def test_rows_that_make_no_sample_are_named(mini, tmp_path):
    spec = as_hub("pope", mini, tmp_path)
    rows = HUB_ROWS["pope"](mini)
    rows[7]["category"] = "odd"
    write_parquet(tmp_path / "data", rows, "test")
    with pytest.raises(DataError, match="row 7: category: expected adversarial or .*, got 'odd'"):
        load_samples(spec, "hub")


@pytest.mark.parametrize(
    ("reader", "row", "message"),
    [
        ("vqav2_val", {"image_id": None}, "image_id: expected an integer, got None"),
        ("vizwiz", {"question_id": "one"}, "question_id: expected a name like VizWiz_val_0000"),
        ("gqa", {"question": None}, "question: expected text, got None"),
        ("scienceqa", {"answer": 2}, "answer: 2 of 2 choices"),
        ("scienceqa", {"choices": None}, "answer: 0 of 0 choices"),
        ("scienceqa", {"choices": "['a', 'b']"}, "choices: expected a list, got "),
        ("vqav2_val", {"answers": "a, b"}, "answers: expected a list, got 'a, b'"),
        ("vqav2_val", {"answers": [{"text": "a"}]}, "answers: expected texts, got "),
        ("gqa", {"types": {"structural": None}}, "structural: expected text, got None"),
        ("textvqa", {"image_id": "x", "ocr_tokens": "A, B"}, "ocr_tokens: expected a list, got"),
        ("mmbench", {"question": None}, "index 1 has no question"),
    ],
)
def test_values_that_a_reader_has_no_use_for_are_refused(reader, row, message):
    usual = {
        "question_id": 1, "image_id": 1, "question": "Q?", "answers": ["a"], "index": 1,
        "id": "1", "imageId": "n1", "answer": 0, "choices": ["a", "b"], "hint": "",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        HUB_READERS[reader].to_sample({**usual, **row}, 0)


def test_parts_that_are_not_there_are_refused(mini, tmp_path):
    spec = as_hub("pope", mini, tmp_path)
    (tmp_path / "data/test-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="1 of 2 files of test are in the local Hub cache"):
        load_samples(spec, "hub")


def test_a_file_that_is_no_parquet_is_one_line(mini, tmp_path):
    spec = as_hub("pope", mini, tmp_path)
    (tmp_path / "data/test-00001-of-00002.parquet").write_bytes(b"version https://git-lfs")
    with pytest.raises(DataError, match="test-00001-of-00002.parquet: Parquet magic bytes") as told:
        load_samples(spec, "hub")
    assert "\n" not in str(told.value)


def test_a_file_that_goes_away_costs_its_pictures(mini, tmp_path):
    samples = load_samples(as_hub("vizwiz_val", mini, tmp_path), "hub")
    (tmp_path / "data/val-00001-of-00002.parquet").unlink()
    assert content(samples[0])
    with pytest.raises(SampleError, match="val-00001-of-00002.parquet: .*No such file"):
        content(samples[-1])


def test_a_cell_without_a_picture_is_told(mini, tmp_path):
    spec = as_hub("vizwiz_val", mini, tmp_path)
    rows = HUB_ROWS["vizwiz_val"](mini)
    rows[1]["image"] = None
    write_parquet(tmp_path / "data", rows, "val")
    samples = load_samples(spec, "hub")
    with pytest.raises(SampleError, match="val: row 1 holds no picture"):
        content(samples[1])
    assert content(samples[2])


def test_offline_and_not_in_the_cache_is_one_line_for_every_name(tmp_path, monkeypatch):
    spec = TASKS["gqa"]
    with pytest.raises(DataError) as told:
        load_samples(spec, "hub")
    why = "is not in the local Hub cache, and the Hub cannot be reached (offline, or HF_HUB_OFFLINE"
    assert f"lmms-lab-encoder/GQA {why}" in str(told.value)
    assert f"lmms-lab/GQA {why}" in str(told.value)
    assert "\n" not in str(told.value)


def test_pictures_stay_on_disk(tmp_path):
    """Forty pictures of 1 MiB; two row groups of four are kept, and Arrow's buffers are larger."""
    rows = [
        {"question_id": f"VizWiz_val_{n:08}", "question": "What?", "image": {"bytes": bytes(2**20)}}
        for n in range(40)
    ]
    table = pyarrow.Table.from_pylist(rows)
    (tmp_path / "data").mkdir()
    parquet.write_table(
        table, tmp_path / "data/val-00000-of-00001.parquet", row_group_size=4, compression="none"
    )
    write_card(tmp_path, {"data": "val"})
    del rows, table
    source = HubSource(reader="vizwiz", dataset=str(tmp_path), split="val")
    before = pyarrow.total_allocated_bytes()
    samples, _ = read_hub(source)
    assert pyarrow.total_allocated_bytes() - before < 2**20
    for sample in samples:
        assert len(content(sample)) == 2**20
        assert pyarrow.total_allocated_bytes() - before < 12 * 2**20


def test_an_id_that_stands_at_two_questions_becomes_two_samples(mini, tmp_path):
    spec = as_hub("seed", mini, tmp_path)
    rows = list(HUB_ROWS["seed"](mini))
    write_parquet(tmp_path / "data", [*rows, {**rows[0], "question": "And what else?"}], "test")
    assert len(load_samples(spec, "hub")) == len(rows) + 1
