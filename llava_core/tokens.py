"""From a prompt with `<image>` marks to token ids, and from ids back to text.

Each stretch of text between two marks is tokenised as if it were a whole text, as the checkpoints
were trained. They were trained with the sentencepiece library, whose ids transformers 5 does not
give for a text that begins with a space; `_keep_leading_space` makes up for it.

Source: LLaVA c121f04, `tokenizer_image_token`, under transformers 4.37.2 with `use_fast=False`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from google.protobuf.runtime_version import VersionError
from sentencepiece import SentencePieceProcessor
from tokenizers.pre_tokenizers import Metaspace
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llava_core.conversation import IMAGE_MARK as IMAGE_MARK
from llava_core.conversation import check_characters
from llava_core.errors import CheckpointError, one_line
from llava_core.json_files import read_object

IMAGE_TOKEN_ID = -200
"""Stands in the ids where a picture goes; in no vocabulary."""
IGNORE_INDEX = -100
"""Label of a token that does not count in the loss; the one that torch ignores."""

# How sentencepiece writes a space.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
SETTINGS_FILE = "tokenizer_config.json"
SENTENCEPIECE_FILE = "tokenizer.model"
SERIALIZED_FILE = "tokenizer.json"
# By which transformers reports settings that it cannot take.
_REFUSALS = (AttributeError, TypeError, ValueError)
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Where processors of transformers 4 keep the chat template; later ones' is the tokenizer's too.
_CHAT_TEMPLATE = "chat_template.json"


def tokenize_prompt(prompt: str, tokenizer: Any) -> list[int]:
    """Tokenises a prompt; each `<image>` becomes one `IMAGE_TOKEN_ID`.

    Args:
        tokenizer: see `load_tokenizer`. If it puts BOS first, there is one BOS in all.

    Raises:
        DataError: it holds half of a character.
    """
    check_characters(prompt, "the prompt")
    chunks = [_encode(text, tokenizer) for text in prompt.split(IMAGE_MARK)]
    has_bos = chunks[0][:1] == [tokenizer.bos_token_id]
    ids = chunks[0]
    for chunk in chunks[1:]:
        ids += [IMAGE_TOKEN_ID, *chunk[has_bos:]]
    return ids


def tokenize_with_offsets(
    prompt: str, tokenizer: Any, *, has_marks: bool = True
) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenises as `tokenize_prompt` does and says where in the prompt each token stands.

    Args:
        has_marks: whether `<image>` stands for a picture; else it is text like any other.

    Returns:
        Ids and, beside each, (start, end) in characters; empty for a token of no text, as BOS.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    chunks = prompt.split(IMAGE_MARK) if has_marks else [prompt]
    start, has_bos = 0, False
    for index, text in enumerate(chunks):
        chunk_ids, chunk_offsets = _encode_with_offsets(text, tokenizer)
        if index == 0:
            has_bos = chunk_ids[:1] == [tokenizer.bos_token_id]
        else:
            ids.append(IMAGE_TOKEN_ID)
            offsets.append((start - len(IMAGE_MARK), start))
        skipped = 1 if index and has_bos else 0
        ids += chunk_ids[skipped:]
        offsets += [(start + first, start + last) for first, last in chunk_offsets[skipped:]]
        start += len(text) + len(IMAGE_MARK)
    return ids, offsets


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens and without white space around it.

    Bytes that are no UTF-8, as of a character that the end of an answer cuts off, become U+FFFD
    each; transformers 5 gives up the valid bytes beside them too, a line break for example.
    """
    if not getattr(tokenizer.backend_tokenizer.model, "byte_fallback", False):
        text: str = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()
    # Embedding tables are padded, so a model may write an id that the vocabulary lacks.
    pieces = filter(None, tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True))
    runs = groupby(pieces, key=lambda piece: _BYTE.fullmatch(piece) is not None)
    return "".join(
        _from_bytes(run) if is_byte else "".join(run).replace(SPACE, " ") for is_byte, run in runs
    ).strip()


