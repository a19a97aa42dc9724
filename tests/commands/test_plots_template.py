"""The page for `dvc plots show` draws without a network."""

import shutil
import subprocess
import sys

import pytest

from pipeline.commands.plots_template import write_template

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "plots" / "offline.html"
    write_template(path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory, template):
    """What `dvc plots show` makes of a curve, with the template named in .dvc/config as in this project."""
    project = tmp_path_factory.mktemp("project")

    (project / ".dvc" / "plots").mkdir(parents=True)
    settings = "[core]\n    analytics = false\n    no_scm = true\n[plots]\n    html_template = plots/offline.html\n"
    (project / ".dvc" / "config").write_text(settings)
    shutil.copy(template, project / ".dvc" / "plots" / "offline.html")
    (project / "curves.csv").write_text("images,loss\n0,1.0\n64,0.5\n128,0.25\n")
    (project / "dvc.yaml").write_text("plots:\n  - curves.csv: {x: images, y: loss}\n")
    subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--out", "shown"], cwd=project, check=True, capture_output=True
    )
    return project / "shown" / "index.html"


def test_the_page_names_no_other_host_to_load_from(page):
    text = page.read_text(encoding="utf-8")
    assert "vegaEmbed('#" in text
    assert "<script src" not in text
    assert "<link" not in text
    assert "cdn.jsdelivr" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the page with")
def test_the_curve_is_drawn_with_the_network_cut_off(page, tmp_path):
    drawn = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert 'class="marks"' in drawn
    assert ">images</text>" in drawn


def test_the_same_libraries_give_the_same_page(template, tmp_path):
    write_template(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == template.read_bytes()
