"""Recipes: the published hyper-parameters by name, and what is refused before anything loads."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llava_core.errors import ConfigError
from llava_core.train.recipe import load_recipe, parse_overrides, recipe_names

# LLaVA c121f04, scripts/: stage, learning rate, samples in a step, epochs, what is trained.
PUBLISHED = [
    ("pretrain", "v1_5_7b", 1e-3, 256, 1, ("projector",)),
    ("finetune", "v1_5_7b", 2e-5, 128, 1, ("projector", "language_model")),
    ("pretrain", "v1_5_13b", 1e-3, 256, 1, ("projector",)),
    ("finetune", "v1_5_13b", 2e-5, 128, 1, ("projector", "language_model")),
    ("finetune", "v1_5_13b_lora", 2e-4, 128, 1, ("projector", "language_model")),
    ("finetune", "v1_5_13b_task", 2e-5, 128, 1, ("projector", "language_model")),
    ("finetune", "v1_5_13b_task_lora", 2e-4, 128, 1, ("projector", "language_model")),
    ("pretrain", "v1_7b", 2e-3, 128, 1, ("projector",)),
    ("finetune", "v1_7b", 2e-5, 128, 3, ("projector", "language_model")),
    ("finetune", "v1_7b_lora", 2e-5, 128, 1, ("projector", "language_model")),
    ("finetune", "scienceqa_13b", 2e-5, 128, 12, ("projector", "language_model")),
]


@pytest.mark.parametrize(("stage", "name", "rate", "batch", "epochs", "tune"), PUBLISHED)
def test_the_published_settings_are_kept(stage, name, rate, batch, epochs, tune):
    recipe = load_recipe(stage, name)
    assert (recipe.learning_rate, recipe.global_batch, recipe.epochs) == (rate, batch, epochs)
    assert recipe.tune == tune
    assert (recipe.warmup_ratio, recipe.schedule, recipe.weight_decay) == (0.03, "cosine", 0.0)
    assert (recipe.vision_select_layer, recipe.max_length) == (-2, 2048)


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize("kind", ["lora", "task_lora", "qlora"])
def test_adapters_of_v1_5_are_those_of_the_scripts(size, kind):
    recipe = load_recipe("finetune", f"v1_5_{size}_{kind}")
    adapters = (recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout)
    assert adapters == (128, 256, 0.05)
    assert recipe.projector_lr == 2e-5
    assert recipe.quantize == ("4bit" if kind == "qlora" else None)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_holds_for_eight_processes_or_one(name):
    recipe = load_recipe("finetune", name)
    processes = 8 if recipe.engine != "none" else 1
    assert recipe.fit_batch(processes) == recipe


def test_tiles_and_a_rate_for_the_tower_are_in_the_recipe_like_v1_6():
    recipe = load_recipe("finetune", "v1_6_7b")
    assert recipe.image_aspect_ratio == "anyres"
    assert recipe.vision_tower_lr == 2e-6
    assert "vision_tower" in recipe.tune


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_recipe_reads_as_itself(name, tmp_path):
    recipe = load_recipe("finetune", name, {"data": ["a.json", "b.json"]})
    (tmp_path / "printed.yaml").write_text(recipe.to_yaml())
    assert load_recipe("finetune", tmp_path / "printed.yaml") == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rte": 1}, "unknown setting 'learning_rte'; did you mean learning_rate?"),
        ({"stage": "finetune"}, "unknown setting 'stage'$"),
        ({"global_batch": True}, "global_batch is True, expected a value, not yes or no"),
        (
            {"learning_rate": yaml.safe_load("on")},
            "learning_rate is True, expected a value, not yes or no",
        ),
        ({"learning_rate": "fast"}, r"learning_rate: .*number.* \(got 'fast'\)"),
        ({"learning_rate": 0}, "learning_rate is 0.0, expected more than 0"),
        ({"tune": []}, "tune is empty: nothing would be trained"),
        ({"tune": "projektor"}, "projektor"),
        ({"template": "vicuna_v"}, "template 'vicuna_v' is unknown; did you mean vicuna_v1"),
        ({"lora_rank": 8, "tune": "projector"}, "tune does not name language_model"),
        ({"quantize": "4bit"}, "set lora_rank, or drop language_model from tune"),
        ({"vision_tower_lr": 1e-6}, "vision_tower_lr has no effect"),
        ({"projector_lr": 1e-6, "tune": "language_model"}, "projector_lr has no effect"),
        (
            {"image_aspect_ratio": "padd"},
            "image_aspect_ratio is 'padd', expected pad, square, anyres, anyres_max_N",
        ),
        (
            {"projector_type": "mlp0x_gelu"},
            "projector_type is 'mlp0x_gelu', expected linear, identity, mlpNx_gelu",
        ),
        ({"image_aspect_ratio": "anyres"}, "anyres for a new model: give grid_pinpoints"),
        (
            {
                "image_aspect_ratio": "anyres",
                "grid_pinpoints": "(1x1),...,(2x2)",
                "patch_merge_type": "spatial",
                "vision_select_feature": "cls_patch",
            },
            "set vision_select_feature=patch or patch_merge_type=flat",
        ),
        ({"share_pictures": True, "attention": "sdpa"}, "set packing=true too"),
        (
            {"share_pictures": True, "packing": True, "group_by_modality_length": False},
            "attention=auto may not have: set attention=sdpa or eager",
        ),
        (
            {"share_pictures": True, "packing": True, "group_by_modality_length": True},
            "share_pictures and group_by_modality_length are two orders: drop one",
        ),
        ({"save_total_limit": -1}, "save_total_limit is -1, expected 1 or more, or null for all"),
        ({"peak_tflops": 0}, "peak_tflops is 0.0, expected more than 0"),
        ({"learning_rate": float("nan")}, r"learning_rate: .*finite number \(got nan\)"),
        ({"epochs": float("inf")}, r"epochs: .*finite number \(got inf\)"),
        ({"eval_limit": 0}, "eval_limit is 0, expected more than 0"),
        ({"projector_lr": -1e-5}, "projector_lr is -1e-05, expected 0 or more"),
        ({"weight_decay": -1}, "weight_decay is -1.0, expected 0 or more"),
        ({"workers": -1}, "workers is -1, expected 0 or more"),
        ({"lora_dropout": 1}, r"lora_dropout is 1.0, expected a fraction in \[0, 1\)"),
        ({"max_steps": 0}, "max_steps is 0, expected 1 or more, or -1 for as many as epochs says"),
        ({"seed": -1}, "seed is -1, expected 0 or more and less than 4294967296"),
        ({"seed": 2**32}, "seed is 4294967296, expected 0 or more and less than 4294967296"),
        ({"warmup_ratio": 3}, r"warmup_ratio is 3.0, expected a fraction in \[0, 1\)"),
        ({"engine": "zero4"}, "engine 'zero4' is unknown.*did you mean zero"),
        ({"quantize": "4bit", "lora_rank": 8}, "quantize and engine=zero3 exclude each other"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("finetune", "v1_5_7b", settings)


def test_all_faults_come_together():
    with pytest.raises(ConfigError) as told:
        load_recipe("finetune", "v1_5_7b", {"epochs": 0, "engine": "?", "lora_rank": -1})
    assert len(str(told.value).splitlines()) == 3


def test_an_unknown_recipe_is_told_with_those_that_are_known():
    with pytest.raises(ConfigError, match="no recipe 'v1_5_7b_lorra'; did you mean v1_5_7b_lora"):
        load_recipe("finetune", "v1_5_7b_lorra")
    with pytest.raises(ConfigError, match="there is no recipe file mine.yaml"):
        load_recipe("finetune", "mine.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 2}, "expected `version: 1` and settings"),
        ([], "expected `version: 1` and settings"),
        ({"version": 1, "pretrain": {}}, "has no stage finetune"),
        ({"version": 1, "finetune": {"model": "m"}}, "template: missing"),
        ({"version": 1, "include": "v1_5_7b_lora", "finetune": {}}, "one level is all"),
        ({"version": 1, "include": ["v1_5_7b"]}, r"includes \['v1_5_7b'\], expected the name"),
        ({"version": 1, "finetune": ["model"]}, "finetune has to hold settings, `key: value`"),
        ({"version": 1, "include": "v1_5_7b", 1: 2}, "unknown setting 1"),
        ({"version": 1, "finetun": {"model": "m"}}, "'finetun'; did you mean finetune"),
        ({"version": 1, "include": "v1_5_7b", "stages": "finetune"}, "unknown setting 'stages'"),
        ({"version": 1, "include": "x" * 300}, "there is no recipe 'xxx"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(content, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        load_recipe("finetune", path)


def test_a_file_that_is_nested_too_deeply_is_told(tmp_path):
    (tmp_path / "own.yaml").write_text("[" * 10_000)
    with pytest.raises(ConfigError, match="own.yaml is no recipe: maximum recursion depth"):
        load_recipe("finetune", tmp_path / "own.yaml")


def test_a_date_that_there_is_not_is_told_in_a_file_too(tmp_path):
    (tmp_path / "own.yaml").write_text("version: 1\noutput: 2024-99-99\n")
    with pytest.raises(ConfigError, match="own.yaml is no recipe: month must be in"):
        load_recipe("finetune", tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: 1\nmodel: m\nepochs: 2\n", "epochs"),
        ("pretrain: {tune: a, seed: 1, tune: b}\nseed: 2\nseed: 3\n", "seed, tune"),
    ],
)
def test_a_setting_that_stands_there_twice_is_told(text, told, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"version: 1\ninclude: v1_5_7b\n{text}")
    with pytest.raises(ConfigError, match=f"own.yaml says {told} twice; drop what does not hold"):
        load_recipe("finetune", path)


def test_a_stage_may_have_a_setting_of_the_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("version: 1\ninclude: v1_5_7b\nseed: 1\nfinetune: {seed: 2}\n")
    assert load_recipe("finetune", path).seed == 2


def test_an_own_recipe_takes_what_it_does_not_say_from_the_included_one(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("version: 1\ninclude: v1_5_7b\nepochs: 2\nfinetune: {learning_rate: 1e-6}\n")
    recipe = load_recipe("finetune", path, {"epochs": 3})
    assert (recipe.epochs, recipe.learning_rate, recipe.global_batch) == (3, 1e-6, 128)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["epochs=2"], {"epochs": 2}),
        (["learning_rate=2e-5"], {"learning_rate": "2e-5"}),
        (["data=[a.json, b.json]"], {"data": ["a.json", "b.json"]}),
        (["packing=true", "projector="], {"packing": True, "projector": None}),
        (["output=a=b"], {"output": "a=b"}),
    ],
)
def test_words_are_settings(words, expected):
    assert parse_overrides(words) == expected


@pytest.mark.parametrize("word", ["report_to=none", "report_to=[]", "report_to=''"])
def test_nobody_need_be_reported_to(word):
    assert load_recipe("finetune", "v1_5_7b", parse_overrides([word])).report_to == ()


def test_a_rate_in_the_notation_of_the_papers_is_a_number():
    overrides = parse_overrides(["learning_rate=2e-5"])
    assert load_recipe("finetune", "v1_5_7b", overrides).learning_rate == 2e-5


@pytest.mark.parametrize("word", ["epochs", "=2", "data=[a.json", "output=2024-99-99"])
def test_words_that_are_no_settings_are_told(word):
    with pytest.raises(ConfigError, match="is no"):
        parse_overrides([word])


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 16))
def test_an_adapted_batch_is_the_batch_that_was_asked_for(size, accumulation, processes):
    wanted = size * accumulation * processes
    settings = {"per_device_batch": size, "global_batch": wanted, "adapt_batch": True}
    fitted = load_recipe("finetune", "v1_5_7b", settings).fit_batch(processes)
    assert fitted.per_device_batch * fitted.accumulation * processes == wanted


def test_a_batch_that_does_not_fit_the_processes_is_told_with_the_way_out():
    recipe = load_recipe("finetune", "v1_5_7b")
    with pytest.raises(ConfigError, match=r"16 x accumulation 1 x 4 .*; set accumulation=2 or ada"):
        recipe.fit_batch(4)
    with pytest.raises(ConfigError, match="give a per_device_batch with which 3 processes"):
        recipe.fit_batch(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data is missing: give data=FILE"),
        ({"data": "nowhere.json"}, "^data: there is no file nowhere.json"),
        ({"validation_data": "nowhere.json"}, "^validation_data: there is no file nowhere.json"),
        ({"image_folder": "nowhere"}, "^image_folder: there is no folder nowhere"),
        (
            {"image_folder": "nowhere", "projector": "nothing"},
            "(?s)no folder nowhere.*^projector: there is no nothing, which the stage pretrain",
        ),
    ],
)
def test_files_that_are_not_there_are_told(settings, message, tmp_path):
    (tmp_path / "data.json").write_text("[]")
    given = {"data": str(tmp_path / "data.json"), **settings} if settings else {}
    with pytest.raises(ConfigError, match=f"(?m){message}"):
        load_recipe("finetune", "v1_5_7b", given).need_files()


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "own.yaml"
    path.write_text("version: 1\ninclude: v1_5_7b\noutput: ~/run\ndata: [~/a.json, b.json]\n")
    recipe = load_recipe("finetune", path, {"image_folder": "~/images"})
    home = str(tmp_path)
    assert (recipe.output, recipe.image_folder) == (f"{home}/run", f"{home}/images")
    assert recipe.data == (f"{home}/a.json", "b.json")
