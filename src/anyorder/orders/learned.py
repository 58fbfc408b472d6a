"""Policies as orders and critics: loaded from a folder, and checked against the denoiser that they are used with."""

import warnings
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import device_of, fingerprint
from anyorder.errors import BadCheckpoint, BadInput, WrongDenoiser, first_line
from anyorder.files import read_json, written_as_a_whole
from anyorder.hub import UNLOADABLE, Pushable, download
from anyorder.memory import Memory
from anyorder.nesting import walk
from anyorder.orders.base import Binding, Unbound
from anyorder.orders.policies import PolicyNetwork, policy_class
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.signatures import checked
from anyorder.state import DecodeState
from anyorder.weights import with_weights


class LearnedOrder(Pushable):
    """A policy as an `Order`, with its critic if it has one.

    Args:
        policy: scores the predicted positions.
        critic: scores the committed tokens; None if no network was trained to. An order is trained best on states that can
            still be completed correctly, and a critic on complete ones as decoding leaves them, so they may be two networks.
    """

    @checked("policy", "critic")
    def __init__(self, policy: PolicyNetwork, critic: "Critic | None" = None) -> None:
        self.policy = policy
        self.critic = critic

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What the policy remembers of earlier predictions."""
        return self.policy.memories

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        return _scores(self.policy, state, prediction).masked_fill(~prediction.predicted, -torch.inf)

    def to(self, device: torch.device | str) -> "LearnedOrder":
        """Move policy and critic."""
        self.policy.to(device)
        if self.critic is not None:
            self.critic.policy.to(device)
        return self

    @checked("folder")
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy, and its critic to `critic/` if that is a separate network."""
        with written_as_a_whole(folder) as place:
            self.policy.save_pretrained(place)
            if self.critic is not None and self.critic.policy is not self.policy:
                self.critic.policy.save_pretrained(place / "critic")

    @classmethod
    @checked("name", "denoiser")
    def from_pretrained(cls, name: str | Path, denoiser: nn.Module | None = None, *, strict: bool = True) -> "LearnedOrder":
        """Load a policy, and the critic beside it, from a folder or a hub id; see `load_policy` and `check_denoiser`.

        Raises:
            BadInput: there is no policy. BadCheckpoint: the weights cannot be read. WrongDenoiser: it was fitted to another
                denoiser, and `strict`.
        """
        folder = download(name)
        policy = load_policy(folder)
        critic = policy if policy.scores_committed else None
        if (folder / "critic" / "config.json").is_file():
            critic = load_policy(folder / "critic")
        for network in {policy, critic} - {None}:
            check_or_note(network, denoiser, folder, strict=strict)  # type: ignore[arg-type]
        order = cls(policy, None if critic is None else Critic(critic))
        return order if denoiser is None else order.to(device_of(denoiser))


class Critic:
    """A policy network that scores committed tokens: the log-odds that each is right, float (B, L)."""

    @checked("policy")
    def __init__(self, policy: PolicyNetwork) -> None:
        if not policy.scores_committed:
            raise BadInput(
                "this policy was fitted without scores of committed tokens, so it cannot be a critic: set objective.critic"
            )
        self.policy = policy

    @property
    def accept(self) -> float | None:
        """The probability of the most doubtful token from which `undo` accepts a sequence, for which the critic was validated:
        `about.accept` in its config.json. None if it was not."""
        found = self.policy.about.get("accept")
        return found if isinstance(found, float) and 0 <= found <= 1 else None

    @property
    def pace(self) -> str | None:
        """The spelling of the count rule of the first completion that was better than `entropy_share` on validation problems of
        the critic's denoiser: `about.pace` in its config.json. None if none was, or none was tried."""
        found = self.policy.about.get("pace")
        return None if found is None else str(found)

    @property
    def unsure_above(self) -> float | None:
        """The mean entropy of the first prediction, in nats, above which `even_unsure` was better than this pace on
        validation problems: `about.unsure_above` in its config.json. None if it never was, or was not measured."""
        found = self.policy.about.get("unsure_above")
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and found >= 0 else None

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What the network remembers of earlier predictions."""
        return self.policy.memories

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        return _scores(self.policy, state, prediction)


def _scores(policy: PolicyNetwork, state: DecodeState, prediction: Prediction) -> Tensor:
    """Scores (B, L), computed once per prediction for order and critic."""
    return prediction.once(policy, lambda: policy(state, prediction), per_row=True)


@ORDERS.register("policy", color="#c3271b")
@dataclass(frozen=True)
class SavedOrder(Unbound):
    """The denoiser's own learned order, or the one in a folder. It is loaded when the sampler is bound to a denoiser."""

    folder: str = field(default="", metadata={"help": "folder or hub id of a policy; the denoiser's own by default"})

    def bind(self, binding: Binding) -> LearnedOrder:
        """See `Unbound`."""
        return saved_order(binding.denoiser, self.folder, strict=binding.strict)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        raise BadInput("a learned order named in text must be bound to its denoiser first: sampler.bind(denoiser)")


def own_order(binding: Binding) -> "LearnedOrder":
    """The learned order within the sampler that is bound, or else the denoiser's own.

    Raises:
        BadInput: neither has one.
    """
    inside = [] if binding.order is None else walk(binding.order)
    found = next((part for part in inside if isinstance(part, LearnedOrder)), None)
    return found or saved_order(binding.denoiser, strict=binding.strict)


