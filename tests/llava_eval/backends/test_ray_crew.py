"""A cluster of three simulated nodes; slow, because every node starts processes of its own."""

import shutil
import time
from contextlib import closing
from functools import partial

import pytest

from llava_core.checkpoint.hub import bundled_tiny
from llava_eval import cli
from llava_eval.backends.team import TeamBackend
from llava_eval.backends.worker import Ready
from llava_eval.errors import BackendError, FlagsError, ModelError
from llava_eval.mini.write import write_mini
from tests.llava_eval.backends.test_processes import PROMPTS, broken, missing, slow, warning
from tests.llava_eval.fakes import ScriptedBackend

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'llava-eval[cluster]'")
cluster_utils = pytest.importorskip("ray.cluster_utils")
ray_crew = pytest.importorskip("llava_eval.backends.ray_crew")

pytestmark = pytest.mark.slow


def unhurried(number: int) -> ScriptedBackend:
    return ScriptedBackend(delay_s=0.3)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def open_team(cluster, factory, size=None):
    return ray_crew.RayCrew(factory, address=cluster.address, size=size)


def test_a_run_over_three_nodes_writes_the_bytes_of_one_process(cluster, tmp_path):
    flags = ["run", "--model", "tiny", "--data", "mini", "--tasks", "gqa,pope", "--device", "cpu"]
    assert cli.main([*flags, "--output", str(tmp_path / "one")]) == 0
    assert cli.main([*flags, "--ray", cluster.address, "--output", str(tmp_path / "three")]) == 0
    for task in ("gqa", "pope"):
        written = [
            (tmp_path / run / task / "responses.jsonl").read_bytes() for run in ("one", "three")
        ]
        assert written[0] == written[1]


def test_a_path_from_the_working_folder_is_the_same_file_for_all(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mini(tmp_path / "data")
    shutil.copytree(bundled_tiny().parent, "models")
    flags = ["run", "--model", "models/tiny", "--data", "data", "--tasks", "gqa", "--limit", "4"]
    assert cli.main([*flags, "--device", "cpu", "--ray", cluster.address]) == 0


def test_a_node_without_the_working_folder_is_of_use():
    assert isinstance(ray_crew._Actor().load(slow, 0, folder="/nowhere"), Ready)


def test_a_node_may_leave_and_another_come(cluster, caplog):
    with closing(open_team(cluster, unhurried)) as crew:
        assert crew.size == 3
        answers = TeamBackend(crew).generate(PROMPTS)
        ids = [next(answers).sample_id for _ in range(3)]
        cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)
        ids += [next(answers).sample_id for _ in range(3)]
        cluster.add_node(num_cpus=1)
        ids += [answer.sample_id for answer in answers]
    assert sorted(ids, key=int) == [prompt.sample.sample_id for prompt in PROMPTS]
    assert "another takes its place" in caplog.text


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [(missing, ModelError, "no such folder"), (broken, BackendError, "no memory")],
)
def test_a_workers_error_is_the_runs(cluster, factory, error, message):
    with (
        closing(open_team(cluster, partial(factory), size=1)) as crew,
        pytest.raises(error, match=message),
    ):
        list(TeamBackend(crew).generate(PROMPTS))


def test_a_workers_warning_is_shown_here(cluster, capfd):
    with closing(open_team(cluster, warning, size=1)) as crew:
        assert len(list(TeamBackend(crew).generate(PROMPTS))) == len(PROMPTS)
        # Ray passes on what is said about once a second.
        said, deadline = "", time.monotonic() + 30
        while "llava-eval: WARNING: features cannot be kept by 0" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            said += "".join(capfd.readouterr())


def test_more_workers_than_nodes_share_them(cluster):
    with closing(open_team(cluster, slow, size=2)) as crew:
        assert len(list(TeamBackend(crew).generate(PROMPTS))) == len(PROMPTS)


def test_no_cluster_is_said_in_one_line():
    with pytest.raises(FlagsError, match="--ray auto: no cluster there"):
        ray_crew.RayCrew(slow, address="auto", size=None)
