"""`anyorder --version -v`: what a bug report needs, and nothing private."""

import getpass
import platform
from importlib import metadata
from pathlib import Path

import pytest

import anyorder
import commands
from anyorder.cli.about import about, extras


@pytest.mark.parametrize("words", [("--version", "-v"), ("-v", "--version")])
def test_versions_devices_and_extras_are_printed_in_either_order(words: tuple[str, str]) -> None:
    said = commands.run(*words)
    assert said.returncode == 0 and said.stderr == ""
    lines = said.stdout.splitlines()
    assert lines == about()
    assert lines[0] == f"anyorder {anyorder.__version__}"
    assert lines[1] == f"python: {platform.python_implementation()} {platform.python_version()}"
    assert f"torch {metadata.version('torch')}" in lines[3]
    assert lines[4].startswith("devices: ")


def test_nothing_private_is_in_it() -> None:
    text = "\n".join(about())
    assert "/" not in text.replace("GNU/Linux", "")
    assert str(Path.home()) not in text and platform.node() not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_extras_are_those_of_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ['torch>=2.9', 'rich>=13; extra == "one"', "not-there[more]>=1; extra == 'two'", 'anyorder[one]; extra == "two"',
              'pytest; extra == "dev"', 'numpy>=2; python_version > "3" and extra == "two"']  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    found = extras()
    assert found == {"one": f"rich {metadata.version('rich')}", "two": f"not-there missing, numpy {metadata.version('numpy')}"}
    monkeypatch.setattr(metadata, "requires", lambda name: None)
    assert extras() == {}

    def nothing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)  # a checkout that is not installed
    assert extras() == {} and commands.run("--version", "-v").returncode == 0


def test_version_alone_is_one_word_and_v_alone_is_refused() -> None:
    assert commands.run("--version").stdout == f"{anyorder.__version__}\n"
    commands.refused(commands.run("-v", "list"), "-v goes with --version")
