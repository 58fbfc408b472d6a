"""The commands, as a newcomer types them: what comes out, and what happens on bad input."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import typer
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.cli.command import LISTS
from anyorder.cli.listing import KINDS, rows_of
from anyorder.registry import CACHES, COUNT_RULES, JUDGES, ORDERS, REMASKERS, TASKS
from anyorder.zoo import folder_of, zoo_names
from commands import refused, run, run_apart
from conftest import shared_file

PUZZLE = "080050060460907108005000029970006500000872031300049000004025003010000480603100007"
HARD = "083020090000800100029300008000098700070000060006740000300006980002005000010030540"
SOLVED = "789251364462937158135468729978316542546872931321549876894725613217693485653184297"


def test_help_and_list() -> None:
    text = run_apart("--help")
    assert text.returncode == 0
    for name in ("demo", "train", "evaluate", "sample", "headroom", "list"):
        assert name in text.stdout
    listed = run("list").stdout
    for name in ("sudoku9", "confidence", "oracle", "policy", "sudoku9-order", "threshold"):
        assert name in listed


GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]
OWN_MEANING = {
    "--out": "what is written, and its default, is each command's own",
    "fit --model": "required",
    "fit --data": "required; complete sequences",
    "fit --task": "a task of sequences, which the file may tell",
    "fold --model": "the model that folds, not a denoiser",
    "demo --seed": "other puzzles each time by default",
    **{f"{name} --steps": "a saved sampler has a budget of its own" for name in ("sample", "generate", "batch", "lm-eval")},
    "serve --order": "what requests may name, several",
    "batch --workers": "actors of Ray, on many machines",
}
"""Options, or those of one command, that are not the shared ones, and why."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_without_a_placeholder(name: str) -> None:
    shown = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    texts = [COMMANDS[name].help, *(parameter.help for parameter in COMMANDS[name].params)]
    placeholders = {word for text in texts for word in re.findall(r"\{\w+\}", text or "")}
    assert placeholders <= {f"{{{word}}}" for word in LISTS}
    body = shown.output.partition("Usage")[2].partition("\n")[2]  # which writes arguments as {problem}
    assert not re.findall(r"\{\w+\}", body)
    assert all(parameter.help for parameter in COMMANDS[name].params), "every argument and option is explained"


def test_help_shows_brackets_and_every_registered_name() -> None:
    shown = " ".join(CliRunner(env={"COLUMNS": "1000"}).invoke(app, ["evaluate", "--help"]).output.split())
    assert "ORDER[~SIGMA][+REMASKER][@blocks:LENGTH][@cache:CACHE][@refresh:WHEN][@COUNT]" in shown
    for parts in (ORDERS, COUNT_RULES, REMASKERS, CACHES, TASKS, JUDGES):
        for name in parts.names():
            assert parts.usage(name) in shown


def test_an_option_has_one_default_and_one_help_in_every_command() -> None:
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            option = max(parameter.opts, key=len)
            if parameter.param_type_name == "option" and not {option, f"{name} {option}"} & OWN_MEANING.keys():
                found.setdefault(option, {}).setdefault((repr(parameter.default), parameter.help), []).append(name)
    assert {"--model", "--steps", "--limit", "--seed"} <= found.keys()
    assert {option: list(ways.values()) for option, ways in found.items() if len(ways) > 1} == {}


def test_set_is_a_key_of_a_recipe_and_nothing_else() -> None:
    assert [name for name, c in COMMANDS.items() if any("--set" in p.opts for p in c.params)] == ["train"]


