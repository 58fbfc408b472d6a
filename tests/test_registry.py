"""Registries: how parts get in, how they are found, and how text names them with their arguments."""

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest

from anyorder import registry as registry_module
from anyorder.errors import BadInput
from anyorder.parts import spelling
from anyorder.registry import COUNT_RULES, ORDERS, Entry, Registry
from anyorder.training.part_settings import declared_by
from every_part import named_orders


@dataclass(frozen=True)
class Rule:
    """What one line says. And more.

    Much more.
    """

    level: float = field(default=0.5, metadata={"help": "how much", "values": (0.1, 0.9)})
    k: int = 1
    loud: bool = False
    word: Literal["a", "b"] = "a"
    most: int | None = None
    inner: object = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; it must be 1 or more")


@dataclass(frozen=True)
class Needy:
    length: int


def plain() -> None:
    """A plain function."""


@pytest.fixture
def rules() -> Registry:
    made = Registry("rule", "tests.rules", ())
    made.register("rule", color="red", baseline=True)(Rule)
    made.register("needy")(Needy)
    made.register("plain", baseline=True)(plain)
    return made


# ---- registration ----


def test_what_was_registered_is_found_by_name_and_by_facts(rules: Registry) -> None:
    assert rules["rule"] is Rule
    assert rules.entry("rule").facts == {"color": "red", "baseline": True}
    assert list(rules) == rules.names() == ["rule", "needy", "plain"]
    assert rules.names(baseline=True) == ["rule", "plain"]
    assert rules.names(baseline=True, color="red") == ["rule"]
    assert rules.names(color="blue") == []
    assert "plain" in rules and "nothing" not in rules


def test_a_decorator_returns_what_it_registers(rules: Registry) -> None:
    assert rules.register("again")(plain) is plain


def test_a_name_can_be_registered_again_by_the_same_part_only(rules: Registry) -> None:
    rules.register("rule")(Rule)
    with pytest.raises(ValueError, match=r"the rule 'rule' is registered already, by .*:Rule"):
        rules.register("rule")(plain)
    assert rules["rule"] is Rule


@pytest.mark.parametrize("name", ["", "Rule", "two words", "a:b", "a@b", "a+b", "a~b", "ä", "a/b"])
def test_names_that_cannot_be_written_in_text_are_refused(rules: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="lowercase letters, digits"):
        rules.register(name)


def test_an_unknown_name_lists_the_known_ones(rules: Registry) -> None:
    with pytest.raises(BadInput, match="rule 'rul' is unknown: use one of rule, needy, plain"):
        rules["rul"]


def test_arguments_are_declared_by_the_fields_of_a_dataclass(rules: Registry) -> None:
    level, k, loud, word, most = rules.entry("rule").arguments
    assert (level.name, level.type, level.default, level.help, level.values) == ("level", float, 0.5, "how much", (0.1, 0.9))
    assert (k.type, loud.type, word.type, most.type) == (int, bool, str, int)
    assert rules.entry("plain").arguments == ()


def test_help_is_the_first_sentence(rules: Registry) -> None:
    assert rules.entry("rule").help == "What one line says."
    assert rules.entry("plain").help == "A plain function."


def test_a_reference_does_not_end_a_sentence() -> None:
    class Part:
        """Top-K of Jazbec et al. (arXiv 2512.09106, eq. 3). More."""

    assert Entry("part", Part, {}).help == "Top-K of Jazbec et al. (arXiv 2512.09106, eq. 3)."


def test_usage_shows_required_and_optional_arguments(rules: Registry) -> None:
    assert rules.usage("needy") == "needy:LENGTH"
    assert rules.usage("plain") == "plain"
    assert COUNT_RULES.usage("klass") == "klass[:CONFIDENCE[:KL[:HISTORY[:K]]]]"


def test_parts_have_the_name_under_which_they_are_registered(rules: Registry) -> None:
    assert rules.name_of(Rule()) == rules.name_of(Rule) == "rule"
    assert rules.name_of(plain) == "plain"


def test_parts_that_are_not_registered_have_a_reference_if_they_can_be_found(rules: Registry) -> None:
    assert rules.name_of(shown) == f"{__name__}:shown"
    for part in (lambda: None, Local()):
        with pytest.raises(BadInput, match="cannot be found by name later: register it with the decorator"):
            rules.name_of(part)


def shown() -> None:
    """Not registered."""


def Local() -> Any:  # noqa: N802
    @dataclass(frozen=True)
    class Inside:
        pass

    return Inside()


def test_a_module_that_fails_to_import_fails_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_rules.py").write_text("raise RuntimeError('no')")
    monkeypatch.syspath_prepend(tmp_path)
    made = Registry("rule", "tests.rules", ("broken_rules",))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            made.names()


