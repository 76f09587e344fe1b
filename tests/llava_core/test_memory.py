import platform
import subprocess
import sys

import pytest
import torch

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.memory import free_memory, free_on, in_gib, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory\nCompile with ..."),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_lack_of_memory_has_many_names(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("CUDA out of memory")])
def test_other_errors_are_something_else(error):
    assert not is_out_of_memory(error)


def test_an_allocation_that_no_machine_has_room_for_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_cpu_says_what_is_free():
    assert free_on(torch.device("cpu")) > 2**20
    assert free_memory()["cpu"] > 2**20


def test_what_torch_keeps_of_earlier_batches_is_free(monkeypatch):
    counts = {"mem_get_info": (10, 80), "memory_reserved": 60, "memory_allocated": 25}
    for name, value in counts.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_on(torch.device("cuda")) == 45


def test_bytes_are_written_in_gib():
    assert in_gib(13.1 * 2**30) == "13.1 GiB"


# Pages that are fetched for the tensors of a model on a CPU, 64 MiB each, after the first ones.
FETCHING = """
import resource, sys, torch, llava_core
if sys.argv[1:]:
    llava_core.load(sys.argv[1], device="cpu")
def fetch():
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fetch()
before = fetch()
print(max(fetch() - before for _ in range(40)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_what_a_batch_frees_is_kept_for_the_next_one():
    plain, loaded = (
        int(subprocess.check_output([sys.executable, "-c", FETCHING, *model]))
        for model in ((), (str(bundled_tiny()),))
    )
    assert loaded < plain / 10
