"""Names of tensors: from the original layout to our modules, and back.

    model.mm_projector.X                                  projector.X
    model.image_newline                                   image_newline
    model.vision_tower.vision_tower.vision_model.X        vision_tower.clip.X
    vision_model.X  (a tower's repository of its own)     vision_tower.clip.X
    anything else                                         language_model.<the same>

On an MPT the first level is `transformer` instead of `model`. transformers 5 has dropped the level
`vision_model` inside CLIPVisionModel: what it did not load with it, it saves without. Source of the
names: LLaVA c121f04 and the files of its published checkpoints.
"""

import re

PROJECTOR = "projector."
NEWLINE = "image_newline"
TOWER = "vision_tower.clip."
LANGUAGE = "language_model."
EMBEDDINGS = (f"{LANGUAGE}model.embed_tokens.weight", f"{LANGUAGE}transformer.wte.weight")
"""The table of embeddings; the second name is an MPT's."""
HEAD = f"{LANGUAGE}lm_head.weight"

_RENAMES = (
    (re.compile(r"^(model|transformer)\.mm_projector\."), PROJECTOR),
    (re.compile(r"^(model|transformer)\.image_newline$"), NEWLINE),
    (re.compile(r"^(model|transformer)\.vision_tower\.vision_tower\.(vision_model\.)?"), TOWER),
)
_BACK = (
    (re.compile(r"^projector\."), "{root}.mm_projector."),
    (re.compile(r"^image_newline$"), "{root}.image_newline"),
    (re.compile(rf"^{re.escape(TOWER)}"), "{root}.vision_tower.vision_tower.vision_model."),
    (re.compile(rf"^{re.escape(LANGUAGE)}"), ""),
)
_VISION_HALF = re.compile(
    r"(vision_model\.)?((embeddings|pre_layrnorm|encoder|post_layernorm|head)\..+)"
)
DERIVED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers that old files carry and nobody reads: they follow from the config."""


def from_original(name: str) -> str | None:
    """Our name of a tensor of the original layout; None for one that is not needed."""
    if DERIVED.search(name):
        return None
    for pattern, replacement in _RENAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return LANGUAGE + name


def to_original(name: str, *, backbone: str = "llama") -> str:
    """The original layout's name of one of our tensors."""
    root = "transformer" if backbone == "mpt" else "model"
    for pattern, replacement in _BACK:
        if pattern.match(name):
            return pattern.sub(replacement.format(root=root), name)
    raise ValueError(f"{name} is no tensor of the model")


def from_clip(name: str) -> str | None:
    """Our name of a tensor of a tower's repository; None for the text half and buffers."""
    found = _VISION_HALF.fullmatch(name)
    return None if found is None or DERIVED.search(name) else TOWER + found[2]
