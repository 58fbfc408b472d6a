"""Whatever a file or an argument holds, a reader gives a valid result or says what is wrong; never another error.

`FUZZ=20 pytest tests/test_fuzz.py` tries twenty times as many examples.
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyorder.cli.options import names, numbers, read_budgets
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import AnyorderError, BadInput
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import load, save_trajectories
from anyorder.files import open_text
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import COUNT_RULES
from anyorder.report.sources import read_metrics
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.session import key_values, open_session
from anyorder.tasks import TASKS, Unreadable, make_task
from anyorder.tasks.generation import make_problems
from anyorder.tasks.math_prompts import read_problems
from anyorder.training.checkpoint import load_checkpoint
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe, recipe_names, validate_recipe
from anyorder.zoo import folder_of, load_denoiser, load_order

EXAMPLES = 25 * int(os.environ.get("FUZZ", 1))
many = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ" not in os.environ,  # the same examples each time, unless one looks for new ones
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

JUNK = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n\n",
    b"[" * 2000,
    b'"',
    b"NaN",
    b"1e999",
    b"-1",
    b"0",
    b"{}",
    b"null",
    b"9" * 5000,
    b"\xf0\x9f\x98\x80",
    b"\xd9\xa3",
    b"\xe2\x85\xa7",
    b",",
    b"_{9999999999}",
    b"true",
    b"[]",
    b"\\u0000",
]


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file, cut, with bytes changed, lost or put in; now and then any bytes at all."""
    kind = draw(st.sampled_from(["cut", "change", "change", "insert", "insert", "lose", "twice", "any"]))
    place = draw(st.integers(0, len(valid)))
    if kind == "cut":
        return valid[:place]
    if kind == "any":
        return draw(st.binary(max_size=200))
    if kind == "twice":
        return valid[:place] + valid
    if kind == "lose":
        return valid[:place] + valid[place + draw(st.integers(1, 20)) :]
    what = draw(st.one_of(st.sampled_from(JUNK), st.binary(min_size=1, max_size=6)))
    return valid[:place] + what + valid[place + (len(what) if kind == "change" else 0) :]


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 10), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["sudoku", "mlp", "everything", "1,2", 2**63, 10**30]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """Plain values with one of them, however deep, replaced by anything, left out, or put beside a stranger."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in value.items() if k != key}
        if not draw(st.integers(0, 9)):
            return value | {draw(st.text(max_size=5)): draw(anything)}
        return value | {key: draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    return draw(anything)


def survives(read: Callable[[], object]) -> None:
    """A result, or an error that is the user's to act on, in words."""
    with suppress(AnyorderError, FileNotFoundError, IsADirectoryError):  # the command line makes one line of each
        read()


# ---- files of problems and sequences ------------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "sudoku": {"box": 2}, "sat": {"variables": 5}, "countdown": {"numbers": 3}, "zebra": {"houses": 3, "attributes": 3},
    "sorting": {"items": 4, "values": 9}, "tsp": {"cities": 4, "grid": 8}, "text": {"length": 20}, "protein": {"length": 20},
    "antibody": {"length": 20}, "molecules": {"length": 20}, "arithmetic": {"digits": 3}, "words": {},
}  # fmt: skip