def test_the_commands_are_those_of_the_docs() -> None:
    table = (Path(__file__).parents[1] / "docs/commands.md").read_text(encoding="utf-8")
    assert sorted(COMMANDS) == sorted(re.findall(r"^\| `anyorder ([\w-]+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize("kind", KINDS)
def test_list_prints_one_kind(kind: str) -> None:
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["list", kind])
    assert shown.exit_code == 0 and len(shown.output.splitlines()) >= len(list(rows_of(kind))) > 0
    assert len({line.split("  ")[0] for line in shown.output.splitlines() if not line.startswith("   ")}) == 1


def test_list_describes_each_part_in_a_full_sentence() -> None:
    for kind, name, help_ in rows_of(None):
        assert help_, f"{kind} {name} says nothing of itself"
        assert not re.search(r"\b(eq|al|fig|e\.g)\.$", help_), f"{kind} {name}: {help_}"


def test_evaluate_prints_pass_at_n_of_the_same_samplers(tmp_path: Path) -> None:
    result = run(
        "evaluate", "--model", "sudoku4", "--orders", "random,confidence@threshold:0.9", "--draws", "3", "--steps", "all",
        "--limit", "4", "--generate", "givens=6", "--json", tmp_path / "p.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Pass@1" in result.stdout and "Pass@3" in result.stdout
    found = json.loads((tmp_path / "p.json").read_text())["results"]
    assert [(r["order"], r["draws"]) for r in found] == [("random", 3), ("confidence@threshold:0.9", 3)]


@pytest.mark.parametrize("how", [run, run_apart])
def test_sample_solves_a_puzzle(how: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = how("sample", PUZZLE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == SOLVED
    assert "instance accuracy: 1 of 1" in result.stderr


def test_sample_reads_a_file_and_exits_with_1_if_a_sample_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"puzzle\n{PUZZLE}\n{PUZZLE}\n")
    result = run("sample", tmp_path / "p.csv", "--out", tmp_path / "out.safetensors", "--order", "confidence")
    assert result.stdout.splitlines() == [SOLVED, SOLVED]
    assert (tmp_path / "out.safetensors").exists()
    wrong = run("sample", HARD, "--order", "random", "--steps", "1")
    assert wrong.returncode == 1
    assert "instance accuracy: 0 of 1" in wrong.stderr


def test_sample_says_which_problems_failed_however_many_samples_each_has(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"puzzle\n{PUZZLE}\n{HARD}\n{HARD}\n")
    arguments = ("sample", tmp_path / "p.csv", "--order", "confidence", "--steps", "2", "--number", "2")
    result = run(*arguments)
    assert result.returncode == 1 and len(result.stdout.split()) == 6
    assert "failed: problems" in result.stderr and result.stderr.strip().endswith("2, 3")
    one = run("sample", HARD, "--order", "random", "--steps", "1")
    assert one.stderr.strip().endswith("failed: problem 1")


def test_a_warning_is_one_line_without_a_place_in_the_code() -> None:
    result = run("sample", SOLVED)
    assert result.stdout.split() == [SOLVED]
    assert result.stderr.startswith("warning: nothing to decode")


def test_sample_solves_a_formula() -> None:
    result = run("sample", "--task", "sat", "--order", "confidence", "1,2,3/-1,2,3")
    refused(result, "2 clauses; the task is set up for 51")


def test_evaluate_writes_the_report_the_tables_and_the_plot(tmp_path: Path) -> None:
    result = run(
        "evaluate", "--task", "sudoku", "--orders", "confidence,policy,policy+undo,oracle", "--steps", "5", "--limit", "12",
        "--generate", "givens=36", "--json", tmp_path / "r.json", "--plot", tmp_path / "p.png", "--markdown", tmp_path / "t.md",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "r.json").read_text())
    assert [r["order"] for r in values["results"]] == ["confidence", "policy", "policy+undo", "oracle"]
    assert values["meta"]["denoiser"] == "sudoku9"
    assert (tmp_path / "p.png").exists()
    assert "| policy |" in (tmp_path / "t.md").read_text()


def test_evaluate_reads_published_files_and_finds_the_denoiser(tmp_path: Path) -> None:
    for task, name, denoiser in (("sudoku", "sudoku4/d1_test.csv", "sudoku4"), ("sat", "sat/3sat9_test.jsonl", "sat9")):
        result = run("evaluate", "--task", task, "--data", shared_file(name), "--orders", "confidence,policy", "--steps", "4",
                     "--limit", "8", "--json", tmp_path / "r.json")  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert json.loads((tmp_path / "r.json").read_text())["meta"]["denoiser"] == denoiser


def test_headroom_says_which_case_this_is() -> None:
    result = run("headroom", "--limit", "10", "--steps", "4", "--generate", "givens=33")
    assert result.returncode == 0, result.stderr
    for words in (
        "oracle",
        "expected calibration error",
        "The best heuristic is",
        "The oracle order, which reads the stored solution, is",
        "Advice: use",
    ):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", PUZZLE[:-1]], "has 81 characters; this one has 80"),
        (["sample", PUZZLE[:-1] + "x"], "character 'x' at row 9, column 9"),
        (["sample", "123456780000000009" + "0" * 63], "no solution"),
        (["sample", "--task", "chess", PUZZLE], "task 'chess' is unknown: use one of"),
        (["sample", "--task", "sat", "1,2,99" + "/1,2,3" * 50], "variables run from 1 to 9"),
        (["sample", "--order", "best", PUZZLE], "order 'best' is unknown"),
        (["sample", "--steps", "none", PUZZLE], "must be numbers"),
        (["sample", "--steps", "0", PUZZLE], "at least one forward pass is needed"),
        (["sample", "--model", "gpt-5", PUZZLE], "no denoiser called 'gpt-5'"),
        (["evaluate", "--data", "missing.csv"], "no such file"),
        (["evaluate", "--generate", "givens=99", "--limit", "2"], "givens 99 must lie between"),
        (
            ["evaluate", "--generate", "color=red", "--limit", "2"],
            "the generator of sudoku does not take 'color': it takes givens",
        ),
        (["evaluate", "--noise=-1", "--limit", "2"], "a scale must be 0 or more"),
        (["evaluate", "--generate", "givens=abc", "--limit", "2"], "must be a number, or a range"),
        (["evaluate", "--generate", "givens=true", "--limit", "2"], "givens True must be a number, or a range"),
        (["evaluate", "--orders", ",", "--limit", "2"], "name at least one order"),
        (["evaluate", "--count", "some", "--limit", "2"], "count rule 'some' is unknown"),
        (["evaluate", "--against", "margin", "--orders", "confidence", "--limit", "2"], "not among the samplers"),
        (["evaluate", "--task", "sat", "--task-option", "variables=7", "--limit", "2"], "no denoiser is shipped"),
        (["evaluate", "--task", "sat", "--generate", "clauses=3", "--limit", "2"], "'clauses': it takes no options"),
        (["evaluate", "--draws", "2", "--steps", "5,10", "--limit", "2"], "this command takes one budget"),
        (["headroom", "--steps", "5,10", "--limit", "2"], "this command takes one budget"),
        (["sample", "--noise", "0,1", PUZZLE], "this command takes one scale"),
        (["sample", "nosuch.txt"], "no such file: nosuch.txt"),
        (["sample", "/tmp"], "/tmp is a folder: give a file of problems, or one problem as text"),
        (["sample", " "], "the problem is empty"),
        (["evaluate", "--data", "/tmp"], "/tmp is a folder: give a file of problems"),
        (["sample", "1,-2,3/-1,2,3"], "this one has 9; without --task and --model it is read as sudoku"),
        (["list", "models"], "there is nothing called 'models' to list: use one of denoisers, orders"),
        (["fetch", "everything"], "'everything' cannot be fetched: use one of"),
        (["train", "nope"], "no recipe called 'nope'"),
        (["train", "sudoku4-denoiser", "--set", "run.stepz=1"], "unknown key 'run.stepz'"),
        (["train", "sudoku4-denoiser", "--set", "run.steps=soon"], "'run.steps' is 'soon'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    refused(run(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_and_commands_are_usage_errors() -> None:
    result = run("evaluate", "--colr", "red")
    assert result.returncode == 2
    assert "No such option" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_policy_of_another_denoiser_is_refused_unless_one_insists(tmp_path: Path) -> None:
    shutil.copytree(folder_of("sudoku9"), tmp_path / "other")
    weights = safetensors.torch.load_file(tmp_path / "other" / "model.safetensors")
    weights["head.bias"] += 0.01
    safetensors.torch.save_file(weights, tmp_path / "other" / "model.safetensors")
    arguments = ["sample", PUZZLE, "--model", tmp_path / "other"]
    refused(run(*arguments), "was fitted to the denoiser")
    insisted = run(*arguments, "--ignore-fingerprint")
    assert "was fitted to the denoiser" in insisted.stderr
    assert insisted.stdout.strip() == SOLVED


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(folder_of("sudoku9"), tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    refused(run("sample", PUZZLE, "--model", tmp_path / "cut"), "model.safetensors is damaged or was cut off")


def test_nothing_is_half_written_where_nothing_can_be_written() -> None:
    result = run("evaluate", "--orders", "confidence", "--steps", "1", "--limit", "1", "--json", "/proc/none/r.json")
    refused(result, "cannot write /proc/none/r.json")


def test_every_shipped_denoiser_has_a_card_and_a_fitting_order() -> None:
    assert {"sudoku9", "sudoku4", "sat9"} <= set(zoo_names())
    for name in zoo_names():
        folder = folder_of(name)
        card = (folder / "README.md").read_text()
        assert "anyorder train" in card
        assert (folder / "model.safetensors").stat().st_size < 16e6


def test_a_reader_that_goes_away_and_a_full_device_are_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anyorder", "sample", PUZZLE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() in (1, 141)
    assert "Traceback" not in said
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            result = subprocess.run([*command[:3], "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 2
        assert "No space left on device" in result.stderr
        assert "Traceback" not in result.stderr
