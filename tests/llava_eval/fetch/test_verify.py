import json
import shutil
from pathlib import Path

import pytest

from llava_eval.fetch.catalogue import Catalogue, load_catalogue
from llava_eval.fetch.verify import Finding, State, check_task, how_to_get, sha256_of
from llava_eval.mini.write import write_mini


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return load_catalogue()


@pytest.fixture
def check(shipped, tmp_path):
    def check(name: str, root: Path = tmp_path) -> dict[str, Finding]:
        return {finding.path: finding for finding in check_task(shipped.tasks[name], root)}

    return check


def write_records(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def states(findings: dict[str, Finding]) -> dict[str, str]:
    return {path: finding.state.value for path, finding in findings.items()}


def test_the_reference_files_are_the_published_ones_without_pictures(reference, check):
    findings = check("pope", reference / "data" / "eval")
    assert states(findings) == {
        "pope/llava_pope_test.jsonl": "ok",
        "pope/coco/coco_pope_random.json": "ok",
        "pope/coco/coco_pope_popular.json": "ok",
        "pope/coco/coco_pope_adversarial.json": "ok",
        "pope/val2014": "missing",
    }
    assert findings["pope/llava_pope_test.jsonl"].text == "8,910 records, the published bytes"
    assert findings["pope/coco/coco_pope_random.json"].text == (
        "2,910 records, as published; the hash is not established"
    )
    assert findings["pope/val2014"].text == (
        "0 of 500 pictures; the first that is missing is COCO_val2014_000000310196.jpg"
    )


@pytest.mark.parametrize("name", ["textvqa", "mme", "mmbench", "llava_bench_wild", "mm_vet"])
def test_the_other_whole_reference_files_are_recognised(name, reference, check, shipped):
    findings = check(name, reference / "data" / "eval")
    pictures = shipped.tasks[name].pictures
    folder = findings.pop(pictures.folder, None) if pictures else None
    assert {finding.state for finding in findings.values()} == {State.OK}
    assert folder is None or folder.text.startswith(f"0 of {pictures.number:,} pictures")


def test_a_part_of_the_reference_files_is_told(reference, check):
    finding = check("gqa", reference / "data" / "eval")["gqa/llava_gqa_testdev_balanced.jsonl"]
    assert finding.state is State.DIFFERENT
    assert finding.text == "2,796 records, published are 12,578"


def test_the_later_version_of_pope_is_told(reference, check, tmp_path):
    shutil.copytree(reference / "data" / "eval" / "pope_9000", tmp_path / "pope")
    findings = check("pope")
    random = findings["pope/coco/coco_pope_random.json"]
    assert random.state is State.DIFFERENT
    assert random.text.startswith("3,000 records: the later version of POPE")
    assert "the published numbers are over 8,910" in findings["pope/llava_pope_test.jsonl"].text


def test_the_mini_data_are_not_the_published_ones(check, tmp_path):
    write_mini(tmp_path / "mini")
    findings = check("gqa", tmp_path / "mini")
    assert {finding.state for finding in findings.values()} == {State.DIFFERENT}
    assert findings["gqa/data/images"].text == (
        "16 of 16 pictures (with the published gqa/llava_gqa_testdev_balanced.jsonl it is 398)"
    )


def test_an_empty_folder_lacks_everything(check):
    findings = check("mm_vet")
    assert {finding.state for finding in findings.values()} == {State.MISSING}
    assert findings["mm-vet/mm-vet.json"].text == "not there"
    assert findings["mm-vet/images"].text == (
        "which pictures are needed is known once mm-vet/llava-mm-vet.jsonl can be read"
    )


def test_pictures_may_be_named_by_two_files(reference, check):
    finding = check("qbench", reference / "data" / "eval")["qbench/images_llvisionqa"]
    assert finding.text.startswith("0 of 2,990 pictures; ")


def test_the_right_number_with_other_bytes_is_different(reference, check, tmp_path):
    name = "mm-vet/llava-mm-vet.jsonl"
    content = (reference / "data" / "eval" / name).read_bytes()
    for changed in (content.replace(b"What", b"Whet", 1), content + b"\n"):
        (tmp_path / "mm-vet").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(changed)
        finding = check("mm_vet")[name]
        assert finding.state is State.DIFFERENT
        assert finding.text == "218 records, but not the bytes of the published file"


def test_a_broken_file_is_told(check, tmp_path):
    write_records(tmp_path / "mm-vet" / "mm-vet.json", [])
    (tmp_path / "mm-vet" / "mm-vet.json").write_text("<html>")
    finding = check("mm_vet")["mm-vet/mm-vet.json"]
    assert finding.state is State.DIFFERENT
    assert finding.text == "broken: not JSON: Expecting value at character 0"


def test_pictures_are_looked_for_by_name(check, tmp_path):
    folder = tmp_path / "llava-bench-in-the-wild"
    write_records(folder / "questions.jsonl", [{"image": f"{n:03}.jpg"} for n in range(1, 25)])
    (folder / "images").mkdir()
    for n in range(1, 25):
        (folder / "images" / f"{n:03}.jpg").write_bytes(b"picture")
    key = "llava-bench-in-the-wild/images"
    assert check("llava_bench_wild")[key].state is State.OK
    (folder / "images" / "007.jpg").rename(folder / "images" / "7.jpg")
    # What a full disk leaves.
    (folder / "images" / "009.jpg").write_bytes(b"")
    finding = check("llava_bench_wild")[key]
    assert finding.state is State.MISSING
    assert finding.text == "22 of 24 pictures; the first that is missing is 007.jpg"


def test_a_name_that_no_file_can_have_is_missing(check, tmp_path):
    folder = tmp_path / "llava-bench-in-the-wild"
    write_records(folder / "questions.jsonl", [{"image": f"{'x' * 300}.jpg"}])
    (folder / "images").mkdir()
    assert check("llava_bench_wild")["llava-bench-in-the-wild/images"].state is State.MISSING


@pytest.mark.parametrize(
    ("task", "there", "path", "advice"),
    [
        (
            "mmbench_cn",
            "mmbench/mmbench_dev_cn_20231003.tsv",
            "mmbench_cn/mmbench_dev_cn_20231003.tsv",
            "mmbench/mmbench_dev_cn_20231003.tsv is there (LLaVA's documentation says mmbench, its "
            "script reads mmbench_cn): move it to mmbench_cn/mmbench_dev_cn_20231003.tsv",
        ),
        (
            "mm_vet",
            "mmvet/mm-vet/mm-vet.json",
            "mm-vet/mm-vet.json",
            "mmvet/mm-vet/mm-vet.json is there (LLaVA's documentation says mmvet, its script reads "
            "mm-vet): move it to mm-vet/mm-vet.json",
        ),
        (
            "qbench",
            "qbench/images_llviqionqa/00653.jpg",
            "qbench/images_llvisionqa",
            "qbench/images_llviqionqa is there (LLaVA's documentation misspells "
            "images_llvisionqa): move it to qbench/images_llvisionqa",
        ),
    ],
)
def test_a_known_wrong_place_is_told(task, there, path, advice, check, tmp_path):
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).write_bytes(b"something")
    finding = check(task)[path]
    assert finding.state is State.MISSING
    assert finding.misplaced == advice


