"""Proteins from end to end on tiny models of the true classes: denoisers, FASTA in and out, folding, the paper's targets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from anyorder import reproduce as package
from anyorder.cli.app import app
from anyorder.errors import BadInput
from anyorder.evaluation import structure
from anyorder.reproduce import SCALES, proteins, reproduce
from anyorder.reproduce.proteins import PAPER, ProteinSetting, mean_and_error
from anyorder.tasks import make_task
from anyorder.tasks.alphabets import AMINO_ACIDS, ESM, alphabet_of
from anyorder.tasks.sequence_files import design_names, read_sequences, write_fasta
from anyorder.tasks.sequences import Sequences
from anyorder.training.recipes import load_recipe
from anyorder.zoo import load_denoiser

pytest.importorskip("transformers")

from tiny_proteins import save_esm, save_esmfold


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny DPLM and a tiny ESMFold."""
    folder = tmp_path_factory.mktemp("models")
    return save_esm(folder / "dplm"), save_esmfold(folder / "esmfold")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYORDER_CACHE", str(tmp_path / "cache"))
    proteins._predictor.cache_clear()
    return tmp_path / "cache"


# ---- denoisers and files ------------------------------------------------------------------------------------------------


def test_a_folder_with_the_vocabulary_of_esm_is_the_alphabet_of_esm(models: tuple[Path, Path]) -> None:
    assert alphabet_of(str(models[0])) is ESM


def test_an_esm_denoiser_gives_amino_acids_and_nothing_else(models: tuple[Path, Path]) -> None:
    denoiser = load_denoiser(models[0])
    tokens = torch.tensor([[0, 32, 32, 2]])
    logits = denoiser(tokens).logits
    possible = {ESM.tokens[n] for n in torch.isfinite(logits[0, 1]).nonzero()[:, 0].tolist()}
    assert possible == set(AMINO_ACIDS)
    assert (denoiser.mask_token_id, denoiser.pad_token_id) == (32, 1)


def test_a_fasta_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = ["ACD" * 50, "MK", "L" * 60]
    names = design_names(texts, "policies/mine", 20, 3)
    assert names[0] == "policies_mine_T20_seed3_1 length=150"
    write_fasta(tmp_path / "a.fasta", list(zip(names, texts, strict=True)))
    assert max(len(line) for line in (tmp_path / "a.fasta").read_text().splitlines()) == 60
    read = list(read_sequences(tmp_path / "a.fasta"))
    assert [text for _, text in read] == texts
    assert read[1][0].startswith("policies_mine_T20_seed3_2 ")


def test_samples_are_written_as_fasta_and_folded(models: tuple[Path, Path], cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.fasta"
    command = ["sample", "9", "--task", "protein", "--model", str(models[0]), "--order", "margin", "--steps", "3"]
    result = CliRunner().invoke(app, [*command, "--number", "3", "--temperature", "1", "--seed", "4", "--fasta", str(out)])
    assert result.exit_code == 0, result.output
    made = [text for _, text in read_sequences(out)]
    assert [len(text) for text in made] == [9, 9, 9]
    assert out.read_text().startswith(">margin_T3_seed4_1 length=9\n")
    assert [line for line in result.stdout.splitlines() if set(line) <= set(AMINO_ACIDS)] == made
    scores = tmp_path / "scores.json"
    folded = CliRunner().invoke(app, ["fold", str(out), "--model", str(models[1]), "--device", "cpu", "--json", str(scores)])
    assert folded.exit_code == 0, folded.output
    report = json.loads(scores.read_text())
    assert [row["sequence"] for row in report["sequences"]] == made
    names = [f"margin_T3_seed4_{number}" for number in (1, 2, 3)]
    assert [row["name"] for row in report["sequences"]] == names, "as in the FASTA file, so that they can be joined"
    assert all(f" {name} " in folded.stdout for name in names)
    assert "line" not in folded.stdout
    assert report["summary"]["plddt"] == pytest.approx(np.mean([row["plddt"] for row in report["sequences"]]))
    assert not any(row["foldable"] for row in report["sequences"]), "a random model is sure of nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fold", "nothing.fasta"], "no such file: nothing.fasta"),
        (["fold", "empty.fasta"], "holds no sequences"),
        (["fold", "x.fasta", "--model", "nowhere"], "'X' at position 2"),
        (["fold", "good.fasta", "--model", "./nowhere"], "structure predictor ./nowhere cannot be loaded"),
        (["sample", "0" * 81, "--fasta", "a.fasta"], "--fasta is for sequences, not for sudoku"),
    ],
)
def test_bad_input_gets_one_clear_error(
    arguments: list[str], message: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty", ""), ("x", ">a\nAX\n"), ("good", ">a\nACD\n")):
        Path(f"{name}.fasta").write_text(text)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)
    assert not Path("a.fasta").exists()


