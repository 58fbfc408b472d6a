"""Structure scores: worked out by hand, by a tiny ESMFold, kept in the cache; and as judges of samples."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.errors import AnyorderError, BadInput
from anyorder.evaluation import structure
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.judges import make_judges
from anyorder.evaluation.structure import (
    ESMFold,
    Structure,
    mean_tm,
    predicted_tm,
    structure_judges,
    structure_summary,
    structures_of,
)
from anyorder.tasks import make_task

transformers = pytest.importorskip("transformers")

from tiny_proteins import save_esm, save_esmfold  # noqa: E402

SEQUENCES = ["ACDEFGHIKL", "LLLLLLLLLL", "MKWYV"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_esmfold(tmp_path_factory.mktemp("fold") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYORDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbers(found: list[Structure]) -> np.ndarray:
    return np.array([[s.plddt, s.plddt_ca, s.ptm, s.pae, *np.ravel(s.alpha_carbons)[:3]] for s in found])


@pytest.mark.parametrize(
    ("plddt", "ptm", "pae", "foldable"),
    [(80.1, 0.71, 9.9, True), (80.0, 0.9, 5, False), (90, 0.7, 5, False), (90, 0.9, 10.0, False), (79, 0.9, 5, False)],
)
def test_foldable_means_strictly_better_than_all_three_thresholds(plddt: float, ptm: float, pae: float, foldable: bool) -> None:
    assert Structure("A", plddt, plddt, ptm, pae, [[0.0, 0.0, 0.0]]).foldable is foldable


def test_scores_by_hand() -> None:
    """Two residues, of which the first has one atom and the second two; all aligned errors in one bin."""
    exists = torch.zeros(1, 2, 37)
    exists[0, 0, 1] = exists[0, 1, 1] = exists[0, 1, 4] = 1
    plddt = torch.zeros(1, 2, 37)
    plddt[0, 0, 1], plddt[0, 1, 1], plddt[0, 1, 4] = 0.9, 0.6, 0.3
    probs = torch.zeros(1, 2, 2, 64)
    probs[..., 3] = 1  # 1.75 Angstrom
    positions = torch.arange(2 * 14 * 3).float().view(1, 1, 2, 14, 3)
    output = SimpleNamespace(
        plddt=plddt, atom37_atom_exists=exists, aligned_confidence_probs=probs, positions=positions,
        predicted_aligned_error=torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]),
    )  # fmt: skip
    (found,) = structures_of(["AC"], output)
    assert found.plddt == pytest.approx(60.0)
    assert found.plddt_ca == pytest.approx(75.0)
    assert found.pae == pytest.approx(3.0)
    d0 = 1.24 * 4 ** (1 / 3) - 1.8
    assert found.ptm == pytest.approx(1 / (1 + (1.75 / d0) ** 2))
    assert found.alpha_carbons == [[3, 4, 5], [45, 46, 47]]


def test_ptm_is_that_of_the_best_alignment() -> None:
    probs = torch.zeros(2, 2, 64)
    probs[0, :, 63], probs[1, :, 0] = 1, 1
    d0 = 1.24 * 4 ** (1 / 3) - 1.8
    assert predicted_tm(probs) == pytest.approx(1 / (1 + (0.25 / d0) ** 2))


def test_a_tiny_esmfold_agrees_with_its_own_ptm_whatever_the_batch(folder: Path) -> None:
    """transformers gives one pTM for a whole batch, that of the best sequence; each must get its own."""
    alone = ESMFold(folder, device="cpu").fold(SEQUENCES)
    model = transformers.EsmForProteinFolding.from_pretrained(folder).float().eval()
    for sequence, found in zip(SEQUENCES, alone, strict=True):
        output = model.infer(sequence)
        assert found.ptm == pytest.approx(float(output.ptm), rel=1e-4)
        assert found.pae == pytest.approx(float(output.predicted_aligned_error.mean()), rel=1e-4)
        assert 0 < found.plddt < 100
        assert np.array(found.alpha_carbons).shape == (len(sequence), 3)
    assert abs(alone[0].ptm - alone[1].ptm) > 1e-4, "the sequences differ in pTM, or this test says nothing"
    together = ESMFold(folder, device="cpu", batch_size=4, dtype="float32").fold(SEQUENCES)
    np.testing.assert_allclose(numbers(together), numbers(alone), rtol=1e-3, atol=2e-3)
    chunked = ESMFold(folder, device="cpu", dtype="float32", chunk_size=2)
    chunked.folder = chunked.folder / "other"
    np.testing.assert_allclose(numbers(chunked.fold(SEQUENCES)), numbers(alone), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("reachable", [True, False])
def test_the_dtype_of_the_weights_does_not_depend_on_the_network(reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a CPU, the language model inside stays in half precision if no dtype is asked for."""
    model = torch.nn.ModuleDict({"esm": torch.nn.Linear(1, 1).half(), "trunk": torch.nn.Linear(1, 1)})
    double = SimpleNamespace(from_pretrained=lambda name, **options: (model, {"missing_keys": []}))
    monkeypatch.setattr(structure, "load_transformers", lambda what: SimpleNamespace(EsmForProteinFolding=double))
    monkeypatch.setattr(ESMFold, "check", lambda self: None)
    monkeypatch.setattr("anyorder.hub._reachable", lambda: reachable)
    loaded = ESMFold("some/hub-id", device="meta")._load()
    assert (loaded["esm"].weight.dtype, loaded["trunk"].weight.dtype) == (torch.float16, torch.float32)


