"""The calls of every interface, evaluation and judges with a model on another device than the CPU."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyorder
from anyorder.decoding.counts import Fixed
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.evaluation.critic_check import review
from anyorder.evaluation.judges import make_judges
from anyorder.evaluation.saved import load, save_trajectories
from anyorder.evaluation.trajectories import Watch
from anyorder.interfaces import as_generator, generate, infill, llada
from anyorder.interfaces.dream import diffusion_generate
from anyorder.orders.learned import LearnedOrder, saved_order
from anyorder.registry import POLICIES, REWARDS
from anyorder.report.page import build_page
from anyorder.training.order import untrained_order
from anyorder.training.recipes import load_recipe
from anyorder.training.rewards import Outcome
from on_device import DEVICE, DTYPE, agree, gpu, training_on
from test_interfaces import TinyLLaDA
from test_interfaces_dream import TinyDream
from tiny_zoo import save_tiny

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from anyorder.interfaces.diffusers import OrderScheduler  # noqa: E402
from test_interfaces_diffusers import TinyLLaDA2  # noqa: E402
from test_interfaces_transformers import MaskedBert, config_of, random_model  # noqa: E402

PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])
HOLES = torch.tensor([[5, 4, 7, 4], [4, 9, 10, 11]])


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with gpu():
        yield


def bert(where: str) -> Any:
    return random_model(0).to(where, DTYPE)


def mixed(where: str) -> Any:
    model = MaskedBert(config_of(mask_token_id=4)).eval()
    model.load_state_dict(random_model(0).state_dict())
    return model.to(where, DTYPE)


def tiny(kind: type[nn.Module], where: str) -> Any:
    return kind().eval().to(where, DTYPE)


def fitted(denoiser: Any, architecture: str = "mlp") -> LearnedOrder:
    """A policy with random weights, the same on every device."""
    torch.manual_seed(1)
    policy = POLICIES[architecture](hidden_size=denoiser.hidden_size, vocab_size=denoiser.vocab_size)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.5)
    return LearnedOrder(policy.eval()).to(next(denoiser.parameters()).device)


def pipeline(where: str, how: dict[str, Any], prompts: Tensor, draws_on: str | None = None) -> Tensor:
    scheduler = OrderScheduler(order=how.pop("order"))
    denoiser = HuggingFaceDenoiser(tiny(TinyLLaDA2, where), 23)
    if how.pop("learned", False):
        scheduler.unmasking_order = fitted(denoiser)
    pipe = diffusers.LLaDA2Pipeline(model=scheduler.watch(denoiser), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    how |= {"block_length": 4, "num_inference_steps": 3, "threshold": 2.0, "editing_threshold": None}
    found: Tensor = pipe(
        input_ids=prompts, mask_token_id=23, use_chat_template=False, eos_early_stop=False, output_type="seq", gen_length=8,
        generator=torch.Generator(draws_on or where).manual_seed(0), **how,
    ).sequences  # fmt: skip
    return found


def of_llada(where: str, **how: Any) -> Any:
    denoiser = HuggingFaceDenoiser(tiny(TinyLLaDA, where), 39)
    order = fitted(denoiser) if how.pop("learned", False) else how.pop("order", None)
    return llada.generate(denoiser, how.pop("prompts", PROMPTS), gen_length=8, block_length=4, steps=4, order=order, **how)


def of_dream(where: str, **how: Any) -> Any:
    return diffusion_generate(tiny(TinyDream, where), how.pop("prompts", PROMPTS), max_new_tokens=5, steps=4, **how)


CALLS: dict[str, Callable[[str], Any]] = {
    "generate": lambda d: generate(bert(d), PROMPTS, max_new_tokens=4, mask_token_id=4, steps=3),
    "generate with holes": lambda d: generate(bert(d), HOLES, mask_token_id=4, order="margin"),
    "generate by lists": lambda d: generate(bert(d), [[5, 6], [7, 4, 8]], max_new_tokens=3, mask_token_id=4, steps=2),
    "generate with padding": lambda d: generate(
        bert(d), HOLES, attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), mask_token_id=4, temperature=0.7, top_p=0.9
    ),
    "generate with ends": lambda d: generate(
        bert(d), PROMPTS, max_new_tokens=6, mask_token_id=4, eos_token_id=9, pad_token_id=0, eos_penalty=1.0
    ),
    "generate with a cache": lambda d: generate(
        bert(d), HOLES, attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), mask_token_id=4, max_new_tokens=4,
        block_length=2, threshold=0.2, cache="dual", refresh=0.1,
    ),
    "mix-in": lambda d: mixed(d).generate(PROMPTS, max_new_tokens=4),
    "as_generator": lambda d: as_generator(bert(d), mask_token_id=4).generate(HOLES),
    "LLaDA": of_llada,
    "LLaDA with guidance": lambda d: of_llada(d, cfg_scale=1.5),
    "LLaDA with late ends": lambda d: of_llada(d, confidence_eos_eot_inf=True, logits_eos_inf=True, eos_id=3, eot_id=4),
    "LLaDA with a threshold": lambda d: of_llada(d, threshold=0.3, temperature=0.5),
    "LLaDA with a policy": lambda d: of_llada(d, learned=True),
    "Fast-dLLM with ends": lambda d: of_llada(d, threshold=0.3, eos_token_id=3, pad_token_id=0),
    "Dream": of_dream,
    "Dream by entropy": lambda d: of_dream(d, alg="entropy", alg_temp=0.5, temperature=0.4, top_p=0.9, top_k=5),
    "Dream by an order": lambda d: of_dream(d, order="margin", attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]])),
    "Dream's history": lambda d: of_dream(d, alg="topk_margin", return_dict_in_generate=True, output_history=True).history,
    "own module": lambda d: generate(WrappedDenoiser(TwoLayers(), 4, 12).to(d, DTYPE).eval(), HOLES),
}  # fmt: skip


class TwoLayers(nn.Module):
    """A module of a user's own, which returns logits alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(12, 6), nn.Linear(6, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.out(x + x.mean(dim=1, keepdim=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize("call", CALLS)
