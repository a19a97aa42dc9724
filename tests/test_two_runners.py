"""Two runners of GitHub's, which share a tracking server on PostgreSQL and a DVC remote in S3, from nothing to a rollback.

They play the jobs of .github/workflows; what people do between them is typed as docs/retraining.md says.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import boto3
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.tracking import store
from pipeline.tracking.tags import HIT_TAG, SOURCE_TAG
from tests.github import WORKFLOWS, GitHub, JobFailedError, identity, known, nothing
from tests.project import CHANGES, check_out
from tests.servers import BUCKET, KEYS, Servers
from tests.test_retraining import GATE

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
SMALL = {
    **CHANGES,
    "prepare": CHANGES["prepare"] | {"image_size": 8, "channels": 1},
    "evaluate": {
        "num_samples": 150,
        "num_steps": 4,
        "baseline_components": 5,
        "likelihood_num_images": 10,
        "tuning_rows": 0,
        "compared_rows": [8],
    },
    "train": CHANGES["train"] | {"num_images": 640},
    "register": GATE,
}
LONGER = 25_600
"""Images of a training that is better than the first beyond chance."""
PLAYED = {
    ("retrain", "retrain"),
    ("retrain", "propose"),
    ("release", "release"),
    ("drift", "compare"),
    ("drift", "tell"),
    ("drift", "retrain"),
}
"""Workflow and job; the long test plays all of them."""


class Team:
    """A person, a repository, two runners."""

    def __init__(self, folder: Path, servers: Servers, outside: dict[str, str]) -> None:
        servers.forget()
        self.servers = servers
        variables = {
            "MLFLOW_TRACKING_URI": servers.tracking_uri,
            "DVC_REMOTE": f"s3://{BUCKET}/{folder.name}",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/retraining",
            "AWS_REGION": "us-east-1",
            "DRIFT_DATA": f"s3://{BUCKET}/{folder.name}-new",
            "RETRAIN_ON_DRIFT": "true",
        }
        nobodys = {name: KEYS[name] for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED")}
        self.github = GitHub(folder, variables, {"AWS_ENDPOINT_URL": servers.s3_url, **nobodys, **outside})
        self.person = check_out(folder / "person")
        self.person.environment |= servers.environment
        params = yaml.safe_load((self.person.folder / "params.yaml").read_text())
        for section, values in SMALL.items():
            params[section] |= values
        (self.person.folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.person.run("git", "init", "-q", "-b", "main")
        self.person.run("git", "remote", "add", "origin", str(self.github.repository))
        self.person.run("dvc", "remote", "add", "-q", "--local", "-d", "storage", variables["DVC_REMOTE"])

    def change_data(self, images: NDArray[np.uint8], labels: NDArray[np.int64], why: str) -> None:
        raw = self.person.folder / "data" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "digits.npz").unlink(missing_ok=True)
        np.savez(raw / "digits.npz", images=images, labels=labels)
        self.person.run("dvc", "add", "-q", "data/raw")
        self.person.run("dvc", "push", "-q")
        self.person.commit(why)
        self.person.run("git", "push", "-q", "origin", "main")

    def retrain(self, runner: str, before: Callable[[str], object] = nothing, **inputs: str) -> str:
        """The decision of the workflow `retrain`, up to the merge of its pull request."""
        decision = self.github.play("retrain", "retrain", runner, before, **inputs)["decision"]
        assert (self.github.runner(runner) / "data" / "registration" / "report.html").exists()
        return decision

    def propose(self) -> None:
        """The rest of the workflow, and a reviewer who agrees."""
        self.github.play("retrain", "propose", "proposer")
        self.github.merge()

    def decision(self, runner: str) -> Any:
        return json.loads((self.github.runner(runner) / "data" / "registration" / "decision.json").read_text())

    def both(self, at_once: Callable[[], None], **settings: str) -> Iterator[str | JobFailedError]:
        """What comes of the workflow on both runners at once, each with its own settings.

        Args:
            at_once: called when both have checked the remotes, before either begins.
            settings: by runner.
        """
        begin = Barrier(2, at_once, timeout=600)

        def wait(command: str) -> None:
            if command == "make retrain":
                begin.wait()

        def outcome(runner: str) -> str | JobFailedError:
            try:
                return self.retrain(runner, wait, set=settings[runner])
            except JobFailedError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(outcome, settings)

    def runs(self, stage: str) -> list[Any]:
        """Those that have done the work of a stage; a result from DVC's cache has a run too, which names its maker."""
        client = store.connect()
        wanted = f"tags.`{SOURCE_TAG}` = 'pipeline.{stage}'"
        found = client.search_runs([store.experiment_id(client)], wanted)
        return [run for run in found if HIT_TAG not in run.data.tags]

    def history(self, runner: str) -> list[tuple[str, str, str]]:
        """As a runner knows it."""
        self.github.command(runner, "foundry", "model", "history", "--out", "data/registration/promotions.jsonl")
        lines = (self.github.runner(runner) / "data" / "registration" / "promotions.jsonl").read_text().splitlines()
        return [(entry["event"], entry["version"], entry["champion_before"]) for entry in map(json.loads, lines)]


@pytest.fixture
def team(tmp_path: Path, servers: Servers, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.tracking_uri)
    with identity() as outside:
        made = Team(tmp_path, servers, outside)
        made.change_data(*digits, "Digits")
        yield made


