"""Registries: every kind of part by name, open to other packages.

A part (an order, a count rule, a task, ...) is added in one of three ways:

1. With the decorator, in any module that is imported::

       from anyorder.registry import ORDERS

       @ORDERS.register("my_order")
       def my_order(state, prediction): ...

2. With an entry point of the same group, so that every command of anyorder finds it without an import::

       [project.entry-points."anyorder.orders"]
       my_order = "my_package.orders:my_order"

3. Without registration, by reference: ``my_package.orders:my_order`` is understood wherever a name is.

A part that takes arguments is a dataclass. Its fields are the only place where the arguments are declared: they give the types
and the defaults, ``metadata={"help": ...}`` gives the help text, and ``metadata={"values": (...)}`` the values that
`anyorder pareto` tries. In text, arguments follow the name: ``klass:0.9:0.01`` or ``klass:history=3``. A part that is
registered with ``wraps="FIELD"`` takes a part of its own kind there: ``number_of:entropy_share:0.5``.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, TypeVar

from anyorder.entries import Argument as Argument
from anyorder.entries import Entry, read_value
from anyorder.errors import BadInput, first_line
from anyorder.signatures import check_argument

T = TypeVar("T")

_DEEPEST = 50


class Registry:
    """The parts of one kind, by name.

    Args:
        kind: the name of an entry in messages, such as "count rule".
        group: the group of entry points that other packages use.
        packages: packages or modules of anyorder whose modules register parts; they are imported on first use.
    """

    def __init__(self, kind: str, group: str, packages: tuple[str, ...]) -> None:
        self.kind = kind
        self.group = group
        self._packages = packages
        self._entries: dict[str, Entry] = {}
        self._pending: dict[str, metadata.EntryPoint] | None = None
        self._loading = False
        self._broken: set[str] = set()

    def register(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Decorator that adds a function or class under a name.

        Args:
            name: lowercase letters, digits, `_` and `-`.
            facts: further facts about the part, such as `color`; see the documentation of the registry.

        Raises:
            ValueError: the name is taken by another part, or cannot be written in text.
        """
        if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
            raise ValueError(f"{self.kind} {name!r}: a name may contain only lowercase letters, digits, '_' and '-'")

        def add(part: T) -> T:
            old = self._entries.get(name)
            if old is not None and _address(old.part) != _address(part):
                raise ValueError(f"the {self.kind} {name!r} is registered already, by {_address(old.part)}")
            wraps = facts.get("wraps")
            if wraps and wraps not in getattr(part, "__dataclass_fields__", {}):
                raise ValueError(f"the {self.kind} {name!r} is a dataclass without the field {wraps!r} that wraps names")
            self._entries[name] = Entry(name, part, facts)
            return part

        return add

    def entry(self, name: str) -> Entry:
        """The entry of a name, or of a reference `package.module:attribute`.

        Raises:
            BadInput: there is no such part, or its package cannot be imported.
        """
        self._load_own()
        check_argument(f"the name of a {self.kind}", name, str)
        if name not in self._entries:
            if name in self._others():
                self._load_entry_point(name)
            elif self.is_reference(name):
                part = _import(name, self.kind)
                return Entry(name, part, next((one.facts for one in self._entries.values() if one.part is part), {}))
            else:
                raise self._unknown(name)
        return self._entries[name]

    def __getitem__(self, name: str) -> Any:
        """The part itself; see `entry`."""
        return self.entry(name).part

    def __contains__(self, name: object) -> bool:
        self._load_own()
        return name in self._entries or name in self._others()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self, **facts: Any) -> list[str]:
        """All names, or those of the entries whose facts have these values. Built-in parts come first."""
        self._load_own()
        if facts:
            return [e.name for e in self.entries() if all(e.facts.get(key) == value for key, value in facts.items())]
        return [*self._entries, *(name for name in self._others() if name not in self._entries)]

    def entries(self) -> list[Entry]:
        """All entries; the packages of all entry points are imported. One that cannot be is left out, with a warning."""
        found = []
        for name in self.names():
            try:
                found.append(self.entry(name))
            except BadInput as error:
                if name not in self._broken:
                    self._broken.add(name)
                    warnings.warn(f"{error}; it is left out", stacklevel=2)
        return found

    def known(self) -> list[Entry]:
        """The entries that are imported already, the built-in ones among them."""
        self._load_own()
        return list(self._entries.values())

    def lasting_name_of(self, part: Any) -> str:
        """A name that finds the part in another process: its reference where only the decorator of its module knows its name.

        Raises:
            BadInput: as `name_of`.
        """
        name = self.name_of(part)
        target = part if inspect.isfunction(part) or inspect.isclass(part) else type(part)
        module, _, attribute = _address(target).partition(":")
        if name in self._others() or module.partition(".")[0] in ("anyorder", "__main__"):
            return name
        return f"{module}:{attribute}" if getattr(sys.modules.get(module), attribute, None) is target else name

    def name_of(self, part: Any) -> str:
        """The name of this function, or of this class or an instance of it; its reference if it is not registered.

        Raises:
            BadInput: the part cannot be found again by name: a lambda, or something defined inside a function.
        """
        self._load_own()
        target = part if inspect.isfunction(part) or inspect.isclass(part) else type(part)
        for name, entry in self._entries.items():
            if entry.part is target:
                return name
        address = _address(target)
        module, _, attribute = address.partition(":")
        if "<" in attribute or module == "__main__" or not attribute:
            raise BadInput(
                f"the {self.kind} {attribute or target!r} cannot be found by name later: register it with the decorator, or "
                "define it at the top level of a module that can be imported"
            )
        return address

    def is_reference(self, text: str) -> bool:
        """Whether a text has the form `package.module:attribute` and the package is there."""
        module, colon, attribute = text.partition(":")
        if not colon or not attribute.partition(":")[0].isidentifier() or not all(p.isidentifier() for p in module.split(".")):
            return False
        try:
            return importlib.util.find_spec(module.split(".")[0]) is not None
        except (ImportError, ValueError):
            return False

    def make(self, text: str) -> Any:
        """The part that a text names: `NAME`, `NAME:VALUE...`, `NAME:ARGUMENT=VALUE...`, the same behind a reference.

        Raises:
            BadInput: an unknown name, too many values, or a value of the wrong type or out of range.
        """
        name, values = self.split(text)
        if name not in self and ":" not in name:
            raise self._unknown(text)
        entry = self.entry(name)
        if not inspect.isclass(entry.part):
            if values:
                raise BadInput(f"{self.kind} {text!r}: {name} takes no arguments")
            return entry.part
        wraps = entry.facts.get("wraps") if values else None
        if wraps and len(values) > _DEEPEST:
            raise BadInput(f"{self.kind} {text[:60]!r}...: more than {_DEEPEST} values are no text of a part")
        given = {wraps: self.make(":".join(values))} if wraps else self._given(entry, values, text)
        try:
            return entry.part(**given)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{self.kind} {text!r}: {first_line(error)}") from error

    def usage(self, name: str) -> str:
        """How a part is written: `klass[:CONFIDENCE[:KL[:HISTORY[:K]]]]`, or `number_of[:RULE...]` if it wraps another part."""
        if wraps := self.entry(name).facts.get("wraps"):
            return f"{name}[:{wraps.upper()}...]"
        text = ""
        for argument in reversed(self.entry(name).arguments):
            inner = f":{argument.name.upper()}{text}"
            text = inner if argument.default is dataclasses.MISSING else f"[{inner}]"
        return name + text

    def split(self, text: str) -> tuple[str, list[str]]:
        """Name and values of a text; a reference has one colon of its own."""
        name, *values = text.split(":")
        if name not in self and values and self.is_reference(f"{name}:{values[0]}"):
            name, values = f"{name}:{values[0]}", values[1:]
        return name, values

    def _unknown(self, text: str) -> BadInput:
        """The error for a text that names no part."""
        name, _, attribute = text.partition(":")
        why = "is unknown"
        if attribute.partition(":")[0].isidentifier() and all(part.isidentifier() for part in name.split(".")):
            name, why = text, f"is unknown, and there is no module {name!r}"
        own = ", or module:attribute for one of your own"
        return BadInput(f"{self.kind} {name!r} {why}: use one of {', '.join(self.names())}{own}")

    def _given(self, entry: Entry, values: list[str], text: str) -> dict[str, Any]:
        """The arguments that a text gives, positional ones first, as in a call."""
        arguments = {argument.name: argument for argument in entry.arguments}
        where = f"{self.kind} {text!r}"
        given: dict[str, Any] = {}
        named = False
        for place, value in enumerate(values):
            key, equals, plain = value.partition("=")
            if not equals or "/" in key:  # the name of a folder, such as runs/lr=0.1
                if named:
                    raise BadInput(f"{where}: write the argument's name in front of {value!r}, as in the argument before it")
                if place >= len(arguments):
                    most = len(arguments)
                    takes = "no arguments" if not most else "one argument" if most == 1 else f"{most} arguments at most"
                    raise BadInput(f"{where}: {entry.name} takes {takes}")
                key, equals, plain = list(arguments)[place], "", value
            named = named or bool(equals)
            if key not in arguments:
                raise BadInput(f"{where}: {entry.name} has no argument {key!r}; it has {', '.join(arguments) or 'none'}")
            if key in given:
                raise BadInput(f"{where}: it gives {key} twice")
            given[key] = read_value(arguments[key], plain, where)
        missing = [name for name, a in arguments.items() if a.default is dataclasses.MISSING and name not in given]
        if missing:
            raise BadInput(f"{where}: {entry.name} needs {', '.join(missing)}: write {self.usage(entry.name)}")
        return given

    def _load_own(self) -> None:
        """Import the built-in modules, once."""
        if self._loading or not self._packages:
            return
        self._loading = True
        try:
            for package in self._packages:
                module = importlib.import_module(package)
                for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
                    importlib.import_module(f"{package}.{found.name}")
            self._packages = ()
        finally:
            self._loading = False

    def _others(self) -> dict[str, metadata.EntryPoint]:
        """Entry points of other packages, not imported yet. Of two with one name the first counts, and none that has the name
        of another part; a warning says so."""
        if self._pending is None:
            self._pending = {}
            for point in metadata.entry_points(group=self.group):
                there = self._entries.get(point.name)
                first = self._pending.get(point.name)
                taken = _address(there.part) if there else first.value if first else point.value
                if _package(taken) == _package(point.value):  # which may use the decorator, too
                    self._pending[point.name] = point
                else:
                    said = f"the {self.kind} {point.name!r} of {point.value} is left out: the name is taken by {taken}"
                    warnings.warn(said, stacklevel=2)
        return self._pending

    def _load_entry_point(self, name: str) -> None:
        point = self._others()[name]
        try:
            part = point.load()
        except Exception as error:  # whatever the other package's code raises
            raise BadInput(f"the {self.kind} {name!r} cannot be loaded from {point.value}: {first_line(error)}") from error
        if name not in self._entries:  # the module may have registered it with the decorator
            self._entries[name] = Entry(name, part, {})


