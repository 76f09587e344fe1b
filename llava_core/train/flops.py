"""How much arithmetic a training step needs, and how much a GPU could do in its time.

Counted is what the model needs, not what is computed: neither padding, nor activations that are
computed twice, nor logits where nothing is learned, nor attention to tokens that come later. What
is left of a GPU's peak, the model FLOP utilization, is comparable between ways to train.

Per token and weight of a linear layer: 2 operations forwards, 2 for the gradient of the layer's
input, 2 for that of its weight. So 6 N T for N trained weights and T tokens, 4 N T for frozen ones
below adapters, 2 N T for a frozen tower, which nothing is sent back through. Attention adds, per
layer of width D, 2 T² D forwards and twice that backwards for a sample of T tokens, each of which
sees on average half of them.

Source: Chowdhery et al. 2022, "PaLM", appendix B, which counts attention to later tokens too.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from llava_core.config import has_class_token
from llava_core.data.collate import Batch
from llava_core.model.llava import LlavaModel
from llava_core.model.vision import VisionTower
from llava_core.tokens import IGNORE_INDEX

# Dense TFLOP/s in bfloat16 with sums in float32, by a part of what torch calls a GPU.
# Source: the makers' datasheets, half of what they give "with sparsity".
_PEAKS = {
    "A10": 125.0,
    "A100": 312.0,
    "A40": 149.7,
    "B200": 2250.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H200": 989.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "MI250X": 383.0,
    "MI300X": 1307.0,
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX A6000": 154.8,
}


class Work(NamedTuple):
    """Floating-point operations of a step forwards and backwards, by what they grow with."""

    per_token: int
    """Of the language model's layers, for each of its tokens."""
    per_pair: int
    """Of its attention, for each square of a sample's length."""
    per_label: int
    """Of its last layer, for each token that is learned."""
    per_tile: int
    """Of the tower and the projector."""

    def of(self, batch: Batch) -> int:
        """Operations that a batch needs."""
        num_labels = int((batch["labels"] != IGNORE_INDEX).sum())
        num_tiles = int(batch["tiles"].sum())
        return (
            self.per_token * batch["num_tokens"]
            + self.per_pair * batch["num_pairs"]
            + self.per_label * num_labels
            + self.per_tile * num_tiles
        )


def count_work(model: LlavaModel) -> Work:
    """Counts the operations of a model, frozen where it is not trained."""
    language_model, tower = model.language_model, model.vision_tower
    head = language_model.get_output_embeddings()
    # Whatever is trained lies in the language model or before it.
    whole = _linear(language_model, is_passed_back=True)
    last = _linear(head, is_passed_back=True)
    config = language_model.config
    return Work(
        per_token=whole - last,
        per_pair=3 * 2 * config.hidden_size * config.num_hidden_layers,
        per_label=last,
        per_tile=_per_tile(tower, model.projector),
    )


def peak_tflops(device: str) -> float | None:
    """What a GPU can do at most in 16-bit types, in 10^12 operations a second; None: unknown.

    Args:
        device: as torch calls it, `NVIDIA H100 80GB HBM3`.
    """
    words = device.replace("-", " ").split()
    known = [name for name in _PEAKS if _names(name.split(), words)]
    return _PEAKS[max(known, key=len)] if known else None


def _names(name: list[str], words: list[str]) -> bool:
    return any(words[at : at + len(name)] == name for at in range(len(words)))


def _per_tile(tower: VisionTower, projector: nn.Module) -> int:
    config = tower.clip.config
    num_patches = (config.image_size // config.patch_size) ** 2
    num_tokens = num_patches + has_class_token(config)
    views = sum((scale // config.image_size) ** 2 for scale in tower.scales) or 1
    layers = list(_linear_layers(tower))
    forwards = 2 * sum(map(_size, layers))
    # Nothing is sent back through layers that are frozen, as those behind the selected one are.
    operations = 2 * sum(_size(layer) * (1 + 2 * layer.weight.requires_grad) for layer in layers)
    attention = 4 * num_tokens**2 * config.hidden_size * config.num_hidden_layers
    once = num_tokens * operations + attention * operations // forwards
    projected = num_patches * _linear(projector, is_passed_back=operations > forwards)
    return int(views * once + projected)


def _linear(part: Any, *, is_passed_back: bool) -> int:
    """Operations of the linear layers for a token: they are nearly all of a model's weights.

    Args:
        is_passed_back: whether something before the first layer is trained.
    """
    total = 0
    for layer in _linear_layers(part):
        is_trained = layer.weight.requires_grad
        total += 2 * _size(layer) * (1 + is_passed_back + is_trained)
        is_passed_back = is_passed_back or is_trained
    return total


def _linear_layers(part: Any) -> Iterator[nn.Linear]:
    return (layer for layer in part.modules() if isinstance(layer, nn.Linear))


def _size(layer: nn.Linear) -> int:
    """Of the weight, whose tensor is smaller where it is quantized or cut up."""
    return layer.in_features * layer.out_features
