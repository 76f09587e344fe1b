"""Labels against those of the original, where they are right, and what they should be elsewhere."""

import base64
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.data.labels import label_sample, place_pictures, render_sample
from llava_core.data.records import parse_sample
from llava_core.errors import DataError
from llava_core.templates import TEMPLATES, get_template
from llava_core.tokens import IGNORE_INDEX, load_tokenizer, tokenize_prompt

BYTES = 256
QUESTION = {"from": "human", "value": "<image>\nWhat is it?"}
ROUNDS = [
    QUESTION,
    {"from": "gpt", "value": "A red bus."},
    {"from": "human", "value": "How many people?"},
    {"from": "gpt", "value": "two"},
]


def sample(turns, image="a.jpg"):
    images = {"image": image} if image else {}
    return parse_sample({"id": "s", "conversations": turns, **images}, number=0)


def spans(labels):
    """Stretches of labelled tokens, as (first, behind the last)."""
    marks = [False, *(label != IGNORE_INDEX for label in labels), False]
    edges = [i for i in range(len(marks) - 1) if marks[i] != marks[i + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_ids_and_labels_are_those_of_the_original(reference):
    tokenizer = load_tokenizer(reference / "golden" / "v15")
    cases = json.loads((reference / "golden/v15/golden_training.json").read_text())
    for case in cases:
        labelled = label_sample(
            sample(case["conversation"], case["image"]), get_template(case["version"]), tokenizer
        )
        assert labelled.ids == case["input_ids"]
        assert labelled.labels == case["labels"]


@pytest.fixture(scope="module")
def small(reference, tmp_path_factory):
    """The tokenizer that the original's masks were computed with: (legacy, with BOS) -> it."""
    packed = json.loads((reference / "spec/core_golden.json").read_text())["tiny_tokenizer"]
    model = zlib.decompress(base64.b64decode(packed["zlib_base64"]))

    def load(*, legacy, is_yi=False):
        folder = tmp_path_factory.mktemp("tokenizer")
        (folder / "tokenizer.model").write_bytes(model)
        fields = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": not is_yi}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))
        tokenizer = load_tokenizer(folder)
        if is_yi:
            tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
        return tokenizer

    return load


@pytest.mark.parametrize(
    ("template", "turns", "image", "length", "expected"),
    [
        ("v1", ROUNDS[:2], True, 85, [(77, 85)]),
        ("v1", ROUNDS, True, 99, [(77, 85), (96, 99)]),
        (
            "v1",
            [{**QUESTION, "value": "What is it?"}, *ROUNDS[1:]],
            False,
            95,
            [(73, 81), (92, 95)],
        ),
        ("llava_llama_2", ROUNDS, True, 160, [(132, 141), (156, 160)]),
        ("mistral_instruct", ROUNDS, True, 46, [(19, 28), (42, 46)]),
    ],
)
def test_spans_are_those_of_the_original(small, template, turns, image, length, expected):
    given_sample = sample(turns, "a.jpg" if image else None)
    labelled = label_sample(given_sample, get_template(template), small(legacy=True))
    assert (len(labelled.ids), spans(labelled.labels)) == (length, expected)


@pytest.mark.parametrize(
    ("template", "rounds", "legacy", "length", "expected"),
    [
        # The original's rule, before it broke: version 1.1.3 of its code.
        ("chatml_direct", 2, True, 40, [(32, 40)]),
        ("chatml_direct", 4, True, 57, [(32, 40), (54, 57)]),
        ("mpt", 2, True, 80, [(72, 80)]),
        ("mpt", 4, True, 97, [(72, 80), (94, 97)]),
        ("chatml_direct", 4, False, 61, [(34, 42), (58, 61)]),
        ("mpt", 4, False, 101, [(74, 82), (98, 101)]),
    ],
)
def test_chatml_is_labelled_without_bos(small, template, rounds, legacy, length, expected):
    tokenizer = small(legacy=legacy, is_yi=True)
    labelled = label_sample(sample(ROUNDS[:rounds]), get_template(template), tokenizer)
    assert (len(labelled.ids), spans(labelled.labels)) == (length, expected)


def byte_tokenizer():
    """One token a byte, as in GPT-2's alphabet, and the marks of chatml."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return fast


@pytest.mark.parametrize(
    ("template", "length", "expected"),
    [
        ("mpt", 197, [(148, 159), (193, 197)]),
        ("chatml_direct", 110, [(61, 72), (106, 110)]),
    ],
)
def test_a_tokenizer_of_bytes_is_labelled(template, length, expected):
    labelled = label_sample(sample(ROUNDS), get_template(template), byte_tokenizer())
    assert (len(labelled.ids), spans(labelled.labels)) == (length, expected)


def squeezed(text):
    return "".join(text.split())


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Is ASSISTANT: here?", "no"), ("What?", "<unk>"), ("USER: hi", "ASSISTANT: yes </s> USER:")],
)
def test_what_confuses_counting_does_not_confuse_offsets(small, question, answer):
    tokenizer = small(legacy=True)
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    labelled = label_sample(sample(turns, None), get_template("v1"), tokenizer)
    ((start, end),) = spans(labelled.labels)
    assert end == len(labelled.ids)
    assert squeezed(tokenizer.decode(labelled.ids[start:end])) == squeezed(f"{answer}</s>")


CHAT = sorted(set(TEMPLATES) - {"plain", "v0_plain", "v0", "default"})
TINY = load_tokenizer(bundled_tiny())
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from(" \n"),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() and "<" not in text)


@given(template=st.sampled_from(CHAT), turns=st.lists(words, min_size=2, max_size=6))
@settings(deadline=None, max_examples=60)
def test_every_template_labels_the_answers_and_their_ends(template, turns):
    conversation = [
        {"from": ("human", "gpt")[i % 2], "value": text}
        for i, text in enumerate(turns[: len(turns) // 2 * 2])
    ]
    labelled = label_sample(sample(conversation, None), get_template(template), TINY)
    end = get_template(template).end
    learned = [TINY.decode(labelled.ids[a:b]) for a, b in spans(labelled.labels)]
    wanted = [turn["value"] + end for turn in conversation if turn["from"] == "gpt"]
    assert list(map(squeezed, learned)) == list(map(squeezed, wanted))
    assert all(
        label in (IGNORE_INDEX, token)
        for token, label in zip(labelled.ids, labelled.labels, strict=True)
    )


def test_an_open_prompt_is_the_beginning_of_the_labelled_sequence():
    labelled = label_sample(
        sample([{"from": "human", "value": "how many?"}, {"from": "gpt", "value": "3"}], None),
        get_template("v1"),
        TINY,
    )
    ((start, _),) = spans(labelled.labels)
    system = get_template("v1").system
    prompt = tokenize_prompt(f"{system} USER: how many? ASSISTANT:", TINY)
    # The space in front of "3" is a token of its own, and the model has to write it.
    assert labelled.ids[:start] == prompt


def test_a_caption_follows_the_picture_and_the_question_is_dropped():
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "a dog"}]
    labelled = label_sample(sample(turns), get_template("plain"), TINY)
    assert labelled.ids == tokenize_prompt("<image>a dog\n", TINY)
    assert spans(labelled.labels) == [(2, len(labelled.ids))]


@pytest.mark.parametrize(
    ("template", "text", "start_end", "expected"),
    [
        ("v1", "What is it?\n<image>", False, "<image>\nWhat is it?"),
        ("v1", "a <image> b <image> c", False, "<image>\na  b  c"),
        ("v1", "<image>", False, "<image>"),
        ("v1", "What?\n<image>", True, "<im_start><image><im_end>\nWhat?"),
        ("v1_mmtag", "What?\n<image>", False, "<Image><image></Image>\nWhat?"),
        ("v0_mmtag", "<image>\nW", True, "<Image><im_start><image><im_end></Image>\nW"),
    ],
)
def test_the_mark_goes_where_the_original_puts_it(template, text, start_end, expected):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "x"}]
    placed = place_pictures(sample(turns), get_template(template), start_end=start_end)
    assert placed[0].text == expected


def test_the_labelled_text_has_the_picture_between_start_and_end_where_they_are_wanted():
    labelled = label_sample(sample([QUESTION, ROUNDS[1]]), get_template("v1"), TINY, start_end=True)
    rendered = render_sample(sample([QUESTION, ROUNDS[1]]), get_template("v1"), start_end=True).text
    assert "USER: <im_start><image><im_end>\n" in rendered
    assert labelled.ids == tokenize_prompt(rendered, TINY)


def test_the_answers_of_a_template_itself_are_not_learned():
    template = get_template("v0")
    (example,) = [turn.text for turn in template.preset if turn.role == "assistant"]
    turns = [{"from": "human", "value": "how many?"}, {"from": "gpt", "value": "3"}]
    rendered = render_sample(sample(turns, None), template)
    assert example in rendered.text
    ((start, end),) = rendered.spans
    assert squeezed(rendered.text[start:end]) == squeezed("3" + template.end)


def test_several_pictures_stay_where_they_are():
    turns = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "x"}]
    assert (
        place_pictures(sample(turns, ["a", "b"]), get_template("v1"))[0].text == turns[0]["value"]
    )


def test_a_mark_without_picture_is_text():
    turns = [{"from": "human", "value": "what is <image>"}, {"from": "gpt", "value": "a mark"}]
    labelled = label_sample(sample(turns, None), get_template("v1"), TINY)
    assert min(labelled.ids) >= 0


@pytest.mark.parametrize(
    ("turns", "image", "message"),
    [
        (ROUNDS[:1], "a.jpg", "there is no answer to learn"),
        ([QUESTION, {"from": "gpt", "value": " "}], "a.jpg", "answer 1 is empty"),
        ([QUESTION, {"from": "gpt", "value": "<image>"}], "a.jpg", "an answer contains <image>"),
        ([QUESTION, ROUNDS[1], QUESTION, ROUNDS[3]], "a.jpg", "1 pictures, but 2 <image> marks in"),
        (ROUNDS[2:], "a.jpg", "1 pictures, but 0 <image> marks in 0 turns"),
        (ROUNDS, ["a.jpg", "b.jpg"], "2 pictures, but 1 <image> marks in 1 turns"),
    ],
)
def test_faults_are_told_with_the_sample(turns, image, message):
    with pytest.raises(DataError, match=f"sample s: {message}"):
        label_sample(sample(turns, image), get_template("v1"), TINY)


def test_the_plain_template_takes_a_picture_and_a_caption_only():
    with pytest.raises(DataError, match="takes a picture and one caption, found 1 pictures and 4"):
        label_sample(sample(ROUNDS), get_template("plain"), TINY)
