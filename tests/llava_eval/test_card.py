"""What a run was made of, and how to make it again."""

from collections.abc import Mapping
from typing import Any

import pytest

from llava_eval.card import Card, duration_text, model_card
from llava_eval.leaderboard import Run
from llava_eval.records import Timing

MANIFEST = {
    "model_id": "llava",
    "created": "2026-01-01T00:00:00+00:00",
    "command": "llava-eval run --model llava --tasks 'gqa,pope'",
    "commit": "c0ffee",
    "packages": {"python": "3.11.7", "torch": "2.13.0+cpu", "llava-eval": "0.1.0"},
    "settings": {"model": "llava", "base": None, "limit": 0},
    "model": {"fingerprint": "f00d", "dtype": "float32", "device": "some GPU"},
    "hardware": {"processor": "x86_64", "cores": 2, "system": "Linux"},
}


def card(manifest: Mapping[str, Any], busy_s: float = 0.0, **seconds: float) -> Card:
    times = {task: Timing(own, busy_s) for task, own in seconds.items()}
    run = Run(name="a", model_id="a", warning=None, manifest=manifest, summaries={}, times=times)
    return model_card(run)


def test_a_card_tells_what_the_manifest_does_and_how_long_it_took():
    assert card(MANIFEST, gqa=100.0, pope=25.0).facts == (
        ("Model", "llava"),
        ("Fingerprint", "f00d"),
        ("Precision", "float32"),
        ("Samples a task at most", "0"),
        ("Device", "some GPU"),
        ("Processor", "x86_64"),
        ("Cores", "2"),
        ("System", "Linux"),
        ("Date", "2026-01-01T00:00:00+00:00"),
        ("Time", "2 min 5 s"),
    )


def test_a_card_tells_how_many_devices_computed():
    assert card({}, busy_s=50, gqa=30.0, pope=20.0).facts == (
        ("Time", "50.0 s"),
        ("Devices that computed", "2.00 on average"),
    )


def test_the_command_stands_with_the_versions_and_the_commit():
    assert card(MANIFEST).commands == (
        "# Python 3.11.7",
        "pip install torch==2.13.0 llava-eval==0.1.0",
        "# started in a checkout of commit c0ffee",
        "llava-eval run --model llava --tasks 'gqa,pope'",
    )


def test_tasks_of_several_commands_have_each_its_own_data():
    tasks = {
        "gqa": {"data": "a", "limit": None, "command": "llava-eval run --tasks gqa"},
        "pope": {"data": "b", "limit": 3, "command": "llava-eval run --tasks pope"},
    }
    latest = {"data": "b", "limit": 3}
    made = card({"settings": latest, "command": "llava-eval run --tasks pope", "tasks": tasks})
    assert made.facts == (
        ("Data", "gqa: a, pope: b"),
        ("Samples a task at most", "gqa: all, pope: 3"),
    )
    assert made.commands == ("llava-eval run --tasks gqa", "llava-eval run --tasks pope")
    alike = {name: tasks["gqa"] for name in ("gqa", "pope")}
    assert card({"settings": latest, "tasks": alike}).facts == (("Data", "a"),)


def test_values_that_are_lists_are_told_as_any_others():
    tasks = {name: {"data": [name], "command": [name]} for name in ("gqa", "pope")}
    made = card({"settings": {"data": None}, "command": ["run"], "tasks": tasks})
    assert made.facts == (("Data", "gqa: ['gqa'], pope: ['pope']"),)
    assert made.commands == ("['gqa']", "['pope']", "['run']")


@pytest.mark.parametrize("manifest", [{}, {"settings": "odd", "model": [1], "packages": None}])
def test_what_a_manifest_does_not_tell_is_left_out(manifest):
    assert card(manifest) == Card(facts=(), commands=())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (59.99, "60.0 s"), (200, "3 min 20 s"), (7530, "2 h 5 min")],
)
def test_a_duration_has_the_units_that_people_use(seconds, text):
    assert duration_text(seconds) == text