# ---- entry points ----

Offer = Callable[..., Registry]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """A registry in whose group other packages offer parts, from `name="module:attribute"`; `modules` exist."""

    def make(modules: dict[str, dict[str, Any]], **points: str) -> Registry:
        for name, values in modules.items():
            module = types.ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
        found = [metadata.EntryPoint(name, value, "tests.rules") for name, value in points.items()]
        monkeypatch.setattr(registry_module.metadata, "entry_points", lambda group: found if group == "tests.rules" else [])
        made = Registry("rule", "tests.rules", ())
        made.register("own")(plain)
        return made

    return make


def test_an_entry_point_is_listed_without_and_loaded_with_use(offer: Offer) -> None:
    rules = offer({}, other="no_such_module_yet:part")
    assert rules.names() == ["own", "other"]
    assert "other" in rules and rules.known() == [rules.entry("own")]
    rules = offer({"their_rules": {"Rule": Rule}}, other="their_rules:Rule")
    assert rules["other"] is Rule
    assert [entry.name for entry in rules.entries()] == ["own", "other"]
    assert rules.make("other:0.7").level == 0.7
    assert rules.name_of(Rule()) == "other"


def test_an_entry_point_whose_module_uses_the_decorator_keeps_its_facts(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = offer({"their_rules": {"part": plain}}, other="their_rules:part")
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda point: rules.register("other", color="green")(plain))
    assert rules.names(color="green") == ["other"]


def test_an_entry_point_that_cannot_be_loaded_names_its_module(offer: Offer) -> None:
    rules = offer({}, other="no_such_module:part")
    with pytest.raises(BadInput, match=r"the rule 'other' cannot be loaded from no_such_module:part: No module named"):
        rules["other"]
    rules = offer({"empty_rules": {}}, other="empty_rules:part")
    with pytest.raises(BadInput, match=r"cannot be loaded from empty_rules:part"):
        rules.make("other")


def test_an_entry_point_cannot_replace_a_part_of_the_same_name(offer: Offer) -> None:
    rules = offer({"their_rules": {"Rule": Rule}}, own="their_rules:Rule")
    with pytest.warns(UserWarning, match="'own' of their_rules:Rule is left out: the name is taken by test_registry:plain"):
        assert rules.names() == ["own"]
    assert rules["own"] is plain


