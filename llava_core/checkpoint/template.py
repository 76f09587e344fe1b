"""Chooses the prompt template that fits a checkpoint, and says why.

A checkpoint of our trainer says it itself. Of others, what it is made of decides, whatever its
folder is called. Only Llama 2's chat models look like Vicuna in every file; for them there is a
table of published names.
"""

from typing import Any, NamedTuple

from llava_core.config import LlavaConfig
from llava_core.templates import get_template

# Last parts of the Hub ids of LLaVA's checkpoints on top of Llama-2-chat.
_LLAMA_2_CHAT = {
    "llava-llama-2-13b-chat-lightning-preview",
    "llava-llama-2-7b-chat-lightning-lora-preview",
}


# What only chat templates of a family have in them; and templates by the language model.
_MARKS: tuple[tuple[str, dict[str, str]], ...] = (
    ("<|start_header_id|>", {"llama": "llava_llama_3"}),
    ("[INST]", {"llama": "llava_llama_2", "mistral": "mistral_instruct"}),
    ("<|im_start|>", {"llama": "chatml_direct", "mistral": "chatml_direct", "qwen2": "qwen_1_5"}),
    ("USER", {"llama": "vicuna_v1", "mistral": "vicuna_v1", "qwen2": "vicuna_v1"}),
)


# Evaluation asks Vicuna for a "curious user", LLaVA's demo for a "curious human".
_DEMO = {"vicuna_v1": "llava_v1"}


class Choice(NamedTuple):
    """A template and the reason for it."""

    name: str
    reason: str
    chat: str
    """The template of LLaVA's demo, which chatting uses; most often the same."""


def choose_template(
    config: LlavaConfig, tokenizer: Any, *, model_id: str, wanted: str | None
) -> Choice:
    """Chooses a checkpoint's template.

    Args:
        tokenizer: the checkpoint's own.
        model_id: last part of its path or Hub id, which may end in `@revision`.
        wanted: name of a template to use whatever the checkpoint is.

    Raises:
        ConfigError: there is no template of the name that is wanted or that the config has.
    Source: the evaluation scripts of LLaVA c121f04 and LLaVA-NeXT and, for v1.6, LLaVA's issue
    1284.
    """
    if wanted is not None:
        name = get_template(wanted).name
        return Choice(name, "asked for", chat=name)
    if config.conversation is not None:
        name, reason = get_template(config.conversation).name, "trained with it"
    else:
        name, reason = _published(config, tokenizer, model_id=model_id)
    return Choice(name, reason, chat=_DEMO.get(name, name))


def _published(config: LlavaConfig, tokenizer: Any, *, model_id: str) -> tuple[str, str]:
    """The template of the published evaluations, and why it is that."""
    if by_chat_template := _by_chat_template(config, tokenizer):
        return by_chat_template
    vocabulary = tokenizer.get_added_vocab()
    if "<|eot_id|>" in vocabulary:
        return "llava_llama_3", "the tokenizer has Llama 3's <|eot_id|>"
    if config.backbone == "qwen2":
        return "qwen_1_5", "the language model is a Qwen"
    if config.backbone == "mistral":
        return "mistral_instruct", "the language model is a Mistral"
    if config.backbone == "mpt":
        return "mpt", "the language model is an MPT"
    if tokenizer.eos_token == "<|im_end|>":
        return "chatml_direct", "the tokenizer ends a turn with <|im_end|>"
    name = model_id.partition("@")[0]
    if name in _LLAMA_2_CHAT:
        return "llava_llama_2", f"published for {name}"
    return "vicuna_v1", "what LLaVA's evaluation scripts use for Llama checkpoints"


def _by_chat_template(config: LlavaConfig, tokenizer: Any) -> tuple[str, str] | None:
    """Goes by a chat template that knows of pictures; the language model's own says nothing."""
    text = str(tokenizer.chat_template or "")
    if "image" not in text:
        return None
    for mark, names in _MARKS:
        if mark in text and config.backbone in names:
            return names[config.backbone], f"its chat template has {mark}"
    return None