def test_an_interrupted_scoring_goes_on_and_folds_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[str] = []
    real = ESMFold._predict

    def watched(self: ESMFold, sequences: list[str]) -> list[Structure]:
        if folded == ["MKWYV"]:
            folded.append("interrupted")
            raise KeyboardInterrupt
        folded.extend(sequences)
        return real(self, sequences)

    monkeypatch.setattr(ESMFold, "_predict", watched)
    with pytest.raises(KeyboardInterrupt):
        ESMFold(folder, device="cpu").fold(SEQUENCES)
    seen: list[tuple[int, int]] = []
    found = ESMFold(folder, device="cpu").fold([*SEQUENCES, SEQUENCES[0]], lambda done, total: seen.append((done, total)))
    assert folded == ["MKWYV", "interrupted", *SEQUENCES[:2]], "the shortest first, and only once"
    assert seen == [(1, 2), (2, 2)]
    assert [s.sequence for s in found] == [*SEQUENCES, SEQUENCES[0]]


def test_a_damaged_file_of_the_cache_is_written_anew(folder: Path) -> None:
    predictor = ESMFold(folder, device="cpu")
    (right,) = predictor.fold(["MKWYV"])
    (path,) = predictor.folder.iterdir()
    for text in ("{", "[]", json.dumps({**json.loads(path.read_text()), "sequence": "AAAAA"})):
        path.write_text(text)
        assert ESMFold(folder, device="cpu").fold(["MKWYV"])[0].ptm == pytest.approx(right.ptm)


def test_another_model_or_precision_has_a_cache_of_its_own(folder: Path, tmp_path: Path) -> None:
    folders = {ESMFold(folder).folder, ESMFold(folder, dtype="float32").folder, ESMFold("some/hub-id").folder}
    assert len(folders) == 3
    before = ESMFold(folder).folder
    (folder / "extra.json").write_text("{}")
    assert ESMFold(folder).folder != before, "the folder holds something else now"
    (folder / "extra.json").unlink()


@pytest.mark.parametrize(
    ("sequence", "message"),
    [("", "sequence 1: it is empty"), ("ACXD", "'X' at position 3 is none of the amino"), ("AC_", "'_' at position 3")],
)
def test_what_cannot_be_folded_is_refused(folder: Path, sequence: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ESMFold(folder).fold([sequence])


def test_models_that_cannot_fold_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="cannot be loaded"):
        ESMFold(tmp_path / "nothing").fold(["ACD"])
    with pytest.raises(BadInput, match="folds no proteins"):
        ESMFold(save_esm(tmp_path / "esm")).fold(["ACD"])
    for kind in ("float33", "int8", "nn"):
        with pytest.raises(BadInput, match=f"dtype '{kind}' is not one of torch's for weights: use float32"):
            ESMFold(folder, dtype=kind)
    with pytest.raises(BadInput, match="chunk_size is 0"):
        ESMFold(folder, chunk_size=0)
    with pytest.raises(BadInput, match="device 'tpu:9' cannot be used"):
        ESMFold(folder, device="tpu:9")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BadInput, match=r"anyorder\[hf\]"):
        ESMFold(folder).fold(["ACD"])


def test_a_lack_of_memory_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(transformers.EsmForProteinFolding, "infer", full)
    with pytest.raises(AnyorderError, match="1 sequences of 3 residues: use a smaller batch size or chunk size"):
        ESMFold(folder, device="cpu").fold(["ACD"])


def test_a_model_without_its_trunk_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text((folder / "config.json").read_text())
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if "structure_module" not in k}
    save_file(kept, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="not a trained structure predictor"):
        ESMFold(tmp_path / "half").fold(["ACD"])


def test_samples_are_judged_and_folded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyorder.zoo import load_denoiser

    task = make_task("protein")
    denoiser = load_denoiser(save_esm(tmp_path / "esm"))
    folded: list[str] = []
    real = ESMFold._predict
    monkeypatch.setattr(ESMFold, "_predict", lambda self, s: folded.extend(s) or real(self, s))  # type: ignore[func-returns-value]
    predictor = ESMFold(folder, device="cpu")
    report = evaluate(denoiser, task, task.generate(3, 0, length=6), ["confidence"], [3], judges=structure_judges(predictor))
    measures = report.results[0].measures
    assert {"pLDDT", "pTM", "pAE", "foldable", "diversity"} <= measures.keys()
    assert len(folded) == len(set(folded)) <= 3
    assert measures["pLDDT"][0] == pytest.approx(np.mean([predictor.fold([s])[0].plddt for s in folded]), rel=0.2)


