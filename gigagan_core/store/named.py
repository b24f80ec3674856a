"""Models and encoders by the words of a person: a fingerprint, a unique prefix of one, a path, `latest`, or a file."""

from __future__ import annotations

from pathlib import Path

from gigagan_core.assets.folder import resolve_named
from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.store import Store


def base_model(store: Store, reference: str) -> Artifact:
    """A base model."""
    return store.resolve(reference, ("base-model",), what="base model")


def upsampler(store: Store, reference: str, objective: str = "gan") -> Artifact:
    """An upsampler; `latest` is the newest that was trained with this objective ("gan", "l1")."""
    return store.resolve(
        reference,
        ("upsampler-model",),
        where=lambda artifact: reference != "latest" or _objective(artifact) == objective,
        what="upsampler" if objective == "gan" else f"upsampler of objective {objective}",
    )


def encoder(store: Store, reference: str, role: str = "condition") -> Artifact | ExternalFile:
    """An encoder; `latest` is the newest of this role ("condition", "judge"), ARCH:PATH a weight file, asset:NAME."""
    architecture, colon, path = resolve_named(reference).partition(":")
    if colon:
        return weight_file(architecture, path)
    return store.resolve(
        reference,
        ("encoder",),
        where=lambda artifact: reference != "latest" or artifact.notes.get("role", role) == role,
        what=f"{role} encoder",
    )


def encoder_of(store: Store, model: Artifact) -> Artifact | ExternalFile:
    """The encoder that a model was trained with, by the model's manifest."""
    used = model.manifest.get("inputs", {}).get("encoder") or {}
    if "uri" in used:
        return ExternalFile(used["uri"], used["sha256"], read_as=used.get("read_as"))
    found = store.find(used["stage"], used["fingerprint"]) if "fingerprint" in used else None
    if found is None:
        raise GigaganError(
            f"the encoder that {model.kind} {model.short} was trained with is not in store {store.uri}; "
            "name it as ARTIFACT or ARCH:PATH"
        )
    return found


def weight_file(name: str, path: str, what: str = "encoder", kind: str = "ARCH") -> ExternalFile:
    """A file from outside as NAME:PATH; what, kind: how the sentence calls it and its name, should it be missing."""
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise GigaganError(
            f"{what} {name}:{path}: no such weight file; give {kind}:PATH with an existing one"
        )
    return ExternalFile(f"{name}:{file}", sha256_file(file), read_as=name)


def _objective(artifact: Artifact) -> str:
    return artifact.manifest.get("settings", {}).get("training", {}).get("objective", "gan")
