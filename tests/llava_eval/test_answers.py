import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.answers import match_answers, read_answers
from llava_eval.errors import AnswersError
from llava_eval.faults import MAX_FAULTS_SHOWN
from llava_eval.records import Prompt, Sample

SUFFIX = "Answer the question using a single word or phrase."


def write(folder, *lines):
    path = folder / "answers.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def record(question_id, text="yes", **fields):
    return {"question_id": question_id, "text": text, **fields}


def task(*rows):
    """Samples and prompts from (sample_id, question_id, recorded prompt)."""
    samples = [
        Sample(sample_id=i, question_id=q, images=(), question=recorded, cluster=i)
        for i, q, recorded in rows
    ]
    prompts = {
        s.sample_id: Prompt(
            sample=s, text=s.question, recorded=s.question, max_new_tokens=1, prompt_hash=""
        )
        for s in samples
    }
    return samples, prompts


def match(samples_and_prompts, tmp_path, *lines):
    return match_answers(*samples_and_prompts, read_answers(write(tmp_path, *lines)))


def texts(matched):
    return {sample_id: answer.text for sample_id, answer in matched.by_sample.items()}


PLAIN = task(("1", 1, "a\n" + SUFFIX), ("2", 2, "b\n" + SUFFIX))
# As in TextVQA: question_id is the picture's, so two questions share it.
SHARED = task(("34602", "img", "What brand?\n" + SUFFIX), ("34603", "img", "What year?\n" + SUFFIX))


def test_a_line_becomes_a_response(tmp_path):
    line = record(7, "Yes", prompt="q", model_id="m", answer_id="a", round_id=0)
    (answer,) = read_answers(write(tmp_path, line))
    assert (answer.question_id, answer.text, answer.prompt) == (7, "Yes", "q")
    assert (answer.model_id, answer.answer_id, answer.extra) == ("m", "a", {"round_id": 0})


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = write(tmp_path, "", record(1), "  ")
    path.write_bytes(path.read_bytes().lstrip())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [answer.question_id for answer in read_answers(path)] == [1]


def test_the_form_of_seed_benchs_leaderboard_is_taken(tmp_path, caplog):
    lines = ('{"question_id": "v1", "prediction": "B", "gt_answer": "C"},', record("2", "A"))
    first, second = read_answers(write(tmp_path, *lines))
    assert (first.question_id, first.text, first.extra) == ("v1", "B", {"gt_answer": "C"})
    assert second.text == "A"
    assert caplog.messages == [
        f"{tmp_path / 'answers.jsonl'}: a comma at the end of 1 lines was passed over"
    ]


def qbench_record(number, **changes):
    record = {"img_path": f"{number}.jpg", "question": "?", "response": f"{number} }}{{"}
    return json.dumps(record | changes)


@pytest.mark.parametrize("between", ["", "\n"])
def test_responses_to_qbench_need_no_line_ends_between_them(between, tmp_path):
    path = write(tmp_path, between.join(map(qbench_record, (1, 2, 3))))
    answers = read_answers(path)
    assert [answer.question_id for answer in answers] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [answer.text for answer in answers] == ["1 }{", "2 }{", "3 }{"]
    assert answers[0].extra["question"] == "?"


@pytest.mark.parametrize(
    ("tail", "fault"),
    [('{"img_path"', "not JSON: "), ('{"img_path": "4.jpg"}', "no question_id and no text")],
)
def test_a_broken_response_among_others_is_named(tail, fault, tmp_path):
    path = write(tmp_path, qbench_record(1) + tail)
    with pytest.raises(AnswersError, match=f"answers.jsonl:1: {fault}"):
        read_answers(path)


def test_answers_to_further_rounds_are_none_to_the_row(tmp_path):
    answers = [record(1, text, round_id=n) for n, text in enumerate("ABC")]
    matched = match(PLAIN, tmp_path, *answers, record(2, "D"))
    assert texts(matched) == {"1": "A", "2": "D"}
    assert (matched.unmatched, matched.duplicates) == (2, 0)


