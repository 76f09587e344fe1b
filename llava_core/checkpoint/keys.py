"""Names of tensors: from the original layout to our modules, and back.

    model.mm_projector.X                                  projector.X
    model.image_newline                                   image_newline
    model.vision_tower.vision_tower.vision_model.X        vision_tower.clip.X
    vision_model.X  (a CLIP repository of its own)        vision_tower.clip.X
    anything else                                         language_model.<the same>

transformers 5 has dropped the level `vision_model` inside CLIPVisionModel. Source of the names:
LLaVA c121f04 and the files of its published checkpoints.
"""

import re

TOWER = "vision_tower.clip."
LANGUAGE = "language_model."

_RENAMES = (
    (re.compile(r"^model\.mm_projector\."), "projector."),
    (re.compile(r"^model\.image_newline$"), "image_newline"),
    (re.compile(r"^model\.vision_tower\.vision_tower\.vision_model\."), TOWER),
)
_BACK = (
    (re.compile(r"^projector\."), "model.mm_projector."),
    (re.compile(r"^image_newline$"), "model.image_newline"),
    (re.compile(rf"^{re.escape(TOWER)}"), "model.vision_tower.vision_tower.vision_model."),
    (re.compile(rf"^{re.escape(LANGUAGE)}"), ""),
)
# Buffers that old files carry and nobody reads: they follow from the config.
_DERIVED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")


def from_original(name: str) -> str | None:
    """Our name of a tensor of the original layout; None for one that is not needed."""
    if _DERIVED.search(name):
        return None
    for pattern, replacement in _RENAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return LANGUAGE + name


def to_original(name: str) -> str:
    """The original layout's name of one of our tensors."""
    for pattern, replacement in _BACK:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    raise ValueError(f"{name} is no tensor of the model")


def from_clip(name: str) -> str | None:
    """Our name of a tensor of a CLIP repository; None for the text half and what is not needed."""
    if _DERIVED.search(name) or not name.startswith("vision_model."):
        return None
    return TOWER + name.removeprefix("vision_model.")
