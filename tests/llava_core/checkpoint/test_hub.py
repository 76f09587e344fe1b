from types import SimpleNamespace
from unittest.mock import Mock

import httpx2
import huggingface_hub.errors
import pytest

from llava_core.checkpoint.hub import bundled_tiny, resolve_checkpoint, resolve_vision_tower
from llava_core.errors import CheckpointError, ConfigError


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert resolve_checkpoint(str(tmp_path)) == tmp_path


def test_tiny_is_in_the_package():
    assert resolve_checkpoint("tiny") == bundled_tiny()
    assert (bundled_tiny() / "config.json").is_file()


def test_a_folder_called_tiny_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve_checkpoint("tiny").resolve() == tmp_path / "tiny"


def test_a_revision_of_what_is_not_on_the_hub_is_refused(tmp_path):
    for name in ("tiny", str(tmp_path)):
        with pytest.raises(ConfigError, match=f"^{name} is no Hub id; the revision v2 has no"):
            resolve_checkpoint(name, revision="v2")


def test_what_is_neither_folder_nor_hub_id_is_refused():
    with pytest.raises(
        CheckpointError, match="^./no/such/folder is neither a folder, nor a Hub id"
    ):
        resolve_checkpoint("./no/such/folder")


@pytest.mark.parametrize(
    "name", ["runs/my--checkpoint", "owner/name.git", "runs/a..b@v1", "x" * 300]
)
def test_what_the_hub_takes_for_no_id_is_refused(name):
    with pytest.raises(CheckpointError, match=f"^{name} is neither a folder, nor a Hub id"):
        resolve_checkpoint(name)
    with pytest.raises(CheckpointError, match=f"^vision tower {name} is no folder, .* no Hub id"):
        resolve_vision_tower(name, checkpoint=bundled_tiny())


def test_a_home_of_nobody_is_refused():
    with pytest.raises(CheckpointError, match="^~nobody-here/x: ~nobody-here is nobody's home"):
        resolve_checkpoint("~nobody-here/x")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused(name):
    with pytest.raises(CheckpointError, match="model is empty; is a variable not set"):
        resolve_checkpoint(name)


def test_an_unreachable_hub_is_said_in_one_line(no_hub):
    with pytest.raises(
        CheckpointError, match="nobody/nothing is no folder here and not in the local Hub cache"
    ):
        resolve_checkpoint("nobody/nothing")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A local Hub cache that holds owner/name at two revisions."""
    repository = tmp_path / "models--owner--name"
    for revision, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return repository / "snapshots"


@pytest.mark.parametrize(
    ("name", "revision", "commit"),
    [
        ("owner/name", None, "a"),
        ("owner/name@v1", None, "b"),
        ("owner/name", "v1", "b"),
        ("owner/name@main", "v1", "b"),
        (f"owner/name@{'b' * 40}", None, "b"),
    ],
)
def test_a_hub_id_is_found_at_its_revision(hub_cache, name, revision, commit):
    assert resolve_checkpoint(name, revision=revision) == hub_cache / (commit * 40)


def test_a_revision_that_is_not_there_is_named(hub_cache):
    with pytest.raises(CheckpointError, match="owner/name@v2 is no folder here and not in the"):
        resolve_checkpoint("owner/name@v2")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "owner/name@v1 is gated: accept its terms on its page, then log in"),
        ("RepositoryNotFoundError", "the Hub has no owner/name, or it is private: check"),
        ("RevisionNotFoundError", "the Hub's owner/name has no revision v1"),
        ("HfHubHTTPError", "the Hub does not give owner/name@v1: 503 busy"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(monkeypatch, kind, message):
    def refuse(*args, **kwargs):
        response = SimpleNamespace(headers={}, request=None)
        raise getattr(huggingface_hub.errors, kind)("503 busy\nlong story", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint("owner/name@v1")


def test_a_tower_is_looked_for_beside_the_checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "clip").mkdir()
    assert resolve_vision_tower("clip", checkpoint=tmp_path / "checkpoint") == tmp_path / "clip"


def test_a_tower_inside_the_checkpoint_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint/clip", "clip"):
        (tmp_path / name).mkdir(parents=True)
    found = resolve_vision_tower("clip", checkpoint=tmp_path / "checkpoint")
    assert found == tmp_path / "checkpoint" / "clip"


def test_a_tower_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=f"vision tower clip is no folder, is not at {tmp_path / 'clip'}"
    ):
        resolve_vision_tower("clip", checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ProxyError("407 Proxy Authentication Required"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_download_that_breaks_off_is_said(monkeypatch, error):
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=error))
    with pytest.raises(
        CheckpointError, match=r"^owner/name cannot be downloaded: (407|\[Errno 28)"
    ):
        resolve_checkpoint("owner/name")
