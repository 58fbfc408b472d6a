"""Loading models of transformers: the package, its remarks, the files of weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyorder.errors import BadInput
from anyorder.hub import folder_in_cache
from anyorder.weights import weight_files


@contextmanager
def quietly(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bars and remarks about weights that are left over."""
    log = transformers.utils.logging
    bars, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar(), log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def refuse_code(name: str | Path, error: Exception, allow: str) -> None:
    """Raise what is wrong in our words if transformers refused a model for the code that comes with it.

    Args:
        name: of the model.
        error: of transformers.
        allow: how a user allows the code.

    Raises:
        BadInput: the model comes with code of its own.
    """
    if "trust_remote_code" in str(error):
        raise BadInput(f"{name} comes with code of its own: read it, then allow it by {allow}") from error


def weights_of(name: str | Path, options: Mapping[str, Any]) -> Iterable[Path] | Callable[[], Iterable[Path]]:
    """The weight files of a folder; of a hub id, which fetches them first, a function that gives them."""
    if Path(name).is_dir():
        return weight_files(Path(name) / options.get("subfolder", ""))

    def fetched() -> Iterable[Path]:
        folder = folder_in_cache(str(name), options)
        return [] if folder is None else weight_files(folder)

    return fetched


def load_transformers(what: str) -> Any:
    """The package transformers, which `what` needs.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise BadInput(f"{what}: pip install 'anyorder[hf]'") from error
    return transformers
