"""Two who want to write one file, also while one of them ends."""

from pathlib import Path

from llava_eval.locks import lock


def test_one_has_a_file_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as first:
        assert lock(first)
        with path.open("ab") as second:
            assert not lock(second)
    with path.open("ab") as third:
        assert lock(third)


def test_a_file_that_its_owner_removed_at_the_end_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as first:
        assert lock(first)
        late = path.open("ab")
        path.unlink()
    with late, path.open("ab") as other:
        assert not lock(late)
        assert lock(other)
