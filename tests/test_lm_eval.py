"""lm-evaluation-harness through our model class: its reports, and log-likelihoods against enumeration."""

import copy
import inspect
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import anyorder
from anyorder.cli.language import open_language
from anyorder.errors import BadInput
from anyorder.interfaces.language import LanguageModel
from anyorder.processes import Shard
from anyorder.tasks import make_task
from commands import refused, run
from conftest import shared_file
from tiny_llada import save_llada

MIX = {"process_results": "right", "doc_to_text": "question"}
CHECKER = """
from anyorder.tasks import make_task

task = make_task("words")


def question(doc):
    return task.kinds[doc["kind"]].ask(doc["problem"]) + "\\nAnswer:\\n"


def right(doc, results):
    found = task.kinds[doc["kind"]].check([doc["problem"]], [results[0]], None)
    return {"solved": float(found.instance_correct[0])}
"""


def test_without_the_harness_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyorder.cli.lm_eval.find_spec", lambda name: None)
    refused(run("lm-eval", "--tasks", "gsm8k"), "lm-evaluation-harness is not installed: pip install 'anyorder[lm-eval]'")


harness = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytest.importorskip("transformers")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from anyorder.cli.harness import AnyorderLM, opened  # noqa: E402


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llada(tmp_path_factory.mktemp("model") / "llada")


@pytest.fixture(autouse=True)
def only_local_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness reads its 14,000 task files anew for every run; here only those that a test writes."""
    make = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **given: make(self, **given, include_defaults=False))


@pytest.fixture(scope="module")
def model(llada: Path) -> AnyorderLM:
    return AnyorderLM(str(llada), device="cpu", trust_remote_code=True, likelihood_draws=64, batch_size=5, steps=4)


def asked(kind: str, *arguments: Any, number: int = 0) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("task", number, 1))


def write_task(folder: Path, rows: list[dict[str, Any]], **config: Any) -> Path:
    """A local task file of the harness with its data."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    values = {"task": "local", "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **config}
    text = yaml.safe_dump(values)
    for name in MIX.values():
        text = text.replace(f": {name}\n", f": !function checker.{name}\n")
    (folder / "checker.py").write_text(CHECKER)
    (folder / "local.yaml").write_text(text)
    return folder / "local.yaml"


GENERATED = {"output_type": "generate_until", "generation_kwargs": {"until": [], "max_gen_toks": 40}}
SOLVED = {"metric_list": [{"metric": "solved", "aggregation": "mean", "higher_is_better": True}]}


def reported(done: Any, folder: Path, metric: str) -> tuple[float, dict[int, float]]:
    """The mean that the harness reports, and the value of each problem."""
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (json.loads(path.read_text()) for path in folder.rglob("results_*.json"))
    (samples,) = folder.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return results["results"]["local"][f"{metric},none"], {row["doc_id"]: row[metric] for row in rows}


