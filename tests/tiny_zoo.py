"""A tiny denoiser of 4x4 Sudoku with an order and a critic of its own, as the zoo has them; all weights are random."""

from pathlib import Path

import torch
from torch import nn

from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.files import write_json
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.orders.policies import PolicyNetwork
from anyorder.registry import POLICIES
from anyorder.tasks import make_task


def save_tiny(folder: Path) -> Path:
    """Write all of it to a folder."""
    task = make_task("sudoku", box=2)
    torch.manual_seed(0)
    denoiser = Transformer.for_task(task, width=8, layers=1, heads=["row", "column"]).eval()
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.5)
    save_denoiser(denoiser, folder)
    write_json(folder / "task.json", {"name": "sudoku", "options": {"box": 2}})
    critic = _policy("mlp", denoiser, scores_committed=True)
    LearnedOrder(_policy("upo", denoiser), Critic(critic)).save_pretrained(folder / "order")
    return folder


def _policy(architecture: str, denoiser: Transformer, *, scores_committed: bool = False) -> PolicyNetwork:
    policy: PolicyNetwork = POLICIES[architecture](
        hidden_size=denoiser.hidden_size, vocab_size=denoiser.vocab_size, scores_committed=scores_committed, width=8,
        denoiser_fingerprint=fingerprint(denoiser), **({"heads": 2} if architecture == "upo" else {}),
    )  # fmt: skip
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.5)
    return policy
