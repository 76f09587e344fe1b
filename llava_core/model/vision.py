"""The vision tower: transformers' CLIP or SigLIP with LLaVA's choice of layer and tokens.

Letters: I tiles, P patches, D width of the tower, S scales (1 without S2).
"""

from typing import Any

from torch import Tensor, nn

from llava_core.config import SIGLIP, LlavaConfig, has_class_token
from llava_core.model.scales import encode_scales


class VisionTower(nn.Module):
    """Turns tiles into patch features.

    The hidden state is taken before the final norm; with `vision_select_layer` -2 the last block's
    output is not used at all. SigLIP has no class token, and its last block is not there: whatever
    the config selects, the features are those of the last block that is.

    Source: LLaVA c121f04, `CLIPVisionTower.feature_select`; LLaVA-NeXT, `SigLipVisionTower`.
    """

    def __init__(self, clip: Any, config: LlavaConfig) -> None:
        super().__init__()
        self.clip = clip
        self.select_layer = -1 if clip.config.model_type in SIGLIP else config.vision_select_layer
        self.drops_class_token = (
            has_class_token(clip.config) and config.vision_select_feature == "patch"
        )
        self.scales = config.s2_scales

    @property
    def image_size(self) -> int:
        """Side of a tile, in pixels."""
        return int(self.clip.config.image_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes tiles.

        Args:
            pixels: float[I, 3, H, W], normalised.

        Returns:
            float[I, P, S * D] in the tower's own type.
        """
        pixels = pixels.to(self.clip.dtype)
        if not self.scales:
            return self._encode(pixels)
        return encode_scales(pixels, scales=self.scales, encode=self._encode)

    def _encode(self, pixels: Tensor) -> Tensor:
        kept: list[Tensor] = []
        # Asked for hidden states, transformers keeps those of all blocks in memory.
        hook = self._selected.register_forward_hook(lambda *call: kept.append(call[-1]))
        try:
            self.clip(pixels)
        finally:
            hook.remove()
        (features,) = kept
        return features[:, 1:] if self.drops_class_token else features

    @property
    def _selected(self) -> nn.Module:
        """What gives out the selected hidden state; the first is what the first block takes."""
        first = getattr(self.clip, "pre_layrnorm", self.clip.embeddings)
        modules: list[nn.Module] = [first, *self.clip.encoder.layers]
        return modules[self.select_layer]
