from pathlib import Path, PurePosixPath

import pytest

from llava_eval.errors import DataError, TaskError
from llava_eval.fetch.catalogue import Catalogue, is_safe, load_catalogue
from llava_eval.fetch.verify import sha256_of
from llava_eval.registry import load_tasks
from llava_eval.spec import PAPER_TASKS

TASKS = [
    "vqav2",
    "vqav2_val",
    "gqa",
    "vizwiz",
    "vizwiz_val",
    "scienceqa",
    "textvqa",
    "pope",
    "mme",
    "mmbench",
    "mmbench_cn",
    "seed",
    "llava_bench_wild",
    "mm_vet",
    "qbench",
    "qbench_cn",
    "qa90",
]

SMALL = """
archives:
  pictures:
    addresses: [http://127.0.0.1/pictures.zip]
    into: toy/images
tasks:
  toy:
    licence: none
    files:
      - path: toy/questions.jsonl
        records: 2
        addresses: [http://127.0.0.1/questions.jsonl]
    pictures:
      folder: toy/images
      named_by: [toy/questions.jsonl]
      archive: pictures
"""


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return load_catalogue()


def faults_of(folder: Path, text: str) -> list[str]:
    path = folder / "catalogue.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_catalogue(path)
    return [line.removeprefix("catalogue.yaml: ") for line in str(caught.value).splitlines()]


def test_every_task_has_an_entry(shipped):
    assert list(shipped.tasks) == TASKS
    assert {name for name, spec in load_tasks().items() if not spec.variant_of} <= set(TASKS)


@pytest.mark.parametrize("name", load_tasks())
def test_what_a_task_file_reads_is_in_the_catalogue(name, shipped):
    spec = load_tasks()[name]
    data = shipped.tasks[spec.variant_of or name]
    images = data.pictures.folder if data.pictures else None
    known = {file.path for file in data.files} | {images}
    # MME's answers are whole folders.
    known |= {str(PurePosixPath(file.path).parent) for file in data.files}
    assert {spec.layout.questions, *spec.layout.annotations} <= known
    assert spec.layout.images == images


# Source: haotian-liu/LLaVA at c121f04, docs/Evaluation.md and scripts/v1_5/eval.
@pytest.mark.parametrize(
    ("name", "records", "pictures"),
    [
        ("vqav2", [107394, 447793], None),
        ("gqa", [12578, 12578], 398),
        ("vizwiz", [8000], 8000),
        ("scienceqa", [4241, None, 12726 + 4241 + 4241], 2017),
        ("textvqa", [5000, 5000], 3166),
        ("pope", [8910, 2910, 3000, 3000], 500),
        ("mmbench", [4377], None),
        ("seed", [19242, 19242], None),
        ("llava_bench_wild", [60, 24, 60], 24),
        ("mm_vet", [218, 218], 200),
        ("qbench", [1495, 1495], 2990),
        ("qa90", [90, 90, 80, 9], None),
    ],
)
def test_numbers_are_the_published_ones(name, records, pictures, shipped):
    task = shipped.tasks[name]
    assert [file.records for file in task.files] == records
    assert (task.pictures.number if task.pictures else None) == pictures


def test_the_categories_of_mme_have_an_answer_for_every_question(shipped):
    questions, *answers = shipped.tasks["mme"].files
    assert len(answers) == 14
    assert sum(file.records for file in answers) == questions.records == 2374


def test_established_hashes_are_those_of_the_reference_files(shipped, reference):
    known = [file for task in shipped.tasks.values() for file in task.files if file.sha256]
    # Of two of these the reference data hold a part only.
    whole = [file for file in known if file.path.split("/")[0] not in ("gqa", "vizwiz")]
    assert (len(known), len(whole)) == (12, 10)
    for file in whole:
        path = reference / "data" / "eval" / file.path
        assert (path.stat().st_size, sha256_of(path)) == (file.size, file.sha256)


def test_every_address_names_a_host(shipped):
    addresses = [
        address
        for task in shipped.tasks.values()
        for entry in task.files
        for address in entry.addresses
    ] + [address for archive in shipped.archives.values() for address in archive.addresses]
    assert len(addresses) > 30
    assert all(address.startswith(("https://", "http://")) for address in addresses)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pope", "gqa"], ["pope", "gqa"]),
        (["pope,gqa", "pope"], ["pope", "gqa"]),
        ([], PAPER_TASKS),
        (["all"], PAPER_TASKS),
        (["pope, gqa "], ["pope", "gqa"]),
        (["qbench", "all", "qa90"], ["qbench", *PAPER_TASKS, "qa90"]),
    ],
)
def test_tasks_come_once_and_in_the_order_named(names, expected, shipped):
    assert [task.name for task in shipped.select(names)] == list(expected)


