import json

import pytest

from llava_eval.errors import DataError
from llava_eval.review.rules import OWN_RULES, read_rules


def write_rules(folder, **prompts):
    path = folder / "rule.json"
    rules = {key: {"role": "Assistant", "prompt": prompt} for key, prompt in prompts.items()}
    path.write_text(json.dumps(rules))
    return path


def test_the_published_rules_are_known_by_their_hash(reference):
    rules = read_rules(reference / "data/eval/rule.json")
    assert len(rules.by_key) == 9
    assert {rule.wording for rule in rules.by_key.values()} == {"llava"}
    assert [key for key, rule in rules.by_key.items() if rule.scores_last] == ["math"]


def test_rules_in_another_language_are_not_the_published_ones(reference):
    rules = read_rules(reference / "data/reviews/qa90_ja/rule.json")
    assert rules.find("conv", "visual").wording == "given"


def test_an_edited_copy_is_not_the_published_one(reference, tmp_path):
    text = (reference / "data/eval/rule.json").read_text()
    (tmp_path / "rule.json").write_text(text.replace("1 to 10", "1 to 5"))
    assert read_rules(tmp_path / "rule.json").find("conv", "wild").wording == "given"


@pytest.mark.parametrize(
    ("category", "variant", "key"),
    [
        ("coding", "text", "coding"),
        ("knowledge", "text", "default"),
        (None, "text", "default"),
        ("conv", "visual", "conv"),
        ("conv", "wild", "llava_bench_conv"),
    ],
)
def test_a_category_finds_its_rule_as_the_three_scripts_do(category, variant, key, tmp_path):
    names = ("default", "coding", "conv", "llava_bench_conv")
    rules = read_rules(write_rules(tmp_path, **{name: name for name in names}))
    assert rules.find(category, variant).key == key


def test_a_category_about_pictures_needs_a_rule_of_its_own(tmp_path):
    rules = read_rules(write_rules(tmp_path, default="Rate.", conv="Rate."))
    with pytest.raises(DataError, match="no rule for 'detail'; the file has default, conv"):
        rules.find("detail", "visual")


@pytest.mark.parametrize("variant", ["text", "visual", "wild"])
def test_our_own_rule_says_so(variant):
    rule = OWN_RULES.find("conv", variant)
    assert rule.wording == "own"
    assert ("picture" in rule.prompt) == (variant != "text")
    assert rule.key == ("llava_bench_conv" if variant == "wild" else "conv")


@pytest.mark.parametrize("text", ["[]", "{}", "1"])
def test_a_file_without_rules_is_refused(text, tmp_path):
    (tmp_path / "rule.json").write_text(text)
    with pytest.raises(DataError, match="expected an object, category -> role and prompt"):
        read_rules(tmp_path / "rule.json")


def test_a_rule_without_a_prompt_is_named(tmp_path):
    (tmp_path / "rule.json").write_text('{"conv": {"role": "Assistant"}}')
    with pytest.raises(DataError, match=r"rule.json: conv.*prompt"):
        read_rules(tmp_path / "rule.json")
