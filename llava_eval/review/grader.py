"""The instruction of MM-Vet's grader: the one in the user's copy of its tool, or ours."""

import ast
import hashlib
import json
from pathlib import Path

from llava_eval.errors import DataError
from llava_eval.review.requests import GradePrompt

# Below the data folder, or where MM-Vet's repository is unpacked into its folder.
FILES = tuple(
    f"{folder}/mm-vet_evaluator.{suffix}"
    for folder in ("mm-vet", "mm-vet/MM-Vet", "mmvet", ".")
    for suffix in ("py", "ipynb")
)
# Of the variable `prompt`. Source: yuweihao/MM-Vet at 7d717c2, mm-vet_evaluator.{py,ipynb}.
_PUBLISHED = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"

_OWN = """\
You grade answers. Each row below has a question, its true answer, the answer of a model and a \
grade from 0.0, all wrong, to 1.0, all right, in steps of 0.1. Parts joined by <AND> must all be \
there; of parts joined by <OR> one is enough. Other words for the same thing are as good. Write \
the grade that is missing in the last row, and nothing else.

Question | True answer | Answer | Grade
--- | --- | --- | ---
Which animals are there? | cat <AND> dog | A horse is there. | 0.0
Which animals are there? | cat <AND> dog | I see a small dog. | 0.5
Which animals are there? | cat <AND> dog | A dog lies next to a kitten. | 1.0
What is the dish called? | dumplings <OR> jiaozi | These are jiaozi. | 1.0
How much is it in all? | 12 dollars | about 12 | 0.8
Describe the street. | A wet street at night; two people walk under one umbrella. | A street at \
night. | 0.3
Describe the street. | A wet street at night; two people walk under one umbrella. | A couple \
shares an umbrella on a dark street in the rain. | 1.0
"""


def find_grade_prompt(root: Path) -> GradePrompt:
    """The instruction out of MM-Vet's own tool in the data folder, else ours.

    Raises:
        DataError: the tool is there but has no instruction.
    """
    path = next((root / name for name in FILES if (root / name).is_file()), None)
    if path is None:
        return GradePrompt(text=_OWN, wording="own")
    text = _prompt_in(path)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return GradePrompt(text=text, wording="llava" if digest == _PUBLISHED else "given")


def _prompt_in(path: Path) -> str:
    """The text that the tool assigns to `prompt`; its code is read, never run."""
    try:
        for source in _sources(path):
            for node in ast.walk(ast.parse(source)):
                if (
                    isinstance(node, ast.Assign)
                    and isinstance(node.value, ast.Constant)
                    and isinstance(node.value.value, str)
                    and any(getattr(target, "id", None) == "prompt" for target in node.targets)
                ):
                    return node.value.value
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    raise DataError(f"{path}: no text is assigned to `prompt`; expected MM-Vet's evaluator")


def _sources(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
