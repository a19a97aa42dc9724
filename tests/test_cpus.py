import os
from pathlib import Path

import pytest

from pipeline.cpus import num_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 8),
        ("9900000 100000", 8),
        ("", 8),
    ],
)
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert num_cores(tmp_path, _own(tmp_path, "0::/\n")) == cores


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    group = tmp_path / "slice" / "pod"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("300000 100000\n")
    assert num_cores(tmp_path, _own(tmp_path, "0::/slice/pod\n")) == 3


@pytest.mark.parametrize(("quota", "cores"), [("150000", 1), ("400000", 4), ("-1", 8)])
def test_the_first_version_has_two_files(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert num_cores(tmp_path, _own(tmp_path, "4:memory:/x\n")) == cores


def test_without_control_groups_affinity_counts(tmp_path: Path) -> None:
    assert num_cores(tmp_path / "none", tmp_path / "none") == 8
