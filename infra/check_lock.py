"""Check requirements.lock: hashes everywhere, no address, the two mends of the environment in place.

Exits 1 with one line for each thing that is wrong. The standard library alone is needed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# torch X.Y of the index goes with exactly one torchvision; a mixed pair fails at import.
MATCHING = {"2.14.1": "0.29.1"}


def problems(lock: str, pyproject: dict) -> list[str]:
    """What is wrong with a lock file's text, as sentences; an empty list when nothing is."""
    found = []
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock, flags=re.MULTILINE))
    if re.search(r"[a-z]+://", lock) or "--index-url" in lock or "--find-links" in lock:
        found.append("requirements.lock names an address; compile it with --no-emit-index-url")
    if "dataclasses" in pins:
        found.append("requirements.lock pins the dataclasses backport, which shadows the standard library")
    for block in re.split(r"\n(?=[a-z0-9._-]+==)", lock):
        if re.match(r"[a-z0-9._-]+==", block) and "--hash=sha256:" not in block:
            found.append(f"requirements.lock: {block.split()[0]} has no hash")
    if MATCHING.get(pins.get("torch", "")) != pins.get("torchvision"):
        found.append(
            f"torch {pins.get('torch')} and torchvision {pins.get('torchvision')} are no matching pair"
        )
    if not (0, 139) <= tuple(int(part) for part in pins.get("fastapi", "0.0").split(".")[:2]) < (0, 151):
        found.append(
            f"fastapi {pins.get('fastapi')} is outside >=0.139,<0.151, where Prefect's server starts"
        )
    project = pyproject["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")
        if name not in pins:
            found.append(f"requirements.lock lacks {name}, which pyproject.toml asks for; run 'make lock'")
    return found


if __name__ == "__main__":
    with open(ROOT / "pyproject.toml", "rb") as file:
        wrong = problems((ROOT / "requirements.lock").read_text(), tomllib.load(file))
    for sentence in wrong:
        print(f"check_lock: {sentence}", file=sys.stderr)
    sys.exit(1 if wrong else 0)
