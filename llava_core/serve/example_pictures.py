"""Pictures and questions to begin with; drawn here, so that none need to be shipped."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

_SIZE = (480, 320)


class Example(NamedTuple):
    """A picture's file and a question about it."""

    path: Path
    question: str


def write_examples(folder: Path) -> list[Example]:
    """Draws the pictures into a folder."""
    drawn = [
        ("landscape.png", _landscape(), "What is unusual about this picture?"),
        ("chart.png", _chart(), "Which bar is the highest, and which is the lowest?"),
    ]
    examples = []
    for name, picture, question in drawn:
        picture.save(folder / name)
        examples.append(Example(folder / name, question))
    return examples


def _landscape() -> Image.Image:
    """A house by a lake under two suns."""
    picture = Image.new("RGB", _SIZE, (150, 200, 240))
    draw = ImageDraw.Draw(picture)
    for left in (50, 370):
        draw.ellipse((left, 30, left + 60, 90), fill=(250, 210, 60))
    draw.polygon([(0, 220), (130, 110), (260, 220)], fill=(110, 120, 135))
    draw.rectangle((0, 210, 480, 320), fill=(90, 160, 80))
    draw.ellipse((240, 240, 460, 300), fill=(60, 120, 190))
    draw.rectangle((120, 170, 220, 250), fill=(225, 205, 175))
    draw.polygon([(105, 170), (170, 115), (235, 170)], fill=(170, 60, 50))
    draw.rectangle((160, 205, 182, 250), fill=(110, 70, 40))
    return picture


def _chart() -> Image.Image:
    """Five bars."""
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw.line((50, 20, 50, 280, 450, 280), fill="black", width=3)
    heights = {"A": 120, "B": 210, "C": 60, "D": 170, "E": 95}
    for place, (name, height) in enumerate(heights.items()):
        left = 75 + 75 * place
        draw.rectangle((left, 278 - height, left + 45, 278), fill=(70, 110, 200))
        draw.text((left + 17, 285), name, fill="black", font_size=20)
    return picture
