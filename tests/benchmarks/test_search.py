from pathlib import Path

import pytest

from pipeline.params import read_params_text
from pipeline.search.space import Space


@pytest.mark.parametrize(("name", "num_points"), [("networks", 9), ("recipes", 6), ("floors", 3)])
@pytest.mark.parametrize("params", ["params.yaml", "tests/params.yaml"])
def test_every_listed_candidate_is_valid(name: str, num_points: int, params: str, root: Path) -> None:
    document = read_params_text((root / params).read_text())
    assert Space.read(root / "benchmarks" / "search" / f"{name}.yaml", document).num_points == num_points
