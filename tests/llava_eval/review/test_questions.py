import pytest

from llava_eval.answers import read_answers
from llava_eval.errors import AnswersError, DataError
from llava_eval.review.questions import (
    Question,
    need_same_questions,
    open_question_set,
    pair_answers,
)
from tests.llava_eval.review.builders import answer, write_lines

WILD = "llava-bench-in-the-wild"
COCO = "coco2014_val_qa_eval"


def question(question_id, **changes):
    given = {"category": "conv", "text": "Q?", "image": None, "context": None} | changes
    return Question(question_id=question_id, **given)


def pair(candidate, reference, *ids):
    return pair_answers([question(each) for each in ids], candidate, reference)


def answers_to(*ids, **changes):
    return [answer(each, f"to {each}", **changes) for each in ids]


@pytest.mark.parametrize(
    ("file", "variant", "number"),
    [(f"{WILD}/answers_gpt4.jsonl", "wild", 60), (f"{COCO}/qa90_gpt4_answer.jsonl", "visual", 90)],
)
def test_the_published_sets_are_found_by_their_reference_answers(file, variant, number, reference):
    root = reference / "data/eval"
    opened = open_question_set(root, reference=read_answers(root / file))
    assert (opened.variant, len(opened.questions)) == (variant, number)
    assert opened.rules.find("conv", variant).wording == "llava"
    assert all(each.context for each in opened.questions)
    assert opened.files["rule"] == root / "rule.json"


def test_without_a_known_set_the_files_are_asked_for(tmp_path):
    with pytest.raises(
        DataError, match="neither .*qa90_questions.jsonl nor .*; name the questions"
    ):
        open_question_set(tmp_path, reference=answers_to(0))


def two_sets(folder):
    """Both published sets, numbered from 0; qa90 is the longer."""
    for name, number, context in (
        (f"{COCO}/qa90_questions", 3, f"{COCO}/caps_boxes_coco2014_val_80"),
        (f"{WILD}/questions", 2, f"{WILD}/context"),
    ):
        (folder / name).parent.mkdir()
        write_lines(
            folder / f"{name}.jsonl",
            *({"question_id": n, "text": f"{name} {n}?", "image": "a.jpg"} for n in range(number)),
        )
        write_lines(folder / f"{context}.jsonl", {"image": "a.jpg", "caption": "A."})
    return folder


def asked_of(name, number):
    return [answer(n, "A.", prompt=f"USER: {name} {n}?") for n in range(number)]


OF_QA90, OF_WILD = f"{COCO}/qa90_questions", f"{WILD}/questions"


@pytest.mark.parametrize(
    ("candidate", "reference_answers", "found"),
    [
        ([], asked_of(OF_WILD, 1), OF_WILD),
        ([], asked_of(OF_QA90, 2), OF_QA90),
        (asked_of(OF_WILD, 1), answers_to(0), OF_WILD),
        (asked_of(OF_QA90, 1), answers_to(0, 1), OF_QA90),
        ([], answers_to(0, 1), OF_WILD),
        ([], answers_to(0, 1, 2), OF_QA90),
    ],
)
def test_a_part_of_a_set_is_told_by_its_ids_and_prompts(
    candidate, reference_answers, found, tmp_path
):
    opened = open_question_set(two_sets(tmp_path), reference=reference_answers, candidate=candidate)
    assert opened.files["questions"] == tmp_path / f"{found}.jsonl"


@pytest.mark.parametrize(
    ("reference_answers", "fault"),
    [
        (answers_to(7), "REF answers neither set in .*: name --questions FILE"),
        (asked_of("Another", 2), "REF answers neither set in .*: name --questions FILE"),
        (answers_to(0), "REF may answer any set in .*: name --questions FILE"),
    ],
)
def test_answers_that_are_surely_of_no_set_are_refused(reference_answers, fault, tmp_path):
    with pytest.raises(DataError, match=fault):
        open_question_set(two_sets(tmp_path), reference=reference_answers)


def test_questions_alone_are_about_text(tmp_path):
    path = write_lines(
        tmp_path / "q.jsonl", {"question_id": 1, "text": "Why?", "category": "fermi"}
    )
    opened = open_question_set(tmp_path, reference=(), questions=path)
    assert opened.variant == "text"
    assert opened.rules.find("fermi", "text").wording == "own"


