import json
import re

import pytest
from PIL import Image

from llava_eval.errors import VerdictsError
from llava_eval.review.page import REFERENCE, TIE, UNREAD, questions_of, winner_of, write_page
from tests.llava_eval.review.builders import write_lines

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1>"


def review(question_id, scores, *, text="An answer.", reference="A cat.", **changes):
    shown = {"question": "Q?", "context": "A.", "reference": reference, "candidate": text}
    metadata = {"image": "a.jpg", "shown": shown, "vote": 1} | changes
    return {
        "question_id": question_id,
        "tuple": list(scores),
        "category": "llava_bench_conv",
        "content": "8 6\nFine.",
        "judge": "m",
        "metadata": metadata,
    }


def written(folder, *reviews, images=None):
    path = folder / "page.html"
    write_page(path, [write_lines(folder / "ours.jsonl", *reviews)], images=images)
    return path


def island(path, name):
    found = re.search(
        f'<script type="application/json" id="{name}">(.*?)</script>', path.read_text()
    )
    return json.loads(found[1])


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ({REFERENCE: 8.0, "a": 6.0}, REFERENCE),
        ({REFERENCE: 6.0, "a": 7.0, "b": 8.0}, "b"),
        ({REFERENCE: 6.0, "a": 8.0, "b": 8.0}, TIE),
        ({REFERENCE: 6.0, "a": None}, UNREAD),
    ],
)
def test_who_has_the_highest_mean_has_won(scores, winner):
    assert winner_of(scores) == winner


def test_candidates_stand_side_by_side():
    (question,) = questions_of(
        {
            "old": [review(0, (8, 6), text="Old."), review(0, (6, 6), text="Old.", vote=2)],
            "new": [review(0, (7, 9), text="New.")],
        }
    )
    assert question["sides"] == [
        {"name": "reference", "score": "7.0", "text": "A cat."},
        {"name": "old", "score": "6.0", "text": "Old."},
        {"name": "new", "score": "9.0", "text": "New."},
    ]
    assert (question["winner"], question["category"], question["context"]) == ("new", "conv", "A.")
    assert [each["by"] for each in question["reviews"]] == [
        "old, m, vote 1",
        "old, m, vote 2",
        "new, m, vote 1",
    ]


def test_what_could_not_be_read_is_in_no_mean():
    (question,) = questions_of({"a": [review(0, (-1, -1)), review(0, (8, 6), vote=2)]})
    assert question["sides"][1]["score"] == "6.0"
    assert [each["scores"] for each in question["reviews"]] == [None, "8 to 6"]


def test_orders_and_flags_are_told():
    swapped = review(0, (8, 6), swapped=True, flags=["marks in answer 2"])
    (question,) = questions_of({"a": [swapped]})
    assert question["reviews"][0]["by"] == "a, m, vote 1, candidate first"
    assert question["reviews"][0]["flags"] == "marks in answer 2"


def test_other_reference_answers_do_not_go_together():
    with pytest.raises(VerdictsError, match="question 0: a and b were judged against other refer"):
        questions_of({"a": [review(0, (8, 6))], "b": [review(0, (8, 6), reference="A dog.")]})


def test_reviews_of_llavas_scripts_show_what_they_hold(reference, tmp_path):
    path = reference / "data/reviews/llava_bench_wild/llava-v1.5-13b-eval1.jsonl"
    write_page(tmp_path / "page.html", [path])
    questions = island(tmp_path / "page.html", "data")
    assert len(questions) == 60
    assert all(each["reviews"][0]["said"] for each in questions)
    assert {each["category"] for each in questions} == {"conv", "detail", "complex"}


def test_what_a_model_says_never_becomes_markup(tmp_path):
    path = written(tmp_path, review(0, (8, 6), text=ATTACK))
    assert path.read_text().count("<img") == 0
    assert island(path, "data")[0]["sides"][1]["text"] == ATTACK


@pytest.mark.parametrize(("wording", "told"), [("own", True), ("llava", False)])
def test_the_page_says_when_the_wording_is_not_the_published_one(wording, told, tmp_path):
    path = written(tmp_path, review(0, (8, 6), wording=wording))
    assert ("not comparable with published ones" in path.read_text()) == told


def test_pictures_stand_in_the_page_made_small(tmp_path, caplog):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "a.jpg")
    path = written(tmp_path, review(0, (8, 6)), review(1, (8, 6), image="b.jpg"), images=tmp_path)
    (address,) = island(path, "pictures").values()
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) < 20_000
    assert "1 of 2 pictures are not there" in caplog.text


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(VerdictsError, match=r"a.jpg: no picture: "):
        written(tmp_path, review(0, (8, 6)), images=tmp_path)


def test_files_called_alike_are_told_apart(tmp_path):
    paths = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        paths.append(write_lines(tmp_path / name / "r.jsonl", review(0, (8, 6))))
    write_page(tmp_path / "page.html", paths)
    names = [side["name"] for side in island(tmp_path / "page.html", "data")[0]["sides"]]
    assert names == ["reference", "r (x)", "r (y)"]


@pytest.mark.parametrize(
    ("candidates", "names"),
    [(("old", "new"), ["old", "new"]), (("old", "old"), ["old (1)", "old (2)"])],
)
def test_candidates_go_by_their_names(candidates, names, tmp_path):
    paths = [
        write_lines(tmp_path / f"long-name-{number}.jsonl", review(0, (8, 6), candidate=candidate))
        for number, candidate in enumerate(candidates, start=1)
    ]
    write_page(tmp_path / "page.html", paths)
    sides = island(tmp_path / "page.html", "data")[0]["sides"]
    assert [side["name"] for side in sides] == ["reference", *names]


def test_a_candidate_called_like_an_outcome_goes_by_its_file(tmp_path):
    path = written(tmp_path, review(0, (8, 6), candidate="tie"))
    sides = island(path, "data")[0]["sides"]
    assert [side["name"] for side in sides] == ["reference", str(tmp_path / "ours.jsonl")]


@pytest.mark.browser
def test_the_page_filters_by_category_and_by_who_won(tmp_path, page):
    detail = review(2, (6, 8)) | {"category": "llava_bench_detail"}
    path = written(tmp_path, review(0, (8, 6), text=ATTACK), review(1, (6, 8)), detail)
    page.goto(path.as_uri())
    assert page.locator("#reviews li").count() == 3
    assert page.evaluate("window.hacked") is None
    page.click("[data-winner=ours]")
    assert page.locator("#shown").text_content() == "2 of 3 questions"
    page.click("[data-category=detail]")
    assert page.locator("#reviews li").count() == 1
    page.click("[data-winner='']")
    page.click("[data-category='']")
    page.fill("#filter", "hacked")
    assert page.locator("#reviews li").count() == 1


@pytest.mark.browser
def test_the_filter_looks_through_texts_and_not_through_their_names(tmp_path, page):
    path = written(tmp_path, review(0, (8, 6), text='he said "no"'), review(1, (6, 8), text="yes"))
    page.goto(path.as_uri())
    for words, number in (("sides", 0), ("context", 0), ('"no"', 1), ("yes", 1), ("ours", 2)):
        page.fill("#filter", words)
        assert page.inner_text("#shown") == f"{number} of 2 questions", words


@pytest.mark.browser
def test_a_word_without_end_stays_in_its_place(tmp_path, page):
    word = "w" * 1000
    endless = review(0, (8, 6), text=word, reference=word, image=word, flags=[word])
    page.goto(written(tmp_path, endless | {"category": word, "content": word}).as_uri())
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