_FORMULA = "1,2,3/-1,2,4/1,-3,5/2,3,-4/-2,4,5"
PROBLEMS = {
    "sudoku.csv": ("sudoku", b"puzzle,solution\n1030041000404001,1234341221434321\n" + b"0000000000000000,1234341221434321\n"),
    "rated.csv": ("sudoku", b"source,question,answer,rating\na,1030041000404001,1234341221434321,2\n"),
    "bare.csv": ("sudoku", b"1030041000404001\n0000000000000000\n"),
    "grids.txt": ("sudoku", b"# two\nGrid 01\n1 0|3 0\n04|10\n--+--\n00|40\n40|01\n\n1.3.\n.41.\n..4.\n4..1\n"),
    "lines.txt": ("sudoku", b"a 1030041000404001 1.5\n1*3*041***4*4**1 2 # stars\n"),
    "lists.json": ("sudoku", b'[{"puzzle": [[1, null, 3, 0], "041.", [0, 0, 4, 0], ["4", 0, 0, 1]], "rating": 2}]'),
    "dimacs.cnf": ("one clause", b"c a comment\np cnf 4 1\n1 -2\n3 0\n%\n0\np cnf 3 1\n1 2 3 0\n"),
    "formulas.csv": ("one clause", b'input,output\n"1,-2,3","1,2,3,4"\n'),
    "cd.csv": ("countdown", b'nums,target\n"1,2,3",6\n'),
    "cd.jsonl": ("countdown", b'{"input": "1,2,3,6", "output": "1+2=3,3+3=6"}\n{"input": "1,2,3", "output": "6"}\n'),
    "sorting.txt": ("sorting", b"5,3,8,3\n1 2 3 4\n"),
    "sums.txt": ("arithmetic", b"12+345\n1+2=3\n123+456=0__9\n"),
    "words.jsonl": ("words", b'{"kind": "addition", "problem": "17 + 25"}\n{"kind": "sudoku4", "problem": "0000400001030001", '
                    b'"solution": "1234\\n4312\\n2143\\n3421"}\n{"kind": "countdown", "problem": "1,2,3,6"}\n'),
    "tsp.txt": ("tsp", b"0,0 3,7 5,4 7,7\n0,1 2,3 4,5 6,7\n"),
    "text.txt": ("text", b"a small dog\na _ cat\n"),
    "text.jsonl": ("text", b'{"text": "a dog"}\n"a cat"\n'),
    "protein.fasta": ("protein", b">one\nACDEFG\nHIK\n>two\nAC__DE\n"),
    "aligned.a3m": ("protein", b">one\nACd-EXB\nHI.K*\n"),
    "names.smiles": ("molecules", b"smiles,name\nCCO,ethanol\n# none\nc1ccccc1\tbenzene\n"),
    "list.json": ("text", b'[{"text": "a dog"}, "a cat"]'),
    "tabs.tsv": ("text", b"id\ttext\n1\ta dog\n"),
    "protein.csv": ("protein", b"id,sequence\n1,ACDE\n2,AC_E\n"),
    "antibody.fasta": ("antibody", b">one\nEVQLVESGG\n"),
    "molecules.smi": ("molecules", b"CCO ethanol\nc1ccccc1\n"),
    "molecules.csv": ("molecules", b"smiles\nCCO\nC_O\n"),
}  # fmt: skip


def sat_file() -> bytes:
    task = make_task("sat", **SMALL["sat"])
    drawn = task.generate(2, 0)
    rows = [{"clauses": [[1, -2, 3]] * 2}]
    for tokens, solution in zip(drawn.tokens, drawn.x0, strict=True):
        literals = task._literal_of(tokens[task._literal_places]).view(-1, 3).tolist()
        rows.append({"input": "/".join(",".join(map(str, c)) for c in literals), "output": task.format(solution)})
    return "".join(json.dumps(row) + "\n" for row in rows[1:]).encode()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    zebra = make_task("zebra", **SMALL["zebra"])
    path = tmp_path_factory.mktemp("zebra") / "z.jsonl"
    zebra.save(zebra.generate(2, 0), path)
    return PROBLEMS | {"sat.jsonl": ("sat", sat_file()), "zebra.jsonl": ("zebra", path.read_bytes())}


