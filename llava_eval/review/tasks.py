"""What a judge is asked about the answers of a run, and the verdicts by sample.

LLaVA-Bench is judged against GPT-4's answers with a description of the picture, MM-Vet against its
ground truth. A sample that failed has nothing to be judged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from llava_eval.answers import read_answers
from llava_eval.errors import DataError
from llava_eval.records import Origin, Response, Sample, Verdict
from llava_eval.review.grader import find_grade_prompt
from llava_eval.review.ledger import Review, ReviewRequest
from llava_eval.review.questions import (
    Question,
    QuestionSet,
    find_rule_file,
    model_name,
    open_question_set,
    pair_answers,
)
from llava_eval.review.requests import GradePrompt, Settings, grade_requests, pair_requests
from llava_eval.review.rules import OWN_RULES, Rules, read_rules

_PAIR_LENGTH = 2
_CONTEXT = "context.jsonl"
_GROUND_TRUTH = "ground truth"
# Whose answers a table has, which does not say which GPT-4.
_TABLE_REFERENCE = "gpt-4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers of a run to one task."""

    samples: Sequence[Sample]
    responses: Mapping[str, Response]
    """Sample id -> response."""
    model_id: str


Asker = Callable[[Answered, Settings], list[ReviewRequest]]
"""Answers and how they are judged -> what the judge is asked."""


def open_asker(samples: Sequence[Sample], origin: Origin, *, verdict_length: int) -> Asker:
    """Reads all that a judge is told besides the answers.

    Args:
        origin: of the samples.
        verdict_length: 2 where answers are compared with others, 1 where they are graded.

    Raises:
        DataError: files are missing or broken.
        AnswersError: so are the reference answers.
    """
    if verdict_length != _PAIR_LENGTH:
        return partial(_ask_for_grades, prompt=find_grade_prompt(origin.root))
    if origin.source != "llava_layout":
        return _open_table(samples, _rules_beside(origin))
    questions, path = (origin.root / name for name in origin.files)
    reference = read_answers(path)
    asked = open_question_set(
        origin.root,
        reference=reference,
        questions=questions,
        context=questions.with_name(_CONTEXT),
    )
    name = model_name(reference, path)
    return partial(_ask_for_pairs, asked=asked, reference=reference, name=name)


def _rules_beside(origin: Origin) -> Rules:
    """Those in the folder of a table; the Hub has none."""
    path = find_rule_file(origin.root) if origin.source == "tsv" else None
    return OWN_RULES if path is None else read_rules(path)


def _open_table(samples: Sequence[Sample], rules: Rules) -> Asker:
    """Of samples that bring their descriptions and GPT-4's answers with them.

    Raises:
        DataError: they do not.
    """
    reference, questions = [], []
    for sample in samples:
        if sample.description is None or sample.answers is None:
            raise DataError(
                f"question {sample.question_id}: the table has no description of its picture for "
                "the judge; give a folder with LLaVA's own files with --data"
            )
        questions.append(
            Question(
                question_id=sample.question_id,
                category=sample.group,
                text=sample.question,
                image=sample.images[0].key,
                context=sample.description,
            )
        )
        reference.append(
            Response(
                sample_id=sample.sample_id,
                question_id=sample.question_id,
                prompt=sample.question,
                text=sample.answers[0],
                answer_id="",
                model_id=_TABLE_REFERENCE,
            )
        )
    asked = QuestionSet(variant="wild", questions=questions, rules=rules, files={})
    return partial(_ask_for_pairs, asked=asked, reference=reference, name=_TABLE_REFERENCE)


def _ask_for_pairs(
    answered: Answered,
    settings: Settings,
    *,
    asked: QuestionSet,
    reference: Sequence[Response],
    name: str,
) -> list[ReviewRequest]:
    given = [response for _, response in _to_judge(answered)]
    if not given:
        return []
    return pair_requests(
        pair_answers(asked.questions, given, reference).pairings,
        variant=asked.variant,
        rules=asked.rules,
        names=(answered.model_id, name),
        settings=settings,
    )


def _ask_for_grades(
    answered: Answered, settings: Settings, *, prompt: GradePrompt
) -> list[ReviewRequest]:
    both = _to_judge(answered)
    return grade_requests(
        [sample for sample, _ in both],
        [response for _, response in both],
        prompt=prompt,
        names=(answered.model_id, _GROUND_TRUTH),
        settings=settings,
    )


def _to_judge(answered: Answered) -> list[tuple[Sample, Response]]:
    return [
        (sample, response)
        for sample in answered.samples
        if (response := answered.responses.get(sample.sample_id)) and response.error is None
    ]


def verdicts_by_sample(
    reviews: Sequence[Review], samples: Sequence[Sample], *, votes: int
) -> dict[str, tuple[Verdict | None, ...]]:
    """Sample id -> the judge's verdicts, one a vote; samples without any review are left out.

    Args:
        reviews: of one judge, each in one order.
        votes: how often it was asked.
    """
    by_question: dict[str, dict[int, Verdict | None]] = {}
    for review in reviews:
        question_id = str(review.request.record["question_id"])
        by_question.setdefault(question_id, {})[review.request.vote] = review.verdict
    return {
        sample.sample_id: tuple(own.get(vote) for vote in range(1, votes + 1))
        for sample in samples
        if (own := by_question.get(str(sample.question_id)))
    }
