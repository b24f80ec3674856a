"""Static checks of every file in infra/: nothing is started, no cluster, container engine or network is needed.

`python infra/check.py` prints a line a check and exits with 1 where one found something. Programs come from the locked
environment; `kubectl` and `promtool` look closer where they are on the PATH, and are said to be missing where not.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = "1.34"
"""The version whose API the manifests are checked against."""
STANDING_CLUSTER = {"raycluster.yaml", "redis.yaml", "disruption-budgets.yaml"}
"""What a site without the backend `ray-job` leaves out, together: the last two are nothing without the first."""
PLACEHOLDER = re.compile(r"^\{\{ (\w+) \}\}$")


@dataclass(frozen=True)
class Check:
    """One kind of file. patterns: below infra/; but: names of other kinds. look: a sentence for each finding."""

    name: str
    patterns: tuple[str, ...]
    look: Callable[[Path, list[Path]], Iterator[str]]
    but: tuple[str, ...] = ()

    def files(self, root: Path) -> list[Path]:
        """The files of this kind, sorted."""
        found = {path for pattern in self.patterns for path in (root / "infra").glob(pattern)}
        return sorted(path for path in found if path.is_file() and path.name not in self.but)


# ---- programs ---------------------------------------------------------------------------------------


def _program(root: Path, name: str, *arguments: str) -> Iterator[str]:
    """The output of a program that did not end well, in one sentence."""
    beside = Path(sys.executable).parent / name
    command = str(beside) if beside.is_file() else shutil.which(name)
    if command is None:
        yield f"{name} is not installed; run `make install`"
        return
    done = subprocess.run([command, *arguments], cwd=root, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        yield f"{name}: {(done.stdout + done.stderr).strip()}"


def _paths(files: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in files]


def _yaml_style(root: Path, files: list[Path]) -> Iterator[str]:
    yield from _program(
        root, "yamllint", "--strict", "--config-file", "infra/.yamllint.yaml", *_paths(files, root)
    )


def _compose(root: Path, files: list[Path]) -> Iterator[str]:
    yield from _program(
        root, "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *_paths(files, root)
    )


def _dockerfiles(root: Path, files: list[Path]) -> Iterator[str]:
    yield from _program(root, "hadolint", "--no-color", *_paths(files, root))


def _shell(root: Path, files: list[Path]) -> Iterator[str]:
    yield from _program(root, "shellcheck", *_paths(files, root))


# ---- schemas ----------------------------------------------------------------------------------------


@cache
def _kubernetes_schema(name: str) -> Any:
    """A strict schema that kubernetes-validate ships; unknown keys are errors in them."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return json.loads((folder / f"v{KUBERNETES}.0-local-strict" / name).read_text())


@cache
def _registry() -> Registry:
    own = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "infra" / "schemas").glob("*.yaml"))]
    named = [
        ("_definitions.json", _kubernetes_schema("_definitions.json")),
        *((each["$id"], each) for each in own),
    ]
    return Registry().with_resources([(name, Resource.from_contents(each)) for name, each in named]).crawl()


def against_schema(document: Any, reference: str | dict[str, Any]) -> Iterator[str]:
    """What is wrong with a document. reference: a schema, or the name of one, such as ``helm-values#/$defs/mlflow``."""
    schema = {"$ref": reference} if isinstance(reference, str) else reference
    error = best_match(Draft202012Validator(schema, registry=_registry()).iter_errors(document))
    if error is not None:
        yield f"{error.json_path}: {error.message[:300]}"


def manifest_problems(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an object for the Kubernetes API, KubeRay's included."""
    version, kind = document.get("apiVersion", ""), document.get("kind", "")
    if version == "ray.io/v1" and kind in ("RayCluster", "RayJob"):
        yield from against_schema(document, f"ray.io-v1#/$defs/{kind}")
        return
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version)
    try:
        schema = _kubernetes_schema(f"{kind.lower()}-{group}.json")
    except FileNotFoundError:
        yield f"Kubernetes {KUBERNETES} has no {kind or 'kind'} of {version or 'no apiVersion'}"
        return
    yield from against_schema(document, schema)


