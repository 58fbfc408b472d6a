"""Models as other libraries hand them over: with adapters, offloaded, spread over devices, quantized, in several dtypes. Each
decodes, has a fingerprint, takes an order that is fitted to it, and is saved or says why not."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyorder
from anyorder.denoisers.base import device_of, fingerprint, move
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from tiny_llada import CODE

transformers = pytest.importorskip("transformers")

TASK = anyorder.make_task("sudoku", box=2)
PROBLEMS = TASK.generate(4, seed=0, givens=8)


def bert(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 5, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = sizes | {"max_position_embeddings": 32, "mask_token_id": 0, "pad_token_id": None, "initializer_range": 0.5}
    return transformers.BertForMaskedLM(transformers.BertConfig(**config | changes)).eval()


def llada() -> Any:
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    return namespace["TinyModel"](namespace["TinyConfig"](vocab_size=5, mask_token_id=0, longest=32)).eval()


def denoiser_of(model: nn.Module) -> HuggingFaceDenoiser:
    return HuggingFaceDenoiser(model, 0)


def tokens_of(model: nn.Module, sampler: Any = "confidence") -> Tensor:
    return anyorder.decode(denoiser_of(model), PROBLEMS.tokens, sampler).tokens


def check_life(model: nn.Module, folder: Path) -> None:
    """An order is fitted, saved, loaded and used; two updates of it change nothing in the model."""
    denoiser = denoiser_of(model)
    tokens, training, before = tokens_of(model), model.training, fingerprint(denoiser)
    gradients = [weight.requires_grad for weight in model.parameters()]
    order = anyorder.fit_order(denoiser, TASK, PROBLEMS, folder / "fit", steps=2, batch_size=4)
    assert {parameter.dtype for parameter in order.policy.parameters()} == {torch.float32}
    anyorder.Sampler(order).save_pretrained(folder / "sampler")
    learned = tokens_of(model, order)
    assert torch.equal(tokens_of(model, anyorder.load_order(folder / "fit", denoiser)), learned)
    assert torch.equal(tokens_of(model, folder / "sampler"), learned)
    assert (fingerprint(denoiser_of(model)), model.training) == (before, training)
    assert [weight.requires_grad for weight in model.parameters()] == gradients
    assert torch.equal(tokens_of(model), tokens), "the model was changed"


# ---- several devices, offloaded ---------------------------------------------------------------------------------------


def dispatched(model: nn.Module, folder: Path) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    places = {"bert.embeddings": "cpu", "bert.encoder.layer.0": "cpu", "bert.encoder.layer.1": "disk", "cls": "disk"}
    found: nn.Module = accelerate.dispatch_model(
        model, places, main_device="cpu", state_dict=model.state_dict(), offload_dir=str(folder / "weights"), force_hooks=True
    )
    return found


def offloaded(model: nn.Module, _: Path) -> nn.Module:
    found: nn.Module = pytest.importorskip("accelerate").cpu_offload(model, execution_device=torch.device("cpu"))
    return found


@pytest.mark.parametrize("place", [dispatched, offloaded])
def test_a_model_whose_weights_are_elsewhere_is_the_same_model(place: Callable[..., nn.Module], tmp_path: Path) -> None:
    expected, known = tokens_of(bert()), fingerprint(denoiser_of(bert()))
    model = place(bert(), tmp_path)
    assert any(weight.is_meta for weight in model.parameters())
    assert torch.equal(tokens_of(model), expected)
    assert device_of(denoiser_of(model)) == torch.device("cpu")
    assert fingerprint(denoiser_of(model)) == known, "the weights are read where they are kept"
    other = bert()
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight.mul_(2)
    assert fingerprint(denoiser_of(place(other, tmp_path / "other"))) != known
    check_life(model, tmp_path)
    assert any(weight.is_meta for weight in model.parameters()), "the model was loaded and stays so"


def test_layers_that_accelerate_placed_stay_where_they_are(tmp_path: Path) -> None:
    model = dispatched(bert(), tmp_path)
    before = [weight.device for weight in model.parameters()]
    move(model, torch.device("cpu"))
    assert [weight.device for weight in model.parameters()] == before


def test_weights_without_values_are_one_error() -> None:
    with torch.device("meta"):
        model = bert()
    for call in (lambda: tokens_of(model), lambda: fingerprint(denoiser_of(model))):
        with pytest.raises(BadInput, match="on the device meta, without values: load"):
            call()


def test_a_placed_model_is_loaded_by_device_map(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "model")
    places = {"bert.embeddings": "cpu", "bert.encoder": "disk", "cls": "cpu"}
    denoiser = anyorder.load_denoiser(
        tmp_path / "model", mask_token_id=0, device="cpu", device_map=places, offload_folder=str(tmp_path / "offload")
    )
    assert fingerprint(denoiser) == fingerprint(denoiser_of(bert()))
    assert torch.equal(anyorder.decode(denoiser, PROBLEMS.tokens, "confidence").tokens, tokens_of(bert()))


# ---- quantized --------------------------------------------------------------------------------------------------------


def by_torch(model: nn.Module) -> nn.Module:
    found: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return found


def by_torchao(model: nn.Module) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def by_quanto(model: nn.Module) -> nn.Module:
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("quantize", [by_torch, by_torchao, by_quanto])
def test_a_quantized_model_decodes_and_takes_an_order(quantize: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    model = quantize(bert())
    assert (tokens_of(model) != 0).all()
    assert fingerprint(denoiser_of(model)) == fingerprint(denoiser_of(quantize(bert())))
    assert fingerprint(denoiser_of(model)) != fingerprint(denoiser_of(bert()))
    other = bert()
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[0, 0] *= -2
    assert fingerprint(denoiser_of(quantize(other))) != fingerprint(denoiser_of(model)), "packed weights count"
    check_life(model, tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_cannot_be_saved_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"BertForMaskedLM cannot be saved: .* Save it before it is quantized or offloaded"):
        denoiser_of(by_torch(bert())).save_pretrained(tmp_path)


# ---- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "layers"), [(bert, ["query", "value"]), (llada, ["ff_out"])])
def test_a_model_with_an_adapter_decodes_as_the_merged_one(make: Any, layers: list[str], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    for task_type in (None, "FEATURE_EXTRACTION", "CAUSAL_LM"):
        if task_type == "CAUSAL_LM" and make is bert:
            continue
        config = peft.LoraConfig(target_modules=layers, r=2, init_lora_weights=False, task_type=task_type)
        base = make()
        base.prepare_inputs_for_generation = None  # LLaDA's code has it
        model = peft.get_peft_model(base, config).eval()
        merged = tokens_of(copy.deepcopy(model).merge_and_unload())
        assert torch.equal(tokens_of(model), merged)
        assert torch.equal(anyorder.generate(model, PROBLEMS.tokens), merged)
    before = fingerprint(denoiser_of(model))
    assert before != fingerprint(denoiser_of(make()))
    check_life(model, tmp_path)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).add_(1)
    assert fingerprint(denoiser_of(model)) != before, "the adapter counts"


def test_virtual_tokens_in_front_are_refused() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(bert(), peft.PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=3))
    with pytest.raises(BadInput, match=r"returned \(4, 19, 5\) for tokens \(4, 16\)"):
        tokens_of(model)


def test_a_folder_with_an_adapter_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/where", "peft_type": "LORA"}')
    for load in (anyorder.load_denoiser, HuggingFaceDenoiser.from_pretrained):
        with pytest.raises(BadInput, match=r"holds an adapter \(PEFT\).*PeftModel\.from_pretrained.*HuggingFaceDenoiser"):
            load(tmp_path)


# ---- dtypes, tied weights, gradient checkpointing ---------------------------------------------------------------------


def with_a_head_in(dtype: torch.dtype) -> Any:
    """A model in float32 whose head computes in another dtype."""
    model = bert(tie_word_embeddings=False)
    model.cls.predictions.decoder.to(dtype)
    model.cls.predictions.decoder.register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))
    return model


def with_float32_norms() -> Any:
    """As bitsandbytes and PEFT prepare models: normalization in float32, the rest in bfloat16."""
    model = bert().bfloat16()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.float()
            part.register_forward_pre_hook(lambda _, given: (given[0].float(),))
            part.register_forward_hook(lambda _, __, found: found.bfloat16())
    return model


def with_checkpointing() -> Any:
    model = bert()
    model.gradient_checkpointing_enable()
    return model.train()


MODELS: dict[str, Callable[[], Any]] = {
    "head in bfloat16": lambda: with_a_head_in(torch.bfloat16), "norms in float32": with_float32_norms,
    "gradient checkpointing": with_checkpointing, "tied": lambda: bert(tie_word_embeddings=True),
    "LLaDA-like in bfloat16": lambda: llada().bfloat16(), "float16": lambda: bert().half(),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_of_several_dtypes_tied_or_with_checkpointing(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    check_life(model, tmp_path)
    if not name.startswith("LLaDA"):
        denoiser_of(model).save_pretrained(tmp_path / "model")
        loaded = anyorder.load_denoiser(tmp_path / "model", mask_token_id=0, device="cpu")
        assert fingerprint(loaded) == fingerprint(denoiser_of(model))