def test_evaluate_takes_esmfold_as_a_judge(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    asked = ["evaluate", "--task", "protein", "--model", str(save_esm(tmp_path / "esm")), "--orders", "random"]
    asked += ["--steps", "3", "--generate", "length=6", "--limit", "2", "--temperature", "1", "--json", str(out)]
    result = CliRunner().invoke(app, [*asked, "--judge", f"esmfold:{folder}"])
    assert result.exit_code == 0, result.output
    measures = json.loads(out.read_text())["results"][0]["measures"]
    assert 0 < measures["pLDDT"][0] < 100
    assert {"pTM", "pAE", "foldable", "diversity"} <= measures.keys()


def test_a_judge_whose_weights_are_missing_is_refused_before_anything_is_decoded(folder: Path, tmp_path: Path) -> None:
    denoiser = SimpleNamespace()
    with pytest.raises(BadInput, match=r"structure predictor .*nothing cannot be loaded"):
        make_judges([f"esmfold:{tmp_path / 'nothing'}"], denoiser)  # type: ignore[arg-type]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(BadInput, match=r"has no weights: model\.safetensors or pytorch_model\.bin is missing"):
        make_judges([f"esmfold:{tmp_path}"], denoiser)  # type: ignore[arg-type]


def test_puzzles_have_no_structure(folder: Path) -> None:
    puzzles = make_task("sudoku", box=2)
    problems = puzzles.generate(1, 0)
    with pytest.raises(BadInput, match="the task sudoku is not made of text"):
        structure_judges(ESMFold(folder))["pTM"](puzzles, problems, problems.tokens)


def test_unfinished_samples_have_no_score(folder: Path) -> None:
    task = make_task("protein")
    problems = task.encode(["ACDEF", "MKWYV"])  # type: ignore[attr-defined]
    tokens = problems.x0.clone()
    tokens[0, 2] = task.mask_token_id
    scores = structure_judges(ESMFold(folder, device="cpu"))["pLDDT"](task, problems, tokens)
    assert np.isnan(scores[0])
    assert scores[1] > 0
    tokens[:, 2] = task.mask_token_id
    assert np.isnan(structure_judges(ESMFold(folder))["pTM"](task, problems, tokens)).all(), "no model is loaded for nothing"


def test_a_summary_by_hand() -> None:
    found = [Structure("A", 90, 91, 0.8, 5, []), Structure("C", 70, 71, 0.6, 15, [])]
    assert structure_summary(found) == {
        "count": 2,
        "plddt": 80,
        "plddt_ca": 81,
        "ptm": pytest.approx(0.7),
        "pae": 10,
        "foldable": 0.5,
    }


def test_inner_tm_is_the_mean_over_pairs_of_both_normalisations(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {("A", "C"): (0.2, 0.4), ("A", "D"): (0.5, 0.5), ("C", "D"): (0.9, 0.7)}

    def align(_a: np.ndarray, _b: np.ndarray, one: str, two: str) -> SimpleNamespace:
        first, second = scores[one, two]
        return SimpleNamespace(tm_norm_chain1=first, tm_norm_chain2=second)

    monkeypatch.setattr(structure, "tm_align", lambda: align)
    found = mean_tm([Structure(letter, 0, 0, 0, 0, [[0.0, 0.0, 0.0]]) for letter in "ACD"])
    np.testing.assert_allclose(found, [(0.3 + 0.5) / 2, (0.3 + 0.8) / 2, (0.5 + 0.8) / 2])
    assert found.mean() == pytest.approx((0.3 + 0.5 + 0.8) / 3)
    assert np.isnan(mean_tm([Structure("A", 0, 0, 0, 0, [])])).all()


def test_inner_tm_without_its_extra_is_refused_before_anything_is_folded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tmtools", None)
    with pytest.raises(BadInput, match=r"GPLv3: pip install 'anyorder\[tm\]'"):
        structure_judges(ESMFold(folder), inner_tm=True)


def test_tm_align_knows_a_structure_again_that_was_turned() -> None:
    pytest.importorskip("tmtools", reason="tmtools is GPLv3 and an extra of its own: pip install 'anyorder[tm]'")
    rng = np.random.default_rng(0)
    places, other = (np.cumsum(rng.normal(size=(40, 3)) * 2, axis=0) for _ in range(2))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rows = [Structure("A" * 40, 0, 0, 0, 0, p.tolist()) for p in (places, places @ turn + 5, other)]
    found = mean_tm(rows)
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[0] > 0.5 > found[2]


def test_what_cannot_be_folded_is_left_out_when_asked(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.fasta"
    path.write_text(">gaps\nmk-WY*\n>other\nMXK\n>empty\n>again\nMKWY\n")
    words = ["fold", str(path), "--model", str(folder), "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, BadInput)
    assert "other (line 3): 'X' at position 2 is none of the amino acids" in str(refused.exception)
    done = CliRunner().invoke(app, [*words, "--skip-unreadable", "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "2 left out because they cannot be read; the first: " in done.stderr
    assert [row["sequence"] for row in json.loads((tmp_path / "out.json").read_text())["sequences"]] == ["MKWY", "MKWY"]
