"""Rules of the house that no other tool checks: dvc.yaml, the modules, params.yaml and the docs tell one story."""

import ast
import re
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.diffusion.samplers import SAMPLERS
from pipeline.params import Params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODULES = sorted((ROOT / "pipeline").rglob("*.py")) + sorted((ROOT / "service").rglob("*.py"))


def _docstring(stage: str) -> str:
    docstring = ast.get_docstring(ast.parse((ROOT / "pipeline" / f"{stage}.py").read_text()))
    assert docstring
    return docstring


def _paths(entries: list) -> list[str]:  # type: ignore[type-arg]
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_a_params_section_and_a_verb(stage: str) -> None:
    assert f"-m pipeline.{stage} " in STAGES[stage]["cmd"]
    assert stage in Params.model_fields
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_docstring_says_what_dvc_yaml_says(stage: str) -> None:
    lines = dict(
        line.split(": ", 1) for line in _docstring(stage).splitlines() if re.match("(Reads|Writes|Params): ", line)
    )
    folders = {"/".join(path.split("/")[:2]) for path in STAGES[stage]["deps"] if path.startswith("data/")}
    assert set(lines["Reads"].split(", ")) == folders
    assert f"data/{STAGES[stage]['cmd'].split('--out data/')[1].split()[0]}" in lines["Writes"]
    assert lines["Params"].split(", ") == STAGES[stage]["params"]


PLUMBING = {
    "pipeline.cli",
    "pipeline.params",
    "pipeline.tracking.runs",
    "pipeline.tracking.stage_times",
    "pipeline.tracking.store",
    "pipeline.tracking.tags",
    "pipeline.registry.registry",
}
"""What tells of a result but does not make it; a stage's params are listed in dvc.yaml one by one."""


def _file(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}.py" if (ROOT / f"{path}.py").exists() else f"{path}/__init__.py"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_runs(stage: str) -> None:
    graph, seen = grimp.build_graph("pipeline", cache_dir=None), set[str]()
    # A training that has ended replaces itself by the distillation, which it cannot import.
    waiting = [f"pipeline.{stage}", *(["pipeline.distil"] if stage == "train" else [])]
    while waiting:
        module = waiting.pop()
        if module not in seen | PLUMBING:
            seen.add(module)
            waiting += graph.find_modules_directly_imported_by(module)
    listed = [path for path in STAGES[stage]["deps"] if path.startswith("pipeline/") and "/templates/" not in path]
    covering = {
        file: [path for path in listed if file == path or file.startswith(f"{path}/")] for file in map(_file, seen)
    }
    assert [file for file, paths in covering.items() if not paths] == []
    assert {path for paths in covering.values() for path in paths} == set(listed)


@pytest.mark.parametrize(
    ("package", "needed_by"), [("great_expectations", {"prepare"}), ("sklearn", {"features", "evaluate"})]
)
def test_what_takes_long_to_import_is_imported_by_the_stages_that_need_it(package: str, needed_by: set[str]) -> None:
    graph = grimp.build_graph("pipeline", include_external_packages=True, cache_dir=None)
    chains = {stage: graph.find_shortest_chain(f"pipeline.{stage}", package) for stage in {*STAGES, "register"}}
    assert {stage for stage, chain in chains.items() if chain} == needed_by, chains


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_dvc_yaml_stands_in_the_contracts(stage: str) -> None:
    contracts = (ROOT / "docs" / "contracts.md").read_text()
    for path in _paths(
        [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", []), *STAGES[stage].get("plots", [])]
    ):
        assert path.split("/")[-1] in contracts, path


@pytest.mark.parametrize("stage", STAGES)
def test_git_ignores_every_file_that_dvc_caches(stage: str) -> None:
    outs = [*STAGES[stage].get("outs", []), *STAGES[stage].get("plots", [])]
    cached = [out for out in outs if isinstance(out, str) or all(each.get("cache", True) for each in out.values())]
    for path in map(Path, _paths(cached)):
        assert f"/{path.name}" in (ROOT / path.parent / ".gitignore").read_text().splitlines(), path


@pytest.mark.parametrize("package", ["mlflow", "great_expectations"])
def test_only_one_room_knows_each_tool(package: str) -> None:
    allowed = {
        "mlflow": {"registry", "tracking"},
        "great_expectations": {"ingestion"},
    }
    assert {path.parent.name for path in MODULES if package in _imports(path)} <= allowed[package]


def test_nothing_is_pickled() -> None:
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert [path.name for path in MODULES if forbidden & _imports(path)] == []
    loads = [line for path in MODULES for line in path.read_text().splitlines() if "torch.load(" in line]
    assert [line for line in loads if "weights_only=True" not in line] == []


def test_the_readme_is_short_and_every_make_command_in_the_docs_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 150
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"(?:^|[`$] ?)make ([a-z-]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, (path.name, named - targets)


def test_every_dependency_is_pinned_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in sum(project["optional-dependencies"].values(), project["dependencies"])]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+", line)] == []
    pinned = {line.split("==")[0] for line in lines}
    assert {canonicalize_name(requirement.name) for requirement in wanted} - pinned == set()


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PLACES = re.findall(r"^\| (an? [^|]+) \| ([^|]+) \| ([^|]+) \|$", ARCHITECTURE, re.MULTILINE)


