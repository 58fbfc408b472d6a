"""Writes recipes.md from the shipped recipes and their settings: `python docs/recipe_page.py`, a part of `make docs`."""

import json
import re
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from anyorder.training.recipes import (
    AnyRecipe,
    DenoiserRecipe,
    GrpoRecipe,
    OrderRecipe,
    RewardRecipe,
    load_recipe,
    recipe_names,
)
from anyorder.training.settings import PartSection

PAGE = Path(__file__).with_name("recipes.md")

_HEAD = """\
<!-- Written by docs/recipe_page.py from the recipes themselves: change those, then `make docs`. -->

# Recipes

A recipe is a TOML file that describes one experiment: what is trained, on which problems, with which settings. It is checked
before anything is computed. An unknown key, or a setting that would have no effect, is an error.

```
anyorder train sudoku9-order                         # a shipped recipe; writes to runs/sudoku9-order
anyorder train sudoku9-order --set run.steps=350 --set optimizer.lr=2e-3 --out runs/short
anyorder train sudoku9-order                         # the same command resumes an interrupted run
anyorder train my-recipe.toml                        # your own recipe: copy one and change it
```

`--set section.key=value` changes one setting, as often as you like; values are TOML, so a table goes in quotes
(`--set 'task.options={box=2}'`). In Python the same is `load_recipe("sudoku9-order", ["run.steps=350"])` and `run_recipe`
([api.md](api.md#fit)). Costs are those that were measured on shared cores of an Intel Xeon; where a recipe was not
run to its end, it says so. *Samples* are training samples seen: steps times batch size.

The same recipe with the same number of threads gives the same weights, bit for bit. With another number of threads
(`OMP_NUM_THREADS`) or of processes the weights differ in the last digits ([processes.md](processes.md#training)).

`--set run.mixed_precision=bf16` computes forward passes in bfloat16, those of a frozen denoiser too; policies compute in
float32. This is for GPUs, and for processors that multiply in bfloat16 (`lscpu` lists `avx512_bf16` or `amx_bf16`). On one core
of an AMD EPYC of the fifth generation, loss and gradients of a denoiser take 0.40 to 0.55 of the time that they take in float32
(four recipes, shared cores, `benchmarks/mixed_precision.py`). A run goes on in its own precision alone.

A run stops at the first loss, gradient or weight that is not finite, and keeps its last checkpoint. Only such a run can go on
with other numbers of `[optimizer]` (all but `name` and `ema`): run it again on the same folder with, say,
`--set optimizer.lr=1e-4`.
"""

_KINDS: dict[type[BaseModel], str] = {
    DenoiserRecipe: "Denoisers",
    OrderRecipe: "Orders for a denoiser",
    RewardRecipe: "Orders trained by reward",
    GrpoRecipe: "Denoisers trained by reward",
}


