from pipeline.training.fingerprint import ROOT, training_code, training_key


def test_the_digest_of_code_covers_what_changes_weights_and_nothing_that_only_shows_or_keeps_them() -> None:
    names = {path.relative_to(ROOT / "pipeline").as_posix() for path in training_code()}
    weights = {"loop", "batches", "muon", "distributed"}
    assert {f"training/{name}.py" for name in weights} == {name for name in names if name.startswith("training/")}
    assert {
        "device.py",
        "artefacts/dataset.py",
        "diffusion/unet.py",
        "diffusion/loss.py",
        "diffusion/noise.py",
    } <= names
    assert not {"diffusion/sampling.py", "diffusion/likelihood.py", "diffusion/timetables.py"} & names


def test_another_digest_is_another_training() -> None:
    assert training_key({"a": "1"}) == training_key({"a": "1"})
    assert len({training_key(digests) for digests in ({"a": "1"}, {"a": "2"}, {"b": "1"})}) == 3
