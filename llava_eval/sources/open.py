"""Opens a task's samples where `--data` says: in the mini data, or in a folder as LLaVA's."""

import logging
from collections import Counter
from pathlib import Path

from llava_eval.errors import DataError
from llava_eval.mini.write import mini_root
from llava_eval.records import Sample
from llava_eval.sources.llava_layout import READERS
from llava_eval.spec import TaskSpec

MINI = "mini"

_logger = logging.getLogger(__name__)


def data_root(data: str) -> Path:
    """The folder that the paths of a task file start from; writes the mini data on first use.

    Raises:
        DataError: the mini data cannot be written.
    """
    return mini_root() if data == MINI else Path(data)


def load_samples(spec: TaskSpec, data: str) -> list[Sample]:
    """Reads a task's samples in the order in which they are asked.

    A number other than the published set's is logged as a warning, except for the mini data.

    Args:
        data: `mini`, or the path of a folder.

    Raises:
        DataError: files are missing or malformed.
    """
    samples = READERS[spec.layout.reader](spec.layout, data_root(data))
    times = Counter(sample.sample_id for sample in samples)
    if repeated := [sample_id for sample_id, number in times.items() if number > 1]:
        raise DataError(
            f"{spec.layout.questions}: {len(repeated)} ids stand there more than once, "
            f"the first is {repeated[0]}"
        )
    if data != MINI and len(samples) != spec.num_samples:
        _logger.warning(
            "%s: %d samples, the published set has %d", spec.name, len(samples), spec.num_samples
        )
    return samples
