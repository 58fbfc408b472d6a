"""Causal language models as outside judges of text."""

from typing import Any

import torch

from anyorder.denoisers.huggingface import load_transformers
from anyorder.errors import BadInput, first_line

_NEW_DOCUMENT = "<|endoftext|>"
"""Where a model knows it, it stands before every text it was trained on; its `bos_token` may be a chat's marker instead."""


class CausalModel:
    """A causal model of Hugging Face that says how likely a text is.

    Args:
        name: hub id or folder. `FOLDER#FILE.gguf` names a file of quantised weights in a folder.
        device: where it runs.

    Raises:
        BadInput: it cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        transformers = load_transformers("a causal judge needs")
        source, _, file = name.partition("#")
        options: dict[str, Any] = {"gguf_file": file} if file else {}
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(f"{name} cannot be loaded as a causal model: {first_line(error)}") from error
        self.model = model.to(device).eval()
        self.start: int | None = self.tokenizer.get_vocab().get(_NEW_DOCUMENT, self.tokenizer.bos_token_id)

    @torch.no_grad()
    def nats(self, text: str) -> float:
        """Negative log-likelihood of a text in nats per token, nan where it has fewer than two tokens (its start included)."""
        ids = ([] if self.start is None else [self.start]) + list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) < 2:
            return float("nan")
        batch = torch.tensor([ids], device=self.model.device)
        return float(self.model(input_ids=batch, labels=batch).loss)