def test_questions_about_pictures_need_them_in_words(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", {"question_id": 1, "text": "?", "image": "a.jpg"})
    with pytest.raises(
        DataError, match="about pictures; the judge needs them in words: give --cont"
    ):
        open_question_set(tmp_path, reference=(), questions=path)


def open_with_context(folder, *contexts):
    return open_question_set(
        folder,
        reference=(),
        questions=write_lines(
            folder / "q.jsonl", {"question_id": 1, "text": "?", "image": "a.jpg"}
        ),
        context=write_lines(folder / "c.jsonl", *contexts),
    )


def test_a_picture_that_nothing_is_said_of_is_named(tmp_path):
    with pytest.raises(DataError, match=r"c.jsonl: nothing about a.jpg, question 1"):
        open_with_context(tmp_path, {"image": "b.jpg", "caption": "B."})


@pytest.mark.parametrize(
    "words",
    [
        {"text": "A."},
        {"caption": [["A."]]},
        {"captions": "A."},
        {"captions": ["A."], "instances": [{"category": "dog"}]},
        {"captions": ["A."], "instances": {"bbox": []}},
    ],
)
def test_a_context_of_another_kind_is_refused(words, tmp_path):
    with pytest.raises(DataError, match=r"c.jsonl: expected a picture a line.*; a.jpg has neither"):
        open_with_context(tmp_path, {"image": "a.jpg", **words})


@pytest.mark.parametrize(
    ("context", "variant", "text"),
    [
        ({"caption": "A."}, "wild", "A."),
        ({"caption": ["A.", "B."]}, "wild", "A.\nB."),
        ({"captions": ["A."], "instances": []}, "visual", "A.\n\n"),
    ],
)
def test_context_is_told_as_its_kind_is(context, variant, text, tmp_path):
    opened = open_with_context(tmp_path, {"image": "a.jpg", **context})
    assert opened.variant == variant
    assert opened.questions[0].context == text


def test_answers_are_matched_by_id_whatever_their_order():
    matched = pair(answers_to(2, 1, 0), answers_to(0, 2, 1), 0, 1, 2)
    assert [(each.number, each.candidate.text) for each in matched.pairings] == [
        (1, "to 0"),
        (2, "to 1"),
        (3, "to 2"),
    ]
    assert all(each.candidate.text == each.reference.text for each in matched.pairings)
    assert matched.faults == []


def test_an_id_may_be_written_as_text():
    assert len(pair(answers_to("0"), answers_to(0), 0).pairings) == 1


@pytest.mark.parametrize(
    ("candidate", "reference", "fault"),
    [
        ((0,), (0, 1), "1 questions have no answer of OURS and are left out: 1"),
        ((0, 1), (0,), "1 questions have no answer of REF and are left out: 1"),
        ((0, 1, 7), (0, 1), "1 answers of OURS are to no question: 7"),
        ((0, 1), (0, 1, 8), "1 answers of REF are to no question: 8"),
        ((0, 1, 1), (0, 1), "1 questions have more than one answer of OURS: the last counts: 1"),
        ((0, 1), (0, 0, 1), "1 questions have more than one answer of REF: the last counts: 0"),
    ],
)
def test_every_mismatch_is_told(candidate, reference, fault):
    matched = pair(answers_to(*candidate), answers_to(*reference), 0, 1)
    assert matched.faults == [fault]


def test_many_mismatches_are_shortened():
    (fault,) = pair(answers_to(*range(12)), answers_to(*range(2)), 0, 1).faults[:1]
    assert fault == "10 answers of OURS are to no question: 2, 3, 4, 5, 6 and 5 more"


@pytest.mark.parametrize(("prompt", "told"), [("Q?\n<image>", 0), ("", 0), ("Why?", 1)])
def test_an_answer_to_other_words_is_told(prompt, told):
    matched = pair(answers_to(0, prompt=prompt), answers_to(0), 0)
    assert len(matched.faults) == told


@pytest.mark.parametrize("prompts", [("Why?", "How?"), ("Why?", "")])
def test_answers_to_other_words_alone_are_refused(prompts):
    ours = [answer(number, "A.", prompt=prompt) for number, prompt in enumerate(prompts)]
    with pytest.raises(AnswersError, match="OURS was asked other questions"):
        need_same_questions(pair(ours, answers_to(0, 1), 0, 1).pairings)


@pytest.mark.parametrize("prompts", [("Why?", "USER: Q? ASSISTANT:"), ("", "")])
def test_answers_of_which_some_may_be_to_these_words_are_judged(prompts):
    ours = [answer(number, "A.", prompt=prompt) for number, prompt in enumerate(prompts)]
    need_same_questions(pair(ours, answers_to(0, 1), 0, 1).pairings)


def test_answers_to_another_set_are_refused():
    with pytest.raises(AnswersError, match="not one of the 1 questions has both answers"):
        pair(answers_to(5), answers_to(0), 0)


def test_a_part_of_the_real_answers_is_judged_by_their_questions(reference):
    root = reference / "data/eval"
    theirs = read_answers(root / f"{WILD}/answers_gpt4.jsonl")[:30]
    assert open_question_set(root, reference=theirs).variant == "wild"


def test_real_answers_fit_the_real_questions(reference):
    root = reference / "data"
    theirs = read_answers(root / f"eval/{WILD}/answers_gpt4.jsonl")
    asked = open_question_set(root / "eval", reference=theirs)
    ours = read_answers(root / "answers/llava_bench_wild/llava-v1.5-13b.jsonl")
    matched = pair_answers(asked.questions, ours, theirs)
    assert len(matched.pairings) == 60
    assert matched.faults == []
    assert [each.question.question_id for each in matched.pairings] == list(range(60))