@pytest.mark.parametrize("name", [*PROBLEMS, "sat.jsonl", "zebra.jsonl"])
def test_files_of_problems(name: str, problems: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    kind, valid = problems[name]
    task = make_task("sat", variables=4, clauses=1) if kind == "one clause" else make_task(kind, **SMALL[kind])
    path = tmp_path / name
    path.write_bytes(valid)
    task.load(path)

    @many
    @given(content=damaged(valid))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        survives(lambda: _usable(task, task.load(path)))
        survives(lambda: _usable(task, task.load(path, unreadable=Unreadable(skip=True))))
        with suppress(BadInput), open_text(path) as file:
            type(task).options_of(file.readline, None)

    check()


def _usable(task: Any, instances: Any) -> None:
    assert int(instances.tokens.min()) >= 0 and int(instances.tokens.max()) < task.vocab_size
    assert ((instances.tokens == task.mask_token_id) == instances.maskable).all()
    task.check(instances, instances.tokens if instances.x0 is None else instances.x0)


@pytest.mark.parametrize(
    "name",
    ["sorting.txt", "sums.txt", "tsp.txt", "text.jsonl", "text.txt", "list.json", "tabs.tsv", "cd.jsonl", "antibody.fasta"],
)
def test_windows_line_endings_and_a_byte_order_mark_change_nothing(name: str, tmp_path: Path) -> None:
    kind, valid = PROBLEMS[name]
    task = make_task(kind, **SMALL[kind])
    (tmp_path / name).write_bytes(valid)
    plain = task.load(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + valid.replace(b"\n", b"\r\n"))
    assert torch.equal(task.load(tmp_path / name).tokens, plain.tokens)


@pytest.mark.parametrize("kind", SMALL)
def test_problems_typed_as_text(kind: str) -> None:
    task = make_task(kind, **SMALL[kind])
    examples = [
        "1030040000403001",
        _FORMULA,
        "3,4,5,60",
        "red at 1; a is left of b",
        "5,3,8,3",
        "0,0 3,7 5,4 7,7",
        "AC_{3}D",
        "addition: 17 + 25",
        "12",
    ]

    @many
    @given(text=st.one_of(st.text(max_size=60), st.sampled_from(examples).flatmap(
        lambda t: damaged(t.encode()).map(lambda b: b.decode("utf-8", "replace")))))  # fmt: skip
    def check(text: str) -> None:
        survives(lambda: _usable(task, task.parse(text)))
        survives(lambda: TASKS[kind].options_of(None, text))

    check()


@pytest.mark.parametrize("kind", SMALL)
def test_first_lines_that_tell_the_options(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    valid = next((v for k, v in PROBLEMS.values() if k == kind), b'{"input": "1,2,3/-1,2,3", "clues": ["red at 1"]}\n')

    @many
    @given(content=damaged(valid))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        survives(lambda: open_session(task=kind, data=path, limit=1))

    check()


MATH = [{"question": "How much is 6 times 7?", "answer": "6*7=<<6*7=42>>42\n#### 42"},
         {"problem": "What is $x$?", "solution": "It is \\boxed{2}.", "level": "1"}]  # fmt: skip


MATH_FILES = {
    "lines": "\n".join(map(json.dumps, MATH)),
    "list": json.dumps(MATH),
    "csv": 'id;Question;Answer\n1;"How much is\n6 times 7?";42\n',
}


@pytest.mark.parametrize("form", MATH_FILES)
def test_files_of_mathematics(form: str, tmp_path: Path) -> None:
    valid = MATH_FILES[form].encode()

    @many
    @given(content=st.one_of(damaged(valid), altered(MATH).map(lambda v: json.dumps(v).encode())))
    def check(content: bytes) -> None:
        (tmp_path / "m.json").write_bytes(content)
        survives(lambda: read_problems(tmp_path / "m.json"))

    check()


# ---- recipes and options ------------------------------------------------------------------------------------------------


@many
@given(st.data())
def test_recipes(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(recipe_names()))
    values = load_recipe(name).model_dump(mode="json", exclude_unset=True)
    survives(lambda: validate_recipe(data.draw(altered(values))))
    key = data.draw(
        st.sampled_from(["run.steps", "run", "task.options.box", "optimizer.lr", "policy.heads", "", ".", "a.b.c", "kind"])
    )
    value = data.draw(st.one_of(st.text(max_size=10), anything.map(lambda v: json.dumps(v)[:4000])))
    survives(lambda: load_recipe(name, [f"{key}={value}"]))
    survives(lambda: load_recipe(name, [value]))


def test_recipe_files(tmp_path: Path) -> None:
    from importlib import resources

    valid = resources.files("anyorder.recipes").joinpath("sudoku4-order.toml").read_bytes()

    @many
    @given(content=damaged(valid))
    def check(content: bytes) -> None:
        (tmp_path / "r.toml").write_bytes(content)
        survives(lambda: load_recipe(tmp_path / "r.toml"))

    check()
    (tmp_path / "r.toml").write_text("kind = " + "[" * 2000)
    with pytest.raises(BadInput, match="not valid TOML"):
        load_recipe(tmp_path / "r.toml")


@many
@given(st.data())
def test_recipes_that_are_valid_and_make_no_sense(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    small = ["data.size=4", "run.steps=1", "run.batch_size=4"]
    override = data.draw(
        st.sampled_from(
            [
                "task.options={box=3}",
                "task.options={}",
                "task.options={box=0}",
                "task.options={box='x'}",
                "task.name=sat",
                "task.name=x",
                "policy.heads=[]",
                "policy.width=7",
                "policy.layers=0",
                "policy.heads=['nowhere']",
                "data.options={givens=99}",
                "data.file=/nowhere",
                "denoiser=..",
                "denoiser=a/b/c",
                "denoiser=/",
                "denoiser=''",
                "policy.top_positions=0",
                "data.size=0",
                "run.batch_size=0",
                "optimizer.lr=-1",
                "optimizer.lr=nan",
                "objective.rollout_steps=[9,2]",
                "seed=-1",
                "task.options={box=-2}",
                "data.options={givens='a'}",
                "data.seed=-5",
                "objective.rank_temperature=0",
                "policy.first_look=true",
            ]
        )
    )
    folder = tmp_path_factory.mktemp("run")
    name = data.draw(st.sampled_from(["sudoku4-order", "sudoku4-denoiser", "sudoku4-upo"]))
    survives(lambda: run_recipe(load_recipe(name, [*small, override]), folder))


@many
@given(st.data())
def test_orders_rules_curves_and_numbers(data: st.DataObject) -> None:
    piece = st.sampled_from(
        [
            "confidence",
            "random",
            "policy",
            "oracle",
            "top_k:",
            "3",
            "~",
            "0.1",
            "+undo",
            "+repredict",
            "+p2:",
            "+remdm:",
            "+wino:",
            "@",
            "linear",
            "threshold:",
            "fixed:",
            "blocks:",
            "bernoulli:",
            "klass:",
            "plackett_luce:",
            "/",
            ":",
            "nan",
            "inf",
            "-1",
            "1e999",
            "factor:",
            "cosine",
            "all",
            "entropy_bound:",
            ",",
            "0",
            "predicted_error:",
            "score_threshold:",
        ]
    )
    text = data.draw(st.one_of(st.text(max_size=12), st.lists(piece, max_size=6).map("".join)))
    denoiser = load_denoiser("sudoku4")
    for read in (
        lambda: Sampler.parse(text, steps=5).bind(denoiser),
        lambda: as_curves([text], denoiser, 16),
        lambda: COUNT_RULES.make(text),
        lambda: read_budgets(text, 16),
        lambda: numbers(text, float, "--noise"),
        lambda: names(text),
    ):
        survives(read)


@many
@given(st.data())
def test_options_of_tasks_and_generators(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(SMALL)))
    known = [
        "box",
        "variables",
        "houses",
        "attributes",
        "items",
        "values",
        "cities",
        "grid",
        "numbers",
        "length",
        "layout",
        "givens",
        "difficulty",
        "clues",
        "hide",
        "window",
        "color",
        "alphabet",
    ]
    value = st.one_of(st.integers(-2, 12).map(str), st.sampled_from(["x", "2-1", "1-3", "0.5", "nan", "", "٣", "²", "infill"]))
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(known), value).map("=".join), max_size=2))

    def make(pairs: list[str], generate: list[str]) -> None:
        task = make_task(kind, **key_values(pairs, "--task-option"))
        if task.length < 300:
            make_problems(task, 1, 0, key_values(generate, "--generate"))

    survives(lambda: make(pairs, []))
    small = [f"{key}={value}" for key, value in SMALL[kind].items()]
    survives(lambda: make(small, pairs))


