"""What users expect beside the code: security policy, issue forms, public CI, documentation by version, deprecation."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*_*.yml"))
needs_github = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="a source distribution has no .github")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish_docs", ROOT / "tools/publish_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_github
@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_of_the_form_that_github_reads(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields)
    assert {field["type"] for field in form["body"]} <= {"textarea", "input", "checkboxes", "dropdown", "markdown"}


@needs_github
def test_a_bug_report_asks_for_what_the_command_prints() -> None:
    assert len(FORMS) == 2
    assert "anyorder --version -v" in (ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text(encoding="utf-8")


@needs_github
def test_public_ci_runs_the_script_of_ours_and_may_write_nothing() -> None:
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert flow["permissions"] == {"contents": "read"}
    steps = flow["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert "PIP_TORCH" in flow["jobs"]["ci"]["env"] and "PIP_TORCH" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_versions_of_the_documentation_stand_side_by_side(tool: ModuleType, tmp_path: Path) -> None:
    built, site = tmp_path / "html", tmp_path / "site"
    built.mkdir()
    for name in ("0.9.0", "development", "0.10.0", "0.9.0"):
        (built / "index.html").write_text(f"docs of {name}")
        tool.publish(built, site, name)
    assert json.loads((site / "versions.json").read_text()) == {
        "latest": "0.10.0", "versions": ["0.10.0", "0.9.0", "development"],
    }  # fmt: skip
    assert (site / "0.9.0/index.html").read_text() == "docs of 0.9.0"
    assert 'url=0.10.0/"' in (site / "index.html").read_text()
    assert sorted(path.name for path in site.iterdir()) == ["0.10.0", "0.9.0", "development", "index.html", "versions.json"]


def test_what_is_no_documentation_or_no_name_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `make docs` first"):
        tool.publish(tmp_path, tmp_path / "site", "1.0")
    (tmp_path / "index.html").write_text("x")
    with pytest.raises(SystemExit, match="no name of a folder"):
        tool.publish(tmp_path, tmp_path / "site", "../1.0")


def test_the_policies_are_written_down() -> None:
    assert "## Versions and deprecation" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "## Reporting" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