@pytest.mark.parametrize(
    ("named", "there"),
    [("artwork/images/1.jpg", "artwork/1.jpg"), ("count/1.jpg", "count/images/1.jpg")],
)
def test_a_level_too_many_or_too_few_in_mme_is_told(named, there, check, tmp_path):
    folder = "MME/MME_Benchmark_release_version"
    write_records(tmp_path / "MME" / "llava_mme.jsonl", [{"image": named}])
    (tmp_path / folder / there).parent.mkdir(parents=True)
    (tmp_path / folder / there).write_bytes(b"picture")
    assert check("mme")[folder].misplaced == (
        f"{folder}/{there} is there, but the question file says {folder}/{named}"
    )


@pytest.mark.parametrize(
    ("task", "path", "how"),
    [
        ("pope", "pope/val2014", "`llava-eval data fetch pope` gets it"),
        ("gqa", "gqa/data/images", "`llava-eval data fetch gqa` gets it"),
        ("textvqa", "textvqa/TextVQA_0.5.1_val.json", "`llava-eval data fetch textvqa` gets it"),
        ("seed", "seed_bench/llava-seed-bench.jsonl", "download LLaVA's eval.zip in a browser"),
        ("seed", "seed_bench", "download SEED-Bench-image.zip"),
    ],
)
def test_how_to_get_what_is_missing_is_told(task, path, how, check, shipped):
    entry = check(task)[path].entry
    assert how_to_get(entry, shipped.tasks[task], shipped).startswith(how)


# Source: FIPS 180-2, appendix B.
def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
