"""Shows a training: a bar or lines on stderr, a line of JSON for every step, a plot of the loss.

Only the first process does; the others would say the same.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from llava_core.errors import CheckpointError, ConfigError
from llava_core.json_files import parse_json, read_object
from llava_core.train.checkpoints import writing
from llava_core.train.launch import is_first_process
from llava_core.train.recipe import Recipe

LOG = "log.jsonl"
PLOT = "loss.svg"
LINE_S = 60.0
"""Between two lines, and before the first, where stderr is no terminal."""
_LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_WIDTH, _HEIGHT, _MARGIN = 800, 400, 50

_logger = logging.getLogger(__name__)


class Watcher(TrainerCallback):
    """Writes `log.jsonl` and `loss.svg` and moves the bar."""

    def __init__(self, folder: Path, *, bar: Progress) -> None:
        """Watches a training whose output folder is given."""
        self._folder = folder
        self._bar = bar
        self._task = bar.add_task("training", total=None, shown="")
        self._said_s = bar.get_time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forgets what was logged after the checkpoint from which it goes on."""
        if state.is_world_process_zero:
            kept = [line for line in read_log(self._folder) if line["step"] <= state.global_step]
            _rewrite(self._folder, kept)
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Has a line logged at every checkpoint, so that who goes on from it begins a new mean."""
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Appends a line."""
        if not state.is_world_process_zero:
            return
        append(self._folder, {"step": state.global_step, "epoch": state.epoch, **logs})
        if "loss" in logs:
            shown = (
                f"loss {logs['loss']:.4f}  rate {logs['learning_rate']:.2g}  "
                f"{logs['samples_per_s']:.1f} samples/s {logs['tokens_per_s']:.0f} tokens/s  "
                f"{logs['tflops_per_s']:.3g} TFLOP/s{_share(logs)}"
            )
            self._bar.update(self._task, completed=state.global_step, shown=shown)
            self._say(state, logs)

    def _say(self, state: Any, logs: Mapping[str, Any]) -> None:
        """Prints a line now and then, where there is no terminal for the bar."""
        console, now_s = self._bar.console, self._bar.get_time()
        if console.is_terminal or now_s - self._said_s < LINE_S:
            return
        self._said_s = now_s
        left = timedelta(seconds=round(logs["seconds_left"]))
        told = (
            f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.4f}, {left} left"
        )
        console.print(f"training: {told}", markup=False, highlight=False, soft_wrap=True)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draws the loss so far."""
        if state.is_world_process_zero:
            write_plot(self._folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draws the loss."""
        if state.is_world_process_zero:
            write_plot(self._folder)


class Examiner(TrainerCallback):
    """Runs `llava_eval` on every checkpoint, as a command of its own, and logs its scores."""

    def __init__(self, recipe: Recipe) -> None:
        """Examines the checkpoints of a recipe's training."""
        self._recipe = recipe

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Scores the checkpoint that was just written, or logs and says why that failed.

        A training of days does not end for it; the checkpoint can be scored by hand.
        """
        if not state.is_world_process_zero:
            return
        folder = Path(self._recipe.output)
        name = f"checkpoint-{state.global_step}"
        run = folder / "evaluation" / name
        command = [sys.executable, "-m", "llava_eval", "run", "--model", str(folder / name)]
        command += ["--tasks", ",".join(self._recipe.eval_tasks), "--data", self._recipe.eval_data]
        command += ["--output", str(run)]
        if self._recipe.eval_limit is not None:
            command += ["--limit", str(self._recipe.eval_limit)]
        if self._recipe.base is not None:
            command += ["--model-base", self._recipe.base]
        if fault := _run(command):
            _logger.warning("`%s` failed: %s", " ".join(command[1:]), fault)
            append(folder, {"step": state.global_step, "fault": fault})
            return
        scores = {path.parent.name: _headline(path) for path in run.glob("*/summary.json")}
        append(folder, {"step": state.global_step, "scores": scores})


def check_tasks(names: Sequence[str]) -> None:
    """Makes sure that there are benchmarks of these names.

    Raises:
        ConfigError: there are not.
    """
    for name in names:
        if fault := _run([sys.executable, "-m", "llava_eval", "tasks", name]):
            raise ConfigError(f"eval_tasks: {fault}")


@contextmanager
def training_bar() -> Iterator[Progress]:
    """The bar; not shown where stderr is no terminal, nor by other processes on the same one."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and is_first_process()),
    ) as bar:
        yield bar


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to the log.

    Raises:
        CheckpointError: there is no room, or it cannot be written.
    """
    with writing(folder), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log; one that was broken off, which is the last, is left out.

    Raises:
        CheckpointError: another line is broken.
    """
    path = folder / LOG
    data = path.read_bytes() if path.is_file() else b""
    lines = data.rpartition(b"\n")[0].splitlines()
    return [_parse_line(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        fields = parse_json(line)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON; mend it, or move the file away") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("step"), int):
        raise CheckpointError(f"{where} has no step; mend it, or move the file away")
    if not isinstance(fields.get("loss", 0.0), int | float):
        raise CheckpointError(f"{where} has a loss of no number; mend it, or move the file away")
    return fields


def write_plot(folder: Path) -> None:
    """Draws the loss over the steps.

    Raises:
        CheckpointError: there is no room, or it cannot be written.
    """
    points = [(line["step"], line["loss"]) for line in read_log(folder) if "loss" in line]
    if points:
        with writing(folder):
            (folder / PLOT).write_text(draw_loss(points), encoding="utf-8")


def draw_loss(points: Sequence[tuple[int, float]]) -> str:
    """An SVG picture of losses by step."""
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    left, right = min(steps), max(max(steps), min(steps) + 1)
    low, high = min(losses), max(max(losses), min(losses) + 1e-6)
    across, down = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    path = " ".join(
        f"{_MARGIN + across * (step - left) / (right - left):.1f},"
        f"{_MARGIN + down * (high - loss) / (high - low):.1f}"
        for step, loss in points
    )
    labels = (
        (5, _MARGIN, f"{high:.3g}"),
        (5, _HEIGHT - _MARGIN, f"{low:.3g}"),
        (_MARGIN, _HEIGHT - 20, f"step {left}"),
        (_WIDTH - 2 * _MARGIN, _HEIGHT - 20, f"step {right}"),
    )
    text = "".join(f'<text x="{x}" y="{y}">{label}</text>' for x, y, label in labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="13"><title>training loss</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<polyline fill="none" stroke="#1f5fa8" stroke-width="1.5" points="{path}"/>{text}</svg>\n'
    )


def _rewrite(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the log by other lines, whole or not at all."""
    new = folder / f"{LOG}.new"
    with writing(folder):
        new.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        new.replace(folder / LOG)


def _share(logs: Mapping[str, Any]) -> str:
    """How much that is of what the device can do, where that is known."""
    return f" ({logs['utilization']:.0%} of its peak)" if "utilization" in logs else ""


def _run(command: Sequence[str]) -> str | None:
    """Runs a command; the last line of what it says when it fails."""
    # Without what a launcher has set: the command would wait for other processes.
    alone = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    if not finished.returncode:
        return None
    return (finished.stderr.strip() or "no message").splitlines()[-1]


def _headline(path: Path) -> Any:
    summary = read_object(path)
    return summary["metrics"][summary["headline"]]["value"]