def test_prompts_of_the_cpu(call: str) -> None:
    agree(CALLS[call](DEVICE), CALLS[call]("cpu"))


@pytest.mark.parametrize("call", [of_llada, of_dream])
def test_prompts_of_the_device_come_back_there(call: Callable[..., Tensor]) -> None:
    found = call(DEVICE, prompts=PROMPTS.to(DEVICE))
    assert found.device.type == torch.device(DEVICE).type
    agree(found.cpu(), call("cpu"))


@pytest.mark.parametrize("how", [{"order": "margin"}, {"order": None}, {"order": None, "learned": True}])
def test_the_scheduler_of_diffusers(how: dict[str, Any]) -> None:
    agree(pipeline(DEVICE, dict(how), PROMPTS.to(DEVICE)).cpu(), pipeline("cpu", dict(how), PROMPTS))


def test_random_numbers_of_the_cpu_on_the_device() -> None:
    how: dict[str, Any] = {"order": "random"}
    agree(pipeline(DEVICE, dict(how), PROMPTS.to(DEVICE), draws_on="cpu").cpu(), pipeline("cpu", how, PROMPTS))


def test_the_scheduler_of_diffusers_without_hidden_states() -> None:
    def found(where: str) -> Tensor:
        scheduler = OrderScheduler(order=by_hidden_states)
        scheduler.set_timesteps(2, block_length=4)
        logits = torch.linspace(-1, 1, 2 * 4 * 12).sin().view(2, 4, 12).to(where)
        return scheduler.step(logits, 0, HOLES.to(where), mask_token_id=4).prev_sample.cpu()  # type: ignore[union-attr]

    agree(found(DEVICE), found("cpu"))


def by_hidden_states(state: Any, prediction: Any) -> Tensor:
    """An order that reads the hidden states, even if there are none."""
    return prediction.scatter(prediction.log_odds) + prediction.hidden.sum(dim=-1)


class TwoDevices(MaskedBert):
    """A model whose head is on the CPU and whose body may be elsewhere; it moves tensors itself, as accelerate does."""

    moves_after: bool

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state.cpu()
        return transformers.modeling_outputs.MaskedLMOutput(logits=self.cls(hidden))


def on_two(where: str) -> Any:
    """The body on a device, the head on the CPU."""
    model = TwoDevices(config_of(mask_token_id=4, tie_word_embeddings=False)).eval()
    model.load_state_dict(random_model(0).state_dict())
    model.bert.to(where, DTYPE), model.cls.to(DTYPE)
    return model


@pytest.mark.parametrize("watched", ["head", "body"])
def test_a_model_on_two_devices(watched: str) -> None:
    def found(where: str) -> list[Tensor]:
        denoiser = HuggingFaceDenoiser(on_two(where), 4, pad_token_id=0)
        denoiser._parts[watched == "head"] = None
        learned = anyorder.decode(denoiser, HOLES, fitted(denoiser)).tokens
        return [learned, denoiser(HOLES.to(where), positions=(HOLES == 4).to(where)).hidden.cpu()]

    agree(found(DEVICE), found("cpu"))


