"""`anyorder fit`, end to end on a tiny BERT over amino acids: comparison, fit, card; and what is refused."""

import gzip
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from rich.console import Console

import anyorder
from anyorder.cli import app
from anyorder.errors import BadCheckpoint, BadInput
from anyorder.fitting import FitSettings, fit_and_compare
from anyorder.fitting.card import command
from anyorder.fitting.data import _serves, prepare
from anyorder.tasks.alphabets import AMINO_ACIDS
from anyorder.zoo import load_denoiser, load_order

transformers = pytest.importorskip("transformers")

from commands import run  # noqa: E402
from tiny_proteins import save_esm  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with AntiBERTy's vocabulary, as a folder of the hub."""
    return _save_bert(tmp_path_factory.mktemp("models") / "tiny", "")


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose vocabulary is not that of proteins alone, so that it does not say what it is for."""
    return _save_bert(tmp_path_factory.mktemp("models") / "characters", "=#")


def _save_bert(folder: Path, more: str) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=25 + len(more), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS, *more]) + "\n")
    return folder


@pytest.fixture(scope="module")
def esm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_esm(tmp_path_factory.mktemp("models") / "esm")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "some.fasta"
    path.write_text("".join(f">s{n}\n{''.join(rng.choice(list(AMINO_ACIDS), rng.integers(6, 12)))}\n" for n in range(30)))
    return path


SOME = "".join(f">s{n}\nACD{'ACDEFGHIKL'[n]}\n" for n in range(10))


def settings(model: Path, data: Path, **changes: object) -> FitSettings:
    small = {"model": str(model), "data": data, "steps": 3, "updates": 3, "train_batch_size": 4, "batch_size": 4, "samples": 4}
    return FitSettings(**small | changes)  # type: ignore[arg-type]


def test_the_whole_story_leaves_a_policy_a_report_and_a_card(model: Path, data: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    found = fit_and_compare(settings(model, data), tmp_path / "out", console)
    said = console.export_text()
    assert list(found.seconds) == ["problems", "heuristics", "fit", "choice", "test", "unconditional generation"]
    assert "It took" in said and all(spent > 0 for spent in found.seconds.values())
    for part in ("1. Heuristics", "Fit an order", "Chosen:", "The oracle order", "Advice: use", "Unconditional generation"):
        assert part in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {r["order"] for r in report["test"]["results"]} >= {"policy", "oracle"}
    assert {r["order"] for r in report["heuristics"]["results"]} >= {"confidence@threshold:0.9", "oracle", "left_to_right"}
    assert all("unique" in r["measures"] for r in report["unconditional"]["results"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name:")
    assert "fitted to 24 problems of some.fasta" in card
    assert "The fit took" in card
    assert "nan" not in card
    order = load_order(tmp_path / "out", load_denoiser(model))
    assert order.policy.config()["architecture"] == "mlp"
    denoiser = load_denoiser(model)
    problem = anyorder.task_for(denoiser, "protein").parse("AC___").tokens
    tokens = anyorder.decode(denoiser, problem, tmp_path / "out" / "sampler").tokens
    assert not (tokens == denoiser.mask_token_id).any()


def test_the_folder_of_another_fit_is_refused_before_the_work(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_and_compare(settings(model, data, samples=0), tmp_path / "out", Console(quiet=True))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr("anyorder.fitting.evaluate", lambda *_, **__: pytest.fail("the work has begun"))
    for changes, message in (
        ({"seed": 1}, r"other settings \(.*seed"),
        ({"updates": 2}, "run of 3 steps, more than 2"),
    ):
        with pytest.raises(BadInput, match=message):
            fit_and_compare(settings(model, data, samples=0, **changes), tmp_path / "out", Console(quiet=True))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_the_task_follows_from_the_data(model: Path, data: Path, tmp_path: Path) -> None:
    fit_and_compare(settings(model, data, samples=0), tmp_path / "out", Console(quiet=True))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["about"]["task"]["name"] == "protein"


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (">a\nACD\n>b\nACE\n", {}, "holds 2 different sequences; a fit needs 10"),
        ("".join(f">s{n}\nACD{'ACDEFGHIKL'[n]}X\n" for n in range(10)), {}, r"a\.fasta, s0 \(line 1\): 'X' at position 5"),
        (
            "".join(f">s{n}\nACD{'ACDEFGHIKL'[n]}_\n" for n in range(10)),
            {},
            r"a\.fasta, s0 \(line 1\): it has unknown symbols, the first is number 5; .*--skip-unreadable",
        ),
        (f"{SOME}>s10\n>s11\nACD\n", {}, r"a\.fasta, s10 \(line 21\): it is empty .*--skip-unreadable"),
        (">a\nX\n>b\nA_\n", {"skip_unreadable": True}, "holds 0 different sequences that the model can read; a fit needs 10"),
        (
            "".join(f">s{n}\n{'ACD' * 20}{'ACDEFGHIKL'[n]}\n" for n in range(10)),
            {},
            r"a\.fasta, s0 \(line 1\): it has 61 symbols; this model takes 38",
        ),
        ("", {"task": "sudoku"}, "the task sudoku and the denoiser disagree"),
        (SOME, {"generate": ("givens=3",)}, "--generate is for problems that are generated"),
        ("", {"architecture": "huge"}, "'huge' is unknown"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    model: Path, tmp_path: Path, text: str, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "a.fasta").write_text(text)
    with pytest.raises(BadInput, match=message):
        fit_and_compare(settings(model, tmp_path / "a.fasta", **changes), tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_the_accuracy_of_symbols_comes_first_in_the_tables_of_in_filling(model: Path, data: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    fit_and_compare(settings(model, data, steps=None, samples=0), tmp_path / "out", console)
    header = next(line for line in console.export_text().splitlines() if "order" in line and "NFE" in line)
    assert header.index("cell accuracy") < header.index("95 %") < header.index("complete")


def test_other_residues_are_context_of_a_fit(esm: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text("".join(f">s{n}\nAXbC-D{'ACDEFGHIKL'[n]}*\n" for n in range(10)) + ">again\nAXBCDA\n")
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    bench = prepare(settings(esm, path), console)
    assert "1 of 11 sequences are repeated" in console.export_text()
    assert bench.train.x0 is not None and all(text.startswith("AXBCD") for text in bench.task.decode(bench.train.x0))
    assert not bench.train.maskable[:, 2:4].any(), "X and B are given"
    fit_and_compare(settings(esm, path, samples=0), tmp_path / "out", Console(quiet=True))
    assert "nan" not in (tmp_path / "out" / "README.md").read_text()


def test_what_the_model_cannot_read_is_left_out_when_asked(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(f"{SOME}>x\nACX\n>u\nAC_\n>long\n{'A' * 39}\n>empty\n>again\nACDA\n")
    console = Console(record=True, width=80, file=open("/dev/null", "w"))  # noqa: SIM115
    asked = settings(model, tmp_path / "a.fasta", skip_unreadable=True)
    bench = prepare(asked, console)
    sets = [bench.task.decode(part.x0) for part in (bench.train, bench.validation, bench.test)]
    assert sorted(text for part in sets for text in part) == sorted(f"ACD{letter}" for letter in "ACDEFGHIKL")
    said = console.export_text()
    assert "4 left out because they cannot be read" in said
    assert "1 of 15 sequences are repeated in the file and used once" in said
    assert "a.fasta, x (line 21): 'X' at position 3" in said
    with pytest.raises(BadInput, match=r"x \(line 21\).*--skip-unreadable"):
        prepare(replace(asked, skip_unreadable=False), console)


@pytest.mark.parametrize(
    ("name", "text", "model_is", "task"),
    [
        ("a.csv", "sequence\n{}", "esm", "protein"),
        ("a.txt", "{}", "esm", "protein"),
        ("a.smi", "{}", "esm", "protein"),
        ("a.smi", "{}", "residues", "protein"),
        ("a.csv", "SMILES\n{}", "bert", "molecules"),
        ("a.csv", "sequence\n{}", "bert", "text"),
        ("a.fasta", ">a\n{}", "bert", "protein"),
        ("a.fa.gz", ">a\n{}", "bert", "protein"),
        ("a.txt", "{}", "bert", "text"),
    ],
)
def test_the_model_says_first_what_task_it_serves_then_the_column_then_the_suffix(
    name: str, text: str, model_is: str, task: str, model: Path, esm: Path, characters: Path, tmp_path: Path
) -> None:
    source = {"esm": esm, "residues": model, "bert": characters}[model_is]
    path = tmp_path / name
    head, _, _ = text.partition("{}")
    rows = [f"CC{letter}" for letter in AMINO_ACIDS]
    lines = "".join(f"{head}{row}\n" for row in rows) if head == ">a\n" else head + "".join(f"{row}\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    assert prepare(settings(source, path), Console(quiet=True)).task.name == task


def test_a_known_model_is_not_taken_for_any_model_of_proteins(model: Path) -> None:
    assert _serves("antiberty", load_denoiser(model)) == "antibody"  # `model` has AntiBERTy's vocabulary


def test_the_command_on_the_card_makes_the_same_fit_again(model: Path, data: Path) -> None:
    used = settings(
        model, data, steps=7, updates=9, train_batch_size=3, hide=0.25, samples=2, architecture="lookahead", seed=5,
        column="my column", skip_unreadable=True, trust_remote_code=True, model_options=("dtype=bfloat16", "revision=abc"),
    )  # fmt: skip
    for asked in (used, settings(model, data), settings(model, data, steps=None)):
        words = shlex.split(command(asked, "protein"))
        with typer.main.get_command(app).commands["fit"].make_context("fit", words[2:]) as context:  # type: ignore[attr-defined]
            given = dict(context.params)
        for name in ("model_options", "generate"):
            given[name] = tuple(given[name] or ())
        wanted = asdict(asked) | {"data": Path(data.name), "task": "protein", "steps": str(asked.steps or "all")}
        assert {key: given[key] for key in wanted} == wanted


def test_the_sample_command_on_the_card_names_the_sampler(model: Path, data: Path, tmp_path: Path) -> None:
    fit_and_compare(settings(model, data, samples=0), tmp_path / "out", Console(quiet=True))
    text = (tmp_path / "out" / "README.md").read_text()
    words = re.findall(r"^anyorder sample (.*)$", text, re.MULTILINE)[0].replace("THIS_FOLDER", str(tmp_path / "out"))
    result = run("sample", *shlex.split(words.replace("PROBLEM", "AC___")))
    assert result.returncode == 0 and re.fullmatch(r"AC[A-Z]{3}", result.stdout.strip().splitlines()[-1]), result.stdout


def test_a_model_that_does_not_fit_the_alphabet_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    from anyorder.zoo.matching import task_for

    denoiser = load_denoiser(model)
    with pytest.raises(BadInput, match=r"vocabulary size 33 of the task against 25 .*; mask token 32 of the task against 4"):
        task_for(denoiser, "protein", alphabet="esm")
    with pytest.raises(BadInput, match="the task sudoku and the denoiser disagree: vocabulary size 10 of the task against 25"):
        task_for(denoiser, "sudoku")


def test_sequences_are_no_longer_than_the_model(model: Path) -> None:
    from anyorder.zoo.matching import task_for

    denoiser = load_denoiser(model)
    task = task_for(denoiser, "protein")
    assert task.length == 40
    with pytest.raises(BadInput, match="takes 38 symbols at most, not 50"):
        task_for(denoiser, "protein", length=50)
    with pytest.raises(BadInput, match="has 39 symbols; this task takes 38"):
        task.parse("_{39}")


def test_a_denoiser_of_sequences_serves_other_problems_that_it_can_solve(tmp_path: Path) -> None:
    from anyorder.denoisers.classes import make_denoiser
    from anyorder.tasks import make_task
    from anyorder.zoo.matching import task_for

    denoiser = make_denoiser("structured", make_task("text", length=20), {"width": 8, "layers": 1, "positions": True})
    denoiser.save_pretrained(tmp_path)
    (tmp_path / "task.json").write_text(json.dumps({"name": "text", "options": {"length": 20}}))
    denoiser = load_denoiser(tmp_path)
    assert task_for(denoiser, length=10, hide=0.5).length == 12
    for options, message in (
        ({"length": 30}, "takes 20 symbols at most, not 30"),
        ({"alphabet": "esm"}, "the alphabet esm has 33 tokens with mask 32, the denoiser"),
        ({"free_length": True}, "trained at given lengths"),
    ):
        with pytest.raises(BadInput, match=message):
            task_for(denoiser, "text", **options)


def test_positions_of_esm_begin_after_its_padding() -> None:
    from anyorder.denoisers.huggingface import HuggingFaceDenoiser

    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=1026, pad_token_id=1, mask_token_id=32, position_embedding_type="absolute",
    )  # fmt: skip
    denoiser = HuggingFaceDenoiser(transformers.EsmForMaskedLM(config), 32, [0, 1, 2], pad_token_id=1).eval()
    assert denoiser.max_length == 1024
    tokens = torch.full((1, 1024), 32)
    assert denoiser(tokens, None, tokens == 32).logits.shape == (1024, 33)


def test_weights_that_are_cut_off_are_named(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:500])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors is damaged or was cut off"):
        load_denoiser(tmp_path)


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS]) + "\n")
    with pytest.raises(BadInput, match="has no weights for cls"):
        load_denoiser(tmp_path)