def test_its_report_gives_the_accuracy_of_evaluate(tmp_path: Path) -> None:
    task = make_task("words", problems="addition,countdown,countdown")
    problems = task.generate(9, seed=5)
    task.save(problems, tmp_path / "problems.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    file = write_task(tmp_path, rows, doc_to_target="{{solution}}", **GENERATED, **SOLVED, **MIX)
    out = tmp_path / "out"
    how = {"--model": "words", "--order": "margin", "--steps": "6", "--tasks": file, "--output_path": out}
    done = run("lm-eval", *itertools.chain(*how.items()), "--log_samples")
    mean, each = reported(done, out, "solved")
    report = anyorder.evaluate("words", task, problems, ["margin"], [6])
    (ours,) = report.results
    assert [each[number] for number in range(9)] == [float(right) for right in ours.correct]
    assert mean == pytest.approx(ours.instance_accuracy) and 0.2 < mean < 0.9
    assert "solved" in done.stdout and "local" in done.stdout


def test_gsm8k_runs_on_its_own_file(llada: Path, tmp_path: Path) -> None:
    source = shared_file("math/gsm8k_test.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()[:3]]
    strict = [{"name": "none", "filter": [{"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"},
                                          {"function": "take_first"}]}]  # fmt: skip
    file = write_task(
        tmp_path, rows, output_type="generate_until", doc_to_text="Question: {{question}}\nAnswer:",
        doc_to_target="{{answer.split('####')[-1].strip()}}", filter_list=strict,
        generation_kwargs={"until": ["Question:", "</s>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 16},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    for more in ([], ["--apply_chat_template", "--num_fewshot", "0"]):
        out = tmp_path / f"out{len(more)}"
        done = run("lm-eval", "--model", llada, "--trust-remote-code", "--steps", "4", "--block-length", "8", "--tasks", file,
                   "--batch-size", "2", "--output_path", out, "--log_samples", *more)  # fmt: skip
        mean, each = reported(done, out, "exact_match")
        assert (mean, len(each)) == (0.0, 3), "a random model"
        (samples,) = out.rglob("samples_*.jsonl")
        prompts = [json.loads(line)["arguments"]["gen_args_0"]["arg_0"] for line in samples.read_text().splitlines()]
        assert all(("<|start_header_id|>user" in prompt) == bool(more) for prompt in prompts)


def test_a_prompt_of_the_chat_template_is_read_as_the_tokenizer_reads_it(model: AnyorderLM) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    text = model.apply_chat_template(turns)
    assert text == model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    tokens = model.tokens_of(text)
    assert tokens == list(model.tokenizer(text, add_special_tokens=False)["input_ids"]), "one start of text, not two"
    assert tokens == model.model.prompt(turns)
    started = model.apply_chat_template([*turns, {"role": "assistant", "content": "Be"}], add_generation_prompt=False)
    assert started.startswith(text) and "Be" in started


def test_choices_are_ranked_by_likelihood(llada: Path, tmp_path: Path, model: AnyorderLM) -> None:
    rows = [{"q": "Is it?", "choices": ["yes", "no"], "label": n % 2} for n in range(4)]
    file = write_task(tmp_path, rows, output_type="multiple_choice", doc_to_text="{{q}}", doc_to_choice="{{choices}}",
                      doc_to_target="label", metric_list=[{"metric": "acc"}])  # fmt: skip
    out = tmp_path / "out"
    done = run("lm-eval", "--model", llada, "--trust-remote-code", "--tasks", file, "--output_path", out, "--log_samples")
    mean, _ = reported(done, out, "acc")
    assert mean == 0.5, "the same answer to the same question, right every second time"


def by_hand(model: AnyorderLM, context: str, continuation: str) -> float:
    """The mean over numbers of masks, and over places for them, of n / masks times the log-probabilities of what is masked."""
    before, after = model._pair(context, continuation)
    network, n, total = model.model.denoiser.model, len(after), 0.0
    for masks in range(1, n + 1):
        subsets = list(itertools.combinations(range(n), masks))
        for subset in subsets:
            row = torch.tensor([[*before, *[263 if i in subset else t for i, t in enumerate(after)]]])
            logits = network(row).logits[0, len(before) :].double()
            logits[:, model.model.denoiser.forbidden] = -torch.inf
            log_probs = torch.log_softmax(logits, dim=-1)
            total += n / masks * sum(float(log_probs[i, after[i]]) for i in subset) / len(subsets) / n
    return total


@torch.no_grad()
def test_log_likelihoods_are_those_of_enumeration_and_the_context_is_never_masked(model: AnyorderLM) -> None:
    expected = by_hand(model, "Why is", " it so")
    seen: list[torch.Tensor] = []
    handle = model.model.denoiser.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    exact = model.loglikelihood([asked("loglikelihood", "Why is", " it so")])[0][0]
    estimates = [model._log_likelihood(*model._pair("Why is", " it so"), seed) for seed in range(3)]
    assert exact == pytest.approx(expected, rel=1e-5) and estimates == [exact] * 3
    drawn = [estimate(model, "Why is", " it so", draws, seed) for seed in range(30) for draws in (31,)]
    handle.remove()
    assert torch.tensor(drawn).mean() == pytest.approx(expected, abs=4 * float(torch.tensor(drawn).std()) / math.sqrt(30))
    assert len(set(drawn)) > 1
    before = model._pair("Why is", " it so")[0]
    assert all((batch[:, : len(before)] == torch.tensor(before)).all() and len(batch) <= 5 for batch in seen)


def estimate(model: AnyorderLM, context: str, continuation: str, draws: int, seed: int) -> float:
    usual = model.draws
    try:
        model.draws = draws
        return model._log_likelihood(*model._pair(context, continuation), seed)
    finally:
        model.draws = usual


@torch.no_grad()
def test_greedy_says_whether_decoding_gives_the_continuation(model: AnyorderLM) -> None:
    prompt = model.tokens_of("Why is")
    sampler = anyorder.Sampler("confidence")
    masked = torch.tensor([[*prompt, *[263] * 4]])
    best = anyorder.decode(model.model.denoiser, masked, sampler).tokens[0, len(prompt) :].tolist()
    pairs = [(prompt, best), (prompt, [*best[:3], best[3] ^ 1]), (prompt, []), (prompt, best[:1])]
    assert model._greedy(pairs, torch.zeros(4, dtype=torch.int64))[:3] == [True, False, True]


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2])
def test_greedy_depends_on_the_request_alone_and_commits_one_token_at_a_time(model: AnyorderLM, batch_size: int) -> None:
    prompt, other = model.tokens_of("abcdef"), AnyorderLM.__new__(AnyorderLM)
    other.__dict__.update(model.__dict__)
    other.batch_size, other.model = batch_size, copy.copy(model.model)
    other.model.sampler = anyorder.Sampler.parse("random@threshold:0")
    masked, one_by_one = torch.tensor([[*prompt, *[263] * 6]]), anyorder.Sampler.parse("random@fixed:1")
    own = [
        anyorder.decode(model.model.denoiser, masked, one_by_one, seeds=seed).tokens[0, len(prompt) :].tolist()
        for seed in (5, 9)
    ]
    assert own[0] != own[1]
    pairs = [(prompt, own[0]), (prompt, own[1]), (prompt, own[0])]
    assert other._greedy(pairs, torch.tensor([5, 9, 9])) == [True, True, False]


@torch.no_grad()
def test_rolling_likelihood_covers_every_token_once(model: AnyorderLM) -> None:
    text = "To be or not to be"
    short = AnyorderLM.__new__(AnyorderLM)
    short.__dict__.update(model.__dict__)
    short.longest = 8
    windows = []
    short._log_likelihood = lambda context, after, seed: windows.append((context, after)) or -1.0  # type: ignore[method-assign,func-returns-value]
    assert short.loglikelihood_rolling([asked("loglikelihood_rolling", text)]) == [-3.0]
    assert [token for _, after in windows for token in after] == model.model.format.tokens_of(text)
    tokens, place = model.model.format.tokens_of(text), 0
    for context, after in windows:
        assert place == 0 or context == tokens[place - len(context) : place]
        assert 1 <= len(context) <= 8 - len(after)
        place += len(after)
    assert model.loglikelihood_rolling([asked("loglikelihood_rolling", "To be")])[0] < 0


@pytest.mark.parametrize("size", [1, 7])
def test_results_do_not_depend_on_the_batch(model: AnyorderLM, llada: Path, size: int) -> None:
    other = AnyorderLM(str(llada), device="cpu", trust_remote_code=True, likelihood_draws=64, batch_size=size, steps=4)
    settings = {"until": ["x"], "max_gen_toks": 12, "do_sample": True, "temperature": 0.8}
    texts = [asked("generate_until", "a" * n, settings, number=n) for n in (3, 1, 9, 3)]
    pairs = [asked("loglikelihood", "b" * n, " some more", number=n) for n in (2, 5)]
    assert model.generate_until(texts) == other.generate_until(texts)
    for (one, first), (two, second) in zip(model.loglikelihood(pairs), other.loglikelihood(pairs), strict=True):
        assert one == pytest.approx(two, rel=1e-5) and first == second
    repeated = other.generate_until([texts[0]] * 2)
    assert repeated[0] != repeated[1], "copies of a request have seeds of their own"
    assert other.generate_until(texts[:1])[0] == repeated[0]


def test_every_option_of_the_command_is_a_model_argument() -> None:
    given = {
        "order": "margin", "steps": 8, "count": "threshold:0.9", "block_length": 20, "cache": "dual", "refresh": 4,
        "noise": 0.5, "anneal": True, "temperature": 0.7, "top_p": 0.9, "top_k": 3, "eos_penalty": 1.0, "max_new_tokens": 16,
        "chat": False, "seed": 3, "policy": None, "ignore_fingerprint": False, "trust_remote_code": False,
    }  # fmt: skip
    assert {*given, "model", "model_options"} == set(inspect.signature(open_language).parameters)
    found = opened("words", {**given, "device": "cpu"})
    sampler = found.model.sampler
    assert str(sampler).endswith("@blocks:20@cache:dual@refresh:4@threshold")
    assert (sampler.steps, sampler.noise, sampler.anneal, found.max_new_tokens, found.seed) == (8, 0.5, True, 16, 3)
    assert (sampler.token.temperature, sampler.token.top_p, sampler.token.top_k) == (0.7, 0.9, 3)
    assert not found.model.format.chat and type(found.model.format).__name__ == "PromptFormat"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_p": 2}, "model arguments: Invalid value for '--top-p'"),
        ({"steps": "many"}, "--steps 'many' must be numbers"),
        ({"order": "nosuch"}, "order 'nosuch' is unknown"),
        ({"block_length": 0}, "model arguments: Invalid value for '--block-length'"),
        ({"stepps": 4}, "it does not take stepps"),
    ],
)
def test_wrong_model_arguments_are_one_clear_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened("words", given)


def test_what_the_harness_refuses_is_one_clear_error(tmp_path: Path) -> None:
    refused(run("lm-eval", "--tasks", "nosuchtask"), "lm-evaluation-harness: Tasks not found: nosuchtask")
    refused(run("lm-eval"), "No tasks specified")
    rows = [{"q": "é", "a": "1"}]
    file = write_task(tmp_path, rows, doc_to_text="{{q}}", doc_to_target="{{a}}", **GENERATED)
    refused(run("lm-eval", "--tasks", file), "'é' at position 1 is not one of the symbols of this model")


def test_a_task_that_leaves_no_room_for_a_prompt_gets_the_usual_number_of_tokens() -> None:
    """The harness writes 256 into tasks that do not say, which is all that this model takes."""
    model = AnyorderLM("words", device="cpu", steps=2)
    assert model.model.room == 256
    usual = model.model.usual_length
    question = "What is 482 + 903?\nAnswer:\n"
    with pytest.warns(UserWarning, match=f"asks for 256 new tokens, and the model takes 256 in all: generating {usual}"):
        found = model.generate_until([asked("generate_until", question, {"until": [], "max_gen_toks": 256})])
    assert found == model.generate_until([asked("generate_until", question, {"until": [], "max_gen_toks": usual})])


def test_prompts_that_are_too_long_lose_their_beginning() -> None:
    model = AnyorderLM("words", device="cpu", steps=40)
    question = "What is 482 + 903?\nAnswer:\n"
    settings = {"until": [], "max_gen_toks": 40}
    tokens = model._shortened(model.tokens_of("x" * 300 + question), 40)
    assert len(tokens) == 216 and tokens[0] == model.tokens_of("")[0]
    assert tokens[-len(question) :] == model.tokens_of(question)[1:]
    with pytest.raises(BadInput, match="set a smaller max_new_tokens"):
        AnyorderLM("words", device="cpu", steps=2, max_new_tokens=256).generate_until([asked("generate_until", "x", settings)])
    assert model.apply_chat_template([{"role": "user", "content": "What is 482 + 903?"}]) == question
    with pytest.raises(BadInput, match="words has no chat template for 2 turns"):
        model.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_processes_share_what_they_found(model: AnyorderLM) -> None:
    assert (model.rank, model.world_size, model.shard) == (0, 1, Shard())
    assert model.gather_object({"a": 1}) == [{"a": 1}] and model.gather_object(1, dst=1) is None
    assert torch.equal(model.all_gather(torch.tensor(3)), torch.tensor(3))


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path: Path) -> None:
    from test_processes import anyorder as launch

    task = make_task("words", problems="addition,countdown")
    task.save(task.generate(10, seed=5), tmp_path / "problems.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    file = write_task(tmp_path, rows, doc_to_target="{{solution}}", **GENERATED, **SOLVED, **MIX)
    found = []
    for two in (False, True):
        out = tmp_path / f"out{two}"
        done = launch("lm-eval", "--order", "random", "--steps", "6", "--temperature", "0.9", "--tasks", file, "--output_path",
                      out, "--log_samples", two=two)  # fmt: skip
        found.append(reported(done, out, "solved"))
        assert done.stdout.count("|local") == 1, "one process prints"
    assert found[0] == found[1] and len(found[0][1]) == 10


@torch.no_grad()
def test_all_steps_are_as_many_as_the_task_generates(llada: Path) -> None:
    model = AnyorderLM(str(llada), device="cpu", trust_remote_code=True, steps="all")
    passes: list[int] = []
    usual = LanguageModel.generate

    def counting(self: LanguageModel, *given: Any, **more: Any) -> Any:
        return usual(self, *given, on_step=lambda output: passes.append(1), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "generate", counting)
        new = model.model.usual_length + 5
        model.generate_until([asked("generate_until", "Hello", {"until": [], "max_gen_toks": new})], disable_tqdm=True)
    assert model.model.sampler.steps is None and len(passes) == new