def test_text_wins_over_a_prediction(tmp_path):
    (answer,) = read_answers(write(tmp_path, record(1, "yes", prediction="no")))
    assert (answer.text, answer.extra) == ("yes", {"prediction": "no"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": 1, "te', ":2: not JSON: "),
        ("[1]", ":2: expected an answer record, got [1]"),
        ('{"question_id": 1}', ":2: no text"),
        ("{}", ":2: no question_id and no text"),
        ("[" * 100_000, ":2: not JSON: nested too deeply at character 0"),
        (f'{json.dumps(record(1))}{{"x": {"[" * 100_000}', ":2: not JSON: nested too deeply at"),
        ('{"question_id": 1, "text": 3}', ":2: text: expected a string, got 3"),
        (
            '{"question_id": true, "text": ""}',
            ":2: question_id: expected an integer or a string, got true",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write(tmp_path, record(1), line)
    with pytest.raises(AnswersError) as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_all_broken_lines_are_named_up_to_a_limit(tmp_path):
    path = write(tmp_path, *["{}"] * (MAX_FAULTS_SHOWN + 3))
    with pytest.raises(AnswersError) as caught:
        read_answers(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == MAX_FAULTS_SHOWN + 1
    assert lines[-1] == "and 3 more faults like these"


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(AnswersError, match="cannot be read: No such file"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(AnswersError, match="empty; expected an answer record a line"):
        read_answers(write(tmp_path, ""))


def test_ids_match_as_number_and_as_text(tmp_path):
    assert texts(match(PLAIN, tmp_path, record("1", "x"), record(2, "y"))) == {"1": "x", "2": "y"}


def test_the_order_of_lines_does_not_matter(tmp_path):
    assert texts(match(PLAIN, tmp_path, record(2, "y"), record(1, "x"))) == {"1": "x", "2": "y"}


def test_a_shared_question_id_is_told_apart_by_the_question(tmp_path):
    lines = (
        record("img", "1999", prompt="what YEAR?\n" + SUFFIX),
        record("img", "nokia", prompt="What brand?\nReference OCR token: A\n" + SUFFIX),
    )
    assert texts(match(SHARED, tmp_path, *lines)) == {"34602": "nokia", "34603": "1999"}


def test_of_two_questions_with_one_id_that_of_the_prompt_is_answered(tmp_path):
    # As in SEED-Bench: the first goes by its id, the second by id and question.
    twins = task(("7", 7, "a\nA. x\nB. y\n" + SUFFIX), ("7 b", 7, "b\nA. x\nB. y\n" + SUFFIX))
    prompts = [sample.question for sample in twins[0]]
    lines = [record(7, "A", prompt=prompts[0]), record(7, "B", prompt=prompts[1])]
    assert texts(match(twins, tmp_path, *lines)) == {"7": "A", "7 b": "B"}
    assert texts(match(twins, tmp_path, record("7", "B"))) == {"7": "B"}


def test_a_named_sample_wins_over_the_question_id(tmp_path):
    matched = match(PLAIN, tmp_path, record(1, "x", sample_id="2"))
    assert texts(matched) == {"2": "x"}


def test_the_last_of_several_answers_counts_and_is_reported(tmp_path):
    matched = match(PLAIN, tmp_path, record(1, "x"), record(1, "y"), record(1, "z"))
    assert texts(matched) == {"1": "z"}
    assert matched.duplicates == 2


def test_answers_that_fit_no_sample_are_counted(tmp_path):
    matched = match(PLAIN, tmp_path, record(1), record(3), record(4))
    assert matched.unmatched == 2


def test_answers_of_another_task_are_refused(tmp_path):
    with pytest.raises(AnswersError) as caught:
        match(PLAIN, tmp_path, record(9))
    assert str(caught.value) == (
        "none of the 1 answers belongs to a sample of the task: the first has question_id 9, the "
        "first sample 1; is it the answers file of another task?"
    )


@given(st.permutations(range(20)), st.lists(st.integers(0, 30), max_size=30))
def test_every_line_is_matched_replaced_or_counted(tmp_path_factory, order, extra):
    samples = task(*((str(i), i, f"q{i}\n{SUFFIX}") for i in order))
    lines = [record(i) for i in [*order, *extra]]
    matched = match(samples, tmp_path_factory.mktemp("answers"), *lines)
    assert len(matched.by_sample) + matched.duplicates + matched.unmatched == len(lines)
