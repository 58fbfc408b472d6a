"""Folders in the layout of the Hugging Face hub: saved, loaded and pushed by the same three methods everywhere."""

import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import safetensors
from torch import nn

from anyorder.errors import AnyorderError, BadInput, first_line
from anyorder.files import write_tensors
from anyorder.signatures import checked

UNLOADABLE = (
    safetensors.SafetensorError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What may go wrong when a module is made from a damaged configuration or damaged weights."""


_PATIENCE = 5.0
"""Seconds in which the hub must take a connection."""


class Pushable(ABC):
    """Something that is saved as a folder and can be pushed to the hub."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder."""

    @checked("repo_id")
    def push_to_hub(
        self, repo_id: str, *, private: bool = False, commit_message: str = "Upload from anyorder", **options: Any
    ) -> str:
        """Save to a temporary folder and upload it.

        Args:
            repo_id: `owner/name` on the hub; created if it does not exist.
            private: whether a repository that is created is private.
            commit_message: message of the upload.
            options: passed to `huggingface_hub.upload_folder`: token, revision, create_pr, ...

        Returns:
            The address of the commit.

        Raises:
            AnyorderError: the hub cannot be reached, or refuses.
        """
        import huggingface_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                huggingface_hub.create_repo(repo_id, private=private, exist_ok=True, token=options.get("token"))
                done = huggingface_hub.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=commit_message, **options
                )
            except (OSError, ValueError) as error:
                raise AnyorderError(f"{repo_id} cannot be pushed to the hub: {first_line(error)}") from error
        return str(done.commit_url)


def save_weights(module: nn.Module, folder: str | Path) -> None:
    """Write the weights of a module as `model.safetensors` into a folder, atomically. Tied weights are written twice."""
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}
    write_tensors(Path(folder) / "model.safetensors", tensors, {"format": "pt"})


def of_hub(name: str | Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of `from_pretrained` for a name: with `local_files_only` if it is no folder and the hub cannot be reached, where
    the libraries would try again for half a minute."""
    options = dict(options or {})
    if "local_files_only" in options or Path(name).exists() or _reachable():
        return options
    return options | {"local_files_only": True}


def folder_in_cache(name: str, options: Mapping[str, Any]) -> Path | None:
    """The folder in the cache that holds what was fetched of a model by its hub id; None if nothing was.

    Args:
        name: hub id.
        options: of `from_pretrained`: cache_dir, revision and subfolder are read.
    """
    from huggingface_hub import try_to_load_from_cache

    place = {key: options[key] for key in ("cache_dir", "revision") if key in options}
    found = try_to_load_from_cache(name, str(Path(options.get("subfolder", "")) / "config.json"), **place)
    return Path(found).parent if isinstance(found, str) else None


def _reachable() -> bool:
    """Whether the host of the hub takes a connection now; what a proxy reaches is not known, and counts as reachable."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or address.hostname is None:
        return False
    if {address.scheme, "all"} & getproxies().keys():
        return True
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def download(name: str | Path, **options: Any) -> Path:
    """The folder of a name: the name itself if it is a folder, else a snapshot of the repository `owner/name` of the hub.

    Args:
        name: folder or hub id.
        options: passed to `huggingface_hub.snapshot_download`: revision, token, cache_dir, local_files_only, ...

    Raises:
        BadInput: neither a folder nor a repository that can be downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise BadInput(f"no such folder: {name}")
    import huggingface_hub

    options = of_hub(name, options)
    try:
        return Path(huggingface_hub.snapshot_download(str(name), **options))
    except (OSError, ValueError) as error:
        raise BadInput(f"{name} is not a folder here, and cannot be downloaded from the hub: {first_line(error)}") from error