def comment_of(name: str) -> tuple[str, str]:
    """The comment at the head of a recipe, and the cost from its last paragraph `Cost: ...`."""
    text = resources.files("anyorder.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    lines = re.match(r"(#.*\n)*", text)
    assert lines is not None
    says, found, cost = "\n".join(line[2:] for line in lines[0].splitlines()).partition("Cost: ")
    if not found:
        raise ValueError(f"the comment at the head of {name}.toml must end with a line `# Cost: ...`")
    return says.strip(), " ".join(cost.split())


def page() -> str:
    """The whole page, in Markdown."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    parts = [_HEAD]
    for kind, title in _KINDS.items():
        chosen = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, kind)}
        parts += [f"## {title}\n", _overview(chosen), *(_entry(name, recipe) for name, recipe in chosen.items())]
    parts.append("## Every setting\n\nDefaults are those of a recipe that does not say otherwise; *required* has none.\n")
    parts.append(_top_level())
    fields = [(name, field) for kind in _KINDS for name, field in kind.model_fields.items()]
    sections = {name: model for name, field in fields if (model := _model(field)) is not None}
    parts += [_settings(name, model) for name, model in sections.items()]
    return "\n".join(parts)


def _overview(recipes: dict[str, AnyRecipe]) -> str:
    rows = ["| recipe | what it trains | cost |", "|---|---|---|"]
    for name, recipe in recipes.items():
        rows.append(f"| [{name}](#{name}) | {recipe.description} | {comment_of(name)[1].rstrip('.')} |")
    return "\n".join(rows) + "\n"


def _entry(name: str, recipe: AnyRecipe) -> str:
    says, cost = comment_of(name)
    options = ", ".join(f"{key} {value}" for key, value in recipe.task.options.items())
    kinds = recipe.data.options if isinstance(recipe.data.options, list) else [recipe.data.options]
    described = "; ".join(", ".join(f"{key} {value}" for key, value in kind.items()) for kind in kinds)
    data = recipe.data.file or described or "generated"
    lines = [
        f"### {name}\n\n{says}\n",
        f"- **Task**: {recipe.task.name}" + (f" ({options})" if options else ""),
        f"- **Data**: {recipe.data.size:,} problems ({data})",
    ]
    if isinstance(recipe, DenoiserRecipe):
        what = recipe.denoiser
        size = [f"{key} {value}" for key in ("layers", "width") if (value := getattr(what, key, None)) is not None]
        lines.append(f"- **Network**: `{what.architecture}`" + (f" ({', '.join(size)})" if size else ""))
    else:
        lines.append(f"- **Denoiser**: `{recipe.denoiser}`")
    if isinstance(recipe, OrderRecipe | RewardRecipe):
        lines.append(f"- **Policy**: {_policy(recipe)}")
    if isinstance(recipe, OrderRecipe):
        lines.append(f"- **Objective**: `{recipe.objective.name}` on `{recipe.objective.states}` states")
    if isinstance(recipe, RewardRecipe):
        lines.append(f"- **Reward**: `{recipe.reward.name}`, reference `{recipe.update.reference}`")
    if isinstance(recipe, GrpoRecipe):
        lines.append(f"- **Reward**: `{recipe.reward.name}`, decoded by `{recipe.grpo.order}`")
    run = recipe.run
    length = f"{run.steps:,} steps of {run.batch_size:,}, {run.steps * run.batch_size:,} samples"
    if isinstance(recipe, RewardRecipe | GrpoRecipe):
        length = f"{run.steps:,} updates, rounds of {run.batch_size:,} trajectories"
    lines += [f"- **Length**: {length}", f"- **Cost**: {cost}"]
    return "\n".join(lines) + "\n"


def _policy(recipe: OrderRecipe | RewardRecipe) -> str:
    if recipe.start:
        return f"from `{recipe.start}`"
    width = getattr(recipe.policy, "width", None)
    return f"`{recipe.policy.architecture}`" + ("" if width is None else f", width {width}")


def _top_level() -> str:
    """The keys above the first section, and which kinds of recipes have them."""
    kinds = {get_args(model.model_fields["kind"].annotation)[0]: model for model in _KINDS}
    choices = ", ".join(f"`{kind}`" for kind in kinds)
    rows = [
        "### top level\n\nKeys above the first section.\n",
        "| key | values | default | in recipes of kind | what |",
        "|---|---|---|---|---|",
        f"| `kind` | {choices} | *required* | all | what is trained |",
    ]
    plain = {key: field for model in _KINDS for key, field in model.model_fields.items() if key != "kind" and not _model(field)}
    for key, field in plain.items():
        having = [kind for kind, model in kinds.items() if key in model.model_fields and not _model(model.model_fields[key])]
        where = "all" if len(having) == len(kinds) else ", ".join(having)
        what = field.description or ""
        rows.append(f"| `{key}` | {_values(field.annotation)} | {_default(field.default)} | {where} | {what} |")
    return "\n".join(rows) + "\n"


def _settings(name: str, model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split())
    rows = [f"### {name}\n\n{about}\n", "| key | values | default | meaning |", "|---|---|---|---|"]
    for key, inner in model.model_fields.items():
        rows.append(f"| `{name}.{key}` | {_values(inner.annotation)} | {_default(inner.default)} | {inner.description or ''} |")
    if issubclass(model, PartSection):
        rows += ["", "Further settings of each part:", "", *(_part_settings(model, part) for part in model.registry)]
    return "\n".join(rows) + "\n"


def _part_settings(section: type[PartSection], part: str) -> str:
    """One line for a registered part: its own settings with their defaults."""
    _, declared = section.declared(part)
    said = ", ".join(f"`{name}` ({_default(default)})" for name, (_, default) in declared.items())
    return f"- `{part}`: {said or 'none'}"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _values(kind: Any) -> str:
    """The type of a setting, for a person."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is Annotated:
        return _values(get_args(kind)[0])
    if get_origin(kind) in (UnionType, Union):
        return " or ".join("none" if part is NoneType else _values(part) for part in get_args(kind))
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    names |= {list: "list", dict: "table", tuple: "pair"}
    return names[get_origin(kind) or kind]


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is ...:
        return "*required*"
    return "none" if value in (None, "") else f"`{json.dumps(value)}`".replace('"', "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