@many
@given(
    text=st.one_of(
        st.text(max_size=30), st.sampled_from(["a/b", "../..", "-x/y", "a b/c", "é/è", "a/" + "b" * 300, "nul\x00l", "."])
    )
)
def test_names_of_models(text: str) -> None:
    survives(lambda: load_denoiser(text))
    survives(lambda: load_order(text))


# ---- what commands write and read again ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trajectories in all forms, a report, decoded sequences, a run with checkpoints, and a reproduction's cell."""
    from anyorder.evaluation.batches import decode_in_batches
    from anyorder.evaluation.comparison import evaluate

    room = tmp_path_factory.mktemp("kept")
    session = open_session(model="sudoku4", limit=3, generate=["givens=6"])
    watch = session.watch(0)
    report: Report = evaluate(
        session.denoiser, session.task, session.instances, ["confidence", "policy"], [3],
        watch=watch, meta=session.meta,
    )  # fmt: skip
    report.save(room / "report.json")
    for name in ("t.json", "t.json.gz", "t.parquet"):
        save_trajectories(watch.trajectories(), room / name)
    sampler = session.bind("confidence", steps=3)
    decode_in_batches(
        session.denoiser, session.instances, sampler, seed=0, batch_size=9, progress=None, name=""
    ).save(room / "d.safetensors")  # fmt: skip
    run_recipe(tiny_recipe(), room / "run")
    return room


