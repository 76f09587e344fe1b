"""Served pages in a real browser: pictures come as they are seen, and only from the server."""

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from benchmarks.scale import write_gqa
from llava_eval.registry import load_tasks
from llava_eval.report import write_report
from llava_eval.view.app import make_app
from llava_eval.view.shelf import read_shelf
from tests.llava_core.serve.live import serving, until
from tests.llava_eval.answered_runs import write_answered

pytestmark = pytest.mark.browser

NUM_SAMPLES = 2_000
FIRST_PICTURE = "(document.querySelector('#samples img') ?? {}).naturalWidth > 0"
ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two runs of two thousand samples over 65 pictures; the second's answers are hostile."""
    root = tmp_path_factory.mktemp("many")
    write_gqa(root / "data", NUM_SAMPLES)
    for number in range(NUM_SAMPLES // 31 + 1):
        colour = (number, 100, 255 - number)
        Image.new("RGB", (800, 600), colour).save(root / f"data/gqa/data/images/n{number}.jpg")
    texts = {"right": lambda n: "red", "hostile": lambda n: ("red", ATTACK)[n % 2]}
    runs = [
        write_answered(root / name, root / "data", model_id=name, text=text, tasks=("gqa",))
        for name, text in texts.items()
    ]
    report = write_report(runs, output=root / "report", tasks=load_tasks(), with_samples=False)
    app = make_app(report.parent, read_shelf(report.parent), tasks=load_tasks())
    with serving(app) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must end without an error and without having asked anyone but the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: errors.append(message.text))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("response", lambda r: errors.append(r.url) if r.status >= 400 else None)
    opened.requests = requests
    yield opened
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((address, "data:"))] == []


def cards(page: Any) -> Any:
    return page.locator("#samples > li")


def pictures_asked(page: Any) -> int:
    return sum("/picture?" in url for url in page.requests)


def test_a_long_page_loads_the_pictures_that_are_seen(page, address):
    page.goto(f"{address}/samples/right/gqa.html")
    cards(page).nth(49).wait_for()
    until(lambda: page.evaluate(FIRST_PICTURE))
    page.wait_for_load_state("networkidle")
    assert page.inner_text("#shown") == "2,000 of 2,000 samples"
    assert 0 < pictures_asked(page) < cards(page).count()
    drawn = cards(page).count()
    cards(page).nth(drawn - 1).scroll_into_view_if_needed()
    cards(page).nth(drawn).wait_for()
    page.wait_for_load_state("networkidle")
    assert pictures_asked(page) < cards(page).count() < 500


def test_a_picture_leads_to_the_whole_one(page, address):
    page.goto(f"{address}/samples/right/gqa.html")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Picture of sample 20000000000", exact=True).click()
    whole = opened.value
    whole.wait_for_load_state()
    assert "small" not in whole.url
    assert whole.evaluate("document.querySelector('img').naturalWidth") == 800


def test_the_server_filters_by_verdict_and_words(page, address):
    page.goto(f"{address}/samples/hostile/gqa.html#wrong")
    cards(page).first.wait_for()
    assert page.get_by_role("button", name="Wrong").get_attribute("aria-pressed") == "true"
    page.get_by_role("searchbox").fill("thing 1999?")
    until(lambda: cards(page).count() == 1)
    assert page.inner_text("#shown") == "1 of 2,000 samples"
    assert ATTACK in page.inner_text("#samples > li")
    assert page.evaluate("window.hacked") is None


def test_runs_are_chosen_and_compared(page, address):
    page.goto(address)
    page.get_by_label("First").select_option("right")
    page.get_by_label("Second").select_option("hostile")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?*")
    assert page.inner_text("h1") == "right and hostile"
    until(lambda: page.evaluate(FIRST_PICTURE))
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url(f"{address}/")


def test_the_leaderboard_leads_to_the_samples(page, address):
    page.goto(f"{address}/leaderboard.html")
    page.locator("#leaderboard a.figure").first.click()
    page.wait_for_url("**/samples/*/gqa.html")
    cards(page).first.wait_for()


@pytest.mark.parametrize(
    "path", ["", "samples/hostile/gqa.html", "compare?first=right&second=hostile"]
)
def test_a_phone_scrolls_down_and_not_sideways(page, address, path):
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto(f"{address}/{path}")
    page.wait_for_load_state("networkidle")
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0


def test_a_server_that_is_gone_is_told(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/samples/right/gqa.html")
    cards(page).first.wait_for()
    page.route("**/rows?*", lambda route: route.abort())
    page.get_by_role("searchbox").fill("thing 5")
    note = page.get_by_role("status").filter(has_text="the server does not answer")
    note.wait_for()
    assert cards(page).count() == 0
    page.close()