_loaded: "weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, int, bool], LearnedOrder]]" = weakref.WeakKeyDictionary()


def saved_order(denoiser: nn.Module, folder: str = "", *, strict: bool = True) -> LearnedOrder:
    """The order in a folder, or the denoiser's own: the one that its attribute `own_order` names. Loaded once per denoiser.

    Raises:
        BadInput: the denoiser has no order of its own. WrongDenoiser: see `LearnedOrder.from_pretrained`.
    """
    name = folder or str(getattr(denoiser, "own_order", "") or "")
    if not name:
        raise BadInput("this denoiser has no learned order of its own: fit one, and name its folder instead of 'policy'")
    config = Path(name) / "config.json"
    key = (name, config.stat().st_mtime_ns if config.is_file() else 0, strict)
    known = _loaded.setdefault(denoiser, {})
    if key not in known:
        known[key] = LearnedOrder.from_pretrained(name, denoiser, strict=strict)
    return known[key].to(device_of(denoiser))  # which may have moved since


def check_policy_folder(folder: Path) -> None:
    """Refuse a folder that holds no policy.

    Raises:
        BadInput: it has no `config.json`.
    """
    if (folder / "sampler.json").is_file():
        raise BadInput(
            f"{folder} holds a complete sampler, not a policy: load it with "
            f"Sampler.from_pretrained, or name the policy in it, {folder / 'policy-0'}"
        )
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no order policy (no config.json): fit one with `anyorder train` or `anyorder fit`")


def load_policy(folder: Path) -> PolicyNetwork:
    """A policy network from `config.json` and `model.safetensors`, in eval mode.

    Raises:
        BadInput: no policy there. BadCheckpoint: a damaged configuration, weights that cannot be read or are not finite, or a
            configuration that asks for a far larger network than the weights are of.
    """
    check_policy_folder(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "architecture" not in config:
        raise BadInput(f"{folder} holds no order policy (its config.json names no architecture): name the policy's own folder")
    kind = policy_class(str(config.pop("architecture")))
    try:
        if "heads" in config and isinstance(config["heads"], list):
            config["heads"] = tuple(config["heads"])
        policy: PolicyNetwork = with_weights(lambda: kind(**config), folder / "model.safetensors")
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{folder} holds no readable policy: {first_line(error)}") from error
    return policy.eval()


def check_or_note(policy: PolicyNetwork, denoiser: nn.Module | None, folder: Path, *, strict: bool) -> None:
    """Check a policy that was just loaded; without a denoiser, note that `check_unchecked` is to do it on first use."""
    if denoiser is not None:
        check_denoiser(policy, denoiser, folder, strict=strict)
    elif strict and policy.denoiser_fingerprint:
        policy.unchecked = folder


def networks_of(part: Any) -> list[nn.Module]:
    """The networks of an order or critic."""
    critic = part.critic if isinstance(part, LearnedOrder) else None
    learned: list[nn.Module] = [one.policy for one in (part, critic) if isinstance(one, LearnedOrder | Critic)]
    return [part] if isinstance(part, nn.Module) else learned


def check_unchecked(part: Any, denoiser: nn.Module, *, strict: bool = True) -> None:
    """Check the networks of an order or critic that were loaded without a denoiser, and move them to its device.

    Raises:
        WrongDenoiser: see `check_denoiser`. BadInput: another network is on another device than the denoiser.
    """
    for network in networks_of(part):
        if isinstance(network, PolicyNetwork) and network.unchecked is not None:
            check_denoiser(network, denoiser, network.unchecked, strict=strict)
            network.unchecked = None
            network.to(device_of(denoiser))
        device = device_of(denoiser, device_of(network))
        where = device_of(network, device)
        if where != device:
            raise BadInput(
                f"a network of the sampler is on {where}, and the denoiser on {device}: move it, sampler.to('{device}')"
            )


def check_denoiser(policy: PolicyNetwork, denoiser: nn.Module, folder: str | Path, *, strict: bool = True) -> None:
    """Compare the fingerprint of a denoiser with the one that a policy stores.

    Raises:
        WrongDenoiser: they differ, and `strict`, or the shapes differ too. Otherwise a difference is a warning.
    """
    found = fingerprint(denoiser)
    if found == policy.denoiser_fingerprint:
        return
    message = f"the policy in {folder} was fitted to the denoiser {policy.denoiser_fingerprint}, and this one is {found}"
    for name, reads in (("hidden_size", policy.reads_hidden), ("vocab_size", policy.reads_logits)):
        needed: Any = getattr(policy, name)
        given = getattr(denoiser, name, needed)
        if reads and needed != given:
            raise WrongDenoiser(f"{message}, with {name} {given}; the policy needs {needed}: fit a policy to this denoiser")
    if not policy.reads_hidden:
        message += "; it reads confidences and no hidden states, so it can be used here, with unknown accuracy"
    if strict:
        raise WrongDenoiser(f"{message}: fit a policy to this denoiser, or load it with strict=False (--ignore-fingerprint)")
    warnings.warn(message, stacklevel=4)
