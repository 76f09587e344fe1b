from pathlib import Path

import pytest

from llava_eval.errors import DataError, FlagsError
from llava_eval.metrics import FAMILIES
from llava_eval.mini.write import write_mini
from llava_eval.plan import first_samples, plan_tasks
from llava_eval.records import Sample
from llava_eval.registry import load_tasks

SAMPLES = [
    Sample(sample_id=name, question_id=name, images=(), question="?", cluster=name[0])
    for name in ("a0", "b0", "c0", "a1", "b1", "c1")
]


def ids(samples: list[Sample]) -> list[str]:
    return [sample.sample_id for sample in samples]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "mini"
    write_mini(root)
    return root


def test_the_first_samples_are_taken() -> None:
    assert ids(first_samples(SAMPLES, 2, whole_clusters=False)) == ["a0", "b0"]


def test_whole_clusters_come_in_the_tasks_order() -> None:
    assert ids(first_samples(SAMPLES, 2, whole_clusters=True)) == ["a0", "b0", "a1", "b1"]


def test_a_plan_has_a_prompt_for_every_sample_and_the_hash_of_every_file(data: Path) -> None:
    spec = load_tasks()["pope"]
    (plan,) = plan_tasks([spec], data=str(data))
    assert [prompt.sample for prompt in plan.prompts] == list(plan.samples)
    assert list(plan.order) == ids(list(plan.samples))
    assert set(plan.record["files"]) == {spec.layout.questions, *spec.layout.annotations}


OPTION_TASKS = ("mmbench", "pope", "mme", "scienceqa", "seed", "qbench", "pope-strict")


@pytest.mark.parametrize("name", OPTION_TASKS)
def test_by_likelihood_every_prompt_has_choices_that_its_metric_can_read(
    name: str, data: Path
) -> None:
    spec = load_tasks()[name]
    (plan,) = plan_tasks([spec], data=str(data), likelihood=True)
    (written,) = plan_tasks([spec], data=str(data))
    assert plan.spec.protocol == {"pope-strict": "strict-likelihood"}.get(name, "likelihood")
    assert plan.record["protocol"] == plan.spec.protocol
    score = FAMILIES[spec.metric].score
    assert score is not None
    for prompt, other in zip(plan.prompts, written.prompts, strict=True):
        assert prompt.choices
        assert prompt.text == other.text
        assert prompt.prompt_hash != other.prompt_hash
        answers = prompt.sample.answers
        read = [score(prompt.sample, text).extracted for text in prompt.choices]
        assert len(set(read)) == len(read)
        assert answers is not None
        assert set(answers) <= set(read)


def test_by_likelihood_qbench_has_the_texts_that_its_prompt_asks_for(data: Path) -> None:
    (plan,) = plan_tasks([load_tasks()["qbench"]], data=str(data), likelihood=True)
    assert all(prompt.choices == prompt.sample.options for prompt in plan.prompts)


def test_by_likelihood_tasks_without_options_are_refused_together() -> None:
    tasks = load_tasks()
    named = [tasks[name] for name in ("gqa", "pope", "mm_vet")]
    with pytest.raises(FlagsError, match="^--scoring likelihood: no options .* in gqa, mm_vet;"):
        plan_tasks(named, data="nowhere", likelihood=True)


def test_a_limit_leaves_the_order_of_the_whole_task(data: Path) -> None:
    (plan,) = plan_tasks([load_tasks()["pope"]], data=str(data), limit=3)
    assert list(plan.order[:3]) == [prompt.sample.sample_id for prompt in plan.prompts]
    assert len(plan.order) > 3


def test_a_limit_does_not_part_the_two_questions_about_a_picture_of_mme(data: Path) -> None:
    (plan,) = plan_tasks([load_tasks()["mme"]], data=str(data), limit=3)
    assert [prompt.sample.cluster for prompt in plan.prompts] == [
        f"existence/000{n}.jpg" for n in (1, 1, 2, 2)
    ]


def test_pictures_that_are_not_there_are_told_before_a_model_loads(tmp_path: Path) -> None:
    write_mini(tmp_path / "data")
    pictures = tmp_path / "data/gqa/data/images"
    pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"gqa: no pictures: {pictures} is not a folder"):
        plan_tasks([load_tasks()["gqa"]], data=str(tmp_path / "data"))


def test_the_faults_of_all_tasks_are_told_together(tmp_path: Path) -> None:
    specs = list(load_tasks().values())
    with pytest.raises(DataError) as caught:
        plan_tasks(specs, data=str(tmp_path))
    assert all(f"{spec.name}: " in str(caught.value) for spec in specs)
