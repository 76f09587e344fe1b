import fcntl
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_eval.errors import DataError
from llava_eval.fetch.catalogue import Catalogue, load_catalogue
from llava_eval.fetch.download import MAX_TRIES
from llava_eval.fetch.plan import carry_out, make_plan, size_of
from llava_eval.fetch.verify import State, check_task

QUESTIONS = "".join(json.dumps({"image": f"{n}.jpg"}) + "\n" for n in (1, 2, 3)).encode()

TEXT = """
archives:
  pictures:
    addresses: [{address}/test.zip]
    into: toy/images
    strip: [images]
tasks:
  toy:
    licence: none
    files:
      - path: toy/questions.jsonl
        records: 3
        size: {size}
        sha256: {sha256}
        addresses: [{address}/questions.jsonl]
      - path: toy/secret.json
        by_hand: ask its author
    pictures: &pictures
      folder: toy/images
      named_by: [toy/questions.jsonl]
      number: 3
      archive: pictures
      misplaced: {{toi/images: people misspell it}}
  other:
    licence: none
    files:
      - path: toy/questions.jsonl
        addresses: [{address}/questions.jsonl]
    pictures: *pictures
  single:
    licence: none
    files:
      - path: single/questions.jsonl
        addresses: [{address}/questions.jsonl]
    pictures:
      folder: single/images
      named_by: [single/questions.jsonl]
      each: "{address}/each/{{name}}"
"""


@dataclass
class Toy:
    """A catalogue whose addresses are served on this machine."""

    catalogue: Catalogue
    root: Path

    def plan(self, *names: str):
        return make_plan(self.catalogue.select(names), self.catalogue, self.root)

    def states(self, name: str) -> list[State]:
        return [finding.state for finding in check_task(self.catalogue.tasks[name], self.root)]


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in files.items():
            file.writestr(f"images/{name}.jpg", text)
    return content.getvalue()


PICTURES = {"1": b"one", "2": b"two", "3": b"three"}


@pytest.fixture
def toy(site, tmp_path) -> Toy:
    site.add("/questions.jsonl", QUESTIONS)
    site.add("/test.zip", zipped(**PICTURES))
    for name, content in PICTURES.items():
        site.add(f"/each/{name}.jpg", content)
    sha256 = hashlib.sha256(QUESTIONS).hexdigest()
    text = TEXT.format(address=site.address, size=len(QUESTIONS), sha256=sha256)
    (tmp_path / "catalogue.yaml").write_text(text)
    return Toy(catalogue=load_catalogue(tmp_path / "catalogue.yaml"), root=tmp_path / "root")


def test_what_is_missing_is_planned_and_the_rest_left_to_the_user(toy):
    plan = toy.plan("toy")
    assert [step.target for step in plan.steps] == ["toy/questions.jsonl", "toy/images"]
    assert plan.left == ("toy/secret.json: not there; ask its author",)


def test_what_two_tasks_share_is_planned_once(toy):
    assert len(toy.plan("toy", "other").steps) == 2


def test_everything_arrives(toy, downloader):
    assert carry_out(toy.plan("toy"), toy.root, downloader) == []
    assert toy.states("toy") == [State.OK, State.MISSING, State.OK]
    assert (toy.root / "toy" / "images" / "3.jpg").read_bytes() == b"three"
    assert [path.name for path in toy.root.iterdir()] == ["toy"]


def test_pictures_arrive_one_by_one(toy, downloader, listener, site):
    (toy.root / "single" / "images").mkdir(parents=True)
    (toy.root / "single" / "images" / "2.jpg").write_bytes(b"mine")
    assert carry_out(toy.plan("single"), toy.root, downloader) == []
    assert toy.states("single") == [State.OK, State.OK]
    assert listener.lines == ["single/images: 2 pictures to come"]
    assert [name for name, _, _ in listener.starts] == ["questions.jsonl"]
    assert [path for _, path, _ in site.requests] == [
        "/questions.jsonl",
        "/each/1.jpg",
        "/each/3.jpg",
    ]


@pytest.mark.parametrize("statuses", [[404], [503] * MAX_TRIES])
def test_a_picture_that_does_not_arrive_keeps_no_other_back(toy, downloader, site, statuses):
    site.pages["/each/1.jpg"].statuses = list(statuses)
    (failure,) = carry_out(toy.plan("single"), toy.root, downloader)
    assert failure.startswith(
        "single/images: 1 of 3 pictures did not arrive, the first: "
        f"{site.address}/each/1.jpg: {statuses[0]} "
    )
    assert failure.endswith("; by hand: put the pictures into single/images")
    folder = toy.root / "single" / "images"
    assert sorted(path.name for path in folder.iterdir()) == ["2.jpg", "3.jpg"]


def many(toy: Toy, site, count: int) -> None:
    names = "".join(json.dumps({"image": f"{n}.jpg"}) + "\n" for n in range(count))
    site.add("/questions.jsonl", names.encode())
    for number in range(count):
        site.add(f"/each/{number}.jpg", b"picture")


