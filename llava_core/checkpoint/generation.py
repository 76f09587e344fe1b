"""What `generation_config.json` says: where an answer ends, and how it is sampled."""

from pathlib import Path
from typing import Any

from llava_core.checkpoint.parts import Parts
from llava_core.conversation import Template
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object

FILE = "generation_config.json"
# Without sampling these have no effect, and transformers 5 refuses to save them.
_SAMPLING = {"epsilon_cutoff", "eta_cutoff", "min_p", "temperature", "top_k", "top_p", "typical_p"}
_PROVENANCE = {"_from_model_config", "transformers_version"}


def end_ids(parts: Parts, tokenizer: Any, template: Template) -> frozenset[int]:
    """Tokens that end an answer: the generation config's, the config's or the tokenizer's.

    A template's end mark is one too where it is a special token: Llama 3's config may name another.

    Raises:
        CheckpointError: the generation config is not JSON, or they are no ids.
    """
    places = (_read(parts).get("eos_token_id"), parts.config.text.get("eos_token_id"))
    # A config may say null, and 0 is an id: that of MPT's <|endoftext|>.
    given = next((ids for ids in places if ids is not None), tokenizer.eos_token_id)
    ids = given if isinstance(given, list) else [given]
    if not all(isinstance(each, int | None) for each in ids):
        raise CheckpointError(
            f"eos_token_id is {given!r} in {parts.tokenizer}, expected the id of a token or a list"
        )
    end = tokenizer.get_added_vocab().get(template.end.strip())
    return frozenset([*ids, end]) - {None}


def end_strings(template: Template, tokenizer: Any) -> tuple[str, ...]:
    """The template's end mark, where the model can only spell it: it is no token, as `###`.

    It was trained to write the mark, and no token that ends an answer after it.
    """
    end = template.end.strip()
    return (end,) if end and end not in tokenizer.get_added_vocab() else ()


def generation_fields(
    parts: Parts, tokenizer: Any, template: Template, *, pad_token_id: int | None
) -> dict[str, Any]:
    """The file for a checkpoint that is written anew, without settings that contradict each other.

    Raises:
        CheckpointError: the old one is not JSON.
    """
    fields = {"bos_token_id": tokenizer.bos_token_id, **_read(parts)}
    dropped = _PROVENANCE | (set() if fields.get("do_sample") else _SAMPLING)
    ends = sorted(end_ids(parts, tokenizer, template))
    return {
        **{name: value for name, value in fields.items() if name not in dropped},
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": pad_token_id,
    }


def generation_file(parts: Parts) -> list[Path]:
    """The file, where there is one."""
    path = parts.tokenizer / FILE
    return [path] if path.is_file() else []


def _read(parts: Parts) -> dict[str, Any]:
    return next(map(read_object, generation_file(parts)), {})
