"""Judges of samples: pseudo-likelihood by hand, perplexity against the model's own loss, IgFold by a double."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anyorder.causal import CausalModel
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.judges import PseudoLikelihood, make_judges
from anyorder.tasks import make_task
from anyorder.tasks.sequences import Sequences


@pytest.fixture
def task() -> Sequences:
    task = make_task("protein", length=12)
    assert isinstance(task, Sequences)
    return task


@pytest.fixture
def denoiser(task: Sequences) -> Transformer:
    torch.manual_seed(0)
    return Transformer(33, 32, task.length, 16, 1, ["everything"] * 2, pad_token_id=1).eval()


def test_with_a_fold_per_position_it_is_the_exact_pseudo_likelihood(task: Sequences, denoiser: Transformer) -> None:
    denoiser.requires_grad_(False)
    problems = task.encode(["ACDEF", "GHIKLMNP"])
    assert problems.x0 is not None
    found = PseudoLikelihood(denoiser, folds=12)(task, problems, problems.x0)
    for row, length in enumerate((5, 8)):
        by_hand = []
        for place in range(1, length + 1):
            state = problems.x0[row : row + 1, : length + 2].clone()
            truth = int(state[0, place])
            state[0, place] = 32
            by_hand.append(float(torch.log_softmax(denoiser(state).logits[0, place], dim=-1)[truth]))
        assert found[row] == pytest.approx(np.mean(by_hand), abs=1e-5)


def test_given_symbols_do_not_count(task: Sequences, denoiser: Transformer) -> None:
    denoiser.requires_grad_(False)
    problem = task.parse("AC__F")
    tokens = problem.tokens.masked_scatter(problem.maskable, torch.tensor(task.symbols.encode("DE")))
    one = PseudoLikelihood(denoiser, folds=1)(task, problem, tokens)[0]
    log_p = torch.log_softmax(denoiser(problem.tokens).logits[0], dim=-1)
    by_hand = (log_p[3, tokens[0, 3]] + log_p[4, tokens[0, 4]]) / 2
    assert one == pytest.approx(float(by_hand), abs=1e-5)


def test_perplexity_is_the_causal_model_s_own(task: Sequences, denoiser: Transformer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({"<s>": 0, "?": 1, **{c: n + 2 for n, c in enumerate("ACDEF")}}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?", bos_token="<s>").save_pretrained(tmp_path)
    config = transformers.GPT2Config(vocab_size=7, n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    texts = ["ACD", "", "F", "ACDEFACDEF", "CC", "EDC"]
    ids = [[0, *(2 + "ACDEF".index(c) for c in text)] for text in texts]
    batches = [torch.tensor([row]) for row in ids]
    expected = [model(input_ids=b, labels=b).loss.item() if b.shape[1] > 1 else None for b in batches]
    for batch_size in (1, 2, 32):  # texts of different length do not disturb one another
        found = CausalModel(str(tmp_path)).nats(texts, batch_size)
        assert [None if math.isnan(value) else value for value in found] == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path)
    problems = task.encode(["ACD", "F"])
    assert problems.x0 is not None
    (name, judge), *_ = make_judges([f"perplexity:{tmp_path}"], denoiser).items()
    assert name == "nats per token"
    assert judge(task, problems, problems.x0).tolist() == pytest.approx([math.log(7)] * 2), "a model that knows nothing"
    with pytest.raises(BadInput, match="the judge reads 16 tokens at most, and a text has 41: use another judge"):
        CausalModel(str(tmp_path)).nats([texts[0], "A" * 40])


def test_unknown_judges_are_refused(task: Sequences, denoiser: Transformer) -> None:
    for spec, message in {
        "beauty": "use one of pseudo_likelihood",
        "pseudo_likelihood:0": "at least one forward pass",
        "pseudo_likelihood:x": "must be a whole number",
        "perplexity": "perplexity needs model: write perplexity:MODEL",
    }.items():
        with pytest.raises(BadInput, match=message):
            make_judges([spec], denoiser)
    with pytest.raises(BadInput, match="cannot be loaded"):
        make_judges(["perplexity:no/such-model-here"], denoiser)


LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"


class Predictor:
    """A double of IgFold 1.0.1's runner: the error of residue i of a chain is i Angstrom."""

    def __init__(self, num_models: int, verbose: bool) -> None:
        self.asked: list[str] = []

    def predict(self, inputs: list[dict[str, str]]) -> list[SimpleNamespace]:
        (chain,) = inputs
        ((name, sequence),) = chain.items()
        self.asked.append(name)
        return [SimpleNamespace(prmsd=torch.arange(len(sequence)).float()[None, :, None].expand(1, -1, 4))]


def test_the_predictor_of_structures_judges_single_domains_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, denoiser: Transformer
) -> None:
    pytest.importorskip("immunum")
    monkeypatch.setenv("ANYORDER_CACHE", str(tmp_path))
    monkeypatch.setenv("ANTIBERTY_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(BadInput, match="anyorder fetch antiberty"):
        make_judges(["igfold:1"], denoiser)
    monkeypatch.setattr("anyorder.evaluation.judges.fetched", lambda name: tmp_path / name)
    monkeypatch.setitem(sys.modules, "igfold", None)
    with pytest.raises(BadInput, match="non-commercial use only"):
        make_judges(["igfold:1"], denoiser)
    monkeypatch.setitem(sys.modules, "igfold", SimpleNamespace(IgFoldRunner=Predictor))
    ((name, judge),) = make_judges(["igfold:1"], denoiser).items()
    antibodies = make_task("antibody")
    assert isinstance(antibodies, Sequences)
    problems = antibodies.encode([LIGHT, "A" * 100])
    assert problems.x0 is not None
    found = judge(antibodies, problems, problems.x0)
    assert name == "structure error"
    assert found[0] == pytest.approx((len(LIGHT) - 1) / 2)
    assert np.isnan(found[1]), "what is no domain has no structure"
    assert judge.runner.asked == ["L"]  # type: ignore[attr-defined]


def test_two_judges_of_one_column_are_told_apart(denoiser: Transformer) -> None:
    found = make_judges(["pseudo_likelihood:2", "pseudo_likelihood:5"], denoiser)
    assert {name: judge.folds for name, judge in found.items()} == {  # type: ignore[attr-defined]
        "pseudo-likelihood (pseudo_likelihood:2)": 2,
        "pseudo-likelihood (pseudo_likelihood:5)": 5,
    }
    assert list(make_judges(["pseudo_likelihood:2"], denoiser)) == ["pseudo-likelihood"]
    with pytest.raises(BadInput, match="the judge pseudo_likelihood:2 is given twice: leave one of them out"):
        make_judges(["pseudo_likelihood:2"] * 2, denoiser)


def test_a_judge_with_the_name_of_a_measure_replaces_nothing(task: Sequences, denoiser: Transformer) -> None:
    problems = task.encode(["ACDEF", "GHIKLMNP"])
    own = evaluate(denoiser, task, problems, ["confidence"], [4]).results[0].measures
    assert own
    name = next(iter(own))
    judges = {name: lambda task, instances, tokens: torch.full((len(tokens),), 7.0)}
    both = evaluate(denoiser, task, problems, ["confidence"], [4], judges=judges).results[0].measures
    assert both.pop(f"{name} (judge)")[0] == 7.0
    assert both == own
