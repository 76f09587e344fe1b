"""What of a model a recipe trains: frozen parts, adapters, types of weights, groups of rates.

Weights that are trained are float32, whatever the rest is, because steps of 2e-5 vanish in half
precision; only DeepSpeed keeps such copies itself.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import is_peft_available

from llava_core.checkpoint.keys import LANGUAGE, NEWLINE, PROJECTOR, TOWER
from llava_core.checkpoint.load import load_model
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.placement import choose_placement
from llava_core.errors import CheckpointError, ConfigError
from llava_core.model.llava import LlavaModel
from llava_core.train.recipe import Recipe

ADAPTER = ".lora_"
"""In the name of every tensor of an adapter."""


class Group(NamedTuple):
    """Parameters with the same settings of the optimizer."""

    names: list[str]
    learning_rate: float
    weight_decay: float


def build_model(parts: Parts, recipe: Recipe, *, device: str) -> LlavaModel:
    """Builds the model of a stage: loaded, frozen where it is not trained, with its adapters.

    Raises:
        CheckpointError: weights that do not fit.
        ConfigError: settings that this machine cannot have, or a library is missing.
    """
    if recipe.lora_rank and not is_peft_available():
        raise ConfigError("lora_rank needs the library peft: pip install 'llava-eval[train]'")
    placement = choose_placement(
        parts.config,
        device=device,
        dtype=recipe.precision,
        attention=recipe.attention,
        quantize=recipe.quantize,
    )
    return prepare(load_model(parts, placement), recipe, tensors=parts.tensors)


def prepare(model: LlavaModel, recipe: Recipe, *, tensors: Mapping[str, Tensor]) -> LlavaModel:
    """Freezes what a recipe does not train and adds its adapters.

    Args:
        model: any, which is changed.
        tensors: its weights as the files have them, which may be finer than the model's.
    """
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Quantized weights are integers, which have no gradient.
        if parameter.is_floating_point():
            parameter.requires_grad = _is_trained(name, model, recipe)
    if recipe.lora_rank:
        _add_adapters(model, recipe)
    if recipe.engine in ("none", "fsdp"):
        _keep_exact(model, tensors, all_parts=recipe.engine == "fsdp")
    if recipe.gradient_checkpointing:
        _save_activations(model)
    return model


def trained_names(model: LlavaModel) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[Group]:
    """Groups the trained parameters by learning rate and weight decay.

    Biases and the weights of norms never decay. The projector and the tower have groups of their
    own where they have a rate of their own.

    Source: LLaVA c121f04, `LLaVATrainer.create_optimizer`; LLaVA-NeXT's for the tower.
    """
    exempt = _names_in_norms(model)
    rates = [
        (rate, mark)
        for rate, mark in (
            (recipe.projector_lr, PROJECTOR),
            (recipe.vision_tower_lr, TOWER),
        )
        if rate is not None
    ]
    marks = [mark for _, mark in rates]
    groups = []
    for rate, mark in [(recipe.learning_rate, None), *rates]:
        names = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
            and (not any(m in name for m in marks) if mark is None else mark in name)
        ]
        decaying = [name for name in names if name not in exempt and "bias" not in name]
        groups.append(Group(decaying, rate, recipe.weight_decay))
        groups.append(Group([name for name in names if name not in decaying], rate, 0.0))
    return [group for group in groups if group.names]


def _is_trained(name: str, model: LlavaModel, recipe: Recipe) -> bool:
    if name.startswith(PROJECTOR):
        return "projector" in recipe.tune
    if name.startswith(TOWER):
        return "vision_tower" in recipe.tune and _is_used(name.removeprefix(TOWER), model)
    trains_language = "language_model" in recipe.tune
    if name == NEWLINE:
        # As in the original, a part of the language model's side; beside adapters, where that
        # trains a new one only, it is trained too. Without tiles it has no part in the loss, and
        # processes would wait in vain for its gradient.
        return trains_language and model.config.uses_tiles
    return trains_language and not recipe.lora_rank and name.startswith(LANGUAGE)


def _is_used(name: str, model: LlavaModel) -> bool:
    """Whether a tensor of the tower has a part in the selected layer.

    Behind it nothing gets a gradient, for which processes would wait in vain.
    """
    num_layers = model.vision_tower.clip.config.num_hidden_layers
    layer = model.vision_tower.select_layer
    num_used = layer if layer >= 0 else num_layers + 1 + layer
    if name.startswith("encoder.layers."):
        return int(name.split(".")[2]) < num_used
    return not name.startswith(("post_layernorm.", "head."))


def _add_adapters(model: LlavaModel, recipe: Recipe) -> None:
    from peft import inject_adapter_in_model

    language_model = model.language_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        inject_adapter_in_model(_adapter_config(language_model, recipe), language_model)
    for name, parameter in language_model.named_parameters():
        parameter.requires_grad = ADAPTER in name
        if recipe.quantize and "norm" in name:
            parameter.data = parameter.data.float()


def _adapter_config(language_model: nn.Module, recipe: Recipe) -> Any:
    """The `LoraConfig` of peft: adapters on every linear layer of the language model but the last.

    Source: LLaVA c121f04, `find_all_linear_names`.
    """
    from peft import LoraConfig

    targets = {
        name.rpartition(".")[2]
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=sorted(targets - {"lm_head"}),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=recipe.base,
    )


def _keep_exact(model: LlavaModel, tensors: Mapping[str, Tensor], *, all_parts: bool) -> None:
    """Makes trained weights float32, from the files, where they may be finer than `precision`.

    Args:
        all_parts: whether frozen ones are float32 too; FSDP wants one type in all.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name in tensors:
            parameter.data = tensors[name].to(parameter.device, torch.float32, copy=True)
        elif (all_parts or parameter.requires_grad) and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def _save_activations(model: LlavaModel) -> None:
    """Has layers compute their activations twice."""
    parts = [model.language_model]
    if any(parameter.requires_grad for parameter in model.vision_tower.parameters()):
        parts.append(model.vision_tower.clip)
    for part in parts:
        # The second name is that of transformers before 5.23.
        enable = getattr(part, "activation_checkpointing_enable", None)
        (enable or part.gradient_checkpointing_enable)({"use_reentrant": False})


def _names_in_norms(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }


def copy_into(model: LlavaModel, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Gives all trained parameters the values of a checkpoint.

    Raises:
        CheckpointError: one is missing or has another shape.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != parameter.shape:
            found = None if tensor is None else tuple(tensor.shape)
            raise CheckpointError(
                f"{source} is of another training: {name} is {found} there, expected "
                f"{tuple(parameter.shape)}"
            )
        parameter.data.copy_(tensor)
