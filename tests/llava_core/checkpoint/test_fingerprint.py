import pytest

from llava_core.checkpoint import fingerprint as module
from llava_core.checkpoint.fingerprint import fingerprint


def written(folder, data, name="model.bin"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return [folder / name]


@pytest.mark.parametrize("whole", [1_000, 10])
def test_content_and_name_count_and_the_folder_does_not(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(module, "_HASHED_WHOLE", whole)
    monkeypatch.setattr(module, "_HASHED_BLOCK", 4)
    first = fingerprint(written(tmp_path / "a", bytes(100)))
    assert len(first) == 16
    assert fingerprint(written(tmp_path / "b", bytes(100))) == first
    assert fingerprint(written(tmp_path / "b", bytes(99) + b"x")) != first
    assert fingerprint(written(tmp_path / "b", bytes(101))) != first
    assert fingerprint(written(tmp_path / "b", bytes(100), name="other.bin")) != first
