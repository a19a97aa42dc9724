from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.training.fingerprint import ROOT, provenance, training_code, training_key
from pipeline.training.pace import cosine_table
from tests.small_sets import PARAMS, write_prepared


def test_the_digest_of_code_covers_what_changes_weights_and_nothing_that_only_shows_or_keeps_them() -> None:
    names = {path.relative_to(ROOT / "pipeline").as_posix() for path in training_code()}
    weights = {"loop", "initial_network", "batches", "muon", "distributed", "micro_batches"}
    assert {f"training/{name}.py" for name in weights} == {name for name in names if name.startswith("training/")}
    assert {
        "device.py",
        "artefacts/dataset.py",
        "diffusion/unet.py",
        "diffusion/loss.py",
        "diffusion/noise.py",
        "diffusion/patch_filter.py",
    } <= names
    assert not {"diffusion/sampling.py", "diffusion/likelihood.py", "diffusion/timetables.py"} & names


def test_another_digest_is_another_training() -> None:
    assert training_key({"a": "1"}) == training_key({"a": "1"})
    assert len({training_key(digests) for digests in ({"a": "1"}, {"a": "2"}, {"b": "1"})}) == 3


def test_trainings_of_one_recipe_differ_in_their_seed_alone(tmp_path: Path, digits: tuple[NDArray[Any], ...]) -> None:
    dataset, table = (
        write_prepared(tmp_path / "prepared", digits[0][:60, ..., None], None, 20),
        cosine_table("bounded_snr"),
    )

    def changed(**changes: Any) -> dict[str, str]:
        return provenance(PARAMS.train.model_copy(update=changes), dataset, table)

    first, second, longer = changed(), changed(seed=1), changed(num_images=64)
    assert (first["seed"], second["seed"]) == ("0", "1")
    assert first["recipe_digest"] == second["recipe_digest"] != longer["recipe_digest"]
    assert len({each["params_digest"] for each in (first, second, longer)}) == 3
