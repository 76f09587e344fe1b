"""Text that cannot leave its place in a page, and colours that can be read."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval import resources
from llava_eval.pages import _island, _literal_markdown

THEMES = re.findall(
    r":root \{(.*?)\}", (resources.reports_folder() / "report.css").read_text(), re.S
)
INKS = ("text", "muted", "accent", "amber", "right", "partly", "wrong", "unscored")


@given(st.text())
def test_an_island_holds_any_text_and_no_tag(text):
    island = _island([text])
    assert json.loads(island) == [text]
    assert "<" not in island


@given(st.text())
def test_a_markdown_cell_stays_in_its_cell(text):
    literal = _literal_markdown(text)
    assert "\n" not in literal
    assert not re.search(r"(?<!\\)(\\\\)*[|<`*]", literal)


def test_markdown_text_without_marks_is_left_alone():
    assert _literal_markdown("llava-v1.5-13b (runs/main)") == "llava-v1.5-13b (runs/main)"


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
@pytest.mark.parametrize("ink", INKS)
def test_every_colour_of_text_has_the_contrast_that_wcag_asks_for(theme, ink):
    colours = dict(re.findall(r"--(\w+): (#\w{6});", theme))
    grounds = ["ground", "surface", *(["note"] if ink in ("text", "amber") else [])]
    assert min(contrast(colours[ink], colours[ground]) for ground in grounds) >= 4.5


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
