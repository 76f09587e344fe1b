"""Imports go down the table of `layers`; deferred and TYPE_CHECKING imports count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers import ALLOWED

ROOT = Path(__file__).parents[1]
MODULES = {
    str(path.relative_to(ROOT).with_suffix("")): path
    for package in ALLOWED
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported_modules(source: str) -> Iterator[str]:
    """Ours that a file imports, spelt as in the table: `llava_eval/sources/open`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names for name in resolve(alias.name))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield from resolve(f"{node.module}.{alias.name}")


def resolve(name: str) -> Iterator[str]:
    """The file behind a dotted name, whose last parts may be names inside a module."""
    parts = name.split(".")
    if parts[0] not in ALLOWED:
        return
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        if path in MODULES:
            yield path
            return
        if f"{path}/__init__" in MODULES:
            yield f"{path}/__init__"
            return


def test_every_file_is_in_the_table_and_every_entry_has_a_file() -> None:
    listed = {f"{package}/{name}" for package in ALLOWED for name in ALLOWED[package]}
    written = {name for name, path in MODULES.items() if path.stat().st_size}
    assert listed == written


@pytest.mark.parametrize("name", MODULES)
def test_imports_stay_within_the_table(name: str) -> None:
    package, _, module = name.partition("/")
    allowed = ALLOWED[package].get(module, set())
    assert set(imported_modules(MODULES[name].read_text(encoding="utf-8"))) <= allowed


def test_the_table_has_no_cycle() -> None:
    rest = {f"{p}/{name}": uses for p, table in ALLOWED.items() for name, uses in table.items()}
    while rest:
        free = [name for name, uses in rest.items() if uses.isdisjoint(rest)]
        assert free, f"these import each other: {sorted(rest)}"
        for name in free:
            del rest[name]


def test_one_file_of_llava_eval_reaches_llava_core() -> None:
    reaching = [
        name
        for name, path in MODULES.items()
        if name.startswith("llava_eval/")
        and any(
            used.startswith("llava_core/")
            for used in imported_modules(path.read_text(encoding="utf-8"))
        )
    ]
    assert reaching == ["llava_eval/backends/local"]


@pytest.mark.parametrize(
    "source",
    [
        "from llava_eval.store import locked",
        "from llava_eval import store",
        "import llava_eval.store",
        "def f():\n    from llava_eval.store import locked",
        "if TYPE_CHECKING:\n    import llava_eval.store as s",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    assert list(imported_modules(source)) == ["llava_eval/store"]
