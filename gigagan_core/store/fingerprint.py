"""What makes a result what it is, as one sha256.

A fingerprint covers the stage's name, the settings that affect the result, the output digests of its
inputs, and the source that decides the result. Comments, docstrings and line numbers are no part of
that source: editing them recomputes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gigagan_core import environment
from gigagan_core.store.source_cache import Source, SourceCache

PACKAGE = "gigagan_core"
PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
TABLES = PACKAGE_FOLDER / "evaluation" / "tables"
"""The published numbers that stand beside ours in a report."""

# How work is stored, recorded and shown does not decide what comes out of it.
NOT_DECIDING = (
    "gigagan_core.store",
    "gigagan_core.tracking",
    "gigagan_core.console",
    "gigagan_core.environment",
    "gigagan_core.errors",
    # asks for nodes and waits: which ones there are decides no result
    "gigagan_core.ray_nodes",
    # where a file lies; what is in it is an input of its own, and what decides of the catalogue is in `_catalogue`
    "gigagan_core.assets",
    # the values of settings are in the fingerprint themselves, without the operational ones
    "gigagan_core.config",
    "gigagan_core.stages.base",
    # watches training from beside; without this an edited metric would train again
    "gigagan_core.training.validation",
    "gigagan_core.stages.pages",
)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(module: str) -> tuple[str, dict[str, str]]:
    """Digest of a module, of every module of the package that it imports, directly or not, and of the data they read.

    module: dotted name, e.g. ``gigagan_core.stages.ingest``. The source is read and not imported; imports inside
    functions count too. Returns (digest, the digest of each module and of each piece of data by its name).
    """
    seen: dict[str, str] = {}
    waiting = [module]
    known = _known(environment.home())
    while waiting:
        name = waiting.pop()
        if name in seen or _is_not_deciding(name):
            continue
        path = _module_path(name)
        if path is None:
            continue
        source = _read_module(name, path, path.stat().st_mtime_ns, known)
        seen[name] = source.digest
        if name in _READS:
            seen |= _READS[name]()
        waiting.extend(source.imported)
    known.save()
    return digest(seen), dict(sorted(seen.items()))


def _tables() -> dict[str, str]:
    return {f"{PACKAGE}/evaluation/tables/{path.name}": sha256_file(path) for path in TABLES.glob("*.csv")}


def _catalogue() -> dict[str, str]:
    """Of each asset what decides features and cautions; its address or licence does not."""
    from gigagan_core.assets.catalogue import CATALOGUE

    return {
        f"{PACKAGE}.assets.catalogue:{name}": digest([each.reader, each.member, each.images, each.sha256])
        for name, each in CATALOGUE.items()
    }


# What decides and is no module's source, by the module that reads it.
_READS: dict[str, Callable[[], dict[str, str]]] = {
    f"{PACKAGE}.evaluation.published_tables": _tables,
    f"{PACKAGE}.evaluation.protocols.run": _catalogue,
}


def _is_not_deciding(name: str) -> bool:
    return any(name == excluded or name.startswith(excluded + ".") for excluded in NOT_DECIDING)


def _module_path(name: str) -> Path | None:
    if name != PACKAGE and not name.startswith(PACKAGE + "."):
        return None
    base = PACKAGE_FOLDER.joinpath(*name.split(".")[1:])
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _known(home: Path) -> SourceCache:
    return SourceCache(home, Path(__file__).read_bytes())


@functools.lru_cache(maxsize=1024)
def _read_module(name: str, path: Path, _modified: int, known: SourceCache) -> Source:
    text = path.read_bytes()
    # a package's relative imports start one level lower than a module's
    key = known.key(f"{name}/{path.name}", text)
    source = known.get(key)
    if source is None:
        source = _parsed(name, path, text)
        known.add(key, source)
    return source


def _parsed(name: str, path: Path, text: bytes) -> Source:
    tree = ast.parse(text, filename=str(path))
    imported = _imported_modules(tree, name, path.name == "__init__.py")
    for node in ast.walk(tree):
        _drop_docstring(node)
    return Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported)


def _drop_docstring(node: ast.AST) -> None:
    """Remove a docstring, and any other bare string (a field's description in the PEP 257 manner)."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    node.body = [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]


def _imported_modules(tree: ast.AST, name: str, is_package: bool) -> tuple[str, ...]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join(parts[:keep] + ([node.module] if node.module else []))
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    with_parents = {
        ".".join(item.split(".")[: depth + 1]) for item in found for depth in range(item.count(".") + 1)
    }
    return tuple(sorted(item for item in with_parents if item == PACKAGE or item.startswith(PACKAGE + ".")))
