"""Settings of the curate stage: which scores are added, and which rows they leave selected."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational


class ScoreRule(Settings):
    """What a score must be for a row to stay selected. Neither bound set: the score is added, nothing leaves."""

    minimum: float | None = None
    """The lowest score that stays."""

    keep_fraction: float | None = Field(None, gt=0, le=1)
    """The share of scored rows that stays, the best ones; equal scores stay or leave together (they stay)."""

    missing: Literal["keep", "drop", "fail"] = "drop"
    """What a row meets whose score could not be computed: it stays, it leaves, or the run stops."""

    @model_validator(mode="after")
    def _one_bound(self) -> ScoreRule:
        if self.minimum is not None and self.keep_fraction is not None:
            raise ValueError("give minimum or keep_fraction, not both")
        return self


class CurateSettings(Settings):
    """Scores are an artifact of their own: other rules do not score again."""

    clip_similarity: ScoreRule = ScoreRule(keep_fraction=0.97)
    """Cosine of image and caption by the encoder given. The default drops the 3% that fit least: an encoder trained
    on these very rows has seen their captions, so it is trusted with mistakes in the data and no more."""

    batch_size: int = operational(128, ge=1)
    """Images scored at once."""

    in_process_shards: int = operational(4, ge=0)
    """Up to so many shards are scored in this process; more are spread over Ray, one task a shard."""

    cpus_per_task: float = operational(1.0, gt=0)


class ScoreSettings(Settings):
    """What decides one scorer's scores, beside the pictures and the encoder's weights."""

    scorer: Literal["clip-similarity"] = "clip-similarity"

    architecture: str | None = None
    """Of a weight file from outside (ARCH of ARCH:PATH); None for an encoder artifact, which knows its own."""

    batch_size: int = operational(128, ge=1)
    in_process_shards: int = operational(4, ge=0)
    cpus_per_task: float = operational(1.0, gt=0)
