"""Writes a checkpoint's tokenizer as each of the two layouts wants it.

transformers' layout has a `tokenizer.json` with a token for `<image>`; the original code reads the
sentencepiece model and knows no such token. Either is made from the other where it is missing.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import Metaspace

from llava_core.conversation import IMAGE_MARK
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object, write_object
from llava_core.tokens import (
    SENTENCEPIECE_FILE,
    SERIALIZED_FILE,
    SETTINGS_FILE,
    SPACE,
    sentencepiece_format,
)

PAD_MARK = "<pad>"
# Every file that a tokenizer of transformers may consist of.
_FILES = (SETTINGS_FILE, SENTENCEPIECE_FILE, SERIALIZED_FILE, "added_tokens.json",
          "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json",
          "vocab.json")  # fmt: skip
# Settings that hold for one folder, one layout or one version of transformers only.
_PASSING = {
    "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "backend",
    "chat_template", "extra_special_tokens", "image_token", "is_local", "local_files_only",
    "name_or_path", "processor_class", "special_tokens_map_file", "tokenizer_file",
}  # fmt: skip
_KINDS = {"normal": 1, "unknown": 2, "control": 3, "byte": 6}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies a tokenizer's files as they are."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, folder / path.name)


def add_layout_tokens(tokenizer: Any, *, needs_pad: bool) -> None:
    """Adds `<image>`, and `<pad>` where padding has no token of its own; in place.

    Args:
        needs_pad: whether the unknown token is not good enough to pad with.
    """
    tokenizer.add_tokens([IMAGE_MARK], special_tokens=True)
    if needs_pad and tokenizer.pad_token in (None, tokenizer.unk_token):
        tokenizer.add_special_tokens({"pad_token": PAD_MARK})


def layout_tokens(tokenizer: Any) -> frozenset[str]:
    """Which tokens were added for this layout: those behind all others."""
    vocabulary = tokenizer.get_vocab()
    last = last_text_id(tokenizer)
    return frozenset(n for n in (IMAGE_MARK, PAD_MARK) if vocabulary.get(n, -1) > last)


def last_text_id(tokenizer: Any) -> int:
    """The largest id of a token that the layout did not add."""
    vocabulary = tokenizer.get_vocab()
    return max(int(i) for token, i in vocabulary.items() if token not in (IMAGE_MARK, PAD_MARK))


def write_for_hugging_face(
    tokenizer: Any, source: Path, folder: Path, *, processor_class: str, chat_template: str
) -> None:
    """Writes a tokenizer that any version of transformers reads to the same ids.

    A space goes in front of every stretch of text, as in the published conversions: so the text
    behind `<image>` gets the ids that it has in the original, where it is a text of its own.

    Args:
        tokenizer: with the tokens of this layout; see `add_layout_tokens`.
        source: its own folder.
    """
    if (source / SENTENCEPIECE_FILE).is_file():
        shutil.copyfile(source / SENTENCEPIECE_FILE, folder / SENTENCEPIECE_FILE)
    serialized = json.loads(tokenizer.backend_tokenizer.to_str())
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splitter, Metaspace):
        spaces: list[Any] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
        if splitter.prepend_scheme != "never":
            spaces.insert(0, {"type": "Prepend", "prepend": SPACE})
        serialized |= {
            "normalizer": {"type": "Sequence", "normalizers": spaces},
            "pre_tokenizer": None,
        }
    write_object(folder / SERIALIZED_FILE, serialized, is_ascii=False)
    settings = _settings(tokenizer, source, dropped=())
    settings |= {"padding_side": "left", "processor_class": processor_class}
    write_object(folder / SETTINGS_FILE, settings, is_ascii=False)
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def write_for_original(tokenizer: Any, source: Path, folder: Path) -> None:
    """Writes the tokenizer of a folder in transformers' layout without the tokens of that layout.

    Raises:
        CheckpointError: it is of Llama's kind, with merges in an order that sentencepiece lacks.
    """
    dropped = layout_tokens(tokenizer)
    if (source / SENTENCEPIECE_FILE).is_file():
        shutil.copyfile(source / SENTENCEPIECE_FILE, folder / SENTENCEPIECE_FILE)
    else:
        serialized = read_object(source / SERIALIZED_FILE)
        if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, Metaspace):
            model = _to_sentencepiece(serialized["model"], tokenizer, path=source / SERIALIZED_FILE)
            (folder / SENTENCEPIECE_FILE).write_bytes(model)
        else:
            kept = [t for t in serialized["added_tokens"] if t["content"] not in dropped]
            serialized = {**serialized, "added_tokens": kept}
            write_object(folder / SERIALIZED_FILE, serialized, is_ascii=False)
    settings = _settings(tokenizer, source, dropped=dropped) | {"padding_side": "right"}
    if settings.get("pad_token") in dropped:
        settings["pad_token"] = tokenizer.unk_token or tokenizer.eos_token
    write_object(folder / SETTINGS_FILE, settings, is_ascii=False)


def _settings(tokenizer: Any, source: Path, *, dropped: Collection[str]) -> dict[str, Any]:
    """What tokenizer_config.json says, spelt so that transformers 4 reads it too."""
    settings = {k: v for k, v in read_object(source / SETTINGS_FILE).items() if k not in _PASSING}
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, Metaspace):
        settings |= {
            "add_bos_token": settings.get("add_bos_token", True),
            "legacy": tokenizer.legacy,
            "tokenizer_class": "LlamaTokenizer",
        }
    elif settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    settings |= {name: getattr(tokenizer, name) for name in names}
    settings["added_tokens_decoder"] = {
        str(index): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.content not in dropped
    }
    return settings


def _to_sentencepiece(model: Mapping[str, Any], tokenizer: Any, *, path: Path) -> bytes:
    """A sentencepiece model of the same pieces, which merges in the order of their ids.

    Llama's and Mistral's are of that kind: a piece's score is its negative id.
    """
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    ids = [model["vocab"][piece] for piece in pieces]
    merged = [model["vocab"]["".join(_pair(merge))] for merge in model["merges"]]
    if ids != list(range(len(ids))) or any(a > b for a, b in pairwise(merged)):
        raise CheckpointError(
            f"{path} cannot become a {SENTENCEPIECE_FILE}: its merges are not in the order of its "
            f"vocabulary; put the {SENTENCEPIECE_FILE} of the language model beside it"
        )
    proto = sentencepiece_format().ModelProto()
    for index, piece in enumerate(pieces):
        kind = _kind(piece, tokenizer)
        score = -float(index) if kind == "normal" else 0.0
        proto.pieces.add(piece=piece, score=score, type=_KINDS[kind])
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.byte_fallback = True
    trainer.vocab_size = len(pieces)
    trainer.unk_id, trainer.pad_id = model["vocab"][tokenizer.unk_token], -1
    trainer.bos_id = model["vocab"].get(tokenizer.bos_token, -1)
    trainer.eos_id = model["vocab"].get(tokenizer.eos_token, -1)
    normalizer.name = "identity"
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    normalizer.add_dummy_prefix = splitter.prepend_scheme != "never"
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return bytes(proto.SerializeToString())


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _kind(piece: str, tokenizer: Any) -> str:
    if piece == tokenizer.unk_token:
        return "unknown"
    if piece in (tokenizer.bos_token, tokenizer.eos_token):
        return "control"
    is_byte = len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">")
    return "byte" if is_byte else "normal"