def test_of_two_packages_with_one_name_the_first_counts_and_a_warning_says_so(
    offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = offer({"their_rules": {"Rule": Rule}})
    points = [metadata.EntryPoint("same", value, "tests.rules") for value in ("their_rules:Rule", "more_rules:Rule")]
    monkeypatch.setattr(registry_module.metadata, "entry_points", lambda group: points)
    with pytest.warns(UserWarning, match="'same' of more_rules:Rule is left out: the name is taken by their_rules:Rule"):
        assert rules["same"] is Rule


def test_a_package_that_cannot_be_imported_stops_nothing_else(offer: Offer) -> None:
    rules = offer({"their_rules": {"Rule": Rule}}, broken="no_such_module:part", other="their_rules:Rule")
    with pytest.warns(UserWarning, match="'broken' cannot be loaded from no_such_module:part: .*; it is left out"):
        assert [entry.name for entry in rules.entries()] == ["own", "other"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert rules.names(color="red") == [] and len(rules.entries()) == 2
    with pytest.raises(BadInput, match="cannot be loaded from no_such_module"):
        rules.make("broken")


# ---- references ----


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A module that registers nothing."""
    (tmp_path / "elsewhere_rules.py").write_text(
        "from dataclasses import dataclass\n"
        "def function(state, prediction): ...\n"
        "@dataclass(frozen=True)\nclass Rule:\n    level: float = 0.5\n    k: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "elsewhere_rules"


def test_a_reference_works_wherever_a_name_does(rules: Registry, elsewhere: str) -> None:
    assert rules.make(f"{elsewhere}:function").__name__ == "function"
    made = rules.make(f"{elsewhere}:Rule:0.7:k=4")
    assert (made.level, made.k) == (0.7, 4)
    assert f"{elsewhere}:Rule" not in rules, "nothing was registered"
    assert rules.name_of(made) == f"{elsewhere}:Rule"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A module whose annotations are texts, and name what only a type checker imports."""
    (tmp_path / "typed_rules.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field\n"
        "from typing import TYPE_CHECKING, Literal\n"
        "if TYPE_CHECKING:\n    from torch import Tensor\n"
        "@dataclass(frozen=True)\nclass Base:\n    level: float = 0.5\n    table: Tensor | None = None\n"
        "@dataclass(frozen=True)\nclass Rule(Base):\n"
        "    k: Literal[1, 2] = 1\n    most: int | None = None\n    share: float = field(default_factory=lambda: 0.25)\n"
        "class Net:\n    def __init__(self, width: int, table: Tensor | None = None): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "typed_rules"


def test_annotations_for_a_type_checker_alone_stop_nothing(rules: Registry, typed: str) -> None:
    made = rules.make(f"{typed}:Rule:0.7:2")
    assert (made.level, made.k, made.most, made.table) == (0.7, 2, None, None)
    entry = rules.entry(f"{typed}:Rule")
    assert [(a.name, a.type) for a in entry.arguments] == [("level", float), ("k", int), ("most", int), ("share", float)]
    assert spelling(made, rules) == f"{typed}:Rule:0.7:2"
    assert declared_by(entry.part)["table"] == (Any, None)
    assert declared_by(rules[f"{typed}:Net"]) == {"width": (int, ...), "table": (Any, None)}


def test_choices_among_numbers_are_numbers_and_a_made_default_is_one(rules: Registry, typed: str) -> None:
    assert rules.make(f"{typed}:Rule:k=2").k == 2
    assert rules.make(f"{typed}:Rule").share == 0.25
    with pytest.raises(BadInput, match="k is 'two'; it must be a whole number"):
        rules.make(f"{typed}:Rule:k=two")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("elsewhere_rules:nothing", "the rule 'elsewhere_rules:nothing' cannot be imported"),
        ("no_such_package:part", "rule 'no_such_package:part' is unknown, and there is no module 'no_such_package'"),
        ("elsewhere_rules:", "rule 'elsewhere_rules' is unknown"),
        ("elsewhere_rules:0.5", "rule 'elsewhere_rules' is unknown"),
        (":part", "rule '' is unknown"),
        ("", "rule '' is unknown"),
    ],
)
def test_references_to_nothing_are_refused(rules: Registry, elsewhere: str, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        rules.make(text)


# ---- arguments in text ----


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("rule", {}),
        ("rule:0.9", {"level": 0.9}),
        ("rule:0.9:3", {"level": 0.9, "k": 3}),
        ("rule:k=3", {"k": 3}),
        ("rule:0.9:loud=yes", {"level": 0.9, "loud": True}),
        ("rule:loud=false:k=2", {"loud": False, "k": 2}),
        ("rule:1e-3:2:true:b:7", {"level": 0.001, "k": 2, "loud": True, "word": "b", "most": 7}),
        ("rule:0.9:1:no:runs/lr=0.1", {"level": 0.9, "word": "runs/lr=0.1"}),
        ("rule:word=runs/lr=0.1", {"word": "runs/lr=0.1"}),
    ],
)
def test_arguments_follow_the_name(rules: Registry, text: str, arguments: dict[str, Any]) -> None:
    assert rules.make(text) == Rule(**arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule:high", "rule 'rule:high': level is 'high'; it must be a number"),
        ("rule:0.5:1.5", "k is '1.5'; it must be a whole number"),
        ("rule:0.5:1:perhaps", "loud is 'perhaps'; it must be true or false"),
        ("rule:0.5:0", "rule 'rule:0.5:0': k is 0; it must be 1 or more"),
        ("rule:0.5:1:yes:a:2:3", "rule takes 5 arguments at most"),
        ("rule:size=3", "rule has no argument 'size'; it has level, k, loud, word, most"),
        ("rule:", "level is ''; it must be a number"),
        ("rule:0.5:level=0.6", "gives level twice"),
        ("rule:k=2:0.5", "write the argument's name in front of '0.5'"),
        ("needy", "needy needs length: write needy:LENGTH"),
        ("needy:1:2", "needy takes one argument"),
        ("needy:x", "length is 'x'; it must be a whole number"),
        ("plain:1", "rule 'plain:1': plain takes no arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(rules: Registry, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        rules.make(text)


@pytest.mark.parametrize(
    "text", ["klass:0.9:0.01", "klass:history=3", "klass:0.9:history=3:k=2", "bernoulli:0", "even_blocks:4:steps=2"]
)
def test_shipped_rules_are_read_by_the_same_parser(text: str) -> None:
    assert type(COUNT_RULES.make(text)) is COUNT_RULES[text.split(":")[0]]


def test_shipped_facts_say_what_the_defaults_of_commands_are() -> None:
    assert {"confidence", "margin", "entropy", "random"} <= set(ORDERS.names(baseline=True))
    assert set(ORDERS.names(oracle=True)).isdisjoint(ORDERS.names(baseline=True))
    assert all(map(callable, named_orders().values()))
