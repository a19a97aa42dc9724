from pathlib import Path

import pytest

from benchmarks.search.queue import Candidate, read_candidates
from pipeline.commands.set_params import set_params
from pipeline.params import load_params

SEARCH = Path(__file__).parents[2] / "benchmarks" / "search"
LISTS = [read_candidates((SEARCH / name).read_text()) for name in ("candidates.txt", "recipes.txt")]
LISTED = [candidate for listed in LISTS for candidate in listed]


def test_a_line_is_a_name_with_changes_and_comments_are_skipped() -> None:
    text = "# all\nas-it-is\n\nwider train.network.widths='[48, 64]' train.seed=1  # both levels\n"
    assert read_candidates(text) == [
        Candidate("as-it-is", ()),
        Candidate("wider", ("train.network.widths=[48, 64]", "train.seed=1")),
    ]


@pytest.mark.parametrize("candidate", LISTED, ids=lambda candidate: candidate.name)
def test_every_listed_candidate_is_valid_and_only_the_first_changes_nothing(
    candidate: Candidate, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text((root / "tests" / "params.yaml").read_text())
    set_params(tmp_path / "params.yaml", list(candidate.changes))
    is_as_it_is = load_params(tmp_path / "params.yaml") == load_params(root / "tests" / "params.yaml")
    assert is_as_it_is == (candidate.name == "as-it-is")


@pytest.mark.parametrize("listed", LISTS)
def test_names_are_unique_and_valid_names_of_experiments(listed: list[Candidate]) -> None:
    names = [candidate.name for candidate in listed]
    assert len(set(names)) == len(names)
    # The characters that DVC accepts.
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
