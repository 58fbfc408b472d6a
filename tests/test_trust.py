"""Other people's folders: their code is not run, and they send us to no hub, unless the user says so."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anyorder
from anyorder.causal import CausalModel
from anyorder.errors import BadInput
from anyorder.evaluation.judges import make_judges
from anyorder.evaluation.structure import ESMFold
from anyorder.orders.learned import load_policy
from anyorder.session import open_session
from anyorder.tasks.alphabets import alphabet_of
from anyorder.tasks.sequences import Sequences
from anyorder.training.rewards import JudgeReward
from anyorder.zoo import folder_of, load_denoiser, task_for, task_of
from tiny_proteins import save_esm

transformers = pytest.importorskip("transformers")


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder whose code leaves a file behind; whoever is asked on standard input says yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
    classes = {
        "AutoConfig": "theirs.C",
        "AutoModel": "theirs.M",
        "AutoModelForCausalLM": "theirs.M",
        "AutoModelForMaskedLM": "theirs.M",
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": classes}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["theirs.T", None]}}))
    return folder


READERS: dict[str, Callable[[str], object]] = {
    "denoiser": load_denoiser,
    "session": lambda name: open_session(model=name),
    "judge": lambda name: make_judges([f"perplexity:{name}"], None),  # type: ignore[arg-type]
    "structure judge": lambda name: make_judges([f"esmfold:{name}"], None),  # type: ignore[arg-type]
    "folding": lambda name: ESMFold(name).fold(["ACDE"]),
    "reward": lambda name: JudgeReward(name)._judge,
    "alphabet": alphabet_of,
    "order": lambda name: anyorder.load_order(name),
    "sampler": lambda name: anyorder.Sampler.from_pretrained(name),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_code_of_a_folder_is_not_run(reader: str, stranger: Path) -> None:
    with pytest.raises(BadInput):
        READERS[reader](str(stranger))
    assert not (stranger.parent / "was run").exists()


@pytest.mark.parametrize(
    "allow",
    [
        lambda name: CausalModel(name, trust_remote_code=True),
        lambda name: make_judges([f"perplexity:{name}:trust_remote_code=true"], None),
        lambda name: JudgeReward(name, trust_remote_code=True)._judge,
        lambda name: load_denoiser(name, trust_remote_code=True),
    ],
)
def test_it_is_run_for_a_user_who_allows_it(allow: Callable[[str], object], stranger: Path) -> None:
    with pytest.raises((BadInput, AttributeError)):  # the code has none of the classes
        allow(str(stranger))
    assert (stranger.parent / "was run").exists()


def test_a_judge_says_how_its_code_is_allowed(stranger: Path) -> None:
    with pytest.raises(BadInput, match="comes with code of its own: read it, then allow it by trust_remote_code=true"):
        make_judges([f"perplexity:{stranger}"], None)  # type: ignore[arg-type]


def test_every_call_that_could_run_the_code_of_a_model_says_whether_it_may() -> None:
    silent = []
    for path in Path(anyorder.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ".from_pretrained(" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
                called, given = ast.unparse(node.func.value), {keyword.arg for keyword in node.keywords}
                if "auto" in called.lower() and not {"trust_remote_code", None} & given:  # None is **options
                    silent.append(f"{path.name}:{node.lineno}")
    assert silent == []


def test_a_policy_s_folder_calls_nothing_but_a_policy(tmp_path: Path) -> None:
    ran = tmp_path / "was run"
    for name, arguments in {"subprocess:Popen": {"args": ["touch", str(ran)]}, "os:mkdir": {"path": str(ran)}}.items():
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name, **arguments}))
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(BadInput, match="is no architecture of policies"):
            load_policy(tmp_path)
    assert not ran.exists()


def test_a_denoiser_s_folder_calls_nothing_but_a_module_and_a_task(tmp_path: Path) -> None:
    ran = tmp_path / "was run"
    theirs = {"class": "subprocess:Popen", "args": ["touch", str(ran)]}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(BadInput, match="not a class of denoisers"):
        load_denoiser(tmp_path)
    (tmp_path / "task.json").write_text(json.dumps({"name": "subprocess:Popen", "options": {"args": ["touch", str(ran)]}}))
    with pytest.raises(BadInput, match="is not a task"):
        task_of(tmp_path)
    assert not ran.exists()


# ---- hubs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What transformers was asked for; nothing can be had."""
    names: list[str] = []

    def ask(name: Any, **_: Any) -> None:
        names.append(str(name))
        raise OSError("there is no hub here")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", ask)
    return names


@pytest.mark.parametrize("elsewhere", ["owner/model", "gpt2"])
def test_a_task_file_does_not_send_us_to_a_hub(elsewhere: str, tmp_path: Path, asked: list[str]) -> None:
    shutil.copytree(folder_of("wordnet"), tmp_path / "m")
    (tmp_path / "m" / "task.json").write_text(json.dumps({"name": "text", "options": {"alphabet": elsewhere, "length": 36}}))
    for read in (task_of, lambda folder: open_session(model=str(folder)), lambda folder: task_for(load_denoiser(folder))):
        with pytest.raises(
            BadInput, match=f"asks for the alphabet of '{elsewhere}', which is not here: give the alphabet yourself"
        ):
            read(tmp_path / "m")
    assert asked == []
    found = task_for(load_denoiser(tmp_path / "m"), alphabet="subwords")
    assert isinstance(found, Sequences) and found.alphabet_name == "subwords", "what the user says holds"
    with pytest.raises(BadInput, match="there is no hub here"):
        task_for(load_denoiser(tmp_path / "m"), alphabet=elsewhere)
    assert asked == [elsewhere]


def test_the_alphabet_of_a_hugging_face_model_is_its_own_wherever_it_came_from(tmp_path: Path, asked: list[str]) -> None:
    folder = save_esm(tmp_path / "esm")
    (folder / "task.json").write_text(json.dumps({"name": "protein", "options": {"alphabet": "owner/model", "length": 20}}))
    denoiser = load_denoiser(folder)
    asked.clear()  # of the model's own folder
    task = task_for(denoiser)
    assert isinstance(task, Sequences) and (task.name, task.most, task.vocab_size) == ("protein", 20, 33)
    assert asked == []
