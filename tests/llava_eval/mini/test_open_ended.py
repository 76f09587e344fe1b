import json

from llava_eval.mini.open_ended import llava_bench, mm_vet

WILD = "llava-bench-in-the-wild"


def lines(files, name):
    return [json.loads(line) for line in files[name].splitlines()]


def test_every_question_of_llava_bench_has_a_reference_and_a_described_picture():
    files = llava_bench()
    questions = lines(files, f"{WILD}/questions.jsonl")
    references = lines(files, f"{WILD}/answers_gpt4.jsonl")
    context = {row["image"]: row["caption"] for row in lines(files, f"{WILD}/context.jsonl")}
    ids = [[row["question_id"] for row in rows] for rows in (questions, references)]
    assert ids[0] == ids[1] == list(range(48))
    assert {row["image"] for row in questions} == context.keys()
    for question, reference in zip(questions, references, strict=True):
        assert f"{WILD}/images/{question['image']}" in files
        if question["category"] == "detail":
            assert reference["text"] == context[question["image"]]


def test_mm_vet_asks_what_its_own_file_says_with_alternatives_and_parts():
    files = mm_vet()
    questions = lines(files, "mm-vet/llava-mm-vet.jsonl")
    rows = json.loads(files["mm-vet/mm-vet.json"])
    assert len(questions) == len(rows) == 48
    for question in questions:
        row = rows[f"v1_{question['question_id']}"]
        assert (row["question"], row["imagename"]) == (question["text"], question["image"])
        assert f"mm-vet/images/{row['imagename']}" in files
    answers = [row["answer"] for row in rows.values()]
    assert sum("<AND>" in answer for answer in answers) == 16
    assert sum("<OR>" in answer for answer in answers) == 12
