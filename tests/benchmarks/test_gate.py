from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.gate import BASE, BETTER, TWICE, Case, Gate, decide, report, share
from benchmarks.pairs import Comparisons
from benchmarks.pool import Arm, Pool
from benchmarks.protocol import save
from benchmarks.recipe_luck import arm_figures, pair_figures
from pipeline.artefacts.tensors import save_tensors
from pipeline.evaluation.metrics import Reference, kid
from tests.small_sets import PARAMS

NUM_SEEDS, NUM_IMAGES, NUM_FEATURES = 16, 150, 3
SAME, WORSE = (
    Case(BASE, BASE, data_is_new=False, promotion_is="false"),
    Case(BASE, TWICE, data_is_new=True, promotion_is="false"),
)
BETTER_CASE = Case(TWICE, BASE, data_is_new=False, promotion_is="right")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A pool of made trainings, whose images lie at distances from the real ones that vary by a fiftieth with the seed."""
    pool, generator = Pool(tmp_path), torch.Generator().manual_seed(0)
    normal = partial(torch.randn, NUM_IMAGES, NUM_FEATURES, generator=generator)
    real = normal()
    features = tmp_path / "data" / "features"
    features.mkdir(parents=True)
    save_tensors(features / "reference.safetensors", {"held_out": real})
    save(features / "floors.json", {"floor/kid_standard_error": 0.001})
    for arm, distance in ((BASE, 1.0), (TWICE, 0.2)):
        for seed in range(NUM_SEEDS):
            x = normal() + distance * (1 + 0.02 * torch.randn((), generator=generator))
            write_training(pool, arm, seed, x, Reference(real.double()))
    return Gate(Comparisons(pool), PARAMS.register_)


def write_training(pool: Pool, arm: Arm, seed: int, features: torch.Tensor, real: Reference) -> None:
    distance = kid(features, real)
    figures = {
        "num_images": NUM_IMAGES,
        "kid": distance.value,
        "kid_standard_error": distance.standard_error,
        "near_copy_share": 0.0,
        "near_copy_share_shifted": 0.0,
    }
    save_tensors(pool.path(arm, seed, "safetensors"), {"features": features})
    save(pool.path(arm, seed, "json"), {"figures": figures, "class_agreement": {}, "seconds": 1.0})


def test_what_is_much_better_is_promoted_and_what_is_much_worse_is_refused(gate: Gate) -> None:
    for case, decided in ((BETTER_CASE, "accept"), (WORSE, "reject")):
        for found in decide(gate, case, NUM_SEEDS, count=3):
            # One training a side finds it only by luck.
            if "one" not in found["gate"]:
                assert found["outcomes"] == {decided: 3}, found


def test_the_gate_that_knows_seeds_promotes_no_equal_training(gate: Gate) -> None:
    found = {each["gate"]: each["outcomes"] for each in decide(gate, SAME, NUM_SEEDS, count=5)}
    assert all("accept" not in outcomes for name, outcomes in found.items() if name.startswith("seeds, one"))


def test_pairs_are_measured_once(gate: Gate) -> None:
    first = gate.comparisons.difference((BASE, 0), (TWICE, 0))
    gate.comparisons.keep()
    assert Comparisons(gate.comparisons.pool).difference((BASE, 0), (TWICE, 0)) == first


def test_the_table_has_shares_with_wilsons_intervals(gate: Gate) -> None:
    # (p + z^2/2n ± z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n) for p = 1/20.
    assert share(1, 20) == "5.0 % (0.9 to 23.6)"
    pool = gate.comparisons.pool
    base, twice = ([pool.result(arm, seed) for seed in range(NUM_SEEDS)] for arm in (BASE, TWICE))
    arms = {"base": arm_figures(base, pool.held_out), "twice": arm_figures(twice, pool.held_out)}
    results = list(decide(gate, BETTER_CASE, NUM_SEEDS, count=2))
    text = report({"num_decisions": 2, "arms": arms, "pairs": {"twice": pair_figures(twice, base)}, "results": results})
    assert "| twice, base | the same | images | right | 100.0 % (34.2 to 100.0) |" in text
    assert BETTER.name not in text


def test_of_the_luck_of_a_seed_more_samples_remove_what_the_draw_of_samples_makes(gate: Gate) -> None:
    """Trainings of made models: of `same` all draw from one distribution, so that all of their spread is by samples."""
    generator, held_out = torch.Generator().manual_seed(1), gate.comparisons.pool.held_out
    for arm, spread in ((Arm("same", 1), 0.0), (Arm("spread", 1), 0.2)):
        for seed in range(40):
            mean = 1 + spread * torch.randn((), generator=generator)
            x = mean + torch.randn(400, NUM_FEATURES, generator=generator)
            write_training(gate.comparisons.pool, arm, seed, x, Reference(held_out.double()))
        found = arm_figures([gate.comparisons.pool.result(arm, seed) for seed in range(40)], held_out)
        share_by_samples = (found["deviation_by_samples"] / found["kid_deviation"]) ** 2
        assert (0.5 < share_by_samples < 2) if arm.name == "same" else (share_by_samples < 0.3)


def test_trainings_of_other_seeds_have_nothing_in_common_and_the_same_trainings_all(gate: Gate) -> None:
    one, other = ([gate.comparisons.pool.result(BASE, seed) for seed in seeds] for seeds in (range(8), range(8, 16)))
    same, different = pair_figures(one, one), pair_figures(one, other)
    assert (same["difference"], same["deviation"]) == (0, 0)
    assert (same["kid_correlation"], same["seed_correlation"]) == (pytest.approx(1), pytest.approx(1))
    assert different["seed_correlation"] < 0.5
