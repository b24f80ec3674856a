"""The curate stage: scores are added to every row, and rules decide which rows stay selected.

Artifacts: one of scores for each scorer (stage ``score``, decided by shard set and weights) and the curated shard set
(decided by scores and rules), so other rules do not score again and one more scorer reruns no other one. The curated
set has tables of its own and shares the tars.

Inputs by name: ``data`` (shard set), ``encoder`` (encoder artifact of role condition, or a weight file).
"""

from __future__ import annotations

from pathlib import Path

from gigagan_core.config.curate import SCORERS, CurateSettings, ScorerName, ScoreSettings
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.errors import GigaganError
from gigagan_core.stages import scoring, selection
from gigagan_core.stages.base import RunContext, materialise
from gigagan_core.store.artifact import Artifact, ExternalFile, Input
from gigagan_core.store.fingerprint import sha256_file

SPEC = selection.SPEC


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
    scores: dict[str, Input] = {}
    for scorer in _wanted(settings):
        score_settings, weights = _scoring(scorer, settings, inputs["encoder"])
        scores[selection.PREFIX + scorer] = materialise(
            scoring.spec_of(scorer),
            score_settings,
            {"data": inputs["data"], **weights},
            context,
            scoring.score,
            # the one scorer that every run has goes without a name
            label="curate (scores)" if scorer == "clip_similarity" else f"curate ({scorer} scores)",
        )
    return materialise(SPEC, settings, {"data": inputs["data"], **scores}, context, selection.select)


def _wanted(settings: CurateSettings) -> list[ScorerName]:
    on = {
        "clip_similarity": True,
        "language": settings.language.language is not None,
        **{name: getattr(settings, name).weights is not None for name in ("aesthetic_v1", "aesthetic_v2")},
        **{name: getattr(settings, name).weights is not None for name in ("watermark", "nsfw")},
    }
    return [scorer for scorer in SCORERS if on[scorer]]


def _scoring(
    scorer: ScorerName, settings: CurateSettings, encoder: Input
) -> tuple[ScoreSettings, dict[str, Input]]:
    """A scorer's settings, and the files that its scores depend on."""
    files: dict[str, Input] = {}
    language = library = None
    if scorer == "clip_similarity":
        files["encoder"] = encoder
    elif scorer == "language":
        from gigagan_core.data.scorers.language import library as language_library

        language, library = settings.language.language, language_library()
    else:
        rule = getattr(settings, scorer)
        files["weights"] = _weight_file(rule.weights, rule.sha256, scorer)
        if scorer != "watermark":
            files["encoder"] = _clip_vit_l14(str(settings.clip_vit_l14))
    clip = files.get("encoder")
    return ScoreSettings(
        scorer=scorer,
        architecture=clip.uri.partition(":")[0] if isinstance(clip, ExternalFile) else None,
        language=language,
        library=library,
        batch_size=settings.batch_size,
        in_process_shards=settings.in_process_shards,
        cpus_per_task=settings.cpus_per_task,
    ), files


def _weight_file(place: str, expected: str | None, scorer: str) -> ExternalFile:
    path = Path(place).expanduser().absolute()
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
    architecture, colon, file = place.partition(":")
    path = Path(file).expanduser().absolute()
    if not colon or not path.is_file():
        raise GigaganError(
            f"clip_vit_l14 {place} is no ARCH:PATH of an existing file; give such as "
            "ViT-L-14-quickgelu:/weights/ViT-L-14.safetensors, nothing is downloaded"
        )
    return ExternalFile(f"{architecture}:{path}", sha256_file(path))
