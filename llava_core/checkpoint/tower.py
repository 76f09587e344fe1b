"""The vision tower's own repository: which kind of tower it is and what of it LLaVA uses."""

import re
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, SiglipVisionConfig

from llava_core.checkpoint.keys import TOWER, from_clip
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object

_CLIP = ("clip", "clip_vision_model")
_SIGLIP = ("siglip", "siglip_vision_model")
_LAYER = re.compile(rf"^{re.escape(TOWER)}encoder\.layers\.(\d+)\.")


def read_tower_config(folder: Path) -> Any:
    """Reads the config of a tower as LLaVA builds it.

    A SigLIP tower loses its last block and its pooling head, as in LLaVA-NeXT's
    `SigLipVisionTower`; its checkpoints hold no weights for them.

    Returns:
        transformers' CLIPVisionConfig or SiglipVisionConfig.

    Raises:
        CheckpointError: it is another kind of model.
    """
    path = folder / "config.json"
    kind = read_object(path).get("model_type")
    # A repository of the whole model nests the vision half; these classes pick it out.
    if kind in _CLIP:
        return CLIPVisionConfig.from_pretrained(folder)
    if kind in _SIGLIP:
        config = SiglipVisionConfig.from_pretrained(folder)
        config.num_hidden_layers -= 1
        config.vision_use_head = False
        return config
    raise CheckpointError(
        f"{path} describes a {kind}, expected a vision tower: {', '.join(_CLIP + _SIGLIP)}"
    )


def from_tower(name: str, config: Any) -> str | None:
    """Our name of a tensor of the tower's repository; None for one that LLaVA does not use."""
    ours = from_clip(name)
    if ours is None or ours.startswith(f"{TOWER}head."):
        return None
    layer = _LAYER.match(ours)
    if layer and int(layer[1]) >= config.num_hidden_layers:
        return None
    return ours