def test_pictures_that_are_gone_keep_no_other_back(toy, downloader, site):
    many(toy, site, 9)
    for number in range(8):
        del site.pages[f"/each/{number}.jpg"]
    (failure,) = carry_out(toy.plan("single"), toy.root, downloader)
    assert "8 of 9 pictures did not arrive, the first: " in failure
    assert (toy.root / "single" / "images" / "8.jpg").exists()


def test_a_host_in_trouble_is_left_alone_soon(toy, downloader, site):
    many(toy, site, 9)
    for number in range(2, 9):
        site.pages[f"/each/{number}.jpg"].statuses = [503] * MAX_TRIES
    (failure,) = carry_out(toy.plan("single"), toy.root, downloader)
    assert f"7 of 9 pictures did not arrive, the first: {site.address}/each/2.jpg: 503 " in failure
    assert "given up after 3 in a row; by hand: " in failure
    assert not any(path == "/each/5.jpg" for _, path, _ in site.requests)


def test_what_is_there_is_not_fetched_again(toy, downloader, site):
    carry_out(toy.plan("toy"), toy.root, downloader)
    site.requests.clear()
    plan = toy.plan("toy")
    assert plan.steps == ()
    assert carry_out(plan, toy.root, downloader) == []
    assert site.requests == []


def test_a_different_file_is_kept(toy, downloader):
    (toy.root / "toy").mkdir(parents=True)
    (toy.root / "toy" / "questions.jsonl").write_bytes(QUESTIONS + QUESTIONS)
    plan = toy.plan("toy")
    assert plan.left[0] == (
        "toy/questions.jsonl: 6 records, published are 3; it stays, remove it to fetch another"
    )
    carry_out(plan, toy.root, downloader)
    assert (toy.root / "toy" / "questions.jsonl").read_bytes() == QUESTIONS + QUESTIONS


def test_what_lies_in_a_wrong_place_is_not_fetched(toy):
    (toy.root / "toi" / "images").mkdir(parents=True)
    plan = toy.plan("toy")
    assert [step.target for step in plan.steps] == ["toy/questions.jsonl"]
    assert plan.left[1] == "toi/images is there (people misspell it): move it to toy/images"


def test_a_failure_keeps_nothing_else_back(toy, downloader, site):
    del site.pages["/questions.jsonl"]
    failures = carry_out(toy.plan("toy"), toy.root, downloader)
    assert failures == [
        f"toy/questions.jsonl: {site.address}/questions.jsonl: 404 Not Found; by hand: open the "
        "address in a browser and save it as toy/questions.jsonl"
    ]
    assert (toy.root / "toy" / "images" / "1.jpg").exists()


def test_an_archive_that_is_refused_tells_what_to_do(toy, downloader, site):
    site.pages["/test.zip"].statuses = [403]
    (failure,) = carry_out(toy.plan("toy"), toy.root, downloader)
    assert failure.endswith(
        "/test.zip: 403 Forbidden; by hand: open the address in a browser and unpack it into "
        "toy/images"
    )


def test_a_damaged_archive_is_put_aside_and_fetched_anew(toy, downloader, site):
    whole = site.pages["/test.zip"].content
    site.pages["/test.zip"].content = whole[:-30]
    (failure,) = carry_out(toy.plan("toy"), toy.root, downloader)
    assert "a damaged archive" in failure
    assert "kept as pictures.zip.rejected" in failure
    site.pages["/test.zip"].content = whole
    assert carry_out(toy.plan("toy"), toy.root, downloader) == []
    assert toy.states("toy")[-1] is State.OK


def test_an_archive_that_was_downloaded_before_a_crash_is_used(toy, downloader, site):
    (toy.root / ".downloads").mkdir(parents=True)
    (toy.root / ".downloads" / "pictures.zip").write_bytes(site.pages["/test.zip"].content)
    assert carry_out(toy.plan("toy"), toy.root, downloader) == []
    assert ["GET", "/test.zip", None] not in [list(request) for request in site.requests]
    assert toy.states("toy")[-1] is State.OK


def test_half_an_archive_is_completed(toy, downloader, site):
    site.pages["/test.zip"].cuts = [20]
    carry_out(toy.plan("toy"), toy.root, downloader)
    assert site.ranges == [None, None, "bytes=20-"]
    assert toy.states("toy")[-1] is State.OK


def test_a_second_process_is_kept_out(toy, downloader):
    (toy.root / ".downloads").mkdir(parents=True)
    with (toy.root / ".downloads" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process downloads here"):
            carry_out(toy.plan("toy"), toy.root, downloader)


def test_a_root_that_cannot_be_made_is_told(toy, downloader, tmp_path):
    (tmp_path / "root").touch()
    with pytest.raises(DataError, match="choose another --root"):
        carry_out(toy.plan("toy"), toy.root, downloader)


def test_sizes_are_the_established_ones_or_what_servers_say(toy, downloader, site):
    sizes = [size_of(step, downloader.client) for step in toy.plan("toy", "single").steps]
    archive = len(site.pages["/test.zip"].content)
    assert sizes == [len(QUESTIONS), archive, len(QUESTIONS), None]
