"""The curate stage: scores are added to every row, and rules decide which rows stay selected.

Artifacts: embeddings, one for each CLIP (stage ``embed``, decided by shard set and encoder); scores, one for each
scorer (stage ``score``, decided by shard set or embeddings, and weights); and the curated shard set (decided by scores
and rules). So other rules do not score again, one more scorer reruns no other one, and heads on one CLIP run it once.
The curated set has tables of its own and shares the tars.

Inputs by name: ``data`` (shard set), ``encoder`` (encoder artifact of role condition, or a weight file).
"""

from __future__ import annotations

from pathlib import Path

from gigagan_core.assets.folder import resolve, resolve_named
from gigagan_core.config.curate import (
    HEAD_WIDTH,
    SCORERS,
    CurateSettings,
    ScorerName,
    ScoreSettings,
    SpreadSettings,
)
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.errors import GigaganError
from gigagan_core.stages import scoring, selection
from gigagan_core.stages.base import RunContext, materialise
from gigagan_core.store.artifact import Artifact, ExternalFile, Input
from gigagan_core.store.fingerprint import sha256_file

SPEC = selection.SPEC
HEADS: tuple[ScorerName, ...] = ("aesthetic_v1", "aesthetic_v2", "nsfw")
"""Scorers that read the embedding of OpenAI's ViT-L/14."""
NETWORKS = (scoring.EMBEDDING, "clip_similarity", "watermark")
"""What gains from a GPU."""


def run(settings: CurateSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """The curated shard set. Its rows have a column for each scorer, such as `clip_similarity_<encoder>`; the
    table's own scores stay.

    Raises GigaganError where an input or a weight file is missing or not the one it should be, the encoder is the
    judge, or the rules leave no row.
    """
    missing = [name for name in ("data", "encoder") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"curate needs {' and '.join(missing)}; give a shard set and a condition encoder")
    # Choosing training data by the judge would be training on the test.
    require_role(inputs["encoder"], CONDITION)
    wanted = _wanted(settings)
    # Every file is looked at before anything is computed.
    weights = {scorer: _weights(scorer, settings, inputs["encoder"]) for scorer in wanted}
    embeddings = _embeddings(wanted, settings, inputs, context)
    scores: dict[str, Input] = {}
    for scorer in wanted:
        read = {scoring.EMBEDDINGS: embeddings[scorer]} if scorer in embeddings else {}
        scores[selection.PREFIX + scorer] = materialise(
            scoring.spec_of(scorer),
            _score_settings(scorer, settings, weights[scorer]),
            {"data": inputs["data"], **read, **weights[scorer]},
            context,
            scoring.score,
            # the one scorer that every run has goes without a name
            label="curate (scores)" if scorer == "clip_similarity" else f"curate ({scorer} scores)",
        )
    return materialise(SPEC, settings, {"data": inputs["data"], **scores}, context, selection.select)


def _embeddings(
    wanted: list[ScorerName], settings: CurateSettings, inputs: dict[str, Input], context: RunContext
) -> dict[ScorerName, Artifact]:
    """Of the pictures, by the scorer that reads them. Where both CLIPs are one file, so is the artifact."""

    def embed(encoder: Input, label: str, width: int | None = None) -> Artifact:
        files = {"encoder": encoder}
        return materialise(
            scoring.spec_of(scoring.EMBEDDING),
            _score_settings(scoring.EMBEDDING, settings, files).model_copy(update={"width": width}),
            {"data": inputs["data"], **files},
            context,
            scoring.embed,
            label=label,
        )

    found: dict[ScorerName, Artifact] = {}
    if heads := [scorer for scorer in HEADS if scorer in wanted]:
        clip = _clip_vit_l14(str(settings.clip_vit_l14))
        found |= dict.fromkeys(heads, embed(clip, "curate (embeddings for the heads)", HEAD_WIDTH))
    return found | {"clip_similarity": embed(inputs["encoder"], "curate (embeddings)")}


def _wanted(settings: CurateSettings) -> list[ScorerName]:
    on = {
        "clip_similarity": True,
        "language": settings.language.language is not None,
        **{name: getattr(settings, name).weights is not None for name in ("aesthetic_v1", "aesthetic_v2")},
        **{name: getattr(settings, name).weights is not None for name in ("watermark", "nsfw")},
    }
    return [scorer for scorer in SCORERS if on[scorer]]


def _weights(scorer: ScorerName, settings: CurateSettings, encoder: Input) -> dict[str, Input]:
    """The weight files that a scorer's scores depend on."""
    if scorer == "clip_similarity":
        return {"encoder": encoder}
    if scorer == "language":
        return {}
    rule = getattr(settings, scorer)
    return {"weights": _weight_file(rule.weights, rule.sha256, scorer)}


def _score_settings(scorer: str, settings: CurateSettings, weights: dict[str, Input]) -> ScoreSettings:
    language = library = None
    if scorer == "language":
        from gigagan_core.data.scorers.language import library as language_library

        language, library = settings.language.language, language_library()
    clip = weights.get("encoder")
    spread = {name: getattr(settings, name) for name in SpreadSettings.model_fields}
    return ScoreSettings(
        scorer=scorer,
        architecture=clip.uri.partition(":")[0] if isinstance(clip, ExternalFile) else None,
        language=language,
        library=library,
        **{**spread, "gpus_per_task": settings.gpus_per_task if scorer in NETWORKS else 0.0},
    )


def _weight_file(place: str, expected: str | None, scorer: str) -> ExternalFile:
    path = Path(resolve(place)).expanduser().absolute()
    if not path.is_file():
        raise GigaganError(
            f"{scorer}.weights {path} is not there; give the path of a file, nothing is downloaded"
        )
    found = sha256_file(path)
    if expected is not None and found != expected.lower():
        raise GigaganError(
            f"{scorer}.weights {path} has sha256 {found} and {scorer}.sha256 is {expected}; give the right file"
        )
    return ExternalFile(str(path), found)


def _clip_vit_l14(place: str) -> ExternalFile:
    architecture, colon, file = resolve_named(place).partition(":")
    path = Path(file).expanduser().absolute()
    if not colon or not path.is_file():
        raise GigaganError(
            f"clip_vit_l14 {place} is no ARCH:PATH of an existing file; give such as "
            "ViT-L-14-quickgelu:/weights/ViT-L-14.safetensors, nothing is downloaded"
        )
    return ExternalFile(f"{architecture}:{path}", sha256_file(path), read_as=architecture)
