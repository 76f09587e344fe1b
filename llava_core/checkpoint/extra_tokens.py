"""Gives a tokenizer the marks that the first LLaVA checkpoints have beyond their language model's.

Their configs say which marks they know; their tokenizer files often do not, because the original
adds them whenever it loads. The embedding table has their rows already, in the order of adding.
"""

from typing import Any

from llava_core.config import LlavaConfig
from llava_core.errors import CheckpointError

_PATCH = "<im_patch>"
_START_END = ("<im_start>", "<im_end>")


def add_extra_tokens(tokenizer: Any, config: LlavaConfig) -> None:
    """Adds the marks that the config asks for, in place.

    Where the embedding table has no row for <im_patch>, which no prompt contains, it is left out;
    the original gives it a random row.

    Raises:
        CheckpointError: the table has no rows for <im_start> and <im_end>, which prompts contain.
    Source: LLaVA c121f04, `load_pretrained_model`.
    """
    if config.use_im_patch_token and _has_rows(tokenizer, config, _PATCH):
        tokenizer.add_tokens([_PATCH], special_tokens=True)
    if not config.use_im_start_end:
        return
    if not _has_rows(tokenizer, config, *_START_END):
        raise CheckpointError(
            f"mm_use_im_start_end is set, but the embedding table has {config.vocab_size} rows, "
            f"expected one each for {' and '.join(_START_END)} after the tokenizer's "
            f"{len(tokenizer)}; add them to the tokenizer's files or unset the field"
        )
    tokenizer.add_tokens(list(_START_END), special_tokens=True)


def _has_rows(tokenizer: Any, config: LlavaConfig, *names: str) -> bool:
    vocabulary = tokenizer.get_vocab()
    new = sum(name not in vocabulary for name in names)
    return new == 0 or len(tokenizer) + new <= config.vocab_size
