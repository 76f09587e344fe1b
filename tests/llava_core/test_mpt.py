"""A checkpoint on MPT in the original layout, of random weights, from its folder to its answers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, MptConfig, MptForCausalLM

import llava_core
from llava_core import Request
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.errors import CheckpointError
from llava_core.tokens import IMAGE_TOKEN_ID, tokenize_prompt
from tests.llava_core.toy import CLIP, toy_image

WIDTH = 48
# As mosaicml's and LLaVA's files have them, sizes apart.
MPT = {
    "d_model": WIDTH,
    "n_heads": 6,
    "n_layers": 2,
    "expansion_ratio": 4,
    "max_seq_len": 512,
    "vocab_size": 272,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "learned_pos_emb": True,
    "logit_scale": None,
    "emb_pdrop": 0,
    "resid_pdrop": 0,
    "embedding_fraction": 1.0,
    "verbose": 0,
    "init_device": "cpu",
    "init_config": {"name": "kaiming_normal_", "emb_init_std": None},
    "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "use_cache": False,
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0.0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
}
MULTIMODAL = {
    "architectures": ["LlavaMPTForCausalLM"],
    "model_type": "llava_mpt",
    "hidden_size": WIDTH,
    "eos_token_id": None,
    "mm_hidden_size": CLIP["hidden_size"],
    "mm_use_im_start_end": True,
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "toy-clip",
    "torch_dtype": "float32",
}


def write_tokenizer(folder):
    """Bytes, as in GPT-NeoX's tokenizer, with the marks that mosaicml added for chats."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), names[0])
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path, fields):
    path.write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder, and the three models whose weights it has."""
    root = tmp_path_factory.mktemp("mpt")
    folder, tower = root / "llava-mpt", root / "toy-clip"
    for path in (folder, tower):
        path.mkdir()
    # Of the first seeds the one whose answers repeat themselves least.
    torch.manual_seed(3)
    clip = CLIPVisionModel(CLIPVisionConfig(**CLIP, initializer_range=0.3)).eval()
    attention = {k: v for k, v in MPT["attn_config"].items() if k != "attn_pdrop"}
    config = MptConfig(**{**MPT, "attn_config": attention}, initializer_range=0.2)
    language_model = MptForCausalLM(config).eval()
    projector = nn.Linear(CLIP["hidden_size"], WIDTH)
    tensors = {k: v for k, v in language_model.state_dict().items() if k != "lm_head.weight"}
    tensors |= {f"transformer.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    write_json(folder / "config.json", {**MPT, **MULTIMODAL})
    write_tokenizer(folder)
    weights = {f"vision_model.{k}": v for k, v in clip.state_dict().items()}
    save_file(weights, tower / "model.safetensors")
    write_json(tower / "config.json", {**CLIP, "model_type": "clip_vision_model"})
    square = {"height": CLIP["image_size"], "width": CLIP["image_size"]}
    given = json.loads(
        (bundled_tiny().with_name("tiny-clip") / "preprocessor_config.json").read_text()
    )
    sizes = {"crop_size": square, "size": {"shortest_edge": CLIP["image_size"]}}
    write_json(tower / "preprocessor_config.json", {**given, **sizes})
    return folder, clip, projector, language_model


@pytest.fixture(scope="module")
def llava(written):
    return llava_core.load(str(written[0]), device="cpu")


@torch.inference_mode()
def by_hand(llava, written, request):
    """The spliced prompt float32[1, T, D], put together without our model."""
    _, clip, projector, language_model = written
    pieces, images = [], iter(request.images)
    for token in tokenize_prompt(llava.render(request), llava.tokenizer):
        if token == IMAGE_TOKEN_ID:
            pixels = llava.picture(next(images)).pixels
            pieces.append(
                projector(clip(pixels, output_hidden_states=True).hidden_states[-2][0, 1:])
            )
        else:
            pieces.append(language_model.transformer.wte(torch.tensor([token])))
    return torch.cat(pieces)[None]


def question(text, *images, **fields):
    fields = {"max_new_tokens": 12, **fields}
    return Request(images=images, messages=[{"role": "user", "content": text}], **fields)


REQUESTS = [
    question("What is it?", toy_image(0), id=0),
    question("Is it red, or is it of another colour?", toy_image(0), id=1),
    question("A word.", toy_image(1, width=20, height=60), id=2),
    question("No picture at all", id=3),
    question("<image> or <image>?", toy_image(0), toy_image(2), id=4),
]


def test_the_prompt_is_that_of_mpt_with_marks_around_the_picture(llava):
    assert llava.identity.conversation == "mpt"
    assert llava.identity.placement.attention == "eager"
    assert llava.render(question("q1", toy_image(0))) == (
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The "
        "assistant gives helpful and honest answers.<|im_end|><|im_start|>user\n"
        "<im_start><image><im_end>\nq1<|im_end|><|im_start|>assistant\n"
    )


def test_marks_are_one_token_each(llava):
    # After the three of the tokenizer's files: <im_patch>, which no prompt has, and the two marks.
    ids = tokenize_prompt("<|im_end|><im_start><image><im_end>", llava.tokenizer)
    assert ids == [258, 260, IMAGE_TOKEN_ID, 261]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.id)
@torch.inference_mode()
def test_logits_are_those_of_transformers(llava, written, request_):
    expected = written[3](inputs_embeds=by_hand(llava, written, request_)).logits[0]
    torch.testing.assert_close(llava.logits(request_), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_tokens", [None, 1])
@torch.inference_mode()
def test_answers_are_those_of_transformers_alone(llava, written, batch_tokens):
    answers = {r.id: r.token_ids for r in llava.generate(REQUESTS, batch_tokens=batch_tokens)}
    for request in REQUESTS:
        embeds = by_hand(llava, written, request)
        output = written[3].generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=[256, 258],
            pad_token_id=0,
        )
        assert answers[request.id] == tuple(output[0].tolist())


def test_answers_end_with_a_turn_and_with_a_text(llava):
    assert llava._engine._eos_ids == {256, 258}


def test_a_missing_tensor_is_named_as_in_the_files(written, tmp_path):
    folder = shutil.copytree(written[0], tmp_path / "broken")
    shutil.copytree(written[0].with_name("toy-clip"), tmp_path / "toy-clip")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del tensors["transformer.mm_projector.bias"], tensors["transformer.wte.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    missing = r"missing: transformer\.mm_projector\.bias, transformer\.wte\.weight$"
    with pytest.raises(CheckpointError, match=missing):
        llava_core.load(str(folder), device="cpu")


def test_layers_on_disk_answer_the_same(llava, written, monkeypatch):
    monkeypatch.setattr("llava_core.checkpoint.spread.free_memory", lambda: {"cpu": 320_000})
    spread_out = llava_core.load(str(written[0]), device_map="offload", dtype="float32")
    assert "disk" in spread_out.model.language_model.hf_device_map.values()
    answers = [{r.id: r.token_ids for r in m.generate(REQUESTS)} for m in (llava, spread_out)]
    assert answers[0] == answers[1]