@pytest.mark.parametrize(("addition", "place", "more"), PLACES)
def test_every_place_for_an_addition_exists(addition: str, place: str, more: str) -> None:
    found = re.findall(r"`([\w/]+\.(?:py|html|md))`(?:: `(\w+)`)?", f"{place} {more}")
    assert found, addition
    for path, name in found:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^(?:def |class )?{name}\b", text, re.MULTILINE), f"{path} has no {name}"


def test_a_sampler_is_offered_wherever_one_is_chosen() -> None:
    settings = (ROOT / "service" / "static" / "playground" / "settings.js").read_text()
    exported = (ROOT / "pipeline" / "export" / "templates" / "foundry_pipeline.py").read_text()
    offered = {
        "settings.js": re.findall(r"(\w+):", re.findall(r"const SAMPLERS = \{(.*)\}", settings)[0]),
        "foundry_pipeline.py": re.findall(r'"(\w+)":', re.findall(r"^ETA = \{(.*)\}", exported, re.MULTILINE)[0]),
        "docs/samplers.md": re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "samplers.md").read_text(), re.MULTILINE),
    }
    assert {place: set(names) for place, names in offered.items()} == dict.fromkeys(offered, frozenset(SAMPLERS))


def test_the_page_answers_seven_questions() -> None:
    wanted = ("sampler", "network", "metric", "endpoint", "check", "promotion rule", "report")
    assert [word for word in wanted if not any(word in addition for addition, _, _ in PLACES)] == []


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("pipeline/evaluation/metrics.py", {"features", "evaluate"}),
        ("pipeline/ingestion/expectations.py", {"prepare"}),
        ("pipeline/reporting/evaluation_report.py", {"evaluate"}),
        ("pipeline/reporting/templates/evaluation.html", {"evaluate"}),
        ("pipeline/reporting/data_report.py", {"prepare"}),
        ("pipeline/reporting/retraining.py", set()),
        ("pipeline/reporting/templates/retraining.html", set()),
        ("pipeline/training/loop.py", {"train"}),
        ("pipeline/inference/grids.py", {"train", "evaluate"}),
        ("pipeline/diffusion/noise.py", {"schedule", "features", "train", "evaluate"}),
        ("pipeline/registry/gate/promotion.py", set()),
        ("pipeline/tracking/outbox.py", set()),
        ("pipeline/provenance/lineage.py", set()),
        ("pipeline/export/bento.py", set()),
        ("pipeline/commands/sample.py", set()),
        ("pipeline/cli.py", set()),
        ("service/engine/scheduler.py", set()),
    ],
)
def test_a_change_re_runs_the_stages_that_it_can_affect_and_no_others(changed: str, stages: set[str]) -> None:
    assert (ROOT / changed).exists()
    dependent = {
        name
        for name, stage in STAGES.items()
        if any(changed == path or changed.startswith(f"{path}/") for path in stage["deps"])
    }
    assert dependent == stages


@pytest.mark.parametrize(
    "room",
    sorted(
        path.parent for path in [*(ROOT / "pipeline").rglob("*/__init__.py"), *(ROOT / "service").glob("*/__init__.py")]
    ),
)
def test_every_room_says_what_it_is_for_and_where_to_begin(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    assert len(docstring) > 100, room.name
    begin = re.search(r"(?:Begin|Start) (?:reading )?with `?([\w/.]+?)(?:\.py)?`?[\s,.;]", docstring)
    assert begin, f"{room.name}: where does one begin to read?"
    assert any(path.exists() for path in (room / f"{begin[1]}.py", room / begin[1], ROOT / f"{begin[1]}.py")), begin[1]


@pytest.mark.parametrize("room", ["diffusion", "training"])
def test_the_table_of_a_large_room_names_each_of_its_modules_once(room: str) -> None:
    folder = ROOT / "pipeline" / room
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    table = docstring.split("| subject | modules |\n|---|---|\n")[1].split("\n\n")[0]
    named = [name for row in table.splitlines() for name in row.split("|")[2].strip().split(", ")]
    assert sorted(named) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def test_the_readmes_tree_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")]
    assert [room for room in rooms if f"pipeline/{room}/" not in readme] == []