def test_which_positions_may_be_masked() -> None:
    denoiser = HuggingFaceDenoiser(bert(DEVICE), 4, pad_token_id=0, forbidden=[9])
    agree(denoiser.maskable(HOLES.to(DEVICE)).cpu(), HOLES != 9)


def test_a_causal_model_on_the_device_is_found_out() -> None:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(BadInput, match="is a causal model"):
        HuggingFaceDenoiser(model.to(DEVICE), 4)


def test_a_denoiser_is_loaded_onto_the_device_that_is_named() -> None:
    for where in (DEVICE, "cpu"):
        made = anyorder.load_denoiser("test_device_calls:TwoLayers", device=where, mask_token_id=4, vocab_size=12)
        assert {p.device.type for p in made.parameters()} == {torch.device(where).type}
    with pytest.raises(BadInput, match="device 'cuda:99' cannot be used"):
        anyorder.load_denoiser("test_device_calls:TwoLayers", device="cuda:99", mask_token_id=4, vocab_size=12)


def test_texts_with_holes() -> None:
    texts = ["CC_{3}O", "c1ccccc1_{4}"]
    agree(
        infill(anyorder.load_denoiser("moses"), texts, steps=2),
        infill(anyorder.load_denoiser("moses", device="cpu"), texts, steps=2),
    )


# ---- evaluation ---------------------------------------------------------------------------------------------------------

SAMPLERS = ["confidence", "policy+undo@threshold:0.9", "oracle"]


@pytest.fixture(scope="module")
def sudoku() -> Any:
    return anyorder.make_task("sudoku", box=2)


@pytest.fixture(scope="module")
def model_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Loads the tiny denoiser onto a device."""
    folder = save_tiny(tmp_path_factory.mktemp("zoo"))
    return lambda where: anyorder.load_denoiser(folder, device=where, dtype=DTYPE)


def test_an_untrained_order_is_where_its_denoiser_is(sudoku: Any, model_on: Any) -> None:
    recipe = load_recipe("sudoku4-order", ['policy={architecture="mlp", width=8}'])

    def found(where: str) -> Tensor:
        model, problems = model_on(where), sudoku.generate(3, 0)
        return anyorder.decode(model, problems.tokens, Sampler(untrained_order(recipe, model, sudoku), steps=3)).tokens  # type: ignore[arg-type]

    agree(found(DEVICE), found("cpu"))


def compared(where: str, task: Any, model_on: Any) -> list[Any]:
    model, problems = model_on(where), task.generate(3, 0)
    watch = Watch(task, problems[slice(0, 2)], {})
    judges = make_judges(["pseudo_likelihood:3"], model)
    report = anyorder.evaluate(model, task, problems, SAMPLERS, [3], judges=judges, watch=watch, noise=[0.0, 0.3])
    front = anyorder.pareto(model, task, problems, {"c": "confidence@fixed:8", "p": "policy@threshold:0.5"}, blocks=(None, 8))
    passed = anyorder.pass_at_n(model, task, problems, ["random", "policy~0.3"], 2, steps=3)
    found = anyorder.headroom(model, task, problems, 3, samplers=["confidence", "oracle"])
    return [
        [[r.nfe, r.order_diversity, r.cells.tolist(), list(r.measures["pseudo-likelihood"])] for r in report.results],
        watch.trajectories().model_dump(exclude={"about"}),
        [point.nfe for point in front.points],
        [one.to_json() for one in passed],
        [result.cells.tolist() for result in found.report.results],
        found.every_prediction.error,
    ]


def probed(where: str, task: Any, model_on: Any) -> list[Any]:
    """Headroom's probe, and what a critic says of completed sequences; problems with several solutions."""
    model = model_on(where)
    problems = task.generate(40, 1, givens=6, unique=False)
    probe = anyorder.headroom(model, task, problems, 3, updates=1).probe
    assert probe is not None
    gains = [[one.what, one.mean, one.low, one.high] for one in probe.gains]
    return [gains, probe.auroc, probe.auroc_confidence, *review(model, task, problems, saved_order(model), 4, count=Fixed(8))]


def test_a_probe_and_a_review_are_those_of_the_cpu(sudoku: Any, model_on: Any) -> None:
    with training_on("gpu"):
        found = probed(DEVICE, sudoku, model_on)
    with training_on("cpu"):
        expected = probed("cpu", sudoku, model_on)
    agree(found, expected)


def test_comparisons_are_those_of_the_cpu(sudoku: Any, model_on: Any) -> None:
    agree(compared(DEVICE, sudoku, model_on), compared("cpu", sudoku, model_on))


