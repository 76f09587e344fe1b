import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.commands import data
from llava_eval.fetch.catalogue import load_catalogue
from tests.llava_eval.fetch.server import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_the_mini_data_is_written(capsys) -> None:
    assert cli.main(["data", "mini", "here"]) == 0
    assert capsys.readouterr().out == "mini data: here\n"
    assert Path("here/gqa/llava_gqa_testdev_balanced.jsonl").exists()


def test_a_folder_with_something_in_it_is_refused(capsys) -> None:
    Path("here").mkdir()
    Path("here/file").touch()
    assert cli.main(["data", "mini", "here"]) == 2
    assert "name a new or empty folder" in capsys.readouterr().err


def test_another_action_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "maxi", "here"])
    assert caught.value.code == 2
    assert "invalid choice: 'maxi'" in capsys.readouterr().err


def use_catalogue(monkeypatch, site: Site) -> None:
    """One task, served on this machine."""
    site.add("/questions.jsonl", b'{"image": "1.jpg"}\n')
    site.add("/1.jpg", b"picture")
    Path("catalogue.yaml").write_text(
        f"""
archives: {{}}
tasks:
  toy:
    licence: none
    files:
      - path: toy/questions.jsonl
        records: 1
        addresses: [{site.address}/questions.jsonl]
    pictures:
      folder: toy/images
      named_by: [toy/questions.jsonl]
      each: {site.address}/{{name}}
"""
    )
    toy = load_catalogue(Path("catalogue.yaml"))
    monkeypatch.setattr(data, "load_catalogue", lambda: toy)


