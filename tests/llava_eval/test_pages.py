"""Text that cannot leave its place in a page, and colours that can be read."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexCharsNode, LatexGroupNode, LatexMacroNode, LatexWalker

from llava_eval import resources
from llava_eval.pages import LONGEST, _island, _literal_latex, literal_markdown, visible

THEMES = re.findall(
    r":root \{(.*?)\}", (resources.reports_folder() / "report.css").read_text(), re.S
)
# What LaTeX prints otherwise than it is written.
PRINTED = {'"': "”", "`": "‘", "^": "ˆ"}
UNKNOWN_TO_PYLATEXENC = {r"\textbar{}": "|", r"\textless{}": "<", r"\textgreater{}": ">"}
INKS = ("text", "muted", "accent", "amber", "right", "partly", "wrong", "unscored")


@given(st.text())
def test_an_island_holds_any_text_and_no_tag(text):
    island = _island([text])
    assert json.loads(island) == [text]
    assert "<" not in island


@given(st.text())
def test_a_markdown_cell_stays_in_its_cell(text):
    literal = literal_markdown(text)
    assert "\n" not in literal
    assert not re.search(r"(?<!\\)(\\\\)*[|<`*$]", literal)


def test_markdown_text_without_marks_is_left_alone():
    assert literal_markdown("llava-v1.5-13b (runs/main)") == "llava-v1.5-13b (runs/main)"


@given(st.text())
def test_latex_reads_any_text_as_letters_and_accents_of_no_effect(text):
    literal = _literal_latex(text)
    assert "\n" not in literal
    nodes = LatexWalker(literal, tolerant_parsing=False).get_latex_nodes()[0]
    assert {type(node) for node in nodes} <= {LatexCharsNode, LatexGroupNode, LatexMacroNode}
    assert all(len(n.nodelist) < 2 for n in nodes if isinstance(n, LatexGroupNode))
    assert not re.search(r"(?<!\\)(\\\\)*[&#%$_^~]", literal)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=LONGEST))
def test_what_latex_prints_is_the_text(text):
    literal = _literal_latex(text)
    for macro, character in UNKNOWN_TO_PYLATEXENC.items():
        literal = literal.replace(macro, character)
    printed = LatexNodes2Text().latex_to_text(literal)
    assert printed == "".join(PRINTED.get(character, character) for character in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a[U+202E]b"),
        ("a\0b", "a[U+0000]b"),
        ("\ud83d!", "[U+D83D]!"),
        ("a\n\tb ", "a b"),
        ("größe 模型", "größe 模型"),
        ("x" * 10**6, "x" * (LONGEST - 1) + "…"),
    ],
    ids=["direction", "control", "half a pair", "line", "letters", "long"],
)
def test_nothing_in_a_name_is_unseen(text, shown):
    assert visible(text) == shown


def test_letters_that_not_every_latex_has_are_spelt_out():
    assert _literal_latex("größe 模") == "größe {[}U+6A21]"


def test_hyphens_stay_hyphens_and_a_dash_a_dash():
    assert (_literal_latex("--x"), _literal_latex("–")) == ("-{}-x", r"\textendash{}")


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
