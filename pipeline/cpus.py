"""The number of processor cores that this process may use."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def num_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores by affinity, or fewer where the control group of a container has a quota of processor time; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.floor(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """Cores that the quotas of this process's control group and of all groups above it allow."""
    folders = [cgroups]
    try:
        # Version 2 has the line 0::/path; inside a container the path is /.
        path = next(line[3:] for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::"))
        group = cgroups / path.lstrip("/")
        folders += [group, *group.parents]
    except (OSError, StopIteration):
        pass
    quotas: list[float] = []
    for folder in folders:
        quotas += _quota(folder, "cpu.max") or _quota(folder / "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    return quotas


def _quota(folder: Path, *files: str) -> list[float]:
    """Quota over period, of version 2 in one file or of version 1 in two; "max" and -1 are no quota."""
    try:
        quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in files).split()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):
        return []
