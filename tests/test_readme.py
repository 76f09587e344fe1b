"""What the README says is there: commands parse, targets and files exist."""

import re
import shlex
from pathlib import Path

import pytest

from llava_eval import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m llava_eval (.+)$", README, flags=re.MULTILINE)
TARGETS = re.findall(r"`?make ([a-z-]+)", README)


def test_it_is_short():
    assert README.count("\n") <= 200


def test_the_two_commands_come_first():
    assert README.index("make demo") < README.index("make test") < README.index("python -m")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    words = [word for word in shlex.split(command) if not word.startswith("#")]
    assert cli.parse(words).command == words[0]


def test_there_are_commands():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_every_target_is_in_the_makefile(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def tree():
    """Every Python file that `docs/files.md` names."""
    block = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    named, package, folder = set(), "", ""
    for line in block.splitlines():
        if found := re.match(r" {4}(\w+)/", line):
            package = folder = found[1]
        elif found := re.match(r" {6}(\w+)(/?)", line):
            folder = f"{package}/{found[1]}" if found[2] else package
        named |= {f"{folder}/{name}" for name in re.findall(r"\b(\w+\.py)\b", line)}
    return named


def test_the_file_tree_is_the_tree():
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("llava_core", "llava_eval")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert tree() - {"tests/layers.py"} == there