# ---- recipes and targets ------------------------------------------------------------------------------------------------


def test_the_recipes_have_the_settings_that_the_paper_states() -> None:
    order = load_recipe("dplm150-order")
    joint = load_recipe("dplm150-adaptive", ["train_denoiser=true"])
    for recipe in (order, joint):
        assert recipe.kind == "order"
        assert (recipe.denoiser, recipe.policy.architecture, recipe.policy.width) == ("airkingbd/dplm_150m", "mlp", 128)
        assert (recipe.objective.name, recipe.objective.states) == ("order", "uniform")
        assert recipe.masking.time_weight
    assert joint.optimizer.lr * joint.joint.lr_scale == pytest.approx(4e-5)
    same = {"optimizer", "policy", "data", "run", "objective", "task"}
    assert order.model_dump(include=same) == load_recipe("dplm150-adaptive").model_dump(include=same)


def test_the_paper_scale_has_the_papers_lengths() -> None:
    assert PAPER.lengths == (100, 200, 300, 400, 500)
    assert PAPER.table2_lengths == (200, 300, 400, 500, 600, 700, 800)
    assert (PAPER.problems, PAPER.predictor) == (100, "facebook/esmfold_v1")
    assert SCALES["paper"]["protein"] == PAPER


@pytest.fixture
def tiny(models: tuple[Path, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProteinSetting:
    """The paper's study in small: the same recipes, on tiny models and a dozen short sequences."""
    rng = np.random.default_rng(0)
    fasta = tmp_path / "given.fasta"
    fasta.write_text("".join(f">s{n}\n{''.join(rng.choice(list(AMINO_ACIDS), 5 + n % 3))}\n" for n in range(12)))
    changes = (f"data.file={fasta}", "run.steps=2", "run.batch_size=4", "policy.width=8", "task.options={length=12}")
    setting = replace(
        PAPER, denoiser=str(models[0]), predictor=str(models[1]), problems=3, steps=4, lengths=(5, 7),
        table2_lengths=(7, 8), options={"length": 12}, policy_changes=changes, joint_changes=changes,
    )  # fmt: skip
    monkeypatch.setitem(package.SCALES, "paper", {"protein": setting})
    return setting


@pytest.mark.parametrize("target", proteins.TARGETS)
def test_every_target_runs_and_is_not_done_twice(
    target: str, tiny: ProteinSetting, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proteins, "_has_tm_align", lambda: True)
    monkeypatch.setattr(proteins, "mean_tm", lambda folded: np.linspace(0.2, 0.4, len(folded)))
    monkeypatch.setattr(proteins.published, "DPLM_150M_PLDDT", {5: 73.31})
    out = tmp_path / "out"
    outcome = reproduce(target, "paper", out, seeds=[0, 1], workers=1, say=lambda _: None)
    written = (out / f"{target}.md").read_text()
    assert outcome.markdown in written
    assert "nan" not in written
    published = {"table1-proteins": "84.94 ± 1.00", "table2": "86.43", "figure1": "73.31"}[target]
    assert published in written, "published figures stand beside ours"
    values = json.loads((out / f"{target}.json").read_text())["values"]
    assert values
    assert (out / f"{target}.png").exists() == (target == "figure1")
    if target == "figure1":
        assert values["joint inner-TM policy"] == pytest.approx([0.3, 0.3])
    kept = {p: p.stat().st_mtime_ns for f in (out, cache) for p in f.rglob("*") if p.is_file() and p.parent != out}
    assert sum(path.suffix == ".fasta" for path in kept) >= 6
    monkeypatch.setattr(structure.ESMFold, "_predict", lambda *_: pytest.fail("folded twice"))
    proteins._predictor.cache_clear()
    again = reproduce(target, "paper", out, seeds=[0, 1], workers=1, say=lambda _: None)
    assert again.values == outcome.values
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_figure_1_without_the_extra_says_what_it_leaves_out(
    tiny: ProteinSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proteins, "_has_tm_align", lambda: False)
    outcome = reproduce("figure1", "paper", tmp_path / "out", seeds=[0], workers=1, say=lambda _: None)
    assert "joint: inner-TM** is left out: it needs `pip install 'anyorder[tm]'`" in outcome.markdown
    assert list(outcome.lines) == ["policy-only: pLDDT", "joint: pLDDT"]


def test_seeds_and_lengths_draw_different_sequences(tiny: ProteinSetting, tmp_path: Path) -> None:
    study = proteins.ProteinStudy(tmp_path / "out")
    for length, seed in ((7, 0), (7, 1), (8, 0)):
        study.decode(proteins.Design(tiny, "frozen", ("confidence",), 4, length=length, seed=seed))
    made = [tuple(text for _, text in read_sequences(path)) for path in (tmp_path / "out").rglob("*.fasta")]
    assert len({tuple(text[:7] for text in texts) for texts in made}) == len(made) == 3


def test_scores_of_a_set_by_hand() -> None:
    folded = [structure.Structure(text, 90, 0, 0.8, 5, []) for text in ("AACC", "AACC", "AADD")]
    found = proteins._scores(folded, ["AACC", "AACC", "AADD"])
    assert found["foldable"] == [100.0] * 3
    assert found["entropy of a sequence"] == [1.0] * 3
    assert found["entropy of the set"][0] == pytest.approx(-(0.5 * np.log2(0.5) + np.log2(1 / 3) / 3 + np.log2(1 / 6) / 6))
    assert np.mean(found["diversity"]) == pytest.approx(100 * (0 + 0.5 + 0.5) / 3)


def test_the_error_of_a_mean_over_strata_by_hand() -> None:
    values = np.array([[[1.0, 3.0], [10.0, 10.0]]])
    mean, error = mean_and_error(values)
    assert mean == 6.0
    assert error == pytest.approx(0.5)
    assert mean_and_error(values[..., :1])[1] == np.inf


def test_what_is_missing_is_said_before_anything_is_computed(
    tiny: ProteinSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for change, message in (
        ({"denoiser": str(tmp_path / "no-dplm")}, "protein targets need the weights of .*no-dplm"),
        ({"predictor": str(tmp_path / "no-fold")}, "protein targets need the weights of .*no-fold"),
        ({"joint_changes": ("data.file=mine.fasta",)}, "sequences that you give, .* as mine.fasta"),
    ):
        monkeypatch.setitem(package.SCALES, "paper", {"protein": replace(tiny, **change)})
        proteins._predictor.cache_clear()
        with pytest.raises(BadInput, match=message):
            reproduce("table2", "paper", out, seeds=[0], workers=1, say=lambda _: None)
    assert not out.exists()


def test_the_task_of_the_study_takes_its_lengths() -> None:
    task = make_task(PAPER.task, **PAPER.options)
    assert isinstance(task, Sequences)
    assert max(*PAPER.lengths, *PAPER.table2_lengths) <= task.most