def answer(monkeypatch, text: str) -> None:
    """Puts a terminal with somebody at it in front of the command."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: text)


class Terminal(StringIO):
    """A terminal whose user types nothing and ends the input."""

    def isatty(self) -> bool:
        return True


def test_the_list_shows_every_task(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    rows = {cells[1]: cells for line in shown.splitlines() if (cells := line.split("│"))[1:]}
    pope = next(cells for name, cells in rows.items() if name.split() == ["pope"])
    assert [cell.strip() for cell in pope[2:-1]] == [
        "4 files, 500 pictures",
        "1.7 MB",
        "MIT; pictures from COCO, CC BY 4.0",
        "lmms-lab-encoder/POPE",
    ]
    assert len(rows) == len(load_catalogue().tasks)


def test_the_list_shows_the_named_tasks_alone(capsys) -> None:
    assert cli.main(["data", "list", "pope", "gqa"]) == 0
    shown = capsys.readouterr().out
    assert "pope" in shown
    assert "mm_vet" not in shown
    assert cli.main(["data", "list", "popes"]) == 2
    assert "pope" in capsys.readouterr().err


def test_the_list_tells_how_much_is_there(capsys, monkeypatch, tmp_path, site) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    use_catalogue(monkeypatch, site)
    for filled, told in ((False, "0 of "), (True, "all")):
        if filled:
            cli.main(["data", "fetch", "toy", "--yes", "--root", str(tmp_path)])
        capsys.readouterr()
        assert cli.main(["data", "list", "toy", "--root", str(tmp_path)]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if "│ toy" in line]
        assert row.split("│")[3].strip().startswith(told)


def test_nothing_is_downloaded_where_nobody_can_be_asked(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert cli.main(["data", "fetch", "toy"]) == 2
    assert capsys.readouterr().err == (
        "llava-eval: error: nothing is downloaded unasked, and there is no terminal to ask on; "
        "add --yes\n"
    )
    assert site.requests == []


@pytest.mark.parametrize("text", ["", "n", "no", "maybe"])
def test_who_does_not_say_yes_gets_nothing(text, capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    answer(monkeypatch, text)
    assert cli.main(["data", "fetch", "toy", "--root", "root"]) == 1
    assert capsys.readouterr().out == (
        f"  19 bytes  toy/questions.jsonl  from {site.address}/questions.jsonl\n"
        f"         ?  toy/images  from {site.address}/{{name}}\n"
        "19 bytes and 1 of unknown size into root\n"
        "nothing downloaded\n"
    )
    assert {method for method, _, _ in site.requests} == {"HEAD"}
    assert not Path("root").exists()


def test_who_ends_the_input_gets_nothing(monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert cli.main(["data", "fetch", "toy", "--root", "root"]) == 1
    assert not Path("root").exists()


def test_who_says_yes_gets_it(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    answer(monkeypatch, "Y")
    assert cli.main(["data", "fetch", "toy", "--root", "root"]) == 0
    assert Path("root/toy/images/1.jpg").read_bytes() == b"picture"
    assert capsys.readouterr().out.endswith("root: everything is there\n")


def test_the_default_root_is_where_llavas_scripts_look(monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    assert cli.main(["data", "fetch", "toy", "--yes"]) == 0
    assert Path("playground/data/eval/toy/questions.jsonl").exists()
    assert cli.main(["data", "verify", "toy"]) == 0


def test_what_failed_is_told_and_the_code_is_1(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    del site.pages["/1.jpg"]
    assert cli.main(["data", "fetch", "toy", "--yes"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "failed: toy/images: 1 of 1 pictures did not arrive, the first: "
        f"{site.address}/1.jpg: 404 Not Found; by hand: put the pictures into toy/images"
    )


def test_what_is_left_to_the_user_is_told_and_the_code_is_1(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    Path("root/toy").mkdir(parents=True)
    Path("root/toy/questions.jsonl").write_text('{"image": "1.jpg"}\n' * 2)
    assert cli.main(["data", "fetch", "toy", "--yes", "--root", "root"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "yours to do: toy/questions.jsonl: 2 records, published are 1; it stays, remove it to "
        "fetch another"
    )


def test_what_arrives_and_is_not_enough_is_told(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    site.pages["/1.jpg"].content = b""
    assert cli.main(["data", "fetch", "toy", "--yes"]) == 1
    assert capsys.readouterr().out.endswith("still missing: toy/images; see `data verify`\n")


def test_an_interrupted_fetch_says_that_it_goes_on(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llava_eval.fetch.watch._Lines.advance", interrupt)
    assert cli.main(["data", "fetch", "toy", "--yes", "--root", "root"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert Path("root/toy/questions.jsonl.part").read_bytes() == b'{"image": "1.jpg"}\n'
    monkeypatch.undo()


def test_verify_tells_what_is_missing_and_how_to_get_it(capsys, monkeypatch, site) -> None:
    use_catalogue(monkeypatch, site)
    Path("root/toy").mkdir(parents=True)
    Path("root/toy/questions.jsonl").write_text('{"image": "1.jpg"}\n')
    assert cli.main(["data", "verify", "toy", "--root", "root"]) == 1
    assert capsys.readouterr().out == (
        "toy\n"
        "  ok         toy/questions.jsonl: 1 records, as published; the hash is not established\n"
        "  missing    toy/images: 0 of 1 pictures; the first that is missing is 1.jpg; "
        "`llava-eval data fetch toy` gets it\n"
        "root: 1 ok, 1 missing, 0 different\n"
    )


def test_verify_says_that_the_mini_data_are_others(capsys) -> None:
    cli.main(["data", "mini", "mini"])
    assert cli.main(["data", "verify", "pope", "gqa", "--root", "mini"]) == 1
    *_, counts, warning = capsys.readouterr().out.splitlines()
    assert counts == "mini: 0 ok, 0 missing, 8 different"
    assert warning.startswith("Numbers of a run on different files cannot be compared")


@pytest.mark.parametrize("action", ["fetch", "verify"])
def test_an_unknown_task_gets_the_nearest(action, capsys) -> None:
    assert cli.main(["data", action, "popee"]) == 2
    assert "unknown task 'popee'; did you mean pope?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--debug", "verify"], ["verify", "--debug"]])
def test_debug_may_stand_on_either_side(words) -> None:
    assert cli.parse(["data", *words]).debug
