"""ScienceQA by two models: another's answer counts where one can be read in it, else ours.

With GPT-4's answers this is the complement of LLaVA's paper; with those that GPT-4 gave when it was
asked again, shown both, its judge. Both scripts draw a letter at random where ours cannot be read
either; here that is wrong, as in ScienceQA alone.
Source: haotian-liu/LLaVA at c121f04, llava/eval/eval_science_qa_gpt4{,_requery}.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llava_eval.answers import read_answers
from llava_eval.errors import AnswersError
from llava_eval.extract import stated_science_letter
from llava_eval.json_text import parse_json
from llava_eval.records import Response

_OUTPUTS = "outputs"


class Ensemble(NamedTuple):
    """The answers of two models taken together."""

    responses: Mapping[str, Response]
    """Sample id -> response."""
    num_preferred: int
    """Answers that are the other model's."""
    num_absent: int
    """Samples that the other model has no answer to."""


def read_preferred(path: Path) -> Mapping[str, str]:
    """Question id -> the other model's answer, out of answer records or `{"outputs": {id: text}}`.

    Raises:
        AnswersError: the file cannot be read or holds neither.
    """
    try:
        given = parse_json(path.read_bytes())
    except OSError as error:
        raise AnswersError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        given = None
    outputs = given.get(_OUTPUTS) if isinstance(given, dict) else None
    if outputs is None:
        return {str(answer.question_id): answer.text for answer in read_answers(path)}
    if not isinstance(outputs, dict) or not all(isinstance(each, str) for each in outputs.values()):
        raise AnswersError(f"{path}: {_OUTPUTS}: expected an object of question ids and texts")
    return outputs


def prefer(responses: Mapping[str, Response], preferred: Mapping[str, str]) -> Ensemble:
    """Takes the other model's answer wherever a letter can be read in it.

    Args:
        responses: sample id -> ours.
        preferred: question id -> the other's.
    """
    others = {
        sample_id: preferred.get(str(response.question_id))
        for sample_id, response in responses.items()
    }
    readable = {
        sample_id: replace(responses[sample_id], text=text)
        for sample_id, text in others.items()
        if text is not None and stated_science_letter(text)
    }
    return Ensemble(
        responses={**responses, **readable},
        num_preferred=len(readable),
        num_absent=sum(text is None for text in others.values()),
    )
