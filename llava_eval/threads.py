"""How many threads a process may compute with, so that all processes together fit the machine.

Every library sees all cores and would start as many threads in every process; with more threads
than cores, a step on the CPU takes up to ten times as long.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Quota and period in microseconds, or `max` and the period.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota_file: Path | None = None) -> int:
    """Cores that this process may use: those it is bound to, within its container's quota.

    Args:
        quota_file: `cpu.max` of the control group; None: of the one it is in.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = bound or 1
    quota_file = quota_file or _QUOTA
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) // int(period))
    return max(cores, 1)


def threads_per_process(num_processes: int) -> int:
    """Threads for each of so many processes; fewer where OMP_NUM_THREADS asks for fewer."""
    fair = max(usable_cores() // num_processes, 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(fair, int(asked)) if asked.isdigit() and int(asked) else fair


@contextmanager
def thread_limit(num_threads: int) -> Iterator[None]:
    """Makes processes that are started meanwhile compute with so many threads.

    Libraries read the variables once, when they are loaded: this process keeps what it has.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, str(num_threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
