from pathlib import Path

from benchmarks.protocol import save
from benchmarks.time_to_quality import TRAINED, Task, kept_training, open_tasks, report, training_params, write_figure

RESULT = {
    "kid": 0.5,
    "kid_standard_error": 0.1,
    "num_images": 1000,
    "seconds": 60.0,
    "peak_mib": 500.0,
    "guidance_scale": 1.1,
}


def test_a_task_with_a_result_is_not_run_again() -> None:
    tasks = [Task("ours", 6.0, 0), Task("ours", 6.0, 1), Task("diffusers", 6.0, 0)]
    assert open_tasks(tasks, [{"arm": "ours", "minutes": 6.0, "seed": 0}]) == tasks[1:]


def test_a_kept_training_is_reused_only_with_equal_training_params(tmp_path: Path) -> None:
    params = {"train": {"batch_size": 96}, "evaluate": {"num_samples": 100}, "register": {}}
    assert kept_training(tmp_path, params) is None
    save(tmp_path / TRAINED, {"params": training_params(params), "training": {"num_images": 9}})
    assert kept_training(tmp_path, params | {"evaluate": {"num_samples": 200}}) == {"num_images": 9}
    assert kept_training(tmp_path, params | {"train": {"batch_size": 64}}) is None


def test_the_table_has_medians_and_their_ratio_to_ours(tmp_path: Path) -> None:
    distances = {"ours": (2.0, 4.0, 9.0), "diffusers": (40.0, 60.0, 50.0)}
    results = [
        {**RESULT, "arm": arm, "minutes": 6.0, "seed": seed, "frechet_distance": distance}
        for arm, values in distances.items()
        for seed, distance in enumerate(values)
    ]
    lines = report({"results": results}).splitlines()
    assert lines[2:] == [
        "| 6 | ours | 1000 | 60 | 1.1 | 4 | 0.5 | 0.1 | 1 |",
        "| 6 | diffusers | 1000 | 60 | 1.1 | 50 | 0.5 | 0.1 | 12.5 |",
    ]
    write_figure(tmp_path / "figure.png", {"results": results})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
