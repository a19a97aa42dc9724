import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from benchmarks.compare_quality import CommitArm, report, tasks
from benchmarks.protocol import checked_out, python, run_command
from benchmarks.systems import OurArm, Workspace
from benchmarks.time_to_quality import Task
from pipeline.errors import FoundryError
from tests.small_sets import PARAMS

RESULT = {"num_images": 1000, "seconds": 60.0, "guidance_scale": 1.1}


def test_both_train_from_each_seed_and_ours_for_a_share_of_the_time() -> None:
    arguments = Namespace(base="1234567", minutes=3.0, share=0.5, seeds=[0, 1], quick=False)
    assert tasks(arguments) == [
        Task("1234567", 3.0, 0),
        Task("ours", 1.5, 0),
        Task("1234567", 3.0, 1),
        Task("ours", 1.5, 1),
    ]


def test_another_commit_runs_its_own_code_with_its_own_params(tmp_path: Path) -> None:
    project, identity = tmp_path / "project", ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    (project / "pipeline").mkdir(parents=True)
    (project / "pipeline" / "__init__.py").write_text("AGE = 'earlier'")
    (project / "params.yaml").write_text("train: {batch_size: 7}")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *identity, *words], cwd=project, check=True, capture_output=True)
    (project / "pipeline" / "__init__.py").write_text("AGE = 'present'")
    workspace = Workspace(tmp_path / "data", tmp_path, PARAMS)
    with checked_out(project, "HEAD") as checkout:
        arm = CommitArm("base", "base", checkout=checkout)
        assert arm.params(workspace) == {"train": {"batch_size": 7}}
        command = python("-c", "import pipeline; print(pipeline.AGE)")
        assert run_command(command, folder=tmp_path, environment=arm.environment(workspace)).output == "earlier\n"
    assert not checkout.exists()
    assert OurArm().params(workspace) == yaml.safe_load(yaml.safe_dump(PARAMS.model_dump(mode="json", by_alias=True)))


def test_the_report_has_each_arms_interval_and_that_of_the_difference() -> None:
    distances = {"1234567": (2.0, 2.2, 2.4), "ours": (1.5, 1.6, 1.7)}
    results = [
        {**RESULT, "arm": arm, "minutes": 3.0 if arm != "ours" else 1.5, "frechet_distance": distance}
        for arm, values in distances.items()
        for distance in values
    ]
    *rows, _, difference = report(results).splitlines()
    # Standard errors .2 / sqrt(3) and .1 / sqrt(3), Student's t of 2 degrees of freedom 4.303
    assert rows[2:] == [
        "| 1234567 | 3 | 1,000 | 60 | 1.1, 1.1, 1.1 | 2.000, 2.200, 2.400 | 2.2 | 1.7 to 2.7 |",
        "| ours | 1.5 | 1,000 | 60 | 1.1, 1.1, 1.1 | 1.500, 1.600, 1.700 | 1.6 | 1.35 to 1.85 |",
    ]
    # Welch: standard error sqrt((.04 + .01) / 3) = .1291, 2.94 degrees of freedom, t 3.219
    assert difference == "ours - base: -0.6 (-1.02 to -0.184)"


def test_one_training_has_no_interval() -> None:
    results = [{**RESULT, "arm": arm, "minutes": 1.0, "frechet_distance": 2.0} for arm in ("1234567", "ours")]
    assert report(results).splitlines()[-1] == "| ours | 1 | 1,000 | 60 | 1.1 | 2.000 | 2 | – |"


def test_a_commit_that_is_unknown_is_named(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(FoundryError, match="no-such-commit"), checked_out(tmp_path, "no-such-commit"):
        pass
