"""Registered models in MLflow: every trained model a version, `candidate` the newest, `champion` the one that passed.

A version points at its artifact in the store; the weights are kept there, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.text import plain, without_password
from gigagan_core.tracking.connection import Connection, named, sqlite_path

CANDIDATE, CHAMPION = "candidate", "champion"
NAMES = {"base-model": "gigagan-base", "upsampler-model": "gigagan-upsampler"}
"""Registered model by an artifact's kind; controls are none, since nobody should serve one."""
_DIGEST = "gigagan.output_digest"
_FOLDER = "model"
POINTER = "artifact.json"
"""The file of a version: how a manifest names the artifact, and its uri."""


def registered_name(artifact: Any) -> str | None:
    """The registered model that an artifact is a version of, or None."""
    training = artifact.manifest.get("settings", {}).get("training") or {}
    return None if training.get("objective", "gan") != "gan" else NAMES.get(artifact.kind)


def register(connection: Connection, run_id: str, artifact: Any) -> None:
    """Make a model a version of its registered one, with alias `candidate`; one that is a version already stays so.

    Known by what came out, so a cached stage moves no alias. A failure is said and costs nothing else.
    """
    name = registered_name(artifact)
    if name is None:
        return
    what = f"the model {name}"
    versions = connection.call(what, "search_model_versions", f"name = '{name}'")
    if versions is False or any(each.tags.get(_DIGEST) == artifact.output_digest for each in versions):
        return
    known = connection.call(what, "search_registered_models", f"name = '{name}'")
    if known is False or (not known and not connection.call(what, "create_registered_model", name)):
        return
    made = _create_version(connection, run_id, artifact, name)
    if made:
        connection.call(f"the alias {CANDIDATE}", "set_registered_model_alias", name, CANDIDATE, made.version)


def _create_version(connection: Connection, run_id: str, artifact: Any, name: str) -> Any:
    what = f"a version of {name}"
    place = {**artifact.reference(), "uri": artifact.uri}
    connection.call(what, "log_dict", run_id, place, f"{_FOLDER}/{POINTER}")
    run = connection.call(what, "get_run", run_id)
    tags = {
        "gigagan.fingerprint": artifact.fingerprint,
        _DIGEST: artifact.output_digest,
        "gigagan.artifact": artifact.uri,
    }
    return run and connection.call(
        what,
        "create_model_version",
        name,
        f"{run.info.artifact_uri}/{_FOLDER}",
        run_id,
        tags=tags,
        description=f"The model bundle is in the store: {artifact.uri}",
    )


def wanted(tracking_uri: str) -> Callable[[Any], str | None]:
    """A function that says why an artifact must be kept for the registry's sake, or None.

    Versions of registered models are wanted; and models that were recorded in another MLflow than this, whose registry
    is not known. Raises GigaganError where MLflow cannot be asked.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not os.path.exists(path):
        return lambda artifact: _recorded_elsewhere(artifact, None, tracking_uri)
    connection = Connection(tracking_uri)
    try:
        client = connection.client
        aliases = {name: _aliases(model) for name, model in _registered(client).items()}
        versions = _pages(client.search_model_versions)
    except Exception as error:  # client, database and network each raise their own kinds
        raise GigaganError(
            f"{named(tracking_uri)} does not say which models are registered ({plain(error)}); start it, so that "
            "none of them is removed"
        ) from error
    kept = {each.tags[_DIGEST]: _version_words(each, aliases) for each in versions if _DIGEST in each.tags}

    def why(artifact: Any) -> str | None:
        known = kept.get(artifact.output_digest)
        return known or _recorded_elsewhere(artifact, client, tracking_uri)

    return why


def _version_words(version: Any, aliases: Mapping[str, Mapping[str, str]]) -> str:
    held = [
        alias for alias, number in aliases.get(version.name, {}).items() if number == str(version.version)
    ]
    return f"{version.name} version {version.version}" + (f" ({', '.join(sorted(held))})" if held else "")


def _recorded_elsewhere(artifact: Any, client: Any, tracking_uri: str) -> str | None:
    """The words for a model whose run this MLflow does not know. client: None where there is no MLflow at all."""
    run = (artifact.manifest.get("mlflow") or {}).get("run_id")
    if registered_name(artifact) is None or run is None:
        return None
    if client is not None:
        from mlflow.exceptions import MlflowException

        try:
            client.get_run(run)
            return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return (
        f"its MLflow run {run[:12]} is not in {without_password(tracking_uri)}, so its registry is not known"
    )


def promote(
    tracking_uri: str,
    name: str,
    output_digests: Mapping[str, str | None],
    tags: Mapping[str, str],
    only_check: bool = False,
) -> dict[str, Any]:
    """Move `candidate` to `champion` on the version that a report has judged; champion already: nothing to do.

    name: of the registered model. output_digests: of the models that were judged, by role. tags: set on the version.
    only_check: nothing moves. Returns name, version, and whether anything moved or would. Raises GigaganError where
    that version is not the candidate, so that a report of an old model brings it back for nobody.
    """
    connection = Connection(tracking_uri)
    try:
        digests = set(filter(None, output_digests.values()))
        return _promote(connection.client, name, digests, tags, only_check)
    except GigaganError:
        raise
    except Exception as error:  # client, database and network each raise their own kinds
        raise GigaganError(
            f"{named(tracking_uri)} did not promote {name} ({plain(error)}); start it and give the command again"
        ) from error


def _promote(
    client: Any, name: str, digests: set[str], tags: Mapping[str, str], only_check: bool
) -> dict[str, Any]:
    models = _registered(client)
    if name not in models:
        known = ", ".join(sorted(models)) or "none yet"
        raise GigaganError(f"there is no registered model {name!r} (registered: {known})")
    judged = [
        each for each in client.search_model_versions(f"name = '{name}'") if each.tags.get(_DIGEST) in digests
    ]
    if not judged:
        raise GigaganError(
            f"no version of {name} is the model that this report judged; give the registered model it belongs to"
        )
    aliases = _aliases(models[name])
    version = _meant([str(each.version) for each in judged], aliases)
    moved = aliases.get(CHAMPION) != version
    if moved and aliases.get(CANDIDATE) != version:
        raise GigaganError(
            f"the report judged version {version} of {name}, and {CANDIDATE} is "
            f"{aliases.get(CANDIDATE) or 'no version'}; evaluate the candidate, or give version {version} that alias"
        )
    result = {"name": name, "version": version, "moved": moved}
    if only_check:
        return result
    if moved:
        client.set_registered_model_alias(name, CHAMPION, version)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
    # last, so that a kill in between leaves the version with an alias; read again, for a training run may have given
    # it to a newer version meanwhile, and MLflow removes it whatever it points at
    if _aliases(client.get_registered_model(name)).get(CANDIDATE) == version:
        client.delete_registered_model_alias(name, CANDIDATE)
    return result


def _meant(versions: list[str], aliases: Mapping[str, str]) -> str:
    """Of versions that are the same model, the candidate, or else the champion, or else the newest."""
    held = [aliases[alias] for alias in (CANDIDATE, CHAMPION) if aliases.get(alias) in versions]
    return held[0] if held else max(versions, key=int)


def _registered(client: Any) -> dict[str, Any]:
    """Every registered model by name."""
    return {model.name: model for model in _pages(client.search_registered_models)}


def _pages(search: Any) -> list[Any]:
    """All that a search of MLflow's client finds: it gives a page at a time, and a team's server has many."""
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = search(page_token=token or None)
        found += page
        token = page.token or None
    return found


def _aliases(model: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in dict(model.aliases).items()}