def _address(part: Any) -> str:
    return f"{getattr(part, '__module__', '')}:{getattr(part, '__qualname__', '')}"


def _package(reference: str) -> str:
    return reference.partition(":")[0].partition(".")[0]


def _import(reference: str, kind: str) -> Any:
    """What `package.module:attribute` refers to."""
    module, _, attribute = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        return found
    except Exception as error:  # whatever the other package's code raises
        raise BadInput(f"the {kind} {reference!r} cannot be imported: {first_line(error)}") from error


ORDERS = Registry("order", "anyorder.orders", ("anyorder.orders",))
"""Where to unmask. Facts: `baseline`, one of the heuristics that all others are compared with; `oracle`, it reads the solution;
`default`, whether `evaluate` includes it; `sequential`, only for tasks with the same `sequential`; `color` in plots."""

COUNT_RULES = Registry("count rule", "anyorder.count_rules", ("anyorder.decoding",))
"""How many positions to unmask. Facts: `curve_for`, the kinds of orders ("heuristic", "supervised", "reward") with which
`anyorder pareto` tries the rule by default, and for heuristics `headroom` and `fit` too; `candidate`, whether these two try it
without such a curve; `wraps`, the field that holds another count rule."""

TOKEN_RULES = Registry("token rule", "anyorder.token_rules", ("anyorder.decoding",))
"""Which token to put."""

