"""Looks through conversation files for what would end or spoil a training hours later.

Pictures are decoded at the smallest size that their format offers, which reads every byte and
finds files that are cut off, in threads, because decoding waits for the disk or leaves Python.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llava_core.conversation import IMAGE_MARK, Template
from llava_core.data.labels import render_sample
from llava_core.data.records import Records, Sample
from llava_core.errors import DataError
from llava_core.images import refuse_broken

_THREADS = 16
# Pictures that are looked at together; bounds what waits in memory.
_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found."""

    num_records: int
    num_with_picture: int
    faults: tuple[str, ...]
    """One line each: the sample and what is wrong with it."""
    stray: tuple[str, ...]
    """Samples without picture that contain `<image>`; it is read as text."""


def check_files(paths: Sequence[Path], *, image_folder: Path, template: Template) -> Report:
    """Checks every record and every picture of conversation files.

    Raises:
        DataError: a file cannot be read as JSON at all.
    """
    records = Records(paths)
    faults, stray = [], []
    wanted: dict[str, list[str]] = {}
    num_with_picture = 0
    for index in range(len(records)):
        try:
            sample = records.sample(index)
            num_with_picture += bool(sample.images)
            for name in dict.fromkeys(sample.images):
                wanted.setdefault(name, []).append(sample.id)
            render_sample(sample, template)
        except DataError as error:
            faults.append(str(error))
            continue
        if _has_stray_mark(sample):
            stray.append(sample.id)
    for name, fault in _check_pictures(wanted, image_folder):
        faults.extend(f"sample {sample}: {fault}" for sample in wanted[name])
    return Report(
        num_records=len(records),
        num_with_picture=num_with_picture,
        faults=tuple(faults),
        stray=tuple(stray),
    )


def _has_stray_mark(sample: Sample) -> bool:
    return not sample.images and any(IMAGE_MARK in (turn.text or "") for turn in sample.turns)


def _check_pictures(names: Iterable[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Name and fault of each picture that is missing or broken."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        for at in range(0, len(names), _CHUNK):
            chunk = names[at : at + _CHUNK]
            faults = pool.map(lambda name: _look_at(folder / name), chunk)
            yield from ((n, fault) for n, fault in zip(chunk, faults, strict=True) if fault)


def _look_at(path: Path) -> str | None:
    try:
        with refuse_broken(f"picture {path}"), Image.open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except DataError as error:
        return str(error)
    return None
