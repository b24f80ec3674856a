"""Where a model and its encoder are: a folder, the store, MLflow's registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gigagan_core.errors import GigaganError
from gigagan_core.store import named
from gigagan_core.store.artifact import MANIFEST, Artifact
from gigagan_core.store.store import Store, open_store
from gigagan_core.text import plain
from gigagan_core.tracking.registry import POINTER
from gigagan_core.training.checkpoint import CONFIG, WEIGHTS, bundle_folder, read_config

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

REGISTRY = "models:/"
_KINDS = {"base": named.base_model, "upsampler": named.upsampler}


@dataclass(frozen=True)
class Place:
    """A model bundle. folder: on this machine. artifact: what holds it, where the store made it. name: for records."""

    folder: Path
    artifact: Artifact | None
    name: str


def find_bundle(reference: str | Path, kind: str, store: Store | None = None) -> Place:
    """The bundle that a person named.

    reference: a bundle's or an artifact's folder, MLflow's ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, or a
    fingerprint, a unique prefix of one or `latest` of the store. kind: "base" or "upsampler". store: the default one
    where None. Raises GigaganError where there is none.
    """
    text = str(reference)
    if text.startswith(REGISTRY):
        return _registered(text, kind, store)
    folder = Path(reference).expanduser()
    if folder.is_dir() and (bundle_folder(folder) / CONFIG).is_file():
        artifact = None
        if (folder / MANIFEST).is_file():
            artifact = _KINDS[kind](store or open_store(), str(folder.absolute()))
        return Place(folder, artifact, artifact.short if artifact else folder.absolute().name)
    artifact = _KINDS[kind](store or open_store(), text)
    return Place(artifact.path, artifact, artifact.short)


def other_size(image_size: int, low_size: int) -> str | None:
    """Half a sentence where an upsampler was trained on pictures of another size than the model makes, else None.

    Its tiles take pictures of any size, so the result would not show it.
    """
    if image_size == low_size:
        return None
    return f"the upsampler was trained on pictures of {low_size} px, and the model makes {image_size} px"


def find_device(name: str | None) -> str:
    """A device by torch's name of it; None: a GPU where there is one. Raises GigaganError where it cannot be used."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = plain(str(error).splitlines()[0], 200)
        raise GigaganError(f"device {name!r} cannot be used ({reason}); give --device cpu, or cuda") from None
    return name


def find_encoder(
    reference: str | Path | Encoder | None, model: Place, store: Store | None, device: str
) -> Encoder | None:
    """The encoder named, or the one that the model was trained with; None for a model that takes no captions.

    reference: an encoder, or what `locate_encoder` takes.
    """
    from gigagan_core.encoders.open_clip_encoder import load_encoder

    if reference is not None and not isinstance(reference, (str, Path)):
        return reference if _takes_captions(model) else None
    place = locate_encoder(reference, model, store)
    return None if place is None else load_encoder(place, device)


def locate_encoder(reference: str | Path | None, model: Place, store: Store | None) -> str | Path | None:
    """Where the encoder is, as `load_encoder` takes it: a folder or ARCH:PATH; None where the model needs none.

    reference: its folder, an artifact, `latest` or ARCH:PATH; None: the one in the manifest of the model's artifact,
    or else the one in the store whose weights have the sum that the bundle names. Raises GigaganError.
    """
    if not _takes_captions(model):
        return None
    if reference is not None and Path(reference).expanduser().is_dir():
        return Path(reference).expanduser().absolute()
    store = store or open_store()
    if reference is not None:
        found = named.encoder(store, str(reference))
    elif model.artifact is not None:
        found = named.encoder_of(_store_of(model.artifact, store), model.artifact)
    else:
        found = _by_sum(store, read_config(model.folder).get("encoder_sha256"), model)
    return found.path if isinstance(found, Artifact) else found.uri


def _takes_captions(model: Place) -> bool:
    return read_config(model.folder)["network"].get("conditioning", "text") == "text"


def _store_of(artifact: Artifact, default: Store) -> Store:
    """The store that a folder lies in, should it be another than the one that is open."""
    if artifact.uri.startswith(f"{default.uri}/") or "://" in artifact.uri:
        return default
    return Store(str(Path(artifact.uri).parents[1]))


def _by_sum(store: Store, sha256: str | None, model: Place) -> Artifact:
    for artifact in reversed(store.artifacts()):
        if artifact.kind == "encoder" and any(
            file["sha256"] == sha256 for file in artifact.manifest["files"].values()
        ):
            return artifact
    raise GigaganError(
        f"model {model.name} was trained with encoder {str(sha256)[:12]}, which is not in store {store.uri}; name it "
        "as ARTIFACT, its folder or ARCH:PATH"
    )


def _registered(uri: str, kind: str, store: Store | None) -> Place:
    """What a registered version is: the artifact that it points at, as training registers it, or a bundle's files."""
    folder = _from_registry(uri)
    if (bundle_folder(folder) / CONFIG).is_file():
        return Place(folder, None, uri)
    try:
        reference = json.loads((folder / POINTER).read_text())
        stage, digest, place = (reference[key] for key in ("stage", "output_digest", "uri"))
    except (OSError, ValueError, LookupError, TypeError):
        raise GigaganError(
            f"{uri} holds no model bundle ({WEIGHTS} and {CONFIG}), nor does it name an artifact; register the folder "
            "of a bundle, or train the model here"
        ) from None
    # the store that it was registered from, and where that has moved, or is reached by another name, the one in use
    stores = [Store(place.rsplit("/", 2)[0]), store or open_store()]
    found = next((each for known in stores for each in _of_digest(known, stage, digest)), None)
    if found is None:
        where = " nor in ".join(dict.fromkeys(known.uri for known in stores))
        raise GigaganError(
            f"{uri} is artifact {place}, which is not in store {where}; name its store with --store"
        )
    if found.kind != f"{kind}-model":
        raise GigaganError(f"{uri} is of kind {found.kind}, and kind {kind}-model is needed")
    return Place(found.path, found, uri)


def _of_digest(store: Store, stage: str, digest: str) -> list[Artifact]:
    return [artifact for artifact in store.artifacts(stage) if artifact.output_digest == digest]


def _from_registry(uri: str) -> Path:
    """A registered model's files, copied to this machine by MLflow."""
    from gigagan_core import environment

    environment.set_defaults()
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    server = environment.mlflow_uri()
    name, at, alias = uri.removeprefix(REGISTRY).partition("@")
    name, _, version = (name, "", "") if at else name.rpartition("/")
    try:
        client = MlflowClient(tracking_uri=server, registry_uri=server)
        if at:
            version = client.get_model_version_by_alias(name, alias).version
        source = client.get_model_version_download_uri(name, version)
        folder = Path(download_artifacts(artifact_uri=source, tracking_uri=server))
    except Exception as error:  # client, database and network each raise their own kinds
        raise GigaganError(
            f"MLflow at {server} gives no model {uri} ({plain(error)}); write {REGISTRY}NAME@ALIAS or "
            f"{REGISTRY}NAME/VERSION of a registered one"
        ) from None
    return folder
