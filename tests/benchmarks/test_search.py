from pathlib import Path

import pytest

from benchmarks.search.queue import Candidate, candidates
from pipeline.commands.set_params import override
from pipeline.params import load_params

LISTED = candidates((Path(__file__).parents[2] / "benchmarks" / "search" / "candidates.txt").read_text())


def test_a_line_is_a_name_and_changes_and_a_comment_is_none() -> None:
    text = "# all\nas-it-is\n\nwider train.network.widths='[48, 64]' train.seed=1  # both levels\n"
    assert candidates(text) == [
        Candidate("as-it-is", ()),
        Candidate("wider", ("train.network.widths=[48, 64]", "train.seed=1")),
    ]


@pytest.mark.parametrize("candidate", LISTED, ids=lambda candidate: candidate.name)
def test_every_listed_candidate_is_allowed_and_another_than_the_first(
    candidate: Candidate, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    override(tmp_path / "params.yaml", list(candidate.changes))
    is_as_it_is = load_params(tmp_path / "params.yaml") == load_params(root / "params.yaml")
    assert is_as_it_is == (candidate.name == "as-it-is")


def test_names_are_experiments_names() -> None:
    names = [candidate.name for candidate in LISTED]
    assert len(set(names)) == len(names)
    # DVC refuses others.
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
