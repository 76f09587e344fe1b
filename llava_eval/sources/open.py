"""Opens a task's samples where `--data` says: the mini data, the Hub, or a folder.

A folder is laid out as LLaVA's, or holds VLMEvalKit's tables; what is in it decides.
"""

import logging
from collections import Counter
from pathlib import Path

from llava_eval.errors import DataError
from llava_eval.mini.write import mini_root
from llava_eval.records import Opened, Origin, Sample
from llava_eval.sources.files import located
from llava_eval.sources.hub import read_hub
from llava_eval.sources.llava_layout import READERS
from llava_eval.sources.tsv import read_tsv
from llava_eval.spec import TaskSpec

MINI = "mini"
HUB = "hub"

_logger = logging.getLogger(__name__)


def data_root(data: str) -> Path:
    """The folder that the paths of a task file start from; writes the mini data on first use.

    Raises:
        DataError: the mini data cannot be written.
    """
    return mini_root() if data == MINI else Path(data)


def load_samples(spec: TaskSpec, data: str) -> list[Sample]:
    """The samples of `open_task`.

    Raises:
        DataError: as there.
    """
    return open_task(spec, data).samples


def open_task(spec: TaskSpec, data: str) -> Opened:
    """Reads a task's samples in the order in which they are asked.

    A number other than the published set's is logged as a warning, except for the mini data, and so
    is what is known to be different about a source.

    Args:
        data: `mini`, `hub`, or the path of a folder.

    Raises:
        DataError: data are missing or malformed.
    """
    opened = _read(spec, data)
    samples, origin = opened
    times = Counter(sample.sample_id for sample in samples)
    if repeated := [sample_id for sample_id, number in times.items() if number > 1]:
        raise DataError(
            f"{_name(spec, origin)}: {len(repeated)} ids stand there more than once, "
            f"the first is {repeated[0]}; get the published data anew, or leave out what is doubled"
        )
    if data != MINI and len(samples) != spec.num_samples:
        _logger.warning(
            "%s: %d samples, the published set has %d", spec.name, len(samples), spec.num_samples
        )
    if origin.note:
        _logger.warning("%s: %s", spec.name, " ".join(origin.note.split()))
    return opened


def _read(spec: TaskSpec, data: str) -> Opened:
    if data == HUB:
        if spec.hub is None:
            raise DataError(f"{spec.name} has no data set on the Hub; give --data a folder")
        return read_hub(spec.hub)
    root = data_root(data)
    layout = located(spec.layout, root)
    names = (layout.questions, *layout.annotations)
    is_llava = any((root / name).exists() for name in names)
    if spec.tsv and not is_llava and (root / spec.tsv.file).is_file():
        return read_tsv(spec.tsv, root)
    try:
        samples = READERS[layout.reader](layout, root)
    except DataError as error:
        if is_llava or spec.tsv is None:
            raise
        raise DataError(f"{error}, or hold VLMEvalKit's {spec.tsv.file}") from error
    origin = Origin(source="llava_layout", root=root, files=names, pictures=layout.images)
    return Opened(samples=samples, origin=origin)


def _name(spec: TaskSpec, origin: Origin) -> str:
    return next(iter((*origin.commits, *origin.files)), spec.name)