def load_tokenizer(folder: Path) -> Any:
    """Loads a checkpoint's tokenizer from its own files.

    The class is chosen by the files that are there: transformers' `AutoTokenizer` goes by
    config.json, where it does not know `llava_llama` and takes `llava` for a class of its own.

    Returns:
        A tokenizer of transformers.

    Raises:
        CheckpointError: files are missing or broken, or libraries do not fit each other.
    """
    names = (SENTENCEPIECE_FILE, SERIALIZED_FILE)
    found = [name for name in names if (folder / name).is_file()]
    missing = [] if found else [" or ".join(names)]
    if not (folder / SETTINGS_FILE).is_file():
        missing.append(SETTINGS_FILE)
    if missing:
        raise CheckpointError(f"{folder} has no tokenizer: it lacks {' and '.join(missing)}")
    settings = read_object(folder / SETTINGS_FILE)
    # transformers reads it also where there is a sentencepiece model.
    serialized = read_object(folder / SERIALIZED_FILE) if SERIALIZED_FILE in found else {}
    try:
        if SENTENCEPIECE_FILE in found:
            tokenizer = _load_sentencepiece(folder, settings)
        else:
            tokenizer = _load_serialized(folder, settings, serialized)
    except Exception as error:
        # The library below transformers has no narrower type for files that it cannot take.
        if type(error) is not Exception and not isinstance(error, _REFUSALS):
            raise
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be loaded: {one_line(error)}"
        ) from error
    if not isinstance(length := tokenizer.model_max_length, int | float):
        raise CheckpointError(
            f"model_max_length is {length!r} in {folder / SETTINGS_FILE}, expected a number"
        )
    if tokenizer.chat_template is None and (folder / _CHAT_TEMPLATE).is_file():
        tokenizer.chat_template = read_object(folder / _CHAT_TEMPLATE).get("chat_template")
    return tokenizer


def sentencepiece_format() -> Any:
    """The module of sentencepiece that knows the parts of a model's file.

    Raises:
        CheckpointError: the installed protobuf is too old for it. transformers would take the file
            for one of another kind.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except VersionError as error:
        raise CheckpointError(
            f"the installed sentencepiece needs a newer protobuf: {one_line(error)}; upgrade "
            "protobuf or, where another package holds it back, install sentencepiece==0.2.1"
        ) from error
    return sentencepiece_model_pb2


def _load_sentencepiece(folder: Path, settings: Mapping[str, Any]) -> Any:
    path = folder / SENTENCEPIECE_FILE
    try:
        library = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no sentencepiece model: {error}") from error
    sentencepiece_format()
    # Absent or null meant true when the checkpoints were published; it means false today.
    legacy = settings.get("legacy") is not False
    # Most models were trained with a space in front of every text; Yi's, in v1.6-34b, was not.
    has_prefix = library.encode("x", out_type=str)[0].startswith(SPACE)
    return _load_llama(folder, settings, legacy=legacy, has_prefix=has_prefix)


def _load_serialized(
    folder: Path, settings: Mapping[str, Any], serialized: Mapping[str, Any]
) -> Any:
    """Loads a `tokenizer.json`.

    One that stands for a sentencepiece model is taken for its vocabulary only. How it writes spaces
    differs from the library, in another way with every version of transformers that wrote it.
    """
    if not (serialized.get("model") or {}).get("byte_fallback"):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    splitter = serialized.get("pre_tokenizer") or {}
    # Until 4.39 a normalizer put the space in front, whatever `legacy` was; now it may say it.
    scheme = splitter.get("prepend_scheme")
    legacy = settings.get("legacy")
    return _load_llama(
        folder,
        settings,
        legacy=scheme != "first" if legacy is None else legacy,
        has_prefix='"Prepend"' in json.dumps(serialized.get("normalizer"))
        or scheme in ("first", "always"),
    )


def _load_llama(
    folder: Path, settings: Mapping[str, Any], *, legacy: bool, has_prefix: bool
) -> Any:
    return LlamaTokenizer.from_pretrained(
        folder,
        local_files_only=True,
        legacy=legacy,
        add_bos_token=settings.get("add_bos_token", True),
        add_prefix_space=has_prefix or not legacy,
    )


def _encode(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(_keep_leading_space(text, tokenizer))["input_ids"]
    return ids


def _encode_with_offsets(text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    doubled = _keep_leading_space(text, tokenizer)
    encoded = tokenizer(doubled, return_offsets_mapping=True)
    # Position in the text with doubled spaces -> position in the text.
    origins = [0]
    for character in doubled:
        place = origins[-1]
        origins.append(place + (place < len(text) and text[place] == character))
    return encoded["input_ids"], [(origins[a], origins[b]) for a, b in encoded["offset_mapping"]]


def _keep_leading_space(text: str, tokenizer: Any) -> str:
    """Doubles a space where sentencepiece would put one of its own in front of it.

    transformers 5 puts one only where there is none yet: at the beginning of the text, and for a
    `legacy` tokenizer after every special token.
    """
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(splitter, Metaspace) or splitter.prepend_scheme == "never":
        return text
    beginnings = ["^"]
    if splitter.prepend_scheme == "always":
        beginnings += map(re.escape, tokenizer.get_added_vocab())
    return re.sub(f"({'|'.join(beginnings)})(?=[ {SPACE}])", r"\1 ", text)


def _from_bytes(pieces: Iterable[str]) -> str:
    data = bytes.fromhex("".join(piece[3:5] for piece in pieces))
    text = ""
    while data:
        try:
            return text + data.decode()
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + "\N{REPLACEMENT CHARACTER}"
            data = data[error.start + 1 :]
    return text
