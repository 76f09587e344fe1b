"""The vision tower's own repository: which kind of tower it is and what of it LLaVA uses."""

import re
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, SiglipVisionConfig

from llava_core.checkpoint.keys import TOWER, from_clip
from llava_core.checkpoint.refused import refusing
from llava_core.config import CLIP, SIGLIP
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object

# Shapes as `published_tower` has them; of a SigLIP, as LLaVA uses it.
_PUBLISHED = {
    (CLIP[1], "quick_gelu", 1024, 4096, 16, 24, 224, 14): "openai/clip-vit-large-patch14",
    (CLIP[1], "quick_gelu", 1024, 4096, 16, 24, 336, 14): "openai/clip-vit-large-patch14-336",
    (SIGLIP[1], "gelu_pytorch_tanh", 1152, 4304, 16, 26, 384, 14): (
        "google/siglip-so400m-patch14-384"
    ),
}
_LAYER = re.compile(rf"^{re.escape(TOWER)}encoder\.layers\.(\d+)\.")


def read_tower_config(folder: Path) -> Any:
    """Reads the config of a tower as LLaVA builds it.

    A SigLIP tower loses its last block and its pooling head, as in LLaVA-NeXT's
    `SigLipVisionTower`; its checkpoints hold no weights for them.

    Returns:
        transformers' CLIPVisionConfig or SiglipVisionConfig.

    Raises:
        CheckpointError: it is another kind of model, or has a value that its class refuses.
    """
    path = folder / "config.json"
    kind = read_object(path).get("model_type")
    # A repository of the whole model nests the vision half; these classes pick it out.
    with refusing(f"{path} is no {kind} config"):
        if kind in CLIP:
            return CLIPVisionConfig.from_pretrained(folder)
        if kind in SIGLIP:
            config = SiglipVisionConfig.from_pretrained(folder)
            return shorten(config, config.num_hidden_layers - 1)
    raise CheckpointError(
        f"{path} describes a {kind}, expected a vision tower: {', '.join(CLIP + SIGLIP)}"
    )


def shorten(config: Any, num_layers: int) -> Any:
    """A SigLIP tower's config with its first blocks only and without pooling head; in place."""
    config.num_hidden_layers = num_layers
    config.vision_use_head = False
    return config


def from_tower(name: str, config: Any) -> str | None:
    """Our name of a tensor of the tower's repository; None for one that LLaVA does not use."""
    ours = from_clip(name)
    return ours if ours is not None and is_used(ours, config) else None


def is_used(name: str, config: Any) -> bool:
    """Whether a tower has a tensor of this name of ours: no pooling head, no blocks cut off."""
    layer = _LAYER.match(name)
    cut = layer is not None and int(layer[1]) >= config.num_hidden_layers
    return not cut and not name.startswith(f"{TOWER}head.")


def published_tower(config: Any) -> str | None:
    """Hub id of the published tower that a config describes, by its shape; None: of none."""
    shape = (
        config.model_type,
        config.hidden_act,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.image_size,
        config.patch_size,
    )
    return _PUBLISHED.get(shape)
