"""The page of a comparison in a real browser."""

import pytest

from llava_eval import cli
from tests.llava_eval.synthetic_runs import right_answers, samples, spoken, worsened, write_gqa

pytestmark = pytest.mark.browser

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1>\u202e{{ 1 }}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page on which 36 of 600 answers became wrong, all of them hostile."""
    root = tmp_path_factory.mktemp("compared")
    asked = samples(600, 100)
    right = right_answers(asked)
    texts = spoken(worsened(right, points=6, seed=1))
    first = write_gqa(root / "first", asked, spoken(right))
    second = write_gqa(root / "second", asked, [ATTACK if t == "no" else t for t in texts])
    file = root / "compare.html"
    assert cli.main(["compare", str(first), str(second), "--html", str(file)]) == 0
    return file.as_uri()


def test_the_numbers_lead_to_the_samples(page, address):
    page.goto(address)
    assert page.inner_text("td.verdict-worse") == "worse"
    assert page.inner_text("#shown") == "36 of 36 samples"
    page.click("td.value a")
    assert page.url.endswith("#gqa/lost")
    # The address changes with the click; the page hears of it a little later.
    page.wait_for_selector("[data-choice='gqa/lost'][aria-pressed='true']")
    assert page.locator("#samples > li").count() == 36


def test_samples_are_filtered_by_text(page, address):
    page.goto(address)
    name = page.inner_text("#samples > li:first-child .fine").split(" · ")[2]
    page.fill("#filter", name)
    assert page.inner_text("#shown") != "36 of 36 samples"
    assert page.locator("#samples > li").count() >= 1


def test_what_a_model_said_stays_text(page, address):
    page.goto(address)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#samples img").count() == 0
    assert "</script>" in page.inner_text("#samples > li:first-child")
