"""Which template fits: by content first, by published name last."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llava_core.checkpoint.chat_template import chat_template
from llava_core.checkpoint.template import choose_template
from llava_core.errors import ConfigError
from llava_core.templates import get_template
from tests.llava_core.toy import toy_config

LLAMA_2 = "llava-llama-2-13b-chat-lightning-preview"


def tokenizer(eos, *others):
    plain = Tokenizer(WordLevel({"x": 0}, unk_token="x"))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=eos, additional_special_tokens=list(others)
    )


@pytest.mark.parametrize(
    ("backbone", "tokens", "name", "reason"),
    [
        ("llama", ["</s>"], "vicuna_v1", "evaluation scripts use for Llama"),
        ("llama", ["<|im_end|>"], "chatml_direct", "ends a turn with <|im_end|>"),
        ("llama", ["<|end_of_text|>", "<|eot_id|>"], "llava_llama_3", "has Llama 3's <|eot_id|>"),
        ("mistral", ["</s>"], "mistral_instruct", "is a Mistral"),
        ("qwen2", ["<|im_end|>"], "qwen_1_5", "is a Qwen"),
        ("qwen2", ["<|endoftext|>"], "qwen_1_5", "is a Qwen"),
        ("mpt", ["<|endoftext|>", "<|im_end|>"], "mpt", "is an MPT"),
    ],
)
def test_content_decides_whatever_the_name_is(backbone, tokens, name, reason):
    config = toy_config(backbone=backbone)
    choice = choose_template(config, tokenizer(*tokens), model_id="my-llava-v0-mpt", wanted=None)
    assert choice.name == name
    assert reason in choice.reason


@pytest.mark.parametrize("model_id", [LLAMA_2, f"{LLAMA_2}@main"])
def test_a_published_name_decides_where_content_cannot(model_id):
    choice = choose_template(toy_config(), tokenizer("</s>"), model_id=model_id, wanted=None)
    assert choice[:2] == ("llava_llama_2", f"published for {LLAMA_2}")


def test_what_a_checkpoint_says_of_its_training_wins_over_what_it_is_made_of():
    config = toy_config(conversation="llava_llama_2")
    choice = choose_template(config, tokenizer("</s>"), model_id="my-llava", wanted=None)
    assert choice == ("llava_llama_2", "trained with it", "llava_llama_2")
    asked = choose_template(config, tokenizer("</s>"), model_id="my-llava", wanted="v0")
    assert asked.reason == "asked for"


def test_what_is_asked_for_wins():
    choice = choose_template(toy_config(), tokenizer("</s>"), model_id=LLAMA_2, wanted="v1")
    assert choice[:2] == ("vicuna_v1", "asked for")
    with pytest.raises(ConfigError, match="no conversation template 'v9'"):
        choose_template(toy_config(), tokenizer("</s>"), model_id=LLAMA_2, wanted="v9")


@pytest.mark.parametrize(
    ("backbone", "text", "name"),
    [
        ("llama", "USER: {{ m }} ASSISTANT:", "vicuna_v1"),
        ("mistral", "USER: {{ m }} ASSISTANT:", "vicuna_v1"),
        ("mistral", "[INST] {{ m }} [/INST]", "mistral_instruct"),
        ("llama", "[INST] {{ m }} [/INST]", "llava_llama_2"),
        ("llama", "<|im_start|>user\n{{ m }}<|im_end|>", "chatml_direct"),
        ("qwen2", "<|im_start|>user\n{{ m }}<|im_end|>", "qwen_1_5"),
        ("llama", "<|start_header_id|>user<|end_header_id|>{{ m }}", "llava_llama_3"),
    ],
)
def test_a_chat_template_that_knows_of_pictures_decides(backbone, text, name):
    made = tokenizer("</s>")
    made.chat_template = "{{ '<image>' }}" + text
    choice = choose_template(toy_config(backbone=backbone), made, model_id="x", wanted=None)
    assert choice.name == name
    assert choice.reason.startswith("its chat template has ")


def test_the_language_models_own_chat_template_says_nothing():
    made = tokenizer("</s>")
    made.chat_template = "[INST] {{ m }} [/INST]"
    assert choose_template(toy_config(), made, model_id="x", wanted=None).name == "vicuna_v1"


@pytest.mark.parametrize("name", ["vicuna_v1", "llava_llama_2", "chatml_direct", "llava_llama_3"])
def test_a_chat_template_of_our_own_is_known_again(name):
    made = tokenizer("</s>")
    made.chat_template = chat_template(get_template(name))
    assert choose_template(toy_config(), made, model_id="x", wanted=None).name == name


def test_chatting_uses_the_template_of_the_demo_unless_another_is_asked_for():
    config, words = toy_config(), tokenizer("</s>")
    chosen = choose_template(config, words, model_id="x", wanted=None)
    assert (chosen.name, chosen.chat) == ("vicuna_v1", "llava_v1")
    asked = choose_template(config, words, model_id="x", wanted="vicuna_v1")
    assert asked.chat == "vicuna_v1"
