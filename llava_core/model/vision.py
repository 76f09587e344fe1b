"""The vision tower: transformers' `CLIPVisionModel` with LLaVA's choice of layer and tokens.

Letters: I tiles, P patches, D width of the tower.
"""

from typing import Any

from torch import Tensor, nn

from llava_core.config import LlavaConfig


class VisionTower(nn.Module):
    """Turns tiles into patch features.

    The hidden state is taken before CLIP's final norm; with `vision_select_layer` -2 the last
    block's output is not used at all. Source: LLaVA c121f04, `CLIPVisionTower.feature_select`.
    """

    def __init__(self, clip: Any, config: LlavaConfig) -> None:
        super().__init__()
        self.clip = clip
        self.select_layer = config.vision_select_layer
        self.keeps_class_token = config.vision_select_feature == "cls_patch"

    @property
    def image_size(self) -> int:
        """Side of a tile, in pixels."""
        return int(self.clip.config.image_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes tiles.

        Args:
            pixels: float[I, 3, H, W], normalised.

        Returns:
            float[I, P, D] in the tower's own type.
        """
        outputs = self.clip(pixels.to(self.clip.dtype), output_hidden_states=True)
        features: Tensor = outputs.hidden_states[self.select_layer]
        return features if self.keeps_class_token else features[:, 1:]
