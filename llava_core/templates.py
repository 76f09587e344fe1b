"""The table of prompt templates, one for each family of checkpoints.

The strings are functional: to the byte those that the published checkpoints were trained on.

Source: LLaVA c121f04 and, for Qwen and Llama 3, LLaVA-NeXT, both `llava/conversation.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from llava_core.conversation import Message, Template
from llava_core.errors import ConfigError

_CHAT = (
    "A chat between a curious {person} and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the {person}'s questions."
)
_HUMAN_CHAT = _CHAT.format(person="human")
_USER_CHAT = _CHAT.format(person="user")
_SEES = (
    "able to understand the visual content that the user provides, and assist the user with a "
    "variety of tasks using natural language."
)
# The missing space between the sentences is what the checkpoints know.
_TAGGED_CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is "
    f"{_SEES}The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
_SEEING_ASSISTANT = f"You are a helpful language and vision assistant. You are {_SEES}"
_SAFE_ASSISTANT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of "
    "answering something not correct. If you don't know the answer to a question, please don't "
    "share false information."
)
# The conversation that v0 shows the model before every other.
_EXAMPLE = (
    Message(
        role="user",
        text="What are the key differences between renewable and non-renewable energy sources?",
    ),
    Message(
        role="assistant",
        text="Renewable energy sources are those that can be replenished naturally in a "
        "relatively short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
        "Non-renewable energy sources, on the other hand, are finite and will eventually be "
        "depleted, such as coal, oil, and natural gas. Here are some key differences between "
        "renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while "
        "non-renewable energy sources are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental "
        "impact than non-renewable sources, which can lead to air and water pollution, "
        "greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
        "typically have lower operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in "
        "more remote locations than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to "
        "different situations and needs, while non-renewable sources are more rigid and "
        "inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, "
        "while non-renewable sources are not, and their depletion can lead to economic and "
        "social instability.\n",
    ),
)

_LLAVA_V0 = Template(
    name="llava_v0",
    style="single",
    system=_HUMAN_CHAT,
    roles=("Human", "Assistant"),
    sep="###",
)
_VICUNA_V1 = Template(
    name="vicuna_v1",
    style="two",
    system=_USER_CHAT,
    roles=("USER", "ASSISTANT"),
    sep=" ",
    sep2="</s>",
    version="v1",
)
_LLAMA_2 = Template(
    name="llama_2",
    style="llama_2",
    system=_SAFE_ASSISTANT,
    roles=_VICUNA_V1.roles,
    sep="<s>",
    sep2="</s>",
    version="llama_v2",
)
_MPT = Template(
    name="mpt",
    style="mpt",
    system="<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.",
    roles=("<|im_start|>user\n", "<|im_start|>assistant\n"),
    sep="<|im_end|>",
    version="mpt",
)
# LLaVA-NeXT's, as all below that are not of LLaVA c121f04.
_QWEN = Template(
    name="qwen_1_5",
    style="mpt",
    system="<|im_start|>system\nYou are a helpful assistant.",
    roles=_MPT.roles,
    sep="<|im_end|>\n",
    version="qwen",
)
# Their tokenizer writes <|begin_of_text|> once more, and so it was when they were scored.
_LLAMA_3 = Template(
    name="llava_llama_3",
    style="llama_3",
    system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n" + _SEEING_ASSISTANT,
    roles=(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    sep="<|eot_id|>",
    version="llama_v3",
)
_BY_NAME = {
    template.name: template
    for template in (
        _LLAVA_V0,
        replace(_LLAVA_V0, name="v0", preset=_EXAMPLE),
        replace(_LLAVA_V0, name="v0_mmtag", system=_TAGGED_CHAT, version="v0_mmtag"),
        _VICUNA_V1,
        replace(_VICUNA_V1, name="llava_v1", system=_HUMAN_CHAT),
        replace(_VICUNA_V1, name="v1_mmtag", system=_TAGGED_CHAT, version="v1_mmtag"),
        _LLAMA_2,
        replace(_LLAMA_2, name="llava_llama_2", system=_SEEING_ASSISTANT),
        replace(_LLAMA_2, name="mistral_instruct", system="", sep=""),
        _MPT,
        replace(_MPT, name="chatml_direct", system="<|im_start|>system\nAnswer the questions."),
        _QWEN,
        replace(_QWEN, name="qwen_2"),
        _LLAMA_3,
        Template(name="plain", style="plain", sep="\n"),
    )
}
_ALIASES = {
    "default": "v0",
    "v1": "vicuna_v1",
    "mistral_direct": "chatml_direct",
    "v0_plain": "plain",
}
TEMPLATES: Mapping[str, Template] = MappingProxyType(
    _BY_NAME | {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}
)
"""All templates under the names that the `--conv-mode` of LLaVA and LLaVA-NeXT takes."""


def get_template(name: str) -> Template:
    """Looks a template up.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    nearest = get_close_matches(name, TEMPLATES) or sorted(TEMPLATES)
    raise ConfigError(f"there is no conversation template {name!r}; try {', '.join(nearest)}")
