"""How several processes share a training: what each engine needs, and what it is told.

The sharing itself is DeepSpeed's or torch's, by way of transformers and accelerate. What is here
keeps them from doing something other than the recipe says without a word.
"""

from pathlib import Path
from typing import Any

import torch

from llava_core.errors import ConfigError
from llava_core.json_files import read_object
from llava_core.model.llava import LlavaModel
from llava_core.train.recipe import Recipe

_SHIPPED = Path(__file__).parent / "deepspeed"
_GATHERING = "stage3_gather_16bit_weights_on_model_save"


def check_engine(recipe: Recipe) -> None:
    """Makes sure that the engine can run here and does what the recipe says.

    Raises:
        ConfigError: no GPU, no library, or a DeepSpeed file that contradicts the recipe.
        CheckpointError: the DeepSpeed file cannot be read.
    """
    if recipe.engine == "fsdp" and not torch.cuda.is_available():
        # accelerate would run without it and say nothing.
        raise ConfigError("engine=fsdp needs GPUs; on a CPU use engine=none, zero2 or zero3")
    if recipe.engine in ("none", "fsdp"):
        return
    path = _deepspeed_file(recipe)
    faults = [fault for is_wrong, fault in _contradictions(read_object(path), recipe) if is_wrong]
    if faults:
        raise ConfigError("\n".join(f"engine: {path}: {fault}" for fault in faults))
    from transformers.integrations.deepspeed import is_deepspeed_available

    if not is_deepspeed_available():
        raise ConfigError(
            f"engine={recipe.engine} needs the library deepspeed: pip install deepspeed, or "
            "engine=none"
        )


def engine_settings(recipe: Recipe, model: LlavaModel) -> dict[str, Any]:
    """What `TrainingArguments` are told of the engine."""
    if recipe.engine == "none":
        return {}
    if recipe.engine == "fsdp":
        return {"fsdp": True, "fsdp_config": _fsdp(model)}
    return {"deepspeed": str(_deepspeed_file(recipe))}


def _deepspeed_file(recipe: Recipe) -> Path:
    shipped = _SHIPPED / f"{recipe.engine}.json"
    return shipped if shipped.is_file() else Path(recipe.engine)


def _contradictions(fields: dict[str, Any], recipe: Recipe) -> list[tuple[bool, str]]:
    """What of a DeepSpeed file would win over the recipe, or lose the result, in silence."""
    zero = fields.get("zero_optimization") or {}
    wanted = {
        "train_batch_size": recipe.global_batch,
        "train_micro_batch_size_per_gpu": recipe.per_device_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        # Without it DeepSpeed clips nothing.
        "gradient_clipping": recipe.max_grad_norm,
    }
    missing = {"gradient_clipping": 0.0}
    found = {name: fields.get(name, missing.get(name, "auto")) for name in wanted}
    precisions = (("fp16", "float16"), ("bf16", "bfloat16"))
    enabled = {name: (fields.get(name) or {}).get("enabled", "auto") for name, _ in precisions}
    return [
        *(
            (
                section in fields,
                f"{section} would replace that of the recipe; take the section out",
            )
            for section in ("optimizer", "scheduler")
        ),
        *(
            (
                found[name] not in ("auto", value),
                f'{name} is {found[name]}, the recipe\'s is {value}; make it "auto"',
            )
            for name, value in wanted.items()
        ),
        *(
            (
                enabled[name] not in ("auto", recipe.precision == precision),
                f"{name}.enabled is {enabled[name]}, the recipe has precision={recipe.precision}; "
                'make it "auto"',
            )
            for name, precision in precisions
        ),
        (
            zero.get("stage") == 3 and zero.get(_GATHERING) is not True,
            f"stage 3 needs zero_optimization.{_GATHERING}: true, or nothing can be saved",
        ),
    ]


def _fsdp(model: LlavaModel) -> dict[str, Any]:
    named = {*model.language_model._no_split_modules, *model.vision_tower.clip._no_split_modules}
    # CLIP's names some of its text side too, over which accelerate would stumble.
    layers = named & {type(module).__name__ for module in model.modules()}
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": sorted(layers),
        "state_dict_type": "FULL_STATE_DICT",
    }
