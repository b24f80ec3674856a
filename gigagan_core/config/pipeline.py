"""Settings of a whole pipeline run: where the images come from, and every stage's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational
from gigagan_core.config.curate import CurateSettings
from gigagan_core.config.encoder import EncoderSettings
from gigagan_core.config.evaluate import OPENMOJI, EvaluateSettings
from gigagan_core.config.ingest import IngestSettings
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings

Tables = str | tuple[str, ...]


class SourceSettings(Settings):
    """Where captioned images come from."""

    kind: Literal["openmoji", "tables"] = "openmoji"
    """openmoji: the embedded drawings, published on loopback. tables: parquet tables of one's own."""

    train: Tables | None = None
    """tables: file, folder or URI of the training set's metadata, or several."""

    heldout: Tables | None = None
    """tables: the same for the held-out set, which no training stage sees."""

    upsampler: Tables | None = None
    """tables: the same for a training set that is the upsampler's alone. None: it has the base model's."""

    limit: int | None = Field(None, ge=32)
    """openmoji: use this many drawings at most, training and held-out together; None: all."""

    size: int = Field(160, ge=16, le=1024)
    """openmoji: side of the pictures that are published, pixels."""

    @model_validator(mode="after")
    def _names_tables(self) -> SourceSettings:
        if self.kind == "tables" and not (self.train and self.heldout):
            raise ValueError("give train and heldout: parquet files or folders of URLs and captions")
        if self.kind == "openmoji" and self.upsampler:
            raise ValueError(
                "tables of the upsampler's own go with kind=tables, and tables for train and heldout"
            )
        return self


class GateSettings(Settings):
    """What the report must show before the models it judged are promoted."""

    require: tuple[str, ...] = operational(())
    """Requirements on its figures, such as fd<0.2; the run fails where one does not hold. None: nothing is promoted."""

    strict: bool = operational(False)
    """Require it of the worse end of each figure's interval."""

    despite_cautions: bool = operational(False)
    """Pass a report of a rehearsal, or of a model judged on the images that it was trained on."""

    promote: tuple[str, ...] = operational(("gigagan-base", "gigagan-upsampler"))
    """Registered models whose alias then moves from candidate to champion."""

    @model_validator(mode="after")
    def _guards_something(self) -> GateSettings:
        if self.strict and not self.require:
            raise ValueError("strict guards nothing without require; give requirements, such as fd<0.2")
        return self


class PipelineSettings(Settings):
    """One pipeline run: ingest, encoders, curate, base, upsampler and its control, evaluate."""

    source: SourceSettings = SourceSettings()
    ingest: IngestSettings = IngestSettings()
    condition: EncoderSettings
    judge: EncoderSettings
    curate: CurateSettings = CurateSettings()
    base: BaseTrainingSettings
    upsampler: UpsamplerTrainingSettings
    control: UpsamplerTrainingSettings | None = None
    """The upsampler's L1-only control; None: none is trained and the report has no such column."""
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> PipelineSettings:
        if (self.condition.role, self.judge.role) != ("condition", "judge"):
            raise ValueError("condition and judge must have these roles")
        if self.evaluate.protocol != OPENMOJI:
            raise ValueError(
                f"evaluate.protocol is {self.evaluate.protocol}, and a pipeline's report is {OPENMOJI}'s; judge its "
                f"models with `gigagan evaluate --protocol {self.evaluate.protocol}` afterwards"
            )
        networks = {
            "base.generator": self.base.generator,
            "base.discriminator": self.base.discriminator,
            "upsampler.upsampler": self.upsampler.upsampler,
            "upsampler.discriminator": self.upsampler.discriminator,
        }
        width = self.condition.text.width
        for name, network in networks.items():
            if network.text_conditioned and network.text_dim != width:
                raise ValueError(
                    f"{name}.text_dim is {network.text_dim} and the condition encoder's text width is {width}; "
                    "make them equal"
                )
        if self.source.kind == "openmoji" and self.source.size < self.ingest.min_side:
            raise ValueError(
                f"source.size is {self.source.size} and ingest keeps pictures of at least {self.ingest.min_side} px; "
                "publish them larger"
            )
        if self.base.image_size != self.upsampler.upsampler.low_size:
            raise ValueError(
                f"base.generator.image_size is {self.base.image_size} and "
                f"upsampler.upsampler.low_size is {self.upsampler.upsampler.low_size}; make them equal"
            )
        if self.ingest.image_size < self.upsampler.image_size:
            raise ValueError(
                f"ingest.image_size is {self.ingest.image_size} and the upsampler needs pictures of "
                f"{self.upsampler.image_size} px; keep them at least that large"
            )
        return self
