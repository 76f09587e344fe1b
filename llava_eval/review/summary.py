"""What reviews come to: the relative score with its uncertainty, agreement, differences.

A file of reviews gives a series for each of its judges. What could not be read is left out of every
mean and counted. `original_rows` is the table of LLaVA's `summarize_gpt_review` instead, which
rounds twice and averages in the -1 of what could not be read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llava_eval.errors import VerdictsError
from llava_eval.metrics import relative
from llava_eval.metrics.base import UNPARSED_VERDICT
from llava_eval.metrics.paired import Difference, paired_difference
from llava_eval.metrics.statistics import clustered_mean, deviation, mean
from llava_eval.records import Estimate, Score, Verdict
from llava_eval.review.agreement import krippendorff_alpha
from llava_eval.verdicts import (
    Orders,
    RunName,
    by_order,
    mean_of_orders,
    read_reviews,
    review_metadata,
    review_verdict,
    run_name,
    stored_scores,
)

ALL = "all"
WILD_PREFIX = "llava_bench_"
"""Of a category in reviews of LLaVA-Bench (in the wild)."""
_NAME_PREFIX = "gpt4_text_"
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All reviews of one candidate by one judge."""

    name: str
    """The file's, with the judge's where it has several."""
    label: str
    """The candidate's name in place of the file's, where that is known."""
    file: Path
    judge: str | None
    """None where the file does not say: LLaVA's do not."""
    candidate: str | None
    scores: Sequence[Score]
    """One a question, with a verdict for each run; without a value where none could be read."""
    orders: Sequence[tuple[str, Orders]]
    """Question id and both orders of a run, where both were shown and read."""
    answers: Mapping[str, tuple[str, ...]]
    """Question id -> what tells which two answers were judged, where the file says it."""
    stored: Sequence[tuple[str | None, Verdict]]
    """Of every review: category and scores, as they stand in the file."""
    num_unread: int
    wordings: tuple[str, ...] = ()
    num_flagged: int = 0
    """Reviews of answers that imitated the message's marks or spoke to the judge."""


def read_series(path: Path, *, pictures: Mapping[str, str] | None = None) -> list[Series]:
    """Reads a file of reviews, ours or LLaVA's, old ones included.

    Args:
        pictures: question id -> picture, by which error bars are clustered; without, and where the
            file does not say it, every question counts as a picture of its own.

    Raises:
        VerdictsError: it cannot be read, or has faulty reviews.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise VerdictsError(f"{path}: cannot be read: {error.strerror}") from error
    by_judge: dict[str | None, list[Mapping[str, Any]]] = {}
    for review in read_reviews(path, text):
        by_judge.setdefault(review.get("judge"), []).append(review)
    return [
        _series(path, judge, reviews, pictures or {}, is_alone=len(by_judge) == 1)
        for judge, reviews in by_judge.items()
    ]


def series_name(path: Path) -> str:
    """What LLaVA's summary calls a file of reviews."""
    return path.name.replace(_NAME_PREFIX, "").removesuffix(".jsonl")


def candidate_of(reviews: Sequence[Mapping[str, Any]]) -> str | None:
    """Whose answers were judged; None where the reviews do not say."""
    named = map(review_metadata, reviews)
    return next((str(each["candidate"]) for each in named if "candidate" in each), None)


def _series(
    path: Path,
    judge: str | None,
    reviews: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str],
    *,
    is_alone: bool,
) -> Series:
    candidate, by = candidate_of(reviews), "" if is_alone else f" {judge}"
    metadata = [review_metadata(review) for review in reviews]
    by_run: dict[RunName, list[Mapping[str, Any]]] = {}
    for review in reviews:
        by_run.setdefault(run_name(review), []).append(review)
    runs = [by_order(own) for own in by_run.values()]
    by_question = {str(review["question_id"]): review for review in reviews}
    return Series(
        name=f"{series_name(path)}{by}",
        label=f"{candidate or series_name(path)}{by}",
        file=path,
        judge=judge,
        candidate=candidate,
        scores=[_score(review, runs, pictures.get(name)) for name, review in by_question.items()],
        orders=[
            (name, orders)
            for run in runs
            for name, orders in run.items()
            if len(orders) > 1 and mean_of_orders(orders) is not None
        ],
        answers={
            name: named
            for name, review in by_question.items()
            if (named := _answers(review)) is not None
        },
        stored=[(review.get("category"), stored_scores(review)) for review in reviews],
        num_unread=sum(review_verdict(review) is None for review in reviews),
        wordings=tuple(dict.fromkeys(each["wording"] for each in metadata if "wording" in each)),
        num_flagged=sum(bool(each.get("flags")) for each in metadata),
    )


