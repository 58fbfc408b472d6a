"""What a report of a bug needs: versions, devices and extras; no paths, no names of machines or users."""

import os
import platform
import re
from importlib import metadata

from anyorder import __version__

_ALWAYS = ("torch", "numpy", "numba", "accelerate", "huggingface_hub", "safetensors", "transformers")


def about() -> list[str]:
    """One line per fact."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [
        f"anyorder {__version__}",
        f"python: {python}",
        f"system: {_system()}, {platform.machine()}, {os.cpu_count()} cores",
        "packages: " + ", ".join(f"{name} {_version(name)}" for name in _ALWAYS),
        *_devices(),
        *(f"extra {name}: {said}" for name, said in extras().items()),
    ]


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']} ({platform.system()} {platform.release()})"
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _devices() -> list[str]:
    """The accelerators that torch sees; of a torch that cannot be imported, why."""
    try:
        import torch
    except Exception as error:
        return [f"torch cannot be imported: {type(error).__name__}"]
    if not torch.cuda.is_available():
        other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return [f"devices: {other or 'no accelerator'}; threads: {torch.get_num_threads()}"]
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    names = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in found)
    return [f"devices: {names}; CUDA {torch.version.cuda}; threads: {torch.get_num_threads()}"]


def extras() -> dict[str, str]:
    """What is installed of each extra, as the metadata of the installed package names it."""
    wanted: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires("anyorder") or []
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        return {}
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)(?:\[[^\]]*\])?[^;]*;.*\bextra == ['\"]([\w.-]+)['\"].*", requirement)
        if found and found[1] != "anyorder" and found[2] not in ("dev", "docs"):
            wanted.setdefault(found[2], []).append(found[1])
    return {name: ", ".join(f"{one} {_version(one)}" for one in packages) for name, packages in wanted.items()}