def test_trajectories_are_saved_and_drawn(sudoku: Any, model_on: Any, tmp_path: Path) -> None:
    problems = sudoku.generate(2, 0)
    watch = Watch(sudoku, problems, {})
    anyorder.evaluate(model_on(DEVICE), sudoku, problems, ["policy+undo"], [4], watch=watch)
    save_trajectories(watch.trajectories(), tmp_path / "t.json")
    assert "</html>" in build_page(load(tmp_path / "t.json"))  # type: ignore[arg-type]


def test_problems_on_the_device_are_one_sentence(sudoku: Any, model_on: Any) -> None:
    problems = sudoku.generate(2, 0)
    there = anyorder.Instances(problems.tokens.to(DEVICE), problems.maskable.to(DEVICE), problems.x0.to(DEVICE))
    for call in (lambda: anyorder.evaluate(model_on(DEVICE), sudoku, there, ["confidence"], [2]),
                 lambda: anyorder.fit_order(model_on(DEVICE), sudoku, there, "never")):  # fmt: skip
        with pytest.raises(BadInput, match=r"the problems of sudoku are on cuda:0; they must be on the CPU: problems.cpu\(\)"):
            call()
    assert not Path("never").exists()
    assert sudoku.check(there.cpu(), problems.x0.to(DEVICE)).instance_correct.all()


def test_saved_samplers_and_orders_come_to_the_denoiser(sudoku: Any, model_on: Any, tmp_path: Path) -> None:
    problems, model = sudoku.generate(3, 0), model_on(DEVICE)
    sampler = Sampler.parse("policy+undo@threshold:0.9", steps=6).bind(model)
    sampler.save_pretrained(tmp_path / "s")
    expected = anyorder.decode(model_on("cpu"), problems.tokens, "policy+undo@threshold:0.9", x0=problems.x0).tokens
    loaded = Sampler.from_pretrained(tmp_path / "s", model)
    order = anyorder.load_order(model.source, model)
    networks = (loaded.order.policy, order.policy, order.critic.policy)  # type: ignore[attr-defined, union-attr]
    assert all(p.device.type == "cuda" and p.dtype == torch.float32 for network in networks for p in network.parameters())
    for one in (loaded, Sampler.from_pretrained(tmp_path / "s"), str(tmp_path / "s"), anyorder.load_order(model.source), order):
        assert anyorder.decode(model, problems.tokens, one).tokens.shape == expected.shape
    found = anyorder.decode(model, problems.tokens, Sampler.from_pretrained(tmp_path / "s").replace(steps=None)).tokens
    agree(found, expected)


def test_the_own_order_follows_a_denoiser_that_moves(sudoku: Any, model_on: Any) -> None:
    problems, model = sudoku.generate(3, 0), model_on("cpu")
    expected = anyorder.decode(model, problems.tokens, "policy").tokens
    agree(anyorder.decode(model.to(DEVICE), problems.tokens, "policy").tokens, expected)
    agree(anyorder.decode(model.cpu(), problems.tokens, "policy").tokens, expected)


@pytest.mark.parametrize(
    "reward", [name for name in REWARDS if not REWARDS.entry(name).arguments and "reads" not in REWARDS.entry(name).facts]
)
def test_rewards_of_what_was_decoded_on_the_device(reward: str, sudoku: Any, model_on: Any) -> None:
    def found(where: str) -> Tensor:
        problems = sudoku.generate(3, 0)
        decoded = anyorder.decode(model_on(where), problems.tokens, "random", x0=problems.x0)
        return REWARDS[reward](Outcome(sudoku, problems, decoded, sudoku.check(problems, decoded.tokens)))  # type: ignore[no-any-return]

    agree(found(DEVICE), found("cpu"))


def test_a_causal_judge_on_the_device(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({"<s>": 0, "?": 1, **{c: n + 2 for n, c in enumerate("ACDEF")}}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?", bos_token="<s>").save_pretrained(tmp_path)
    config = transformers.GPT2Config(vocab_size=7, n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(tmp_path)
    task = anyorder.make_task("protein", length=12)
    problems = task.encode(["ACD", "F"])  # type: ignore[attr-defined]
    judged = Transformer(33, 32, task.length, 16, 1, ["everything"] * 2, pad_token_id=1)
    (judge,) = make_judges([f"perplexity:{tmp_path}"], judged).values()
    assert judge.judge.model.device.type == "cuda"  # type: ignore[attr-defined]
    assert judge(task, problems, problems.x0.to(DEVICE)).tolist() == pytest.approx([math.log(7)] * 2)
    (own,) = make_judges(["pseudo_likelihood:2"], copy.deepcopy(judged).to(DEVICE)).values()
    (expected,) = make_judges(["pseudo_likelihood:2"], judged).values()
    agree(torch.tensor(own(task, problems, problems.x0)), torch.tensor(expected(task, problems, problems.x0)))
