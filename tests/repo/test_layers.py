"""Imports point down only, and package initialisers stay empty (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH_ONLY = {"torch"}
STANDARD_LIBRARY = __import__("sys").stdlib_module_names

# Each layer may import itself and what stands below it.
LAYERS: list[tuple[str, ...]] = [
    ("flows",),
    ("gigagan_core.cli", "gigagan_core.servers", "gigagan_core.stack", "gigagan_core.doctor"),
    ("gigagan_core.serving",),
    ("gigagan_core.backends",),
    ("gigagan_core.stages",),
    (
        "gigagan_core.data",
        "gigagan_core.encoders",
        "gigagan_core.evaluation",
        "gigagan_core.inference",
        "gigagan_core.planning",
        "gigagan_core.training",
    ),
    (
        "gigagan_core.assets",
        "gigagan_core.config",
        "gigagan_core.store",
        "gigagan_core.tracking",
        "gigagan_core.console",
        "gigagan_core.environment",
        "gigagan_core.errors",
        "gigagan_core.ray_nodes",
        "gigagan_core.text",
    ),
    tuple(
        f"gigagan_core.training.{name}"
        for name in (
            "steps",
            "diagnostics",
            "flops",
            "loop",
            "recipes",
            "settings",
            "sharding",
            "state",
            "world",
            "optimisation",
        )
    ),
    ("gigagan_core.models", "gigagan_core.losses"),
]
TORCH_LAYERS = LAYERS[-2] + LAYERS[-1]


def modules() -> dict[str, Path]:
    found = {}
    for package in ("flows", "gigagan_core"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(module: str) -> int | None:
    """The layer of the longest prefix that names the module; 0 is the top."""
    best = None
    for depth, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and (best is None or len(name) > best[0]):
                best = (len(name), depth)
    return best[1] if best else None


def upward_imports(module: str, path: Path) -> list[str]:
    own = layer_of(module)
    return [
        f"{module} imports {imported}"
        for imported in imports_of(path)
        if imported.startswith(("flows", "gigagan_core."))
        # `from package import module` names the package too, whose initialiser is empty
        and not (ROOT.joinpath(*imported.split(".")) / "__init__.py").exists()
        and (layer := layer_of(imported)) is not None
        and own is not None
        and layer < own
    ]


def test_imports_point_down_only() -> None:
    wrong = [line for module, path in modules().items() for line in upward_imports(module, path)]
    assert wrong == []


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    planted = tmp_path / "bad.py"
    planted.write_text("def f():\n    from gigagan_core.stages.base import Outcome\n")
    assert upward_imports("gigagan_core.losses.bad", planted)
    planted.write_text("from gigagan_core.training import checkpoint\n")
    assert upward_imports("gigagan_core.training.steps", planted)
    planted.write_text("import flows.pipeline\n")
    assert upward_imports("gigagan_core.cli.bad", planted)


@pytest.mark.parametrize(
    "module", [name for name in modules() if name.startswith(TORCH_LAYERS) and not name.endswith("__init__")]
)
def test_models_losses_and_steps_need_torch_alone(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(modules()[module])}
    assert roots - STANDARD_LIBRARY <= TORCH_ONLY | {"gigagan_core"}


def test_package_initialisers_hold_a_docstring_only() -> None:
    # A re-export would make every import heavy, and every fingerprint depend on the whole package.
    allowed = {"gigagan_core", "gigagan_core.cli"}
    for module, path in modules().items():
        if path.name == "__init__.py" and module not in allowed:
            statements = ast.parse(path.read_text()).body
            assert all(isinstance(node, ast.Expr) for node in statements), module
            assert statements, f"{module} has no docstring"


def test_every_package_has_an_initialiser() -> None:
    # Without one a folder still imports from a checkout, and is missing from an installation.
    folders = {path.parent for path in modules().values()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_nothing_in_the_core_names_prefect() -> None:
    allowed = {"gigagan_core.environment", "gigagan_core.servers"}
    for module, path in modules().items():
        if module.startswith("gigagan_core") and module not in allowed:
            assert not {name for name in imports_of(path) if name.split(".")[0] == "prefect"}, module