REMASKERS = Registry("remasker", "anyorder.remaskers", ("anyorder.decoding",))
"""What to remask."""

CACHES = Registry("cache", "anyorder.caches", ("anyorder.decoding",))
"""Which positions a forward pass computes, see `anyorder.decoding.caches`."""

POLICIES = Registry("policy", "anyorder.policies", ("anyorder.orders",))
"""Architectures of learned orders. Facts: `trained_by`, "supervised" or "reward"."""

OBJECTIVES = Registry("objective", "anyorder.objectives", ("anyorder.training.objectives",))
"""What a policy is trained for by supervision, see `anyorder.training.objectives`."""

REWARDS = Registry("reward", "anyorder.rewards", ("anyorder.training.rewards",))
"""What a decoded sequence is worth, see `anyorder.training.rewards`. Facts: `by_position`, it is earned when a position is
committed, not at the end; `negative`, it can be below 0; `reads`, the attribute of a task that it needs; `multiplies`, the
setting that names another reward."""

TASKS = Registry("task", "anyorder.tasks", ("anyorder.tasks",))
"""Kinds of problems."""

DENOISERS = Registry("denoiser class", "anyorder.denoisers", ("anyorder.denoisers",))
"""Classes of denoisers that can be trained by a recipe, saved and loaded."""

JUDGES = Registry("judge", "anyorder.judges", ("anyorder.evaluation",))
"""Outside models that rate samples."""

REGISTRIES = {name: value for name, value in tuple(globals().items()) if isinstance(value, Registry)}
"""All registries, by the name of their constant."""