@pytest.mark.parametrize("names", [[""], [",", ""]])
def test_an_empty_name_does_not_mean_all(names, shipped):
    with pytest.raises(TaskError, match="no task named; known are vqav2, "):
        shipped.select(names)


def test_unknown_tasks_are_all_named(shipped):
    with pytest.raises(TaskError) as caught:
        shipped.select(["popee", "mmvet", "gqa", "all", "xyz"])
    first, second, third = str(caught.value).splitlines()
    assert first == "unknown task 'popee'; did you mean pope?"
    assert second == "unknown task 'mmvet'; did you mean mm_vet or mme?"
    assert third.startswith("unknown task 'xyz'; known are vqav2, vqav2_val, gqa")


def test_a_small_catalogue_is_read(tmp_path):
    path = tmp_path / "catalogue.yaml"
    path.write_text(SMALL)
    toy = load_catalogue(path).tasks["toy"]
    assert (toy.files[0].form, toy.files[0].records) == ("json_lines", 2)
    assert toy.pictures.key == "image"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("licence:", "license:", "tasks.toy.licence: missing"),
        ("    licence: none", "    licence: none\n    nub: a/b", "tasks.toy.nub: unknown key"),
        (
            "records: 2",
            "records: none",
            "tasks.toy.files.0.records: Input should be a valid integer, unable to parse string "
            "as an integer (got 'none')",
        ),
        (
            "records: 2",
            "sha256: 12ab",
            "tasks.toy.files.0.sha256: String should match pattern '^[0-9a-f]{64}$' (got '12ab')",
        ),
        (
            "questions.jsonl\n        records",
            "questions\n        records",
            "tasks.toy: toy/questions: give its form, the name does not tell it",
        ),
        (
            "        addresses: [http://127.0.0.1/questions.jsonl]\n",
            "",
            "tasks.toy: toy/questions.jsonl: no addresses, no archive and no by_hand says where "
            "it comes from",
        ),
        (
            "path: toy/q",
            "path: ../q",
            "tasks.toy: ../questions.jsonl: '../questions.jsonl' leads out of the root folder",
        ),
        (
            "into: toy/images",
            "into: /etc",
            "archives.pictures: '/etc' leads out of the root folder",
        ),
        (
            "named_by: [toy/questions.jsonl]",
            "named_by: [toy/answers.jsonl]",
            "tasks.toy.pictures.named_by: toy/answers.jsonl is no file of the task",
        ),
        (
            "      archive: pictures\n",
            "",
            "tasks.toy.pictures: no archive, no each and no by_hand says where they come from",
        ),
        (
            "      archive: pictures\n",
            "      each: http://127.0.0.1/pictures\n",
            r"tasks.toy.pictures.each: String should match pattern '\{name\}' "
            "(got 'http://127.0.0.1/pictures')",
        ),
        ("archive: pictures", "archive: picture", "archives: no picture; did you mean pictures?"),
    ],
)
def test_a_fault_is_told(old, new, fault, tmp_path):
    assert old in SMALL
    assert fault in faults_of(tmp_path, SMALL.replace(old, new))


def test_all_faults_are_told_together(tmp_path):
    broken = SMALL.replace("into: toy/images", "into: ..").replace("archive: pictures", "each: x")
    assert len(faults_of(tmp_path, broken.replace("each: x", "each: x{name}"))) == 2


def test_an_archive_that_nobody_needs_is_a_fault(tmp_path):
    text = SMALL.replace("      archive: pictures\n", "      by_hand: ask\n")
    assert faults_of(tmp_path, text) == ["archives.pictures: no task needs it"]


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_a_file_that_is_no_yaml_is_told(text, tmp_path):
    (fault,) = faults_of(tmp_path, text)
    assert "cannot be read" in fault


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("a/b.jpg", True),
        ("a..b/c", True),
        ("", False),
        (".", False),
        ("/a", False),
        ("../a", False),
        ("a/../../b", False),
        ("a\\..\\b", False),
    ],
)
def test_safe_is_what_stays_below(path, safe):
    assert is_safe(path) is safe
