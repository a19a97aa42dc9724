"""Images are added to a real DVC repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.commands.data.add import new_images, require_classes
from pipeline.errors import FoundryError
from tests.dvc_project import ROOT, Project
from tests.ingestion.sources.reading import write


@pytest.fixture
def project(tmp_path: Path, photo_folder: Path, raced_store: tuple[Path, list[str]]) -> Project:
    """A repository that tracks photographs; `photo_folder` stays where it is."""
    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project", raced_store[0])
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    document["prepare"] |= {
        "source": "images", "class_names": None, "image_size": 8, "channels": 3, "min_num_images": 2,
        "held_out_share": 0.65,
    }  # fmt: skip
    made.write("params.yaml", yaml.safe_dump(document))
    made.write("data/.gitignore", "/raw\n")
    shutil.copytree(photo_folder, made.folder / "data/raw")
    made.dvc("add", "-q", "data/raw")
    made.commit("Photographs")
    return made


def test_new_images_are_copied_recorded_and_counted(project: Project, photo_folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    (new / "flower").mkdir(parents=True)
    shutil.copy(photo_folder / "china/01.png", new / "flower/copy.png")
    (new / "flower/link.png").symlink_to(photo_folder / "china/03.png")
    (new / "flower/nowhere.png").symlink_to("gone.png")
    shutil.copy(photo_folder / "flower/01.png", new / "flower/01.png")
    before = (project.folder / "data/raw.dvc").read_text()
    said = project.foundry("data", "add", str(new))
    assert "left out: flower/nowhere.png: a dangling link to gone.png" in said
    assert "data/raw: 2 files more" in said
    assert (project.folder / "data/raw.dvc").read_text() != before
    assert not (project.folder / "data/raw/flower/link.png").is_symlink()
    assert len(list((project.folder / "data/raw/flower").iterdir())) == 18


def test_another_file_of_the_same_name_is_never_replaced(project: Project, photo_folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "flower"
    new.mkdir(parents=True)
    shutil.copy(photo_folder / "china/01.png", new / "01.png")
    shutil.copy(photo_folder / "china/01.png", new / "other.png")
    content = (project.folder / "data/raw/flower/01.png").read_bytes()
    with pytest.raises(
        AssertionError, match=r"holds other files of the names flower/01\.png \(1 in all\): rename them"
    ):
        project.foundry("data", "add", str(new.parent))
    assert (project.folder / "data/raw/flower/01.png").read_bytes() == content
    assert not (project.folder / "data/raw/flower/other.png").exists()


def test_images_that_would_have_no_class_are_refused(project: Project, photo_folder: Path) -> None:
    before = sorted(project.folder.glob("data/raw/**/*"))
    with pytest.raises(
        AssertionError, match=r"china: its images stand in no folder, .* such as china/; nothing was added"
    ):
        project.foundry("data", "add", str(photo_folder / "china"))
    assert sorted(project.folder.glob("data/raw/**/*")) == before


@pytest.mark.long
def test_what_changes_is_told(project: Project, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="wanted at least 50 and 20"):
        # The photographs are few; the manifest is written all the same.
        project.foundry("prepare")
    new = tmp_path / "new" / "flower"
    new.mkdir(parents=True)
    shutil.copy(photo_folder / "china/01.png", new / "copy.png")
    said = project.foundry("data", "add", str(new.parent))
    assert "1 new copies of other images" in said
    assert "class flower: 16 images, now 17" in said


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_the_images_of_an_archive_go_into_the_folders_of_their_classes(
    kind: str, tmp_path: Path, photo_folder: Path
) -> None:
    (tmp_path / "packed" / "photographs" / "flower").mkdir(parents=True)
    shutil.copy(photo_folder / "china/01.png", tmp_path / "packed/photographs/flower/new.png")
    packed = shutil.make_archive(str(tmp_path / "more"), kind, tmp_path / "packed")
    new = new_images(packed, tmp_path / "place", photo_folder).folder
    require_classes(packed, new, photo_folder, labelled=True)
    assert [path.relative_to(new).as_posix() for path in new.rglob("*.png")] == ["flower/new.png"]


@pytest.mark.parametrize("name", ["more.zip", "more.tar.gz"])
def test_an_archive_that_is_damaged_is_named(name: str, tmp_path: Path, photo_folder: Path) -> None:
    (tmp_path / name).write_bytes(b"no archive" * 100)
    with pytest.raises(FoundryError, match=f"{name}: not a readable archive"):
        new_images(str(tmp_path / name), tmp_path / "place", photo_folder)


@pytest.mark.parametrize(
    ("before", "new", "words"),
    [
        (
            "images",
            "flower",
            "flower: beside its folders flower, images/china/00.jpg would be of class images and not china",
        ),
        ("test", "flower", "would be of class test and not china"),
    ],
)
def test_images_that_would_give_the_old_ones_other_classes_are_refused(
    before: str, new: str, words: str, tmp_path: Path, photo_folder: Path
) -> None:
    raw = tmp_path / "old"
    shutil.copytree(photo_folder, raw / before)
    if before == "test":
        shutil.copytree(photo_folder, raw / "train")
    (tmp_path / "new" / new).mkdir(parents=True)
    shutil.copy(photo_folder / "flower/01.png", tmp_path / "new" / new / "new.png")
    with pytest.raises(FoundryError, match=f"{words}.*sort the new images into folders as in .*old, such as {before}/"):
        require_classes(new, tmp_path / "new", raw, labelled=False)
    (tmp_path / "new" / before).mkdir()
    shutil.move(tmp_path / "new" / new, tmp_path / "new" / before)
    require_classes(new, tmp_path / "new", raw, labelled=True)


def test_images_are_refused_that_the_table_of_classes_does_not_name(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "1.png")
    write(tmp_path / "raw" / "metadata.csv", b"file_name,label\n1.png,cat\n")
    write(tmp_path / "new" / "cat" / "2.png")
    with pytest.raises(
        FoundryError, match=r"^new: its images are in no row of a metadata\.csv or metadata\.jsonl, as those of"
    ):
        require_classes("new", tmp_path / "new", tmp_path / "raw", labelled=True)
    require_classes("new", tmp_path / "new", tmp_path / "raw", labelled=False)
    write(tmp_path / "new" / "cat" / "metadata.csv", b"file_name,label\n2.png,cat\n")
    require_classes("new", tmp_path / "new", tmp_path / "raw", labelled=True)


def test_a_table_of_classes_beside_folders_of_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "cat" / "1.png")
    write(tmp_path / "new" / "cat" / "2.png")
    write(tmp_path / "new" / "metadata.csv", b"file_name,label\ncat/2.png,cat\n")
    with pytest.raises(
        FoundryError, match="its table of classes would be that of all images, .* leave out the table; nothing"
    ):
        require_classes("new", tmp_path / "new", tmp_path / "raw", labelled=True)


def test_images_with_a_table_are_added_beside_others_with_a_table(project: Project, tmp_path: Path) -> None:
    for path in (project.folder / "data/raw").iterdir():
        shutil.rmtree(path)
    write(project.folder / "data/raw/1.png", b"one")
    write(project.folder / "data/raw/metadata.csv", b"file_name,label\n1.png,cat\n")
    project.dvc("add", "-q", "data/raw")
    write(tmp_path / "birds/1.png", b"other")
    write(tmp_path / "birds/metadata.csv", b"file_name,label\n1.png,bird\n")
    said = project.foundry("data", "add", str(tmp_path / "birds"))
    assert "data/raw has other files of the same names: the new ones are in data/raw/birds\n" in said
    assert "data/raw: 2 files more" in said
    assert (project.folder / "data/raw/1.png").read_bytes() == b"one"
    assert (project.folder / "data/raw/birds/1.png").read_bytes() == b"other"
    assert "nfiles: 4" in (project.folder / "data/raw.dvc").read_text()


def test_a_file_that_the_list_leaves_out_stays_out_when_others_are_added(
    project: Project, photo_folder: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new" / "bird"
    new.mkdir(parents=True)
    shutil.copy(photo_folder / "china/01.png", new / "a b\N{LATIN SMALL LETTER E WITH ACUTE}.png")
    project.write("data/excluded.txt", "bird/a b\N{LATIN SMALL LETTER E WITH ACUTE}.png\n")
    said = project.foundry("data", "add", str(new.parent))
    assert "bird/a b\N{LATIN SMALL LETTER E WITH ACUTE}.png: listed in data/excluded.txt and so left out" in said
    assert "undo it:   git checkout data/raw.dvc && dvc checkout data/raw.dvc" in said
