"""Makes the vision tower of `tiny`: a small CLIP that first learns by itself what is drawn where.

Every patch must tell about the quarter or the line that it lies in. Learned from answers alone,
shapes stay at chance: the language model does not ask for them before it can read them, and the
tower does not show them before they are asked for. The position embedding is large for CLIP's,
because patches must know early where they are.

Letters: B pictures, P patches, D width.
"""

import logging
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_core.images import preprocess
from llava_core.tiny.drawings import (
    COLORS,
    LARGEST_TERM,
    MAX_LINES,
    MAX_THINGS,
    PLACES,
    RADIUS_PX,
    SCENE_PX,
    SHAPES,
    TREATMENTS,
    WORDS,
    Scene,
    Sign,
    draw,
    random_drawing,
)

_PATCH_PX = 16
_SIDE = SCENE_PX // _PATCH_PX
_NUM_LAYERS = 5
TOWER_CONFIG: dict[str, Any] = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 128,
    "image_size": SCENE_PX,
    "intermediate_size": 384,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": _NUM_LAYERS,
    "patch_size": _PATCH_PX,
    "projection_dim": 64,
}
PROCESSOR_CONFIG: dict[str, Any] = {
    "crop_size": {"height": SCENE_PX, "width": SCENE_PX},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": SCENE_PX},
}
ASPECT_RATIO = "pad"
_NOTHING = "nothing"
_TERMS = (_NOTHING, *map(str, range(1, LARGEST_TERM + 1)))
_FACTS: Mapping[str, tuple[str, ...]] = {
    "shape": (_NOTHING, *SHAPES),
    "color": (_NOTHING, *COLORS),
    "size": (_NOTHING, *RADIUS_PX),
    "place": (_NOTHING, *PLACES),
    "word": (_NOTHING, *WORDS),
    "line": (_NOTHING, *map(str, range(MAX_LINES))),
    "lines": tuple(map(str, range(MAX_LINES + 1))),
    "left term": _TERMS,
    "right term": _TERMS,
    "sum": (_NOTHING, *map(str, range(2, 2 * LARGEST_TERM + 1))),
    "count": tuple(map(str, range(MAX_THINGS + 1))),
    "treatment": tuple(TREATMENTS),
}
"""What a patch tells -> all that it can be; the first is where there is no such thing."""
# What is hard to see counts more.
_WEIGHTS = {"shape": 3.0, "word": 3.0}
_POSITION_STD = 0.5
_LEARNING_RATE = 2e-3
# Fraction of all steps.
_WARMUP = 0.1

_logger = logging.getLogger(__name__)


def train_tower(processor: Any, *, steps: int, batch: int, seed: int) -> CLIPVisionModel:
    """Trains a tower on drawings made for it.

    LLaVA takes the features before the last block, so that block has nothing to learn.

    Args:
        processor: of `PROCESSOR_CONFIG`, see `images.load_processor`.
        batch: pictures in a step.
    """
    torch.manual_seed(seed)
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER_CONFIG))
    shortened = TOWER_CONFIG | {"num_hidden_layers": _NUM_LAYERS - 1}
    used = CLIPVisionModel(CLIPVisionConfig(**shortened))
    nn.init.normal_(used.embeddings.position_embedding.weight, std=_POSITION_STD)
    random = Random(f"tower {seed}")
    _learn(used, (_batch(processor, random, size=batch) for _ in range(steps)), steps=steps)
    missing, unexpected = tower.load_state_dict(used.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(f"encoder.layers.{_NUM_LAYERS - 1}.") for name in missing), missing
    return tower


def _learn(
    tower: CLIPVisionModel,
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    *,
    steps: int,
) -> None:
    """Trains a tower so that a linear reader of each fact finds it in every patch."""
    width = tower.config.hidden_size
    readers = nn.ModuleDict({name: nn.Linear(width, len(all_)) for name, all_ in _FACTS.items()})
    parameters = [*tower.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=steps, pct_start=_WARMUP
    )
    for step, (pixels, right) in enumerate(batches):
        features_BPD = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        told = {name: reader(features_BPD).flatten(0, 1) for name, reader in readers.items()}
        losses = {name: nn.functional.cross_entropy(told[name], right[name]) for name in _FACTS}
        weighted = [_WEIGHTS.get(name, 1.0) * loss for name, loss in losses.items()]
        optimizer.zero_grad()
        torch.stack(weighted).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            listed = " ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items())
            _logger.info("tower, step %d: %s", step, listed)


def _batch(processor: Any, random: Random, *, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """float32[B, 3, H, W], and int64[B * P] of every fact."""
    drawings = [random_drawing(random) for _ in range(size)]
    pixels = [
        preprocess(
            draw(drawing, random), processor=processor, aspect_ratio=ASPECT_RATIO, pinpoints=()
        )
        for drawing in drawings
    ]
    told = [facts for drawing in drawings for facts in _patch_facts(drawing)]
    return torch.cat([torch.from_numpy(each) for each in pixels]), {
        name: torch.tensor([values.index(facts.get(name, values[0])) for facts in told])
        for name, values in _FACTS.items()
    }


def _patch_facts(drawing: Scene | Sign) -> list[dict[str, str]]:
    """What each patch has to tell, row by row; what is not named has its first value."""
    middles = [_PATCH_PX * (at + 0.5) for at in range(_SIDE)]
    places = [(x, y) for y in middles for x in middles]
    if isinstance(drawing, Sign):
        return [_sign_facts(drawing, y) for _, y in places]
    return [_scene_facts(drawing, x, y) for x, y in places]


def _scene_facts(scene: Scene, x: float, y: float) -> dict[str, str]:
    facts = {"count": str(len(scene.things)), "treatment": scene.treatment}
    for thing in scene.things:
        at_x, at_y = PLACES[thing.place]
        if max(abs(x - at_x), abs(y - at_y)) < SCENE_PX / 4:
            facts |= {
                "shape": thing.shape,
                "color": thing.color,
                "size": thing.size,
                "place": thing.place,
            }
    return facts


def _sign_facts(sign: Sign, y: float) -> dict[str, str]:
    if sign.terms is not None:
        left, right = sign.terms
        terms = {"left term": str(left), "right term": str(right), "sum": str(left + right)}
        return {"color": sign.color, **terms}
    # The sign was padded to a square and made smaller.
    width, height = sign.size
    from_top = y * max(width, height) / SCENE_PX - (width - height) / 2
    number = int(from_top / height * len(sign.words))
    number = min(max(number, 0), len(sign.words) - 1)
    return {
        "color": sign.color,
        "word": sign.words[number],
        "line": str(number),
        "lines": str(len(sign.words)),
    }
