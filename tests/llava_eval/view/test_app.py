"""What the server gives over real HTTP, and what it does not."""

import json
from http.client import HTTPConnection
from io import BytesIO
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.llava_eval.view.conftest import SECRET


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def get(served, path: str, *, host: str | None = None) -> Reply:
    """Asks for a path as it is written; clients for people put it right first."""
    connection = HTTPConnection(served.address.removeprefix("http://"), timeout=30)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    reply = connection.getresponse()
    told = Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    connection.close()
    return told


def rows(served, run="first", task="gqa", **query) -> dict:
    reply = get(served, f"/samples/{run}/{task}/rows?{urlencode(query)}")
    assert reply.status == 200, reply.text
    return json.loads(reply.body)


def test_the_first_page_names_runs_comparison_and_other_pages(served):
    text = get(served, "/").text
    for link in ("leaderboard.html", "compare.html", "samples/first/gqa.html"):
        assert f'href="{link}"' in text
    assert '<option value="second" selected>' in text


@pytest.mark.parametrize("name", ["leaderboard.html", "leaderboard.csv", "compare.html"])
def test_files_of_the_report_are_given_as_they_are(served, name):
    assert get(served, f"/{name}").body == (served.report / name).read_bytes()


def test_a_page_of_samples_holds_none_and_may_ask_its_server_only(served):
    text = get(served, "/samples/first/gqa.html").text
    assert "connect-src 'self'" in text
    assert 'data-rows-at="gqa/rows"' in text
    assert "Answer the question" not in text
    assert 'data-total="64"' in text


def test_rows_come_a_chunk_at_a_time(served):
    first, rest = rows(served), rows(served, start=50)
    assert (first["number"], len(first["rows"]), len(rest["rows"])) == (64, 50, 14)
    assert not {row["id"] for row in first["rows"]} & {row["id"] for row in rest["rows"]}
    assert rows(served, start=10**9)["rows"] == []


def test_rows_are_chosen_by_verdict_and_by_every_word(served):
    wrong = rows(served, "second", choice="wrong")
    right = rows(served, "second", choice="right")
    assert wrong["number"] + right["number"] == 64
    assert {row["verdict"] for row in right["rows"]} == {"right"}
    found = rows(served, words="CIRCLE red?")
    assert 0 < found["number"] < 64
    assert all("circle" in r["prompt"] and "red?" in r["prompt"] for r in found["rows"])


def test_half_a_surrogate_pair_is_told(served):
    assert rows(served)["rows"][0]["text"] == "yes\ud83d"
    assert get(served, "/compare?first=first&second=second").status == 200


def test_a_picture_is_made_small_or_given_as_it_is(served):
    row = rows(served)["rows"][0]
    (address,) = row["pictures"]
    small = get(served, f"/samples/first/{address}&small=1")
    whole = get(served, f"/samples/first/{address}")
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(BytesIO(small.body)) as picture:
        assert max(picture.size) <= 320
    assert whole.body == (served.mini / "gqa/data/images" / row["image"]).read_bytes()


def test_a_comparison_shows_changed_samples_with_pictures(served):
    text = get(served, "/compare?first=first&second=second").text
    assert "<h1>first and second</h1>" in text
    assert "samples/second/gqa/picture?sample=" in text


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/samples/first/gqa/picture?sample=none", "sample 'none' has no picture 0"),
        ("/samples/first/gqa/picture?sample=2001000&place=-1", "has no picture -1"),
        ("/samples/first/vqav2.html", "first has no scores of vqav2"),
        ("/compare?first=first&second=other", "no run 'other'; there are first, second"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(served, path, told):
    reply = get(served, path)
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (404, "text/plain")
    assert told in reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/%252e%252e%252fsecret.txt",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "/samples/../../secret.txt",
        "/samples/first/../../../secret.txt",
        "/samples/first/..%2f..%2f..%2fsecret.html",
        "/samples/%2e%2e/%2e%2e/secret.txt",
        "/./../report/../secret.txt",
        "//{root}/secret.txt",
        "/{root}/secret.txt",
        "/%2f{root}/secret.txt",
        "/file:///{root}/secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/up/first/manifest.json",
        "/secret.txt%00.html",
        "/leaderboard.html%00",
        "/samples/first/gqa/picture?sample=../../../secret.txt",
        "/samples/first/..%2f..%2fsecond/rows",
        "http://127.0.0.1/../secret.txt",
        "/" + "a" * 5000,
    ],
)
def test_nothing_outside_the_folder_is_given(served, path):
    root = str(served.report.parent).lstrip("/")
    reply = get(served, path.format(root=root))
    assert reply.status in (400, 404)
    assert SECRET not in reply.text
    assert "model_id" not in reply.text


STEPS = ["..", "%2e%2e", "..%2f", "%5c..", ".", "", "up", "first", "samples", "gqa", "secret.txt"]


@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7))
@settings(max_examples=100)
def test_no_way_leads_out_of_the_folder(served, steps):
    reply = get(served, "/" + "/".join([*steps, "secret.txt"]))
    assert reply.status == 404
    assert SECRET not in reply.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(served, method):
    connection = HTTPConnection(served.address.removeprefix("http://"), timeout=30)
    connection.request(method, "/leaderboard.html", body=b"x")
    assert connection.getresponse().status == 405
    connection.close()


def test_a_site_cannot_pass_its_name_off_as_this_servers(served):
    assert get(served, "/", host="evil.example").status == 400
    assert get(served, "/", host="localhost:8765").status == 200
    assert get(served, "/", host="[::1]:8765").status == 200


@pytest.mark.parametrize("path", ["/", "/leaderboard.html", "/samples/first/gqa/rows", "/none"])
def test_other_sites_cannot_embed_it(served, path):
    headers = get(served, path).headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
