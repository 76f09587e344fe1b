"""LLaVA's question files: what is asked, in which words and in which order."""

from pathlib import Path

from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import Fields, read_json_lines

_QUESTION: Fields = {"question_id": (int, str), "image": (str,), "text": (str,)}
# What LLaVA's question files write where a benchmark has no categories.
_NO_CATEGORY = "default"


def read_questions(path: Path, folder: Path) -> list[Sample]:
    """The samples of a question file, answers unknown.

    Args:
        folder: where the pictures are.

    Raises:
        DataError: the file cannot be read, or lines are no such records.
    """
    return [
        Sample(
            sample_id=str(record["question_id"]),
            question_id=record["question_id"],
            images=(ImageRef(key=record["image"], path=folder / record["image"]),),
            question=record["text"],
            group=None if record.get("category") == _NO_CATEGORY else record.get("category"),
            cluster=record["image"],
        )
        for record in read_json_lines(path, _QUESTION, optional={"category": (str,)})
    ]
