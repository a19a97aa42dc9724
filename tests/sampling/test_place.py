"""Sets in a bucket: S3 as moto serves it."""

from pathlib import Path

import pytest

from pipeline.errors import FoundryError
from pipeline.sampling.place import Place
from tests.command_line import foundry
from tests.sampling.test_sample_set import SET, files_of


def test_a_set_in_a_bucket_has_the_bytes_of_one_in_a_folder(
    bucket: str, small_model_folder: Path, tmp_path: Path
) -> None:
    for out in (f"{bucket}/some/set", tmp_path / "set"):
        foundry("sample", "--model", small_model_folder, "--out", out, *SET, "--verify")
    place = Place(f"{bucket}/some/set/")
    assert {name: place.read(name) for name in place.names()} == files_of(tmp_path / "set")


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_named(small_model_folder: Path) -> None:
    with pytest.raises(FoundryError, match="s3://nowhere/set/set.json: The specified bucket does not exist"):
        foundry("sample", "--model", small_model_folder, "--out", "s3://nowhere/set", *SET)


def test_a_prefix_that_the_console_of_a_store_made_is_empty(bucket: str) -> None:
    # It makes an object without content that is called as the prefix is.
    Place(f"{bucket}/made").write("", b"")
    assert Place(f"{bucket}/made").names() == set()


def test_removing_what_is_gone_is_no_error(bucket: str, tmp_path: Path) -> None:
    for place in (Place(f"{bucket}/set"), Place(str(tmp_path))):
        place.write("file", b"content")
        place.remove("file")
        place.remove("file")
        assert (place.read("file"), place.names()) == (None, set())


@pytest.mark.parametrize("url", ["x://bucket/set", "s4://bucket/set"])
def test_a_protocol_that_there_is_not_is_refused_and_no_folder_has_its_name(url: str, workspace: Path) -> None:
    with pytest.raises(FoundryError, match=f"{url}: Protocol not known: {url.partition(':')[0]}"):
        Place(url)
    assert list(workspace.iterdir()) == []