def _documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def _manifests(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        for document in _documents(path):
            for problem in manifest_problems(document):
                name = document.get("metadata", {}).get("name", "")
                yield f"{path.relative_to(root)}: {document.get('kind')} {name}: {problem}"


def _kustomization(root: Path, files: list[Path]) -> Iterator[str]:
    folder = root / "infra" / "kubernetes"
    (document,) = _documents(files[0])
    yield from (f"kustomization.yaml: {problem}" for problem in against_schema(document, "kustomization"))
    listed = set(document.get("resources", ()))
    manifests = {path.name for path in MANIFESTS.files(root)}
    optional = STANDING_CLUSTER if "raycluster.yaml" not in listed else set()
    yield from (f"kustomization.yaml leaves out {name}" for name in sorted(manifests - listed - optional))
    yield from (f"kustomization.yaml lists {name}, which is not there" for name in sorted(listed - manifests))
    if shutil.which("kubectl") is None:
        print("  kubectl is not on the PATH: what kustomize makes of it was not looked at")
        return
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        yield f"kubectl kustomize: {done.stderr.strip()}"
        return
    for document in yaml.safe_load_all(done.stdout):
        for problem in manifest_problems(document):
            yield f"kubectl kustomize: {document['kind']} {document['metadata']['name']}: {problem}"


def _helm(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        (document,) = _documents(path)
        for problem in against_schema(document, f"helm-values#/$defs/{path.stem}"):
            yield f"{path.relative_to(root)}: {problem}"


def _schemas(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        schema = yaml.safe_load(path.read_text())
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            yield f"{path.relative_to(root)}: {error.json_path}: {error.message}"
        if schema["$id"] != path.stem:
            yield f"{path.relative_to(root)}: its $id is {schema['$id']}"


# ---- Prefect's work pool ----------------------------------------------------------------------------


# prefect-kubernetes 0.8 compares a job with a template of its own, which has these in the pod's spec, where they do
# nothing; what is missing there is "missing required attributes", and no job is made.
WORKERS_OWN = {"parallelism", "completions"}


def _work_pool(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        template = json.loads(path.read_text())
        variables = template["variables"]["properties"]
        used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
        yield from (f"{path.name}: {name} is used and not defined" for name in sorted(used - set(variables)))
        yield from (f"{path.name}: {name} is defined and not used" for name in sorted(set(variables) - used))
        job = _filled(template["job_configuration"]["job_manifest"], variables)
        pod = job["spec"]["template"]["spec"]
        for name in sorted(WORKERS_OWN - set(pod)):
            yield f"{path.name}: job_manifest: the pod's spec has no {name}, and Prefect's worker refuses such a job"
        # Kubernetes takes them and knows them not.
        job["spec"]["template"]["spec"] = {key: pod[key] for key in pod if key not in WORKERS_OWN}
        yield from (f"{path.name}: job_manifest: {problem}" for problem in manifest_problems(job))


def _filled(value: Any, variables: dict[str, Any]) -> Any:
    """The template with its variables' defaults, as a worker fills it in; what has none is left out."""
    if isinstance(value, dict):
        filled = {key: _filled(item, variables) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not None}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.match(value)
    if not whole:
        return re.sub(r"\{\{ \w+ \}\}", "x", value)
    default = variables.get(whole[1], {}).get("default")
    # Prefect gives variables as an object; its worker makes the list of them that Kubernetes wants.
    return [{"name": key, "value": item} for key, item in default.items()] if whole[1] == "env" else default


# ---- Prometheus -------------------------------------------------------------------------------------

FUNCTIONS = {
    *(
        "absent",
        "avg_over_time",
        "delta",
        "histogram_quantile",
        "increase",
        "max_over_time",
        "predict_linear",
    ),
    *("quantile_over_time", "rate", "sum", "avg", "min", "max", "count"),
}
WORDS = {"and", "or", "unless", "offset", "bool"}


def promql_problems(expression: str, metrics: set[str]) -> Iterator[str]:
    """Misspelt functions and metrics, odd durations, brackets that do not meet; `promtool` knows the whole language.

    metrics: names of exporter.py; Ray's are looked up by the tests, in Ray itself.
    """
    rest = re.sub(r'"[^"]*"', '""', expression)
    for opening, closing in ("()", "{}", "[]"):
        if rest.count(opening) != rest.count(closing):
            yield f"{opening} and {closing} do not meet"
    for duration in re.findall(r"\[([^\]]*)\]", rest) + re.findall(r"\boffset\s+(\S+?)\)?(?=\s|$)", rest):
        if not re.fullmatch(r"\d+[smhdw]", duration):
            yield f"{duration!r} is no duration"
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+", " ", rest)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    for name, called in re.findall(r"\b([a-zA-Z_]\w*)(\s*\()?", rest):
        if name in WORDS or (called and name in FUNCTIONS):
            continue
        # An aggregation's labels may stand before its bracket: `sum by (a) (x)`, where the labels are gone by now.
        if called:
            yield f"{name} is no function"
        elif name != "up" and not name.startswith("ray_") and name not in metrics:
            yield f"{name} is no metric of Ray or exporter.py"


def exporter_metrics(root: Path) -> set[str]:
    """The names that exporter.py serves."""
    return set(re.findall(r'"(gigagan_\w+)": \(', (root / "infra" / "exporter.py").read_text()))


def _alerts(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        (document,) = _documents(path)
        for problem in against_schema(document, "prometheus#/$defs/rules"):
            yield f"{path.name}: {problem}"
            return
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            for problem in promql_problems(rule["expr"], exporter_metrics(root)):
                yield f"{path.name}: {rule['alert']}: {problem}"
        yield from _promtool(root, "check", path)


def _alert_tests(root: Path, files: list[Path]) -> Iterator[str]:
    known = set(re.findall(r"- alert: (\w+)", (root / "infra" / "alerts.yaml").read_text()))
    for path in files:
        (document,) = _documents(path)
        for problem in against_schema(document, "prometheus#/$defs/tests"):
            yield f"{path.name}: {problem}"
        named = set(re.findall(r'alertname="(\w+)"', path.read_text()))
        yield from (f"{path.name}: there is no alert {name}" for name in sorted(named - known))
        yield from _promtool(root, "test", path)


def _promtool(root: Path, verb: str, path: Path) -> Iterator[str]:
    """What Prometheus' own tool says of rules or of their tests, where there is one."""
    if shutil.which("promtool") is None:
        print(f"  promtool is not on the PATH: {path.name} was looked at for keys, names and brackets only")
    else:
        yield from _program(root, "promtool", verb, "rules", str(path))


def _prometheus(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        (document,) = _documents(path)
        for problem in against_schema(document, "prometheus#/$defs/config"):
            yield f"{path.relative_to(root)}: {problem}"


# ---- variables --------------------------------------------------------------------------------------


def _variables(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line and not line.startswith("#") and not re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", line):
                yield f"{path.relative_to(root)}:{number}: {line!r} is not NAME=value"
    asked = set(re.findall(r"\$\{(\w+)", (root / "infra" / "compose.yaml").read_text()))
    example = (root / "infra" / ".env.example").read_text()
    offered = set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE))
    yield from (f".env.example lacks {name}, which compose.yaml asks for" for name in sorted(asked - offered))
    yield from (
        f".env.example has {name}, which compose.yaml does not read" for name in sorted(offered - asked)
    )


def _json(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            json.loads(path.read_text())
        except ValueError as error:
            yield f"{path.relative_to(root)}: {error}"


MANIFESTS = Check("kubernetes", ("kubernetes/*.yaml",), _manifests, but=("kustomization.yaml", "scrape.yaml"))
CHECKS = (
    Check("yaml style", ("**/*.yaml", ".yamllint.yaml"), _yaml_style),
    Check("compose", ("compose.yaml",), _compose),
    Check("dockerfiles", ("docker/*Dockerfile",), _dockerfiles),
    Check("shell", ("*.sh", "compose/*.sh"), _shell),
    MANIFESTS,
    Check("kustomization", ("kubernetes/kustomization.yaml",), _kustomization),
    Check("helm values", ("helm/*.yaml",), _helm),
    Check("schemas", ("schemas/*.yaml",), _schemas),
    Check("json", ("**/*.json",), _json),
    Check("work pool", ("kubernetes/work-pool.json",), _work_pool),
    Check("alerts", ("alerts.yaml",), _alerts),
    Check("alert tests", ("alerts.test.yaml",), _alert_tests),
    Check("prometheus", ("compose/prometheus.yaml", "kubernetes/scrape.yaml"), _prometheus),
    Check("variables", (".env.example", "kubernetes/site.env"), _variables),
)
ELSEWHERE = ("*.py", "README.md", ".env")
"""ruff checks the code, people read the text, and .env is one machine's own."""


def unchecked(root: Path) -> list[str]:
    """Files of infra/ that no check looks at."""
    files = {
        path for path in (root / "infra").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    looked_at = {path for check in CHECKS if check.name != "yaml style" for path in check.files(root)}
    style = {root / "infra" / ".yamllint.yaml"}
    rest = files - looked_at - style
    return sorted(str(path.relative_to(root)) for path in rest if not any(map(path.match, ELSEWHERE)))


def problems(check: Check, root: Path) -> list[str]:
    """What one check finds. A file that cannot be parsed is a finding."""
    files = check.files(root)
    if not files:
        return [f"nothing matches {', '.join(check.patterns)}"]
    try:
        return list(check.look(root, files))
    except (yaml.YAMLError, ValueError, KeyError) as error:
        return [f"{type(error).__name__}: {error}"]


def main() -> int:
    """Run every check; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    root = parser.parse_args().root.resolve()
    found = [f"infra: no check looks at {name}" for name in unchecked(root)]
    for check in CHECKS:
        wrong = problems(check, root)
        count = len(check.files(root))
        said = f"{len(wrong) or 'no'} finding{'' if len(wrong) == 1 else 's'}"
        print(f"infra: {check.name}: {count} file{'' if count == 1 else 's'}, {said}")
        found += [f"infra: {check.name}: {sentence}" for sentence in wrong]
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
