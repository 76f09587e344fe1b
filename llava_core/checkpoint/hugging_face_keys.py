"""Names of tensors: from the layouts of transformers to our modules, and back to the published one.

    on the Hub, up to 4.51     from 4.52 on                      ours
    language_model.model.X     model.language_model.X            language_model.model.X
    language_model.lm_head.X   lm_head.X                         language_model.lm_head.X
    multi_modal_projector.     model.multi_modal_projector.      projector.
      linear_1.X, linear_2.X     linear_1.X, linear_2.X            0.X, 2.X
    vision_tower.              model.vision_tower.               vision_tower.clip.X
      vision_model.X             vision_model.X
    image_newline              model.image_newline               image_newline

In either, the level `vision_model` may be missing: transformers 5 dropped it. Every version reads
the first spelling, and so do vLLM and SGLang; it is the one written here.
"""

import re

from llava_core.checkpoint.keys import DERIVED, LANGUAGE, TOWER

_RENAMES = (
    (re.compile(r"^model\.language_model\."), f"{LANGUAGE}model."),
    (re.compile(r"^language_model\."), LANGUAGE),
    (re.compile(r"^lm_head\."), f"{LANGUAGE}lm_head."),
    (re.compile(r"^(model\.)?multi_modal_projector\.linear_1\."), "projector.0."),
    (re.compile(r"^(model\.)?multi_modal_projector\.linear_2\."), "projector.2."),
    (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), TOWER),
    (re.compile(r"^(model\.)?image_newline$"), "image_newline"),
)
_BACK = (
    ("projector.0.", "multi_modal_projector.linear_1."),
    ("projector.2.", "multi_modal_projector.linear_2."),
    (TOWER, "vision_tower.vision_model."),
)


def from_hugging_face(name: str) -> str | None:
    """Our name of a tensor in any spelling of transformers; None for one that is not needed.

    A name of no part stays as it is.
    """
    if DERIVED.search(name):
        return None
    for pattern, replacement in _RENAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name


def to_hugging_face(name: str) -> str:
    """The published spelling of one of our tensors."""
    for ours, theirs in _BACK:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
