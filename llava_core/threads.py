"""How a process's threads share the machine: with its other processes, and with other programs.

Every library sees all cores and would start as many threads in every process; with more threads
than cores, a step on the CPU takes up to ten times as long.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
# How often a thread of GNU's OpenMP, which torch has, looks whether there is more to do before it
# sleeps; by itself 300 times as often, or what the standard's variable says. Fewer would cost small
# models time on a quiet machine (benchmarks/contention.py).
_LOOKS, _LOOKS_AROUND = "GOMP_SPINCOUNT", "1000"
_STANDARD = "OMP_WAIT_POLICY"
# Of a process about which the system does not tell: the groups that its container shows on top.
_TOP = "0::/\n0:cpu:/\n"


def usable_cores(root: Path | None = None) -> int:
    """Cores that this process may use: those it is bound to, within its container's quota.

    Args:
        root: where `proc` and `sys` are; None: this machine's.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    granted = map(_granted, _control_groups(root or _ROOT))
    cores = [bound or 1, *(each for each in granted if each is not None)]
    return max(min(cores), 1)


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that may bound this process's time: its own, and those around it."""
    mount, membership = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    lines = membership.read_text() if membership.is_file() else _TOP
    for line in lines.splitlines():
        _, controllers, name = line.split(":", 2)
        # Version 2 has one tree and names no controllers; version 1 has a tree for each.
        if not controllers or "cpu" in controllers.split(","):
            tree = mount / "cpu" if controllers else mount
            own = PurePosixPath(name)
            yield from (tree / group.relative_to("/") for group in (own, *own.parents))


def _granted(group: Path) -> int | None:
    """Whole cores that a control group grants; None where it sets no bound."""
    newer, older = group / "cpu.max", group / "cpu.cfs_quota_us"
    if newer.is_file():
        quota, period = newer.read_text().split()
    elif older.is_file():
        quota, period = older.read_text(), (group / "cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota == "max" or int(quota) < 0 else int(quota) // int(period)


def threads_per_process(num_processes: int) -> int:
    """Threads for each of so many processes; fewer where OMP_NUM_THREADS asks for fewer."""
    fair = max(usable_cores() // num_processes, 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(fair, int(asked)) if asked.isdigit() and int(asked) else fair


def limit_threads(num_processes: int = 1) -> None:
    """Makes torch compute with no more threads from now on than `threads_per_process`.

    By itself it takes one for each core, which may be two for the system, whatever the quota.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), threads_per_process(num_processes)))


def leave_cores_to_others() -> None:
    """Lets threads that wait for each other sleep soon; to be called before torch is imported.

    They wait at the end of every operation for the last one. Where another program has that one's
    core, they would keep all others for nothing, and a step takes several times as long.
    """
    if _STANDARD not in os.environ:
        os.environ.setdefault(_LOOKS, _LOOKS_AROUND)
