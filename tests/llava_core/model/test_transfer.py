from types import SimpleNamespace

import pytest
import torch

from llava_core.model.transfer import pin, send, work_check

CPU, META = torch.device("cpu"), torch.device("meta")


def test_what_is_there_is_not_copied():
    tensor = torch.ones(3)
    assert send(tensor, CPU) is tensor


def test_it_comes_to_the_device():
    sent = send(torch.ones(3, dtype=torch.bfloat16), META)
    assert (sent.device, sent.dtype, sent.shape) == (META, torch.bfloat16, (3,))


def test_only_for_a_gpu_memory_is_pinned():
    tensor = torch.ones(3)
    assert pin(tensor, CPU) is tensor
    assert pin(tensor, META) is tensor


def test_a_cpu_has_no_queue():
    assert work_check([CPU]) is None


def test_one_of_several_gpus_at_work_is_enough(monkeypatch):
    is_idle = {torch.device("cuda", 0): True, torch.device("cuda", 1): False}
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device: SimpleNamespace(query=lambda: is_idle[device]),
    )
    is_at_work = work_check([CPU, *is_idle])
    assert is_at_work()
    is_idle[torch.device("cuda", 1)] = True
    assert not is_at_work()


@pytest.mark.gpu
def test_a_copy_is_queued_and_right_though_its_source_is_gone():
    device = torch.device("cuda")
    work = torch.ones(8192, 8192, device=device)
    for _ in range(20):
        work = work @ work / 8192
    is_at_work = work_check([device])
    sent = [send(torch.full((1000,), number), device) for number in range(100)]
    assert is_at_work()
    assert [int(tensor.sum()) for tensor in sent] == [1000 * number for number in range(100)]
    torch.cuda.synchronize()
    assert not is_at_work()
