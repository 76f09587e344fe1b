"""Finds the pictures of a run's samples where the run had its data from.

Only pictures that a task's own samples name are ever opened. A page shows one only where the run
says that it asked about a picture of that name.
"""

from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from llava_eval.errors import DataError
from llava_eval.records import ImageRef
from llava_eval.results import recorded_data
from llava_eval.samples import Row
from llava_eval.sources.open import open_task
from llava_eval.spec import TaskSpec
from llava_eval.view.shelf import ViewedRun

_SOURCES_KEPT = 16


class Pictures(NamedTuple):
    """The pictures of a task."""

    by_sample: Mapping[str, tuple[ImageRef, ...]]
    fault: str | None
    """Why there are none."""

    def of(self, row: Row) -> tuple[ImageRef, ...]:
        """Those of a sample; none where the run was asked about others."""
        images = self.by_sample.get(row["id"], ())
        names = ", ".join(image.key for image in images)
        return images if row.get("image", names) == names else ()


class Gallery:
    """Opens the data of tasks, each once."""

    def __init__(self, tasks: Mapping[str, TaskSpec], data: str | None) -> None:
        """Opens nothing yet.

        Args:
            tasks: name -> task.
            data: where all data are; None: where each run's manifest says.
        """
        self._tasks = tasks
        self._data = data
        self._open = lru_cache(maxsize=_SOURCES_KEPT)(self._opened)
        self._lock = Lock()

    def pictures(self, viewed: ViewedRun, task: str) -> Pictures:
        """The pictures of a task of a run."""
        data = self._data or recorded_data(viewed.run.manifest, task)
        if data is None:
            return Pictures({}, "no pictures: the run does not say where its data are; give --data")
        # Requests come in threads; one reads the data, the others wait.
        with self._lock:
            return self._open(task, data)

    def _opened(self, task: str, data: str) -> Pictures:
        if task not in self._tasks:
            return Pictures({}, "no pictures: no task file describes this task any more")
        try:
            samples = open_task(self._tasks[task], data).samples
        except DataError as error:
            return Pictures({}, f"no pictures: {error}; --data says where they are")
        return Pictures({sample.sample_id: sample.images for sample in samples}, None)