def tiny_recipe() -> Any:
    return load_recipe("sudoku4-order", [
        "data.size=8", "run.steps=4", "run.batch_size=4", "run.checkpoint_steps=2", "run.log_steps=1", "policy.width=8",
        "policy.layers=1", 'policy.heads=["everything"]',
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["report.json", "t.json", "t.json.gz", "t.parquet", "d.safetensors", "metrics.jsonl"])
def test_results(name: str, kept: Path, tmp_path: Path) -> None:
    source = kept / name if name != "metrics.jsonl" else kept / "run" / name
    valid, path = source.read_bytes(), tmp_path / name
    read: Callable[[], object] = {
        "d.safetensors": lambda: Decoded.load(path),
        "metrics.jsonl": lambda: read_metrics([path]),
    }.get(name, lambda: load(path))
    content = damaged(valid)
    if name in ("t.json", "report.json"):
        content = st.one_of(content, altered(json.loads(valid)).map(lambda v: json.dumps(v).encode()))
    if name == "t.json.gz":
        content = st.one_of(content, damaged(gzip.decompress(valid)).map(gzip.compress))

    @many
    @given(content=content)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        survives(read)

    check()


@pytest.mark.parametrize(
    "name", ["config.json", "task.json", "model.safetensors", "order/config.json", "order/model.safetensors"]
)
def test_folders_of_models(name: str, tmp_path: Path) -> None:
    shutil.copytree(folder_of("sudoku4"), tmp_path / "m")
    path = tmp_path / "m" / name
    valid = path.read_bytes()
    content = damaged(valid if len(valid) < 20_000 else valid[:20_000])
    if name.endswith(".json"):
        content = st.one_of(content, altered(json.loads(valid)).map(lambda v: json.dumps(v).encode()))

    @many
    @given(content=content)
    def check(content: bytes) -> None:
        path.write_bytes(content)

        def use() -> None:
            denoiser = load_denoiser(tmp_path / "m")
            assert isinstance(denoiser, Transformer)
            assert isinstance(load_order(tmp_path / "m", denoiser), LearnedOrder)
            open_session(model=str(tmp_path / "m"), limit=1)

        survives(use)

    check()


@pytest.mark.parametrize("name", ["checkpoints/step-00000004.safetensors", "recipe.json", "metrics.jsonl"])
def test_folders_of_runs(name: str, kept: Path, tmp_path: Path) -> None:
    valid = (kept / "run" / name).read_bytes()
    head = valid if name.endswith("json") or name.endswith("jsonl") else valid[:6000]

    @settings(many, max_examples=max(8, EXAMPLES // 3))
    @given(content=damaged(head).map(lambda b: b + valid[len(head) :]))
    def check(content: bytes) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(kept / "run", tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(content)
        if name.startswith("checkpoints"):
            survives(lambda: load_checkpoint(tmp_path / "run" / name))
        survives(lambda: run_recipe(tiny_recipe(), tmp_path / "run"))

    check()


def test_folders_of_reproductions(tmp_path: Path) -> None:
    setting = Setting(
        task="sudoku",
        options={"box": 2},
        denoiser="sudoku4",
        adaptive="sudoku4-order",
        problems=3,
        generate={"givens": 6},
        steps=4,
    )
    study, decoding = Study(tmp_path), Decoding(setting, "frozen", ("confidence",), 4)
    right = study.decode(decoding)["confidence"]
    (cell,) = tmp_path.rglob("cells/*.json")
    valid = cell.read_bytes()

    @many
    @given(content=st.one_of(damaged(valid), altered(json.loads(valid)).map(lambda v: json.dumps(v).encode())))
    def check(content: bytes) -> None:
        cell.write_bytes(content)
        survives(lambda: _cells(study, decoding, right))

    check()
    for solved in ("\ufeff", "10", "1x1"):
        cell.write_text(json.dumps(json.loads(valid) | {"solved": solved}))
        with pytest.raises(BadInput, match="is damaged"):
            study.decode(decoding)


def _cells(study: Study, decoding: Decoding, right: np.ndarray) -> None:
    assert len(study.decode(decoding)["confidence"]) == len(right)


# ---- checkers -----------------------------------------------------------------------------------------------------------


def _is_sudoku(row: list[int]) -> bool:
    grid = [row[i : i + 4] for i in (0, 4, 8, 12)]
    boxes = [[grid[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
    return all(sorted(house) == [1, 2, 3, 4] for house in (*grid, *zip(*grid, strict=True), *boxes))


def _is_sorted(row: list[int]) -> bool:
    return row[4:] == sorted(row[:4])


def _is_sum(row: list[int]) -> bool:
    one, other, result = ("".join(str(token - 1) for token in part) for part in (row[:3], row[3:6], row[6:]))
    return 0 not in row and int(one) + int(other) == int(result)


def _is_satisfied(row: list[int]) -> bool:
    """Tokens 1..n are the variables, n + 1..2n their negations; the answer comes last."""
    literals = [token if token <= 5 else 5 - token for token in row]
    *formula, a, b, c, d, e = literals
    true = {a, b, c, d, e}
    clauses = [formula[i : i + 3] for i in range(0, len(formula), 3)]
    return [abs(v) for v in (a, b, c, d, e)] == [1, 2, 3, 4, 5] and 0 not in true and all(true & set(c) for c in clauses)


SLOW: dict[str, Callable[[list[int]], bool]] = {
    "sudoku": _is_sudoku,
    "sorting": _is_sorted,
    "sat": _is_satisfied,
    "arithmetic": _is_sum,
}


@pytest.mark.parametrize("kind", SMALL)
def test_checkers_judge_whatever_they_are_given(kind: str) -> None:
    task = make_task(kind, **SMALL[kind])
    problems = task.generate(4, 0)
    start = problems.tokens if problems.x0 is None else problems.x0

    @many
    @given(st.data())
    def check(data: st.DataObject) -> None:
        tokens = start.clone()
        for row in range(len(tokens)):
            for _ in range(data.draw(st.integers(0, 3))):
                at = data.draw(st.integers(0, tokens.shape[1] - 1))
                tokens[row, at] = data.draw(st.integers(0, task.vocab_size - 1))
        verdict = task.check(problems, tokens)
        assert verdict.instance_correct.shape == verdict.cell_accuracy.shape == (4,)
        assert all(np.isnan(a) or 0 <= a <= 1 for a in verdict.cell_accuracy.tolist())
        kept = ((tokens == problems.tokens) | problems.maskable).all(dim=1).tolist()
        if kind in SLOW:
            expected = [same and SLOW[kind](row) for same, row in zip(kept, tokens.tolist(), strict=True)]
            assert verdict.instance_correct.tolist() == expected
        for row in tokens:
            assert isinstance(task.format(row), str)

    check()
