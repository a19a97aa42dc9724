import time
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckFailedError
from pipeline.params import TrainParams
from pipeline.training import checkpoint
from pipeline.training.journal import NUM_ROWS, Journal
from pipeline.training.loop import Training, TrainStep
from tests.training.test_loop import SMALL, _training

CONSTANT = {"learning_rate_plan": "constant", "warmup_share": 0.0}


def _params(num_images: int, plan: str = "constant") -> TrainParams:
    return SMALL.model_copy(update={**CONSTANT, "learning_rate_plan": plan, "num_images": num_images})


def _run_to_the_end(store: Path, params: TrainParams) -> Journal:
    journal = Journal(store, _training(params), checkpoint_interval_sec=60)
    journal.resume()
    for step in journal.training.steps():
        journal.note(step)
    journal.save()
    return journal


def test_an_extended_training_reports_it_and_has_the_weights_of_a_longer_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    _run_to_the_end(tmp_path / "one", _params(96))
    assert capsys.readouterr().err == ""
    extended = _run_to_the_end(tmp_path / "one", _params(160))
    assert "extending a finished training of 96 images to 160" in capsys.readouterr().err
    longer = _run_to_the_end(tmp_path / "other", _params(160))
    for found, wanted in (
        (extended.training.weights(), longer.training.weights()),
        *zip(extended.training.ema.tracks, longer.training.ema.tracks, strict=True),
    ):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_resuming_after_a_kill_is_not_reported_as_an_extension(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Journal(tmp_path, _training(_params(160)), checkpoint_interval_sec=60)
    steps = first.training.steps()
    for _ in range(6):
        first.note(next(steps))
    first.save()
    again = Journal(tmp_path, _training(_params(160)), checkpoint_interval_sec=60)
    again.resume()
    assert again.num_images_saved == 96
    assert capsys.readouterr().err == ""


def test_curves_grow_in_the_model_folder_while_the_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, out = Journal(tmp_path / "store", _training(_params(160)), checkpoint_interval_sec=60), tmp_path / "out"
    (tmp_path / "store").mkdir()
    lengths = []
    for step in journal.training.steps():
        journal.note(step)
        monkeypatch.setattr(journal, "_shown_at", float("-inf"))
        journal.show(out)
        lengths.append(len((out / "curves.csv").read_text().splitlines()))
    assert lengths == list(range(2, 12))
    shown = (out / "curves.csv").read_bytes()
    journal.write(out)
    assert (out / "curves.csv").read_bytes() == shown


def test_short_trainings_spend_no_time_on_growing_curves(tmp_path: Path) -> None:
    journal = Journal(tmp_path, _training(_params(160)), checkpoint_interval_sec=60)
    journal.note(next(journal.training.steps()))
    journal.show(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_seconds_of_all_resumed_processes_are_counted(tmp_path: Path) -> None:
    began = time.monotonic()
    first = Journal(tmp_path, _training(_params(160)), checkpoint_interval_sec=60)
    time.sleep(0.2)
    before = first.seconds
    first.save()
    again = Journal(tmp_path, _training(_params(160)), checkpoint_interval_sec=60)
    # Not the time between them, when nothing trains.
    time.sleep(0.3)
    again.resume()
    assert 0.2 < before <= again.seconds < time.monotonic() - began - 0.3


def test_a_finished_training_keeps_one_checkpoint(tmp_path: Path) -> None:
    store, out = tmp_path / "home" / "key", tmp_path / "out"
    store.mkdir(parents=True)
    out.mkdir()
    journal = _run_to_the_end(store, _params(96))
    journal.save()
    (store / "grids").mkdir()
    (store / "grids" / "000000096.png").write_bytes(b"grid")
    (store / "grids" / "000000999.png").write_bytes(b"of a longer training")
    journal.write(out)
    assert sorted(path.name for path in out.rglob("*.png")) == ["000000096.png"]
    assert (out / "curves.csv").read_text().count("\n") == 1 + len(journal.rows)
    assert checkpoint.latest(store)[0] is not None
    assert (store / "finished").exists()


def test_the_error_for_a_loss_of_nan_names_images_learning_rate_and_checkpoint(tmp_path: Path) -> None:
    journal = _with_unread_steps(tmp_path)
    journal.save()
    for num_images, loss in ((640, float("nan")), (656, 0.1)):
        journal.note(TrainStep(num_images, torch.tensor(loss), torch.tensor(1.0), 2e-3))
    with pytest.raises(
        CheckFailedError, match=r"after 640 images: loss nan.*learning rate 0\.002; the last good.*: 48"
    ):
        journal.collect()


def test_weights_that_have_diverged_are_not_saved(tmp_path: Path) -> None:
    journal = _with_unread_steps(tmp_path)
    journal.note(TrainStep(64, torch.tensor(0.1), torch.tensor(float("inf")), 2e-3))
    with pytest.raises(CheckFailedError, match="gradient norm inf.*there is no checkpoint"):
        journal.save()
    assert checkpoint.latest(tmp_path)[0] is None


def test_a_checkpoint_holds_the_losses_of_all_steps_before_it(tmp_path: Path) -> None:
    _with_unread_steps(tmp_path).save()
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    losses = [float(step.loss) for step, _ in zip(_long_training().steps(), range(3), strict=False)]
    assert [loss for loss, _ in found.notes["stretch"]] == losses


def _long_training() -> Training:
    """Of more steps than curves have rows, so that not every step is read at once."""
    return _training(_params(16 * 4 * NUM_ROWS))


def _with_unread_steps(store: Path) -> Journal:
    journal = Journal(store, _long_training(), checkpoint_interval_sec=60)
    steps = journal.training.steps()
    assert [journal.note(next(steps)) for _ in range(3)] == [None] * 3
    return journal
