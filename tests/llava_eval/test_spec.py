from dataclasses import FrozenInstanceError

import pytest

from llava_eval.spec import did_you_mean, parse_task, read_fields

TASK = """
name: toy
version: 2
title: Toy
paper: Someone, Something
licence: MIT
num_samples: 3
sources:
  llava_layout:
    reader: gqa
    questions: toy/questions.jsonl
    annotations: [toy/answers.json]
prompt:
  style: verbatim
generation:
  max_new_tokens: 16
metric: gqa
headline: accuracy
published:
  accuracy:
    llava-v1.5-7b: 62
"""


def faults_of(text: str) -> list[str]:
    spec, faults = parse_task(read_fields(text))
    assert (spec is None) == bool(faults)
    return faults


def test_a_task_file_becomes_a_task():
    spec, faults = parse_task(read_fields(TASK))
    assert faults == []
    assert (spec.name, spec.version, spec.max_new_tokens) == ("toy", 2, 16)
    assert spec.layout.annotations == ("toy/answers.json",)
    assert spec.published == {"accuracy": {"llava-v1.5-7b": 62.0}}


def test_what_need_not_be_said_has_defaults():
    spec, _ = parse_task(read_fields(TASK))
    assert (spec.protocol, spec.prompt.suffix, spec.layout.images) == ("published", None, None)


def test_other_sources_are_read_where_there_are_any():
    more = """
  hub: {reader: gqa, dataset: owner/toy, aliases: [old/toy], split: test}
  tsv: {reader: gqa, file: Toy.tsv, md5: 99b62f22e224d9b2f32dcbe41359d1c9}
prompt:"""
    spec, _ = parse_task(read_fields(TASK.replace("\nprompt:", more)))
    assert (spec.hub.dataset, spec.hub.aliases, spec.hub.revision) == (
        "owner/toy",
        ("old/toy",),
        None,
    )
    assert (spec.tsv.file, spec.tsv.note) == ("Toy.tsv", None)
    bare, _ = parse_task(read_fields(TASK))
    assert (bare.hub, bare.tsv) == (None, None)


def test_a_task_cannot_be_changed():
    spec, _ = parse_task(read_fields(TASK))
    with pytest.raises(FrozenInstanceError):
        spec.version = 3


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("metric: gqa", "metrik: gqa", "metrik: unknown key; did you mean metric?"),
        ("  style:", "  styl:", "prompt.styl: unknown key; did you mean style?"),
        ("    reader:", "    xyz:", "sources.llava_layout.xyz: unknown key"),
        (
            "    reader:",
            "    reader: gqa\n  hub:\n    reedr:",
            "sources.hub.reedr: unknown key; did you mean reader?",
        ),
        ("title: Toy\n", "", "title: missing"),
        (
            "_tokens: 16",
            "_tokens: 0",
            "generation.max_new_tokens: Input should be greater than 0 (got 0)",
        ),
        (
            "_tokens: 16",
            "_tokens: yes",
            "generation.max_new_tokens: Input should be a valid integer (got True)",
        ),
        (
            "name: toy",
            "name: To-y",
            "name: String should match pattern '^[a-z][a-z0-9_]*$' (got 'To-y')",
        ),
    ],
)
def test_a_fault_names_its_key(old, new, fault):
    assert fault in faults_of(TASK.replace(old, new))


def test_all_faults_are_told_together():
    text = TASK.replace("title: Toy\n", "").replace("  style:", "  styl:")
    assert faults_of(text) == [
        "title: missing",
        "prompt.style: missing",
        "prompt.styl: unknown key; did you mean style?",
    ]


def test_a_broken_file_is_refused():
    with pytest.raises(ValueError, match="not YAML: .* line 1, column 5"):
        read_fields("a: [")


def test_a_file_that_is_nested_too_deeply_is_refused():
    with pytest.raises(ValueError, match="not YAML: maximum recursion depth exceeded"):
        read_fields("[" * 10_000)


@pytest.mark.parametrize("text", [f"{TASK}\nmetric: vqa\n", "a: {b: 1, c: 2, b: 3}"])
def test_a_key_that_stands_twice_is_refused(text):
    """The last one would win, whatever the task says above."""
    with pytest.raises(ValueError, match="not YAML: (metric|b) stands there twice .* line"):
        read_fields(text)


def test_a_list_is_no_task():
    with pytest.raises(ValueError, match="expected a mapping of keys, got list"):
        read_fields("- name: toy")


@pytest.mark.parametrize(
    ("name", "expected"), [("gqq", "; did you mean gqa?"), ("vizwiz", ""), ("", "")]
)
def test_suggestions_are_near_or_absent(name, expected):
    assert did_you_mean(name, ["gqa", "pope"]) == expected
