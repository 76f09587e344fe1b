"""Reads answers to MME from a folder of results, as its official tool takes and hands them out.

One table a category: picture, question, truth, answer. The picture goes by its own name or by that
of its text file, as LLaVA's converter writes it. The truth is that of the task's own data.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_eval.errors import AnswersError, DataError
from llava_eval.records import Response, Sample
from llava_eval.sources.mme import key_of, mme_key, read_table


def read_mme_results(folder: Path, samples: Sequence[Sample]) -> list[Response]:
    """Every line of every table as an answer; `sample_id` is empty where a line fits no sample.

    Args:
        samples: the task's.

    Raises:
        AnswersError: the folder has no tables, or they are malformed.
    """
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise AnswersError(f"{folder}: no tables; expected a file CATEGORY.txt a category of MME")
    known = {key_of(sample): sample for sample in samples}
    answers = []
    for path in paths:
        try:
            rows = list(read_table(path, columns=4))
        except DataError as error:
            raise AnswersError(f"{error} (picture, question, truth, answer)") from error
        for picture, question, _, text in rows:
            sample = known.get(mme_key(path.stem, picture, question))
            answers.append(
                Response(
                    sample_id=sample.sample_id if sample else "",
                    question_id=sample.question_id if sample else f"{path.stem}/{picture}",
                    prompt=sample.question if sample else question,
                    text=text,
                    answer_id="",
                    model_id="",
                )
            )
    return answers
