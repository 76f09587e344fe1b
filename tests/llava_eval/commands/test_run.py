import csv
import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from llava_core import threads
from llava_eval import cli
from llava_eval.commands import backend as opening
from llava_eval.commands import run
from llava_eval.errors import ModelError
from llava_eval.mini.write import write_mini
from tests.llava_eval.fakes import ScriptedBackend

GQA = Path("runs/scripted-mini-limit4/gqa")


def use_backend(monkeypatch: pytest.MonkeyPatch, **script) -> ScriptedBackend:
    """Puts a scripted backend in the place of the model."""
    backend = ScriptedBackend(**script)
    monkeypatch.setattr(opening, "load_model", lambda model, **settings: None)
    monkeypatch.setattr(opening, "LocalBackend", lambda llava, **settings: backend)
    return backend


def command(*more: str, tasks: str = "gqa", data: str = "mini") -> int:
    flags = ["--model", "scripted", "--tasks", tasks, "--data", data, "--limit", "4", *more]
    return cli.main(["run", *flags])


def test_a_run_folder_holds_all_that_later_stages_need(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    assert command(tasks="gqa,pope") == 0
    files = {str(p.relative_to(GQA.parent)) for p in GQA.parent.rglob("*") if p.is_file()}
    records = ("responses.jsonl", "scores.jsonl", "summary.json", "timing.jsonl")
    assert files == {
        "manifest.json",
        "leaderboard.html",
        "leaderboard.md",
        "leaderboard.tex",
        "leaderboard.csv",
        "report.json",
        *(f"{task}/{name}" for task in ("gqa", "pope") for name in records),
        *(f"samples/scripted/{task}.html" for task in ("gqa", "pope")),
    }
    output = capsys.readouterr().out
    assert "pope" in output
    assert "report: runs/scripted-mini-limit4/leaderboard.html" in output


@pytest.mark.parametrize("task", ["llava_bench_wild", "mm_vet"])
def test_a_task_that_needs_a_judge_ends_with_what_to_do(task, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    assert command(tasks=task) == 0
    output = capsys.readouterr().out
    folder = GQA.parent
    assert f"llava-eval score --task {task} --reviews FILE --output {folder}\n" in output
    assert f"--task {task} --reviews FILE" in (folder / "leaderboard.html").read_text()
    assert "waits for a judge" in (folder / "leaderboard.md").read_text()
    summary = json.loads((folder / task / "summary.json").read_bytes())
    assert summary["counts"]["unscored"] == {"not_judged": 4}


def test_reviews_of_a_run_complete_its_report(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command(tasks="mm_vet")
    folder = GQA.parent
    Path("g.json").write_text('{"v1_0": {"score": [0.5]}, "v1_1": {"score": [1.0]}}')
    flags = ["--task", "mm_vet", "--data", "mini", "--output", str(folder)]
    assert cli.main(["score", "--reviews", "g.json", *flags]) == 0
    assert cli.main(["report", str(folder)]) == 0
    assert "| 75.0<br>" in (folder / "leaderboard.md").read_text()
    assert command(tasks="mm_vet,gqa") == 0
    assert "| 75.0<br>" in (folder / "leaderboard.md").read_text()


def test_verdicts_on_earlier_answers_are_forgotten(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command(tasks="mm_vet")
    Path("g.json").write_text('{"v1_0": {"score": [0.5]}}')
    flags = ["--task", "mm_vet", "--data", "mini", "--output", str(GQA.parent)]
    assert cli.main(["score", "--reviews", "g.json", *flags]) == 0
    assert command("--fresh", tasks="mm_vet") == 0
    summary = json.loads((GQA.parent / "mm_vet" / "summary.json").read_bytes())
    assert summary["counts"]["unscored"] == {"not_judged": 4}


def test_the_manifest_says_what_the_run_was_made_with(monkeypatch) -> None:
    use_backend(monkeypatch)
    command("--dtype", "float32")
    manifest = json.loads((GQA.parent / "manifest.json").read_bytes())
    assert manifest["model_id"] == "scripted"
    assert manifest["model"]["fingerprint"] == "f"
    assert manifest["settings"]["limit"] == 4
    assert manifest["settings"]["dtype"] == "float32"
    assert manifest["command"].startswith("llava-eval run --model scripted")
    assert list(manifest["tasks"]["gqa"]["files"]) == [
        "gqa/llava_gqa_testdev_balanced.jsonl",
        "gqa/data/testdev_balanced_questions.json",
    ]


def test_the_same_command_goes_on(monkeypatch) -> None:
    use_backend(monkeypatch, stop_after=2)
    assert command() == 130
    backend = use_backend(monkeypatch)
    assert command() == 0
    assert len(backend.asked) == 2


def test_questions_about_a_changed_picture_are_asked_again(monkeypatch) -> None:
    write_mini(Path("data"))
    use_backend(monkeypatch)
    assert command(data="data") == 0
    lines = Path("runs/scripted-data-limit4/gqa/responses.jsonl").read_bytes().splitlines()
    image = json.loads(lines[0])["metadata"]["image"]
    about = [json.loads(line)["sample_id"] for line in lines if image.encode() in line]
    Path("data/gqa/data/images", image).write_bytes(b"another")
    backend = use_backend(monkeypatch)
    assert command(data="data") == 0
    assert backend.asked == about


def test_two_runs_have_the_same_bytes(monkeypatch) -> None:
    names = ("responses.jsonl", "scores.jsonl", "summary.json")
    written = []
    for folder in ("first", "second"):
        use_backend(monkeypatch)
        command("--output", folder)
        written.append([Path(folder, "gqa", name).read_bytes() for name in names])
    assert written[0] == written[1]


def test_fresh_asks_everything_again(monkeypatch) -> None:
    use_backend(monkeypatch)
    command()
    backend = use_backend(monkeypatch)
    assert command("--fresh") == 0
    assert len(backend.asked) == 4


def test_fresh_keeps_the_old_run(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command()
    folder = GQA.parent
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    other = use_backend(monkeypatch)
    monkeypatch.setattr(other, "describe", lambda: {"fingerprint": "g"})
    assert command("--fresh") == 0
    old = folder / "old-1"
    assert {p.relative_to(old): p.read_bytes() for p in old.rglob("*") if p.is_file()} == before
    assert f"what was in {folder} is now in {old}" in capsys.readouterr().err
    assert len(other.asked) == 4
    # The run goes on from the new answers, and what is old is still a run folder.
    assert command() == 0
    assert len(other.asked) == 4
    assert cli.main(["report", str(old)]) == 0


def test_a_launcher_that_starts_the_command_again_does_not_start_over(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command()
    for launch, num_asked in (("a", 4), ("a", 0), ("b", 4)):
        backend = use_backend(monkeypatch)
        facts = {**backend.describe(), "launch": launch}
        monkeypatch.setattr(backend, "describe", lambda facts=facts: facts)
        assert command("--fresh") == 0
        assert len(backend.asked) == num_asked


def test_the_first_start_of_a_launch_starts_over_beside_a_broken_manifest(monkeypatch) -> None:
    backend = use_backend(monkeypatch)
    facts = {**backend.describe(), "launch": "a"}
    monkeypatch.setattr(backend, "describe", lambda: facts)
    GQA.mkdir(parents=True)
    (GQA.parent / "manifest.json").write_text("{")
    assert command("--fresh") == 0
    assert (GQA.parent / "old-1" / "manifest.json").read_text() == "{"


def test_what_goes_on_after_a_fresh_start_is_the_command_without_it(monkeypatch, capsys) -> None:
    use_backend(monkeypatch, stop_after=2)
    assert command() == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from here\n")
    assert command("--fresh") == 130
    assert "interrupted; the same command without --fresh goes on" in capsys.readouterr().err
    first = use_backend(monkeypatch)
    command()
    use_backend(monkeypatch, errors={first.asked[0]: "broken"})
    assert command("--fresh") == 1
    assert "broken; the same command without --fresh asks again\n" in capsys.readouterr().err


def test_other_settings_are_refused(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command("--output", "here")
    other = use_backend(monkeypatch)
    monkeypatch.setattr(other, "describe", lambda: {"fingerprint": "g"})
    assert command("--output", "here") == 2
    error = capsys.readouterr().err
    assert "here was made with model fingerprint f, now g" in error
    assert other.asked == []


def test_the_likeliest_option_is_a_protocol_of_its_own(capsys) -> None:
    flags = ["run", "--model", "tiny", "--tasks", "pope,seed", "--data", "mini", "--limit", "4"]
    assert cli.main(flags) == 0
    assert cli.main([*flags, "--scoring", "likelihood"]) == 0
    assert "F1 by likelihood" in capsys.readouterr().out
    written, likeliest = Path("runs/tiny-mini-limit4"), Path("runs/tiny-mini-limit4-likelihood")
    for task, options in (("pope", {"Yes", "No"}), ("seed", set("ABCD"))):
        for line in (likeliest / task / "responses.jsonl").read_bytes().splitlines():
            response = json.loads(line)
            logprobs = response["metadata"]["option_logprobs"]
            assert logprobs.keys() == options
            assert response["text"] == max(logprobs, key=logprobs.__getitem__)
            assert all(value < 0 for value in logprobs.values())
        summary = json.loads((likeliest / task / "summary.json").read_bytes())
        assert (summary["protocol"], summary["unparsed"]) == ("likelihood", 0)
    manifest = json.loads((likeliest / "manifest.json").read_bytes())
    assert manifest["settings"]["scoring"] == "likelihood"
    assert "protocol likelihood" in (likeliest / "leaderboard.md").read_text()
    capsys.readouterr()
    assert cli.main(["compare", str(written), str(likeliest)]) == 2
    assert "protocol published and likelihood" in capsys.readouterr().err
    answers = str(likeliest / "pope" / "responses.jsonl")
    score = ["score", "--task", "pope", "--data", "mini", "--answers", answers]
    assert cli.main([*score, "--output", "again"]) == 0
    again = json.loads(Path("again/pope/summary.json").read_bytes())
    assert again["protocol"] == "likelihood"


def test_likeliest_options_do_not_depend_on_what_is_computed_together() -> None:
    flags = ["run", "--model", "tiny", "--tasks", "seed", "--data", "mini", "--device", "cpu"]
    outputs = {}
    for tokens in ("700", "4096"):
        more = ["--scoring", "likelihood", "--batch-tokens", tokens, "--output", tokens]
        assert cli.main([*flags, *more]) == 0
        lines = Path(tokens, "seed", "responses.jsonl").read_bytes().splitlines()
        outputs[tokens] = [json.loads(line) for line in lines]
    for few, many in zip(*outputs.values(), strict=True):
        logprobs = few["metadata"].pop("option_logprobs")
        assert logprobs == pytest.approx(many["metadata"].pop("option_logprobs"), abs=1.5e-4)
        assert few == many
    for name in ("scores.jsonl", "summary.json"):
        assert Path("700/seed", name).read_bytes() == Path("4096/seed", name).read_bytes()


@pytest.mark.parametrize("task", ["qbench", "qbench_cn"])
def test_the_likeliest_candidate_is_the_one_that_a_model_would_write(task) -> None:
    flags = ["run", "--model", "tiny", "--tasks", task, "--data", "mini", "--limit", "8"]
    assert cli.main([*flags, "--output", "written"]) == 0
    assert cli.main([*flags, "--output", "likeliest", "--scoring", "likelihood"]) == 0
    texts = [
        [json.loads(line)["text"] for line in path.read_bytes().splitlines()]
        for path in (Path(run, task, "responses.jsonl") for run in ("written", "likeliest"))
    ]
    assert texts[0] == texts[1]


def test_answers_and_likeliest_options_do_not_stand_in_one_folder(monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    command("--output", "here", tasks="pope")
    assert command("--output", "here", "--scoring", "likelihood", tasks="pope") == 2
    assert "with pope protocol published, now likelihood" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tasks", "pope,textvqa"], "no options to choose from in textvqa"),
        (
            ["--tasks", "pope", "--backend", "openai", "--base-url", "http://localhost:1/v1"],
            "an endpoint does not tell how likely each option is",
        ),
        (["--tasks", "pope", "--num-beams", "2"], "it writes no answers; drop --num-beams 2"),
        (["--tasks", "pope", "--temperature", "1"], "it writes no answers; drop --temperature 1"),
    ],
)
def test_where_no_options_can_be_scored_one_line_says_so(flags, reason, capsys) -> None:
    run_flags = ["run", "--model", "x", "--data", "mini", "--scoring", "likelihood", *flags]
    assert cli.main(run_flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llava-eval: error: --scoring likelihood: ")
    assert reason in line


def test_beams_are_told_wherever_a_run_is_told_of(capsys) -> None:
    flags = ["run", "--model", "tiny", "--tasks", "textvqa", "--data", "mini", "--limit", "4"]
    assert cli.main(flags) == 0
    assert cli.main([*flags, "--num-beams", "3"]) == 0
    greedy, beams = Path("runs/tiny-mini-limit4"), Path("runs/tiny-mini-limit4-beams3")
    manifest = json.loads((beams / "manifest.json").read_bytes())
    assert manifest["settings"]["num_beams"] == 3
    assert manifest["model"]["num_beams"] == "3"
    capsys.readouterr()
    assert cli.main(["compare", str(greedy), str(beams)]) == 0
    assert "manifest: settings.num_beams: 1, 3\n" in capsys.readouterr().out
    assert cli.main([*flags, "--num-beams", "2", "--output", str(greedy)]) == 2
    assert f"{greedy} was made with number of beams 1, now 2; " in capsys.readouterr().err


def test_what_is_sampled_is_told_and_comes_again_with_its_seed(capsys) -> None:
    flags = ["run", "--model", "tiny", "--tasks", "llava_bench_wild", "--data", "mini"]
    sampled = [*flags, "--temperature", "5", "--top-p", "0.9"]
    answers = []
    for seed, output in (("1", None), ("1", "again"), ("2", None)):
        to = [] if output is None else ["--output", output, "--batch-tokens", "700"]
        assert cli.main([*sampled, "--seed", seed, *to]) == 0
        folder = Path(output or f"runs/tiny-mini-t5-p0.9-seed{seed}")
        lines = (folder / "llava_bench_wild/responses.jsonl").read_text().splitlines()
        answers.append([json.loads(line)["text"] for line in lines])
    assert answers[0] == answers[1] != answers[2]
    manifest = json.loads(Path("again/manifest.json").read_bytes())
    assert manifest["settings"]["seed"] == 1
    assert manifest["model"]["sampling"] == "temperature 5, top_p 0.9, seed 1"
    assert cli.main([*flags, "--output", "again"]) == 2
    told = "again was made with sampling temperature 5, top_p 0.9, seed 1, now none; "
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--top-p", "0.5"], "--top-p 0.5: nothing is sampled; give --temperature too, or drop"),
        (
            ["--temperature", "0.2", "--num-beams", "2"],
            "--temperature 0.2: beams are not sampled; drop it, or --num-beams 2",
        ),
        (["--temperature", "-1"], "expected a number of at least 0, got '-1'"),
        (["--temperature", "nan"], "expected a number of at least 0, got 'nan'"),
        (["--top-p", "0"], "expected a share above 0 and at most 1, got '0'"),
        (["--seed", "1.5"], "expected a whole number of at least 0, got '1.5'"),
        (
            ["--seed", "1", "--backend", "openai", "--base-url", "http://localhost:1/v1"],
            "--seed: an endpoint decides that itself; drop it",
        ),
    ],
)
def test_sampling_that_cannot_be_is_one_line(flags, told, capsys) -> None:
    with suppress(SystemExit):
        assert command("--model", "tiny", *flags) == 2
    assert told in capsys.readouterr().err


def test_an_endpoint_is_asked_for_no_beams(capsys) -> None:
    endpoint = ["--backend", "openai", "--base-url", "http://localhost:1/v1"]
    assert command("--num-beams", "2", *endpoint) == 2
    assert "--num-beams: an endpoint decides that itself; drop it" in capsys.readouterr().err


def test_kept_features_change_no_byte() -> None:
    flags = ["run", "--model", "tiny", "--tasks", "pope,mmbench", "--data", "mini", "--limit", "8"]
    assert cli.main([*flags, "--output", "plain"]) == 0
    for folder in ("first", "second"):
        assert cli.main([*flags, "--output", folder, "--feature-cache", "features"]) == 0
        for name in ("pope/responses.jsonl", "mmbench/responses.jsonl", "pope/summary.json"):
            assert Path(folder, name).read_bytes() == Path("plain", name).read_bytes()
    assert list(Path("features").glob("*/*/*.safetensors"))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("num_cores", "num_threads"), [(1, "1"), (9, "2")])
def test_one_process_takes_no_more_threads_than_cores(num_cores, num_threads, monkeypatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: num_cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    flags = ["run", "--model", "tiny", "--tasks", "pope", "--data", "mini", "--limit", "4"]
    assert cli.main([*flags, "--device", "cpu", "--output", "here"]) == 0
    manifest = json.loads(Path("here/manifest.json").read_bytes())
    assert manifest["model"]["threads"] == num_threads


def test_a_bound_needs_something_to_bound(capsys) -> None:
    flags = ["run", "--model", "tiny", "--tasks", "pope", "--data", "mini"]
    assert cli.main([*flags, "--feature-cache-gb", "5"]) == 2
    assert "--feature-cache-gb bounds --feature-cache DIR" in capsys.readouterr().err


def test_samples_that_fail_are_told_at_the_end(monkeypatch, capsys) -> None:
    backend = use_backend(monkeypatch)
    command()
    first = backend.asked[0]
    use_backend(monkeypatch, errors={first: "a.jpg is broken"})
    assert command("--fresh") == 1
    captured = capsys.readouterr()
    assert f"1 sample of gqa failed: first: {first}: a.jpg is broken" in captured.err
    assert "1 failed" in captured.out


def test_all_faults_are_told_before_the_model_loads(monkeypatch, capsys, tmp_path) -> None:
    write_mini(tmp_path / "data")
    (tmp_path / "data/gqa/llava_gqa_testdev_balanced.jsonl").unlink()
    (tmp_path / "data/mmbench/mmbench_dev_20230712.tsv").unlink()
    monkeypatch.setattr(opening, "load_model", lambda model, **settings: pytest.fail("loaded"))
    assert command(tasks="gqa,mmbench,pope", data="data") == 2
    error = capsys.readouterr().err
    assert "llava_gqa_testdev_balanced.jsonl" in error
    assert "mmbench_dev_20230712.tsv" in error
    assert not Path("runs/scripted-data-limit4").exists()


def test_a_device_map_reaches_the_model_and_the_manifest(capsys) -> None:
    flags = ["--tasks", "pope", "--data", "mini", "--limit", "1", "--device-map", "auto"]
    assert cli.main(["run", "--model", "tiny", *flags]) == 0
    manifest = json.loads(Path("runs/tiny-mini-limit1/manifest.json").read_bytes())
    assert manifest["model"]["device_map"] == manifest["settings"]["device_map"] == "auto"
    assert cli.main(["run", "--model", "tiny", *flags, "--device", "cpu"]) == 2
    assert "device cpu and device map auto exclude each other" in capsys.readouterr().err


def test_a_model_that_is_not_there_leaves_no_folder(monkeypatch, capsys) -> None:
    def load_model(model: str, **settings: object) -> None:
        raise ModelError(f"--model {model}: no such folder")

    monkeypatch.setattr(opening, "load_model", load_model)
    assert command() == 2
    assert capsys.readouterr().err == "llava-eval: error: --model scripted: no such folder\n"
    assert not GQA.parent.exists()


def test_a_limit_keeps_the_rotations_of_a_question_together(monkeypatch) -> None:
    use_backend(monkeypatch)
    command(tasks="mmbench")
    path = GQA.parent / "mmbench" / "scores.jsonl"
    clusters = [json.loads(line)["cluster"] for line in path.read_bytes().splitlines()]
    assert len(set(clusters)) == 4
    assert len(clusters) > 4


def test_the_models_warning_stands_beside_its_scores(monkeypatch, capsys) -> None:
    backend = use_backend(monkeypatch)
    monkeypatch.setattr(backend, "warning", "random weights")
    command()
    assert "random weights" in capsys.readouterr().out
    with (GQA.parent / "leaderboard.csv").open() as file:
        assert next(csv.DictReader(file))["warning"] == "random weights"


def flags(**given) -> Namespace:
    usual = {"subset": None, "data": "mini", "limit": None, "scoring": "generation"}
    greedy = {"num_beams": 1, "temperature": 0.0, "top_p": None, "seed": 0}
    return Namespace(**{**usual, **greedy, **given})


@pytest.mark.parametrize(
    ("model", "data", "limit", "folder"),
    [
        ("tiny", "mini", None, "runs/tiny-mini"),
        ("liuhaotian/llava-v1.5-13b", "/data/eval/", None, "runs/llava-v1.5-13b-eval"),
        ("tiny", "hub", None, "runs/tiny-hub"),
        ("./out/checkpoint-500", "mini", 5, "runs/out_checkpoint-500-mini-limit5"),
    ],
)
def test_the_default_folder_says_what_was_run(model, data, limit, folder) -> None:
    assert run.default_folder(flags(model=model, data=data, limit=limit)) == Path(folder)


def test_the_default_folder_says_how_many_beams() -> None:
    folder = run.default_folder(flags(model="tiny", num_beams=5))
    assert folder == Path("runs/tiny-mini-beams5")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"temperature": 0.2}, "tiny-mini-t0.2-seed0"),
        ({"temperature": 1.0, "top_p": 0.95, "seed": 7}, "tiny-mini-t1-p0.95-seed7"),
        ({"seed": 7}, "tiny-mini"),
    ],
)
def test_the_default_folder_says_how_answers_were_sampled(given, name) -> None:
    assert run.default_folder(flags(model="tiny", **given)) == Path("runs") / name


def test_a_model_named_by_a_dot_has_its_folders_name(tmp_path) -> None:
    folder = run.default_folder(flags(model="."))
    assert folder == Path(f"runs/{tmp_path.name}-mini")