def _answers(review: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What tells both answers apart from others.

    Ours have a hash of the texts. LLaVA's have ids; for an answer that has none its question's
    stands there, which tells nothing.
    """
    if digest := review_metadata(review).get("answers"):
        return (str(digest),)
    ids = [review.get("answer1_id"), review.get("answer2_id")]
    if None in ids or ids[1] == review["question_id"]:
        return None
    return tuple(map(str, ids))


def _score(
    review: Mapping[str, Any], runs: Sequence[Mapping[str, Orders]], picture: str | None
) -> Score:
    """What all runs say of a question, one of whose reviews is given."""
    question_id, category = str(review["question_id"]), review.get("category")
    verdicts = tuple(
        mean_of_orders(run[question_id]) if question_id in run else None for run in runs
    )
    return _with_verdicts(
        Score(
            sample_id=question_id,
            metrics={},
            extracted=None,
            group=None if category is None else str(category).removeprefix(WILD_PREFIX),
            cluster=str(picture or review_metadata(review).get("image") or question_id),
        ),
        verdicts,
    )


def _with_verdicts(score: Score, verdicts: tuple[Verdict | None, ...]) -> Score:
    value = _relative(verdicts)
    reason = UNPARSED_VERDICT if value is None else None
    return replace(score, metrics={"relative": value}, reason=reason, verdicts=verdicts)


def _relative(verdicts: Sequence[Verdict | None]) -> float | None:
    sums = _means(verdicts)
    if sums is None:
        return None
    # Old reviews give a reference that says nothing a zero; in the sums it has its place.
    return 100 * sums[1] / sums[0] if sums[0] else math.inf


def _means(verdicts: Sequence[Verdict | None]) -> tuple[float, float] | None:
    """Of the reference and of the candidate, over the runs that could be read."""
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return None
    reference, candidate = (sum(column) / len(known) for column in zip(*known, strict=True))
    return reference, candidate


class Original(NamedTuple):
    """Relative score, reference and candidate as LLaVA's summary prints them."""

    relative: float | None
    """None where it would divide by zero."""
    reference: float
    candidate: float


class Row(NamedTuple):
    """A line of the table."""

    group: str
    relative: Estimate
    reference: Estimate
    candidate: Estimate
    printed: Original | None
    """What is compared with published values: of several runs the mean of what is printed of each.
    None where nothing could be read."""
    num_scored: int


def rows(series: Series) -> list[Row]:
    """All questions first, then each category in alphabetical order."""
    metrics, groups = relative.summarize(series.scores, _SEED)
    return [
        _row(ALL, metrics, series.scores),
        *(
            _row(name, estimates, [score for score in series.scores if score.group == name])
            for name, estimates in groups.items()
        ),
    ]


def _row(name: str, estimates: Mapping[str, Estimate], scores: Sequence[Score]) -> Row:
    return Row(
        name,
        estimates["relative"],
        estimates["reference"],
        estimates["candidate"],
        _printed(scores),
        sum(score.reason is None for score in scores),
    )


def _printed(scores: Sequence[Score]) -> Original | None:
    runs = zip(*(score.verdicts for score in scores), strict=True)
    known = [[verdict for verdict in run if verdict is not None] for run in runs]
    of_runs = [_original(verdicts) for verdicts in known if verdicts]
    if not of_runs:
        return None
    relatives = [each.relative for each in of_runs if each.relative is not None]
    return Original(
        round(mean(relatives), 1) if relatives else None,
        round(mean([each.reference for each in of_runs]), 1),
        round(mean([each.candidate for each in of_runs]), 1),
    )


def num_runs(series: Series) -> int:
    """How often the judge was asked; both orders of a question are one time."""
    return max((len(score.verdicts) for score in series.scores), default=0)


def std_over_runs(series: Series) -> float | None:
    """How far the judge's runs differ, in points of the relative score; None for a single run."""
    return deviation(relative.run_values(series.scores))


def original_rows(series: Series) -> dict[str, Original]:
    """The table of LLaVA's summary by group.

    Every review counts, also those whose scores could not be read, as -1 to -1.
    Source: haotian-liu/LLaVA at c121f04, llava/eval/summarize_gpt_review.py.
    """
    members: dict[str, list[Verdict]] = {ALL: [scores for _, scores in series.stored]}
    for category, scores in series.stored:
        if category is not None:
            members.setdefault(category, []).append(scores)
    return {name: _original(members[name]) for name in sorted(members)}


def _original(scores: Sequence[Verdict]) -> Original:
    """Means are rounded to three decimals, and what is made of them to one."""
    reference, candidate = (
        round(sum(column) / len(scores), 3) for column in zip(*scores, strict=True)
    )
    return Original(
        round(candidate / reference * 100, 1) if reference else None,
        round(reference * 10, 1),
        round(candidate * 10, 1),
    )


def pooled(series: Sequence[Series]) -> list[Series]:
    """Series of the same answers by the same judge taken together, each a run of the judge's.

    Answers are the same where their ids are; files that do not give all are not taken together, nor
    are those in which the judge was told its rules in other words.
    """
    same: dict[Any, list[Series]] = {}
    for each in series:
        if len(each.answers) == len(each.scores):
            told = each.judge, frozenset(each.wordings)
            same.setdefault((told, tuple(sorted(each.answers.items()))), []).append(each)
    return [_joined(parts) for parts in same.values() if len(parts) > 1]


def _joined(parts: Sequence[Series]) -> Series:
    by_id = [{score.sample_id: score for score in part.scores} for part in parts]
    return replace(
        parts[0],
        name=f"mean of {', '.join(part.name for part in parts)}",
        label=f"mean of {', '.join(part.label for part in parts)}",
        scores=[
            _with_verdicts(
                score,
                tuple(each for known in by_id for each in known[score.sample_id].verdicts),
            )
            for score in parts[0].scores
        ],
        orders=[each for part in parts for each in part.orders],
        stored=[review for part in parts for review in part.stored],
        num_unread=sum(part.num_unread for part in parts),
        num_flagged=sum(part.num_flagged for part in parts),
    )


def agreement_of_runs(series: Series) -> float | None:
    """Krippendorff's alpha between the runs of a judge, over the scores of both answers."""
    return krippendorff_alpha(
        [
            [None if verdict is None else verdict[place] for verdict in score.verdicts]
            for score in series.scores
            for place in (0, 1)
        ]
    )


def agreement_of_judges(series: Sequence[Series]) -> float | None:
    """Krippendorff's alpha between judges of the same answers, each with the mean of its runs.

    Args:
        series: a judge may have several; those that name no judge are left out.
    """
    by_judge: dict[str, dict[str, list[Verdict | None]]] = {}
    for each in series:
        if each.judge is not None:
            runs = by_judge.setdefault(each.judge, {})
            for score in each.scores:
                runs.setdefault(score.sample_id, []).extend(score.verdicts)
    means = [{name: _means(own) for name, own in runs.items()} for runs in by_judge.values()]
    ids = dict.fromkeys(name for known in means for name in known)
    return krippendorff_alpha(
        [
            [None if (pair := known.get(name)) is None else pair[place] for known in means]
            for name in ids
            for place in (0, 1)
        ]
    )


def first_place(series: Series) -> Estimate | None:
    """What standing first is worth, on the judge's scale; None where only one order was shown."""
    clusters = {score.sample_id: score.cluster for score in series.scores}
    both = [
        (kept, swapped, clusters[name])
        for name, orders in series.orders
        if (kept := orders[False]) and (swapped := orders[True])
    ]
    if not both:
        return None
    return clustered_mean(
        [((kept[0] - kept[1]) + (swapped[1] - swapped[0])) / 2 for kept, swapped, _ in both],
        [cluster for _, _, cluster in both],
    )


class Comparison(NamedTuple):
    """Two series over the questions that both have."""

    is_drift: bool
    """Whether the answers are the same ones, so that only the judge can have changed."""
    num_shared: int
    relative: Difference | None
    reference: Difference | None
    candidate: Difference | None


def compare(first: Series, second: Series) -> Comparison:
    """The second less the first, paired by question and clustered by picture.

    Raises:
        VerdictsError: they share no question.
    """
    ours = {score.sample_id: score for score in first.scores if score.reason is None}
    theirs = {score.sample_id: score for score in second.scores if score.reason is None}
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise VerdictsError(f"{first.name} and {second.name} have no reviewed question in common")
    # Only one of them may know the pictures.
    clusters = {name: _cluster(ours[name], theirs[name]) for name in shared}
    sides = [
        [replace(side[name], cluster=clusters[name]) for name in shared] for side in (ours, theirs)
    ]
    differences = [
        paired_difference(*(relative.totals(side, metric) for side in sides), seed=_SEED)
        for metric in ("relative", "reference", "candidate")
    ]
    same = [first.answers.get(name) == second.answers.get(name) for name in shared]
    known = bool(first.answers and second.answers)
    return Comparison(known and all(same), len(shared), *differences)


def _cluster(first: Score, second: Score) -> str:
    return second.cluster if first.cluster == first.sample_id else first.cluster