def play_to_a_first_champion(team: Team) -> None:
    assert team.retrain("one") == "undecided"
    team.propose()
    assert known(team.github.folder)["prs"]
    team.github.command("one", "foundry", "model", "promote", "1", "--reason", "good enough to begin with")


@pytest.mark.timeout(1500)
def test_a_model_of_another_runner_replaces_the_champion_until_it_is_rolled_back(team: Team) -> None:
    """The short form of the long tests below: nothing fails, and nobody waits for anybody."""
    play_to_a_first_champion(team)
    assert team.retrain("two", set=f"train.num_images={LONGER}") == "accept"
    made = [len(team.runs(stage)) for stage in ("prepare", "schedule", "features", "train", "evaluate", "register")]
    assert made == [1, 1, 1, 2, 2, 2], "the second runner takes the results of the first from the remote"
    history = [("undecided", "1", "none"), ("promote", "1", "none"), ("accept", "2", "1")]
    assert team.history("two") == history

    said = team.github.command("two", "make", "rollback", "REASON=a trial")
    assert "version 1 is champion again in place of version 2: a trial" in said
    assert team.history("one") == [*history, ("rollback", "1", "2")]


def play_to_a_second_champion(team: Team) -> None:
    play_to_a_first_champion(team)

    # The other one has nothing, and nothing to do.
    assert team.retrain("two") == "undecided"
    assert (team.decision("two")["version"], team.decision("two")["champion"]) == ("1", "1")
    assert len(team.runs("train")) == 1
    assert not (team.github.runner("two") / "data" / "raw" / "digits.npz").exists()
    team.propose()

    # Both train while the tracking server is away: nothing is registered, and the jobs say why.
    settings = {"one": f"train.num_images={LONGER}", "two": f"train.num_images={LONGER} train.seed=5"}
    for failed in team.both(partial(team.servers.stop, "tracking"), **settings):
        assert isinstance(failed, JobFailedError)
        assert str(failed).startswith("make retrain")
        assert f"{team.servers.tracking_uri}: " in str(failed)
    team.servers.start("tracking")
    weights = {runner: digest(team, runner) for runner in settings}
    assert len(set(weights.values())) == 2

    # The same again when it is back: nothing is made twice, no run is lost, and both register at once.
    decisions = list(team.both(lambda: None, **settings))
    assert {runner: digest(team, runner) for runner in settings} == weights
    assert [len(team.runs(stage)) for stage in ("features", "train", "evaluate")] == [1, 3, 3]
    assert {run.info.status for run in team.runs("train") + team.runs("register")} <= {"FINISHED", "FAILED"}
    assert "accept" in decisions
    assert set(decisions) <= {"accept", "reject", "undecided"}


def digest(team: Team, runner: str) -> str:
    lock = yaml.safe_load((team.github.runner(runner) / "dvc.lock").read_text())
    return str(next(out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"].endswith("safetensors")))


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_two_runners_have_one_champion_and_one_history(team: Team) -> None:
    play_to_a_second_champion(team)
    history = team.history("one")
    assert history[:2] == [("undecided", "1", "none"), ("promote", "1", "none")]
    assert len(history) == 4, "each of the two models was decided about once"
    accepted = [entry for entry in history if entry[0] == "accept"]
    assert history == team.history("two")

    said = team.github.command("two", "make", "rollback", "REASON=a trial")
    assert f"version {accepted[-1][2]} is champion again in place of version {accepted[-1][1]}: a trial" in said
    assert team.history("one") == [*history, ("rollback", accepted[-1][2], accepted[-1][1])]
    assert "0 lost" in team.github.command("one", "foundry", "runs", "reconcile")


def test_the_workflows_call_nothing_that_is_not_played_here() -> None:
    """But for `ci`, which runs these tests."""
    jobs = {(name, key) for name, it in WORKFLOWS.items() for key, job in it["jobs"].items() if "steps" in job}
    assert {(name, key) for name, key in jobs if name != "ci"} == PLAYED


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_job_of_the_workflows_is_played(team: Team, digits: Digits) -> None:
    play_to_a_second_champion(team)
    team.propose()
    team.github.play("release", "release", "packer")

    images, labels = digits
    team.person.run("git", "pull", "-q", "--rebase", "origin", "main")
    team.change_data(images[labels < 9], labels[labels < 9], "No nines")
    assert team.retrain("two") == "reject"
    assert "classes_are_kept" in [rule["name"] for rule in team.decision("two")["rules"] if not rule["passed"]]
    team.propose()

    np.savez(team.github.folder / "new.npz", images=255 - images, labels=labels)
    s3 = boto3.client("s3", endpoint_url=team.servers.s3_url, **credentials())
    s3.upload_file(str(team.github.folder / "new.npz"), BUCKET, f"{team.github.folder.name}-new/new.npz")
    assert team.github.play("drift", "compare", "watcher") == {"drifted": "yes"}
    team.github.play("drift", "tell", "teller")
    team.github.play("drift", "retrain", "teller")
    assert len(known(team.github.folder)["issues"]) == 1
    assert team.github.played == PLAYED


def credentials() -> dict[str, str]:
    return {
        "aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
        "region_name": KEYS["AWS_DEFAULT_REGION"],
    }
