"""Every command of `anyorder` with its model on another device than the CPU."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer

from anyorder import demo, reproduce
from anyorder.cli import app
from anyorder.evaluation.structure import ESMFold
from commands import run
from on_device import DEVICE, DTYPE, REAL, gpu
from test_reproduce import tiny_reward
from tiny_zoo import save_tiny

COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WITHOUT_A_MODEL = {
    "fetch": "downloads files", "list": "prints names", "report": "reads saved results", "plot": "likewise",
    "serve": "answers until it is stopped: its engine decodes as `generate` does",
}  # fmt: skip
PUZZLE = "1.3.3..2.14.4..1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("zoo") / "tiny")


def settings(**values: object) -> list[str]:
    """`--set` of a recipe, cut short."""
    short = {"run.steps": 2, "run.batch_size": 4, "data.size": 8, "run.log_steps": 1} | values
    return [word for key, value in short.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


ARGUMENTS: dict[str, Callable[[Path, Path], list[object]]] = {
    "headroom": lambda model, out: ["headroom", "--model", model, "--steps", 2, "--limit", 2],
    "evaluate": lambda model, out: [
        "evaluate", "--model", model, "--orders", "confidence,policy+undo,policy~0.2,oracle", "--steps", "2,3", "--limit", 3,
        "--judge", "pseudo_likelihood:2", "--temperature", 0.7, "--json", out / "r.json", "--plot", out / "r.png",
        "--trajectories", out / "t.json", "--markdown", out / "r.md",
    ],
    "evaluate several times": lambda model, out: [
        "evaluate", "--model", model, "--orders", "random,policy", "--draws", 2, "--steps", 2, "--limit", 2,
    ],
    "pareto": lambda model, out: [
        "pareto", "--model", model, "--orders", "confidence@fixed:8,policy@threshold:0.5", "--blocks", "full,8", "--limit", 2,
        "--json", out / "p.json",
    ],
    "sample": lambda model, out: [
        "sample", PUZZLE, "--model", model, "--order", "policy+undo", "--number", 2, "--out", out / "s.safetensors",
        "--trajectories", out / "t.json",
    ],
    "problems": lambda model, out: ["problems", "--model", model, "--limit", 2, "--out", out / "p.jsonl"],
    "train a denoiser": lambda model, out: ["train", "sudoku4-denoiser", "--out", out / "d", *settings(optimizer__ema=0.9)],
    "train": lambda model, out: ["train", "sudoku4-order", "--out", out / "o", *settings(denoiser=model)],
    "train both": lambda model, out: [
        "train", "sudoku9-adaptive", "--out", out / "j", *settings(
            denoiser=model, train_denoiser="true", task__options="{box=2}", data__options="{givens=8,unique=false}",
            joint__decode_every=1, joint__decode_problems=2, joint__decode_steps=2)
    ],
    "train by reward": lambda model, out: [
        "train", "sudoku4-upo", "--out", out / "r", *settings(denoiser=model, run__batch_size=12, policy__width=8)
    ],
    "generate": lambda model, out: ["generate", "What is 123 + 456?", "--model", "words", "--steps", 2],
    "batch": lambda model, out: ["batch", _prompts(out), out / "answers", "--model", "words", "--steps", 2],
    "fold": lambda model, out: ["fold", _proteins(out), "--model", _esmfold(out), "--json", out / "f.json"],
}  # fmt: skip
SLOW: dict[str, Callable[[Path, Path], list[object]]] = {
    "demo": lambda model, out: ["demo", "--out", out / "demo", "--limit", 2],
    "fit": lambda model, out: [
        "fit", "--model", "moses", "--data", _molecules(out), "--out", out / "fit", "--steps", 3, "--updates", 2,
        "--train-batch-size", 4, "--samples", 2,
    ],
    "lm-eval": lambda model, out: ["lm-eval", "--tasks", _harness_task(out), "--model", "words", "--steps", 2],
    "reproduce": lambda model, out: [
        "reproduce", "upo-figure4", "--out", out / "r", "--seeds", "0", "--limit", 4, "--workers", 1,
    ],
}  # fmt: skip


def _molecules(out: Path) -> Path:
    pytest.importorskip("rdkit", reason="rdkit is not installed")
    (out / "m.smi").write_text("\n".join("C" * length + end for length in range(1, 7) for end in ("O", "N", "Cl", "Br")))
    return out / "m.smi"


def _prompts(out: Path) -> Path:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"prompt": ["What is 123 + 456?", "What is 45 + 678?"]}).to_parquet(out / "prompts.parquet")
    return out / "prompts.parquet"


def _harness_task(out: Path) -> Path:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from test_lm_eval import write_task

    return write_task(
        out, [{"question": "What is 123 + 456?", "answer": "579"}], doc_to_text="{{question}}", doc_to_target="{{answer}}",
        output_type="generate_until", metric_list=[{"metric": "exact_match"}],
    )  # fmt: skip


def _proteins(out: Path) -> Path:
    (out / "p.fasta").write_text(">a\nMKWYV\n>b\nACDEFG\n")
    return out / "p.fasta"


def _esmfold(out: Path) -> Path:
    from tiny_proteins import save_esmfold

    return save_esmfold(out / "esmfold")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(demo, "_FIT_STEPS", 2)
    monkeypatch.setattr(demo, "_STEPS", [2])
    monkeypatch.setattr(demo, "_MORE_STEPS", [3])
    monkeypatch.setitem(reproduce.SCALES["small"], "sudoku4", tiny_reward())
    with gpu():
        yield


def on_cpu(words: list[object]) -> list[object]:
    return [*words, "--model-option", "device=cpu"]


CASES = [*ARGUMENTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def test_no_command_is_forgotten() -> None:
    assert {name.split()[0] for name in (*ARGUMENTS, *SLOW)} | WITHOUT_A_MODEL.keys() == COMMANDS


@pytest.mark.parametrize("case", CASES)
def test_a_command_on_the_device(case: str, folder: Path, tmp_path: Path) -> None:
    words = (ARGUMENTS | SLOW)[case](folder, tmp_path)
    kind = str(DTYPE).removeprefix("torch.")
    dtype = ["--model-option", f"dtype={kind}"] if REAL and words[0] in ("headroom", "evaluate", "pareto", "sample") else []
    result = run(*map(str, [*words, *dtype]))
    wrong_sample = words[0] == "sample" and result.returncode == 1
    assert result.returncode == 0 or wrong_sample, result.stdout + result.stderr


@pytest.mark.parametrize("where", [DEVICE, "cpu"])
def test_a_structure_predictor_is_where_it_was_asked_to_be(where: str, tmp_path: Path) -> None:
    assert ESMFold(_esmfold(tmp_path), device=where)._load().device.type == torch.device(where).type


def test_fold_takes_a_device(tmp_path: Path) -> None:
    result = run("fold", str(_proteins(tmp_path)), "--model", str(tmp_path), "--device", "cuda:99")
    assert result.returncode == 2 and "device 'cuda:99' cannot be used here" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", ["headroom", "evaluate", "pareto", "sample"])
def test_what_it_prints_is_what_it_prints_on_the_cpu(case: str, folder: Path, tmp_path: Path) -> None:
    if REAL:
        pytest.skip("rounding may flip ties")
    found = run(*map(str, ARGUMENTS[case](folder, tmp_path)))
    expected = run(*map(str, on_cpu(ARGUMENTS[case](folder, tmp_path))))
    seconds = re.compile(r"\d+\.\d+ s|\d+ ms|\bIt took .* s: .*|\d+ \(\d+ %\)")  # and the shares of the stages
    assert seconds.sub("", found.stdout) == seconds.sub("", expected.stdout) != ""


def test_what_was_written_is_read(folder: Path, tmp_path: Path) -> None:
    run(*map(str, ARGUMENTS["evaluate"](folder, tmp_path)))
    assert json.loads((tmp_path / "r.json").read_text())["results"]
    for words in (["report", tmp_path / "r.json", "--out", tmp_path / "x.html"],
                  ["plot", "accuracy", tmp_path / "r.json", "--out", tmp_path / "x.png"], ["list", "denoisers"]):  # fmt: skip
        assert run(*map(str, words)).returncode == 0
