"""`model.generate(...)` for masked models, with arguments as in Transformers."""

from collections.abc import Sequence
from typing import Any

from anyorder.denoisers.base import Denoiser
from anyorder.interfaces.arguments import as_denoiser
from anyorder.interfaces.generate import Prompts, generate


class MaskedGenerationMixin:
    """Gives a `*ForMaskedLM`, or a masked diffusion model with its own code, a `generate` that fills its masks.

    Example:
        >>> from transformers import BertForMaskedLM
        >>> class MyBert(MaskedGenerationMixin, BertForMaskedLM): ...

    For a model that is already loaded, use `anyorder.generate(model, ...)` or `as_generator(model)`.
    """

    def generate(self, input_ids: Prompts, *arguments: Any, **named: Any) -> Any:
        """Fill the masks in `input_ids`, and those of new tokens behind them: `anyorder.generate` with this model."""
        return generate(self, input_ids, *arguments, **named)


class MaskedGenerator:
    """A denoiser with `generate`; made by `as_generator`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def generate(self, input_ids: Prompts, *arguments: Any, **named: Any) -> Any:
        """`anyorder.generate` with this denoiser."""
        return generate(self.denoiser, input_ids, *arguments, **named)


def as_generator(
    model: Any, *, mask_token_id: int | None = None, suppress_tokens: Sequence[int] = (), shift: bool | None = None
) -> MaskedGenerator:
    """`generate` for a model that is already loaded, which is not changed.

    Args:
        model: a Hugging Face model, or any `Denoiser`, such as `HuggingFaceDenoiser.from_pretrained` gives.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        suppress_tokens: tokens that are never produced, such as padding; the mask is always one of them.
        shift: the logits at position i predict token i + 1; by default for models that are known to need it (Dream).

    Raises:
        BadInput: no model, or no mask token.
    """
    return MaskedGenerator(as_denoiser(model, mask_token_id, suppress_tokens, shift=shift))
