"""A recipe: every setting of a training stage, read from YAML, overridden and checked.

    version: 1
    include: v1_5_7b              another recipe, whose values hold where this one has none
    model: lmsys/vicuna-13b-v1.5  settings of both stages
    pretrain: {…}                 settings of one stage, which win
    finetune: {…}

The recipes that ship with the package carry the published hyper-parameters. Everything that can be
checked without loading anything is checked here, all faults together.

Source of names and values: LLaVA c121f04, `scripts/`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from llava_core.config import fault_of
from llava_core.errors import ConfigError
from llava_core.templates import TEMPLATES

STAGES = ("pretrain", "finetune")
Part = Literal["projector", "language_model", "vision_tower"]
_VERSION = 1
_FOLDER = Path(__file__).parent / "recipes"
# Value of max_steps.
_BY_EPOCHS = -1
# As many as numpy takes.
_SEEDS = 2**32
# A date that there is not is a ValueError, as bytes that are no UTF-8 are.
_NO_YAML = (RecursionError, yaml.YAMLError, ValueError)
_PATHS = ("output", "data", "validation_data", "image_folder", "projector")
_ENGINES = ("none", "zero2", "zero3", "zero3_offload", "fsdp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings of one stage."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    stage: Literal["pretrain", "finetune"]
    """pretrain: usually the projector alone, on captions; finetune: on conversations."""
    model: str
    """Folder or Hub id of a language model, or of a LLaVA checkpoint to go on from."""
    model_base: str | None = None
    """What `model` was trained on, where it is a LoRA or projector-only folder."""
    template: str
    """Prompt template; plain learns captions."""
    vision_tower: str | None = None
    """Folder or Hub id; None: the one of the LLaVA checkpoint."""
    projector: str | None = None
    """Folder or file of a pretrained projector; None: the checkpoint's, or a new one."""
    projector_type: str = "mlp2x_gelu"
    """Of a new projector; a LLaVA checkpoint keeps its own."""
    vision_select_layer: int = -2
    vision_select_feature: Literal["patch", "cls_patch"] = "patch"
    image_aspect_ratio: str | None = None
    """square, pad, anyres or anyres_max_N; None: the checkpoint's, square for a new one."""
    grid_pinpoints: list[tuple[int, int]] | str | None = None
    """Resolutions of tiles, in pixels; None: the checkpoint's."""
    patch_merge_type: Literal["flat", "spatial", "spatial_unpad"] | None = None
    """How tiles become one sequence; None: the checkpoint's, flat for a new one."""
    data: tuple[str, ...] = ()
    """Conversation files, JSON or JSON lines."""
    image_folder: str | None = None
    """Where names of pictures start; None: the folder of the first data file."""
    validation_data: tuple[str, ...] = ()
    """Conversation files whose loss is computed every `save_steps`."""
    faulty_samples: Literal["fail", "skip"] = "fail"
    """What a missing picture or an empty answer does: ends the training, or is counted."""
    tune: tuple[Part, ...] = ("projector",)
    """What is trained; the tower never is in the published v1.5."""
    lora_rank: int = 0
    """Rank of the adapters of the language model; 0: it is trained whole, where it is."""
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    quantize: Literal["4bit", "8bit"] | None = None
    """How the frozen language model below adapters is kept."""
    learning_rate: float
    projector_lr: float | None = None
    """None: `learning_rate`."""
    vision_tower_lr: float | None = None
    """None: `learning_rate`."""
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    """Fraction of all steps."""
    schedule: str = "cosine"
    """Name of a learning rate schedule of transformers."""
    optimizer: str = "adamw_torch"
    """Name of an optimizer of transformers."""
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    max_steps: int = _BY_EPOCHS
    """Steps after which training ends; -1: by `epochs`."""
    global_batch: int
    """Samples in a step; per_device_batch x accumulation x processes."""
    per_device_batch: int
    accumulation: int = 1
    adapt_batch: bool = False
    """Whether `accumulation` is chosen so that `global_batch` holds on the processes there are."""
    loss_average: Literal["tokens", "batches"] = "tokens"
    """tokens: every answer token of a step counts the same, so that the loss does not depend on how
    a step is split. batches: the mean over the means of batches, as transformers before 4.46, with
    which the published checkpoints were trained."""
    max_length: int = 2048
    """Longest sequence, pictures included; longer samples are cut, and counted."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    tf32: bool = True
    """Where the GPU has it."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    gradient_checkpointing: bool = True
    """Computes activations twice instead of keeping them."""
    group_by_modality_length: bool = False
    """Whether a step's samples are alike: with or without picture, of like length."""
    packing: bool = False
    """Whether several samples share a row instead of padding; loss and gradients stay the same."""
    share_pictures: bool = False
    """Whether samples of one picture come together, and what they begin with is computed once; loss
    and gradients stay the same. Needs packing, and attention=sdpa or eager."""
    engine: str = "none"
    """How several processes share the work: none (each has the whole model), zero2, zero3,
    zero3_offload, fsdp, or a DeepSpeed configuration file."""
    output: str
    """Folder of checkpoints, logs and the result."""
    save_steps: int = 1000
    save_total_limit: int | None = 1
    logging_steps: int = 1
    peak_tflops: float | None = None
    """What a device can do at most, in 10^12 operations a second, of which the log says how much is
    used; None: that of its name, in 16 bits."""
    report_to: tuple[str, ...] = ()
    """tensorboard, wandb, trackio …, as transformers names them."""
    eval_tasks: tuple[str, ...] = ()
    """Benchmarks that `llava_eval run` is started with on every checkpoint."""
    eval_data: str = "mini"
    """What `--data` those runs get."""
    eval_limit: int | None = None
    """Samples of each benchmark; None: all."""
    workers: int = 4
    """Processes that prepare samples, for each training process."""
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuses settings that contradict each other.

        Raises:
            ConfigError: all contradictions, one a line.
        """
        checks = [*self._ranges(), *self._contradictions()]
        if faults := [fault for is_wrong, fault in checks if is_wrong]:
            raise ConfigError("\n".join(faults))

    def _ranges(self) -> list[tuple[bool, str]]:
        positive = ("learning_rate", "global_batch", "per_device_batch", "accumulation", "epochs",
                    "max_length", "save_steps", "logging_steps", "lora_alpha", "peak_tflops",
                    "eval_limit")  # fmt: skip
        not_negative = ("projector_lr", "vision_tower_lr", "weight_decay", "max_grad_norm",
                        "lora_rank", "workers")  # fmt: skip
        return [
            *(
                (value is not None and value <= 0, f"{name} is {value}, expected more than 0")
                for name, value in self._named(positive)
            ),
            *(
                (value is not None and value < 0, f"{name} is {value}, expected 0 or more")
                for name, value in self._named(not_negative)
            ),
            *(
                (not 0 <= value < 1, f"{name} is {value}, expected a fraction in [0, 1)")
                for name, value in self._named(("lora_dropout", "warmup_ratio"))
            ),
            (
                self.max_steps < 1 and self.max_steps != _BY_EPOCHS,
                f"max_steps is {self.max_steps}, expected 1 or more, or {_BY_EPOCHS} for as many "
                "as epochs says",
            ),
            (
                not 0 <= self.seed < _SEEDS,
                f"seed is {self.seed}, expected 0 or more and less than {_SEEDS}",
            ),
            (
                self.save_total_limit is not None and self.save_total_limit < 1,
                f"save_total_limit is {self.save_total_limit}, expected 1 or more, or null for all",
            ),
        ]  # fmt: skip

    def _contradictions(self) -> list[tuple[bool, str]]:
        trains_language = "language_model" in self.tune
        is_anyres = (self.image_aspect_ratio or "").startswith("anyres")
        return [
            (not self.tune, "tune is empty: nothing would be trained"),
            (
                self.template not in TEMPLATES,
                f"template {self.template!r} is unknown{_near(self.template, TEMPLATES)}",
            ),
            (
                self.lora_rank > 0 and not trains_language,
                "lora_rank is set, but tune does not name language_model, which adapters are for",
            ),
            (
                self.quantize is not None and trains_language and not self.lora_rank,
                f"quantize={self.quantize} keeps the language model frozen: set lora_rank, or drop "
                "language_model from tune",
            ),
            (
                self.vision_tower_lr is not None and "vision_tower" not in self.tune,
                "vision_tower_lr has no effect: tune does not name vision_tower",
            ),
            (
                self.projector_lr is not None and "projector" not in self.tune,
                "projector_lr has no effect: tune does not name projector",
            ),
            *(
                (fault is not None, f"{name} {fault}")
                for name, fault in (
                    ("projector_type", fault_of("mm_projector_type", self.projector_type)),
                    ("image_aspect_ratio", fault_of("image_aspect_ratio", self.image_aspect_ratio)),
                )
            ),
            (
                is_anyres and self.grid_pinpoints is None and self.vision_tower is not None,
                "image_aspect_ratio is anyres for a new model: give grid_pinpoints",
            ),
            (
                is_anyres
                and self.patch_merge_type in ("spatial", "spatial_unpad")
                and self.vision_select_feature == "cls_patch",
                "tiles make a raster of patches only: set vision_select_feature=patch or "
                "patch_merge_type=flat",
            ),
            (
                self.share_pictures and not self.packing,
                "share_pictures puts samples into one row: set packing=true too",
            ),
            (
                self.share_pictures and self.group_by_modality_length,
                "share_pictures and group_by_modality_length are two orders: drop one",
            ),
            (
                self.share_pictures and self.attention not in ("sdpa", "eager"),
                f"share_pictures needs a mask, which attention={self.attention} may not have: set "
                "attention=sdpa or eager",
            ),
            (
                self.engine not in _ENGINES and not self.engine.endswith(".json"),
                f"engine {self.engine!r} is unknown, expected {', '.join(_ENGINES)} or a .json "
                f"file{_near(self.engine, _ENGINES)}",
            ),
            (
                self.quantize is not None and self.engine not in ("none", "zero2"),
                f"quantize and engine={self.engine} exclude each other: quantized weights cannot "
                "be cut up; use engine=none or zero2",
            ),
        ]  # fmt: skip

    def _named(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in names]

    @property
    def base(self) -> str | None:
        """What `--model-base` names with the result; None: it is a whole model."""
        if self.lora_rank or self.tune == ("projector",):
            return self.model_base or self.model
        return None

    def fit_batch(self, num_processes: int) -> "Recipe":
        """Makes sure that a step has `global_batch` samples on so many processes.

        Raises:
            ConfigError: it has not, and `adapt_batch` is not set or cannot help.
        """
        at_once = self.per_device_batch * num_processes
        if at_once * self.accumulation == self.global_batch:
            return self
        accumulation, rest = divmod(self.global_batch, at_once)
        given = (
            f"per_device_batch {self.per_device_batch} x accumulation {self.accumulation} x "
            f"{num_processes} processes = {at_once * self.accumulation}, expected "
            f"global_batch {self.global_batch}"
        )
        if rest or not accumulation:
            raise ConfigError(
                f"{given}; give a per_device_batch with which {num_processes} processes divide it"
            )
        if not self.adapt_batch:
            raise ConfigError(f"{given}; set accumulation={accumulation} or adapt_batch=true")
        return replace(self, accumulation=accumulation)

    def need_files(self) -> None:
        """Makes sure that what is read is there.

        Raises:
            ConfigError: no data are named, or something is not there, with all that is not.
        """
        if not self.data:
            raise ConfigError("data is missing: give data=FILE or data=[FILE,FILE]")
        faults = []
        for setting, names in (("data", self.data), ("validation_data", self.validation_data)):
            if missing := [name for name in names if not Path(name).is_file()]:
                faults.append(f"{setting}: there is no file {', '.join(missing)}")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            faults.append(f"image_folder: there is no folder {self.image_folder}")
        if self.projector is not None and not Path(self.projector).exists():
            faults.append(
                f"projector: there is no {self.projector}, which the stage pretrain leaves; give "
                "projector=FOLDER"
            )
        if faults:
            raise ConfigError("\n".join(faults))

    def to_yaml(self) -> str:
        """All settings, as a recipe that can be read again."""
        settings = {name: _plain(value) for name, value in asdict(self).items()}
        stage = settings.pop("stage")
        return yaml.safe_dump({"version": _VERSION, stage: settings}, sort_keys=False)


def load_recipe(
    stage: str, recipe: str | Path, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Reads a recipe for a stage.

    Args:
        recipe: name of one that ships with the package, or a file.
        overrides: settings that win over the file's.

    Raises:
        ConfigError: no such recipe, no such stage in it, unknown keys, values of a wrong type or
            that contradict each other.
    """
    types = {field.name: field.type for field in fields(Recipe) if field.name != "stage"}
    file = _read(stage, _find(recipe))
    settings = {**file.settings, **(overrides or {})}
    if unknown := [key for key in settings if key not in types]:
        known = [*types, *STAGES, "include"]
        raise ConfigError(
            "\n".join(f"unknown setting {key!r}{_near(str(key), known)}" for key in unknown)
        )
    if stage not in file.stages:
        raise ConfigError(f"recipe {recipe} has no stage {stage}")
    # They would be taken for 1 and 0; YAML's yes, no, on and off are among them.
    switches = [key for key, value in settings.items() if isinstance(value, bool)]
    if wrong := [key for key in switches if types[key] is not bool]:
        raise ConfigError(
            "\n".join(f"{key} is {settings[key]}, expected a value, not yes or no" for key in wrong)
        )
    for name in ("data", "validation_data", "tune", "report_to", "eval_tasks"):
        if isinstance(settings.get(name), str):
            # transformers' scripts say `report_to none`.
            settings[name] = [
                part for part in settings[name].split(",") if part not in ("", "none")
            ]
    settings |= {name: _expanded(settings[name]) for name in _PATHS if name in settings}
    try:
        return TypeAdapter(Recipe).validate_python({"stage": stage, **settings})
    except ValidationError as error:
        raise ConfigError("\n".join(map(_fault, error.errors()))) from error


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` words; values are YAML.

    Raises:
        ConfigError: a word without `=`, or a value that is no YAML.
    """
    settings = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"{word!r} is no setting: expected key=value")
        try:
            settings[key] = yaml.safe_load(value)
        except _NO_YAML as error:
            raise ConfigError(f"{key}: {value!r} is no YAML value") from error
    return settings


def _find(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not os.path.isfile(path):
            raise ConfigError(f"there is no recipe file {path}")
        return path
    if str(recipe) not in recipe_names():
        raise ConfigError(
            f"there is no recipe {str(recipe)!r}{_near(str(recipe), recipe_names())}; known are "
            f"{', '.join(recipe_names())}, or give a .yaml file"
        )
    return _FOLDER / f"{recipe}.yaml"


class _File(NamedTuple):
    """What a recipe's file holds, with what it includes."""

    stages: set[str]
    settings: dict[str, Any]
    """For one stage, flat."""


def _read(stage: str, path: Path, *, is_included: bool = False) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
        content, repeated = yaml.safe_load(text), sorted(_repeated_keys(yaml.compose(text)))
    except (OSError, *_NO_YAML) as error:
        raise ConfigError(f"{path} is no recipe: {error}") from error
    if repeated:
        raise ConfigError(f"{path} says {', '.join(repeated)} twice; drop what does not hold")
    if not isinstance(content, dict) or content.pop("version", None) != _VERSION:
        raise ConfigError(f"{path} is no recipe: expected `version: {_VERSION}` and settings")
    parts = {name: content.pop(name) or {} for name in STAGES if name in content}
    if wrong := [name for name, part in parts.items() if not isinstance(part, dict)]:
        raise ConfigError(f"{path} is no recipe: {wrong[0]} has to hold settings, `key: value`")
    included = _File(set(), {})
    if other := content.pop("include", None):
        if is_included:
            raise ConfigError(f"{path} includes {other}, and is included itself; one level is all")
        if not isinstance(other, str):
            raise ConfigError(f"{path} includes {other}, expected the name of one recipe")
        beside = path.parent / f"{other}.yaml"
        included = _read(
            stage, beside if os.path.isfile(beside) else _find(other), is_included=True
        )
    settings = {**included.settings, **content, **parts.get(stage, {})}
    return _File(included.stages | set(parts), settings)


def _repeated_keys(file: yaml.Node | None) -> set[str]:
    """Settings that a file or a stage has twice; YAML's reader keeps the last without a word."""
    if not isinstance(file, yaml.MappingNode):
        return set()
    mappings = [file, *(node for _, node in file.value if isinstance(node, yaml.MappingNode))]
    named = [[str(key.value) for key, _ in mapping.value] for mapping in mappings]
    return {key for keys in named for key in keys if keys.count(key) > 1}


def _expanded(value: Any) -> Any:
    """Paths, beginning with somebody's home folder where they begin with `~` or `~name`."""
    if isinstance(value, list):
        return [_expanded(part) for part in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _near(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _fault(detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['msg']} (got {detail['input']!r})"


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
