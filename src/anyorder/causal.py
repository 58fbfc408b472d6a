"""Causal language models as outside judges of text."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.loading import load_transformers, refuse_code
from anyorder.errors import BadInput, first_line
from anyorder.hub import of_hub

_NEW_DOCUMENT = "<|endoftext|>"
"""Where a model knows it, it stands before every text it was trained on; its `bos_token` may be a chat's marker instead."""


class CausalModel:
    """A causal model of Hugging Face that computes how likely a text is.

    Args:
        name: hub id or folder. `FOLDER#FILE.gguf` names a file of quantized weights in a folder.
        device: where it runs.
        trust_remote_code: run the code that comes with the model. Never without the user's word.

    Raises:
        BadInput: it cannot be loaded, or comes with code that was not allowed.
    """

    def __init__(self, name: str, device: str = "cpu", *, trust_remote_code: bool = False) -> None:
        transformers = load_transformers("a causal judge needs")
        source, _, file = name.partition("#")
        options = of_hub(source, {"trust_remote_code": trust_remote_code} | ({"gguf_file": file} if file else {}))
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
        except (OSError, ValueError, ImportError) as error:
            refuse_code(name, error, "trust_remote_code=true")
            raise BadInput(f"{name} cannot be loaded as a causal model: {first_line(error)}") from error
        self.model = model.to(device).eval()
        self.start: int | None = self.tokenizer.get_vocab().get(_NEW_DOCUMENT, self.tokenizer.bos_token_id)

    @torch.no_grad()
    def nats(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        """Negative log-likelihood of each text in nats per token, float (N,), nan where one has fewer than two tokens (its
        start included). Texts of similar length are read together."""
        start = [] if self.start is None else [self.start]
        rows = [start + list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        found = np.full(len(rows), np.nan)
        by_length = sorted((n for n, row in enumerate(rows) if len(row) > 1), key=lambda n: len(rows[n]))
        for first in range(0, len(by_length), batch_size):
            chosen = by_length[first : first + batch_size]
            longest = len(rows[chosen[-1]])
            ids = torch.tensor([rows[n] + rows[n][-1:] * (longest - len(rows[n])) for n in chosen])  # what follows is not seen
            lengths = torch.tensor([len(rows[n]) for n in chosen])
            found[chosen] = self._mean_loss(ids.to(self.model.device), lengths.to(self.model.device))
        return found

    def _mean_loss(self, ids: Tensor, lengths: Tensor) -> np.ndarray:
        """Mean over the predicted tokens of each row (B, L), of which the first `lengths` (B,) are text."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        try:
            logits = self.model(input_ids=ids).logits[:, :-1].float()
        except (IndexError, RuntimeError) as error:
            if most is None or ids.shape[1] <= most:
                raise
            raise BadInput(
                f"the judge reads {most} tokens at most, and a text has {ids.shape[1]}: use another judge"
            ) from error
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        counts = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
        mean: np.ndarray = ((losses * counts).sum(dim=1) / counts.sum(dim=1)).cpu().numpy()
        return mean
