import json
import os
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.mini.write import write_mini
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples


def write_answers(path: Path, *, data: str = "mini", more: tuple[dict, ...] = ()) -> None:
    """Gold answers to GQA, as LLaVA's script writes them."""
    samples = load_samples(load_tasks()["gqa"], data)
    answers = [{"question_id": s.question_id, "text": s.answers[0]} for s in samples]
    path.write_text("".join(json.dumps(answer) + "\n" for answer in (*answers, *more)))


def score(*more: str, data: str = "mini") -> int:
    return cli.main(["score", "--task", "gqa", "--answers", "a.jsonl", "--data", data, *more])


def test_answers_are_scored(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score() == 0
    assert "100.0" in capsys.readouterr().out
    assert sorted(Path().iterdir()) == [Path("a.jsonl")]


def test_answers_may_come_through_a_pipe(capsys) -> None:
    write_answers(Path("a.jsonl"))
    source, sink = os.pipe()
    os.write(sink, Path("a.jsonl").read_bytes())
    os.close(sink)
    assert score("--answers", f"/dev/fd/{source}") == 0
    assert "100.0" in capsys.readouterr().out


def test_output_gets_the_files_of_a_run(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--output", "out") == 0
    summary = json.loads(Path("out/gqa/summary.json").read_bytes())
    assert summary["metrics"]["accuracy"]["value"] == 1.0
    assert Path("out/gqa/scores.jsonl").exists()


def test_a_run_that_gets_scores_is_scored_on_the_data_that_it_says(capsys) -> None:
    write_answers(Path("a.jsonl"))
    Path("out").mkdir()
    Path("out/manifest.json").write_text('{"settings": {"data": "mini"}}')
    flags = ["--task", "gqa", "--answers", "a.jsonl"]
    assert cli.main(["score", *flags, "--output", "out"]) == 0
    assert "100.0" in capsys.readouterr().out
    assert cli.main(["score", *flags, "--output", "elsewhere"]) == 2
    assert "playground/data/eval" in capsys.readouterr().err


def test_answers_that_fit_nothing_are_counted(caplog) -> None:
    twice = load_samples(load_tasks()["gqa"], "mini")[0].question_id
    more = ({"question_id": "none", "text": "no"}, {"question_id": twice, "text": "no"})
    write_answers(Path("a.jsonl"), more=more)
    score()
    assert "1 answers belong to no sample of gqa" in caplog.text
    assert "1 answers are replaced by a later one" in caplog.text


def test_a_run_is_not_scored_by_other_files_than_it_was_asked_from(capsys) -> None:
    write_answers(Path("a.jsonl"))
    Path("out").mkdir()
    names = ("gqa/data/testdev_balanced_questions.json", "gqa/llava_gqa_testdev_balanced.jsonl")
    asked = {"data": "mini", "files": dict.fromkeys(names, "0123")}
    Path("out/manifest.json").write_text(json.dumps({"tasks": {"gqa": asked}}))
    assert score("--output", "out") == 2
    said = capsys.readouterr().err
    first, second = (f"from another {name} 0123 and " for name in names)
    assert f"out was asked gqa {first}" in said
    assert f" and {second}" in said
    assert not Path("out/gqa").exists()


def test_files_of_a_folder_do_not_go_with_the_hub(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--questions", "q.jsonl", data="hub") == 2
    assert "--data hub has none" in capsys.readouterr().err


def test_official_files_may_lie_elsewhere() -> None:
    write_mini(Path("data"))
    gqa = Path("data/gqa")
    questions = (gqa / "llava_gqa_testdev_balanced.jsonl").rename("q.jsonl")
    annotations = (gqa / "data/testdev_balanced_questions.json").rename("a.json")
    write_answers(Path("a.jsonl"))
    flags = ["--questions", str(questions), "--annotations", str(annotations)]
    assert score(*flags, data="data") == 0


def test_official_files_may_be_named_as_they_lie_below_the_data() -> None:
    write_mini(Path("data"))
    gqa = Path("data/gqa")
    (gqa / "llava_gqa_testdev_balanced.jsonl").rename(gqa / "q.jsonl")
    (gqa / "data/testdev_balanced_questions.json").rename(gqa / "a.json")
    write_answers(Path("a.jsonl"))
    assert score("--questions", "gqa/q.jsonl", "--annotations", "gqa/a.json", data="data") == 0


def test_official_files_that_are_nowhere_are_named(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--questions", "gqa/q.jsonl") == 2
    assert "missing gqa/q.jsonl; found gqa/data/" in capsys.readouterr().err


def test_answers_to_other_prompts_are_counted(caplog) -> None:
    sample = load_samples(load_tasks()["gqa"], "mini")[0]
    answers = [
        {"question_id": sample.question_id, "text": "no", "prompt": prompt}
        for prompt in ("Is it? Explain.", f"<image>\n{sample.question}")
    ]
    for answer, warned in zip(answers, (True, False), strict=True):
        caplog.clear()
        Path("a.jsonl").write_text(json.dumps(answer))
        score()
        message = (
            "1 answers were given to another prompt than gqa has, the first to 'Is it? Explain.'"
        )
        assert (message in caplog.text) == warned


def test_another_number_of_annotation_files_is_refused(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--annotations", "x.json", "y.json") == 2
    assert "--annotations: 2 files given, gqa has gqa/data/" in capsys.readouterr().err


def test_answers_that_are_not_there_are_one_line(capsys) -> None:
    assert score() == 2
    assert capsys.readouterr().err == (
        "llava-eval: error: a.jsonl: cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize("name", ["gqa,pope", "all"])
def test_one_task_at_a_time(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["score", "--task", name, "--answers", "a.jsonl"])
    assert caught.value.code == 2
    assert f"expected the name of one task, got {name!r}" in capsys.readouterr().err


def test_mme_is_scored_from_a_folder_of_its_official_tool() -> None:
    write_mini(Path("data"))
    tables = Path("data/MME/eval_tool/Your_Results")
    for table in tables.glob("*.txt"):
        lines = table.read_text().splitlines()
        table.write_text("".join(f"{line}\t{line.split(chr(9))[-1]}\n" for line in lines))
    flags = ["score", "--task", "mme", "--answers", str(tables), "--data", "data"]
    assert cli.main([*flags, "--output", "out"]) == 0
    metrics = json.loads(Path("out/mme/summary.json").read_bytes())["metrics"]
    assert [metric["value"] for metric in metrics.values()] == [2000.0, 800.0]


def test_a_folder_is_no_file_of_answers_to_another_task(capsys) -> None:
    Path("a.jsonl").mkdir()
    assert score() == 2
    assert "a.jsonl: cannot be read: Is a directory" in capsys.readouterr().err


def write_reviews(path: Path, *, candidate: float, more: tuple[dict, ...] = ()) -> str:
    """Reviews of answers to the mini LLaVA-Bench: 8 for the reference, something for the other."""
    samples = load_samples(load_tasks()["llava_bench_wild"], "mini")
    reviews = [
        {"question_id": s.question_id, "answer2_id": "mine", "tuple": [8.0, candidate]}
        for s in samples
    ]
    path.write_text("".join(json.dumps(review) + "\n" for review in (*reviews, *more)))
    return str(path)


def judge(*more: str, task: str = "llava_bench_wild") -> int:
    return cli.main(["score", "--task", task, "--data", "mini", *more])


def test_reviews_are_enough(capsys) -> None:
    reviews = [write_reviews(Path(f"{n}.jsonl"), candidate=n) for n in (4, 6)]
    assert judge("--reviews", *reviews, "--output", "out") == 0
    output = capsys.readouterr().out
    assert "62.5" in output
    assert "not judged" not in output
    summary = json.loads(Path("out/llava_bench_wild/summary.json").read_bytes())
    assert summary["metrics"]["std_over_runs"]["value"] == 12.5
    assert set(summary["groups"]) == {"conv", "detail", "complex"}


def test_where_a_judge_gives_the_values_missing_ones_are_never_wrong(caplog) -> None:
    reviews = write_reviews(Path("r.jsonl"), candidate=4)
    assert judge("--reviews", reviews, "--missing", "wrong", "--output", "out") == 0
    assert "--missing has no effect: a judge gives the values of llava_bench_wild" in caplog.text
    summary = json.loads(Path("out/llava_bench_wild/summary.json").read_bytes())
    assert summary["missing"] == "unscored"


def test_reviews_given_as_answers_are_known_as_reviews(capsys) -> None:
    assert judge("--answers", write_reviews(Path("r.jsonl"), candidate=4)) == 0
    assert "50.0" in capsys.readouterr().out


def test_reviews_that_fit_nothing_or_say_nothing_are_told(caplog, capsys) -> None:
    more = (
        {"question_id": 99, "tuple": [8, 8]},
        {"question_id": 0, "tuple": [-1, -1]},
    )
    assert judge("--reviews", write_reviews(Path("r.jsonl"), candidate=4, more=more)) == 0
    assert "1 verdicts belong to no sample of llava_bench_wild" in caplog.text
    assert "1 verdicts are replaced by a later one of the same file" in caplog.text
    assert "1 verdicts could not be read and are left out" in caplog.text
    assert "1 unparsed verdict" in capsys.readouterr().out


def test_reviews_of_other_answers_are_told(caplog) -> None:
    answers = [
        {"question_id": n, "text": "A circle.", "answer_id": "mine" if n else "another"}
        for n in range(3)
    ]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, answers)))
    reviews = write_reviews(Path("r.jsonl"), candidate=4)
    assert judge("--answers", "a.jsonl", "--reviews", reviews) == 0
    assert "1 verdicts are on other answers than those of --answers" in caplog.text


def test_answers_without_a_judge_say_what_to_do(capsys) -> None:
    Path("a.jsonl").write_text('{"question_id": 0, "text": "A circle."}')
    assert judge("--answers", "a.jsonl", "--output", "out") == 0
    output = capsys.readouterr().out
    assert "–" in output
    assert output.splitlines()[-1] == (
        "llava_bench_wild: 1 answer is not judged; once a judge has reviewed them: llava-eval "
        "score --task llava_bench_wild --reviews FILE --output out"
    )
    summary = json.loads(Path("out/llava_bench_wild/summary.json").read_bytes())
    assert summary["counts"]["unscored"] == {"no_response": 47, "not_judged": 1}


def test_samples_that_the_judge_has_not_read_are_counted() -> None:
    Path("g.json").write_text('{"v1_0": {"score": [0.5]}, "v1_1": {"score": [1.0]}}')
    assert judge("--reviews", "g.json", "--output", "out", task="mm_vet") == 0
    summary = json.loads(Path("out/mm_vet/summary.json").read_bytes())
    assert summary["metrics"]["total"]["value"] == 75.0
    assert summary["counts"]["unscored"] == {"not_judged": 46}


def test_with_neither_answers_nor_reviews_there_is_nothing_to_score(capsys) -> None:
    assert judge() == 2
    assert capsys.readouterr().err == (
        "llava-eval: error: nothing to score: give --answers FILE, or --reviews FILE of a judge\n"
    )


@pytest.mark.parametrize("flag", ["--answers", "--reviews"])
def test_reviews_are_refused_where_no_judge_is_needed(flag, capsys) -> None:
    assert judge(flag, write_reviews(Path("r.jsonl"), candidate=4), task="gqa") == 2
    assert capsys.readouterr().err == (
        "llava-eval: error: r.jsonl: a judge's verdicts, but gqa needs no judge; give its answers "
        "as --answers FILE\n"
    )


def test_files_are_found_under_their_other_names() -> None:
    write_mini(Path("data"))
    name = "mmbench_dev_cn_20231003.tsv"
    Path(f"data/mmbench_cn/{name}").rename(f"data/mmbench/{name}")
    rows = load_samples(load_tasks()["mmbench_cn"], "data")
    Path("a.jsonl").write_text(json.dumps({"question_id": rows[0].question_id, "text": "A"}))
    flags = ["--task", "mmbench_cn", "--answers", "a.jsonl", "--data", "data"]
    assert cli.main(["score", *flags]) == 0


def test_another_models_answers_to_scienceqa_count_where_they_can_be_read(caplog) -> None:
    samples = load_samples(load_tasks()["scienceqa"], "mini")
    ours = [{"question_id": s.question_id, "text": "The answer is Z."} for s in samples]
    Path("a.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in ours))
    outputs = {str(s.question_id): f"The answer is {s.answers[0]}." for s in samples[1:]}
    Path("gpt4.json").write_text(json.dumps({"outputs": outputs}))
    flags = ["--task", "scienceqa", "--answers", "a.jsonl", "--data", "mini", "--output", "out"]
    assert cli.main(["score", *flags, "--preferred", "gpt4.json"]) == 0
    summary = json.loads(Path("out/scienceqa/summary.json").read_bytes())
    assert summary["metrics"]["accuracy"]["value"] == pytest.approx(1 - 1 / len(samples))
    assert f"{len(outputs)} of {len(samples)} answers are those of gpt4.json" in caplog.text
    assert "gpt4.json has no answer to 1 questions; ours count" in caplog.text


def test_other_tasks_have_no_preferred_answers(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--preferred", "a.jsonl") == 2
    assert "--preferred is for --task scienceqa with --answers" in capsys.readouterr().err
