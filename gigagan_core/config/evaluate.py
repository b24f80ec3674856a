"""Settings of the evaluate stage."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from gigagan_core.config.base import Settings, operational

ProtocolName = Literal[
    "openmoji-heldout",
    "gigagan-coco-30k",
    "coco2017-5k",
    "coco-30k-64",
    "ladder-fid-10k",
    "imagenet-64-to-256",
    "laion-128-to-1024",
    "parti-prompts",
    "prompt-file",
]
PROTOCOL_NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)
OPENMOJI: ProtocolName = "openmoji-heldout"
"""The demonstration's: its judge is an artifact, not an outside file, and it has baselines and verdicts."""
PROTOCOLS_ALONE = frozenset(("mode", "prompts", "assets", "in_process_shards", "shard_size", "threads"))
"""Settings that openmoji-heldout does not read."""
ALL_READ = frozenset(
    (
        "protocol",
        "max_images",
        "psi",
        "seed",
        "bootstrap_resamples",
        "confidence",
        "samples_shown",
        "gallery_shown",
        "training_searched",
        "batch_size",
    )
)
"""Settings that every protocol reads."""


class EvaluateSettings(Settings):
    """How a base model, and an upsampler where there is one, are judged on held-out captions.

    openmoji-heldout reads all but `PROTOCOLS_ALONE`; the other protocols read these and `ALL_READ`, and fix the rest.
    """

    protocol: ProtocolName = OPENMOJI
    """Which images, captions, networks and measures; `evaluation.protocols.named` holds them."""

    mode: Literal["exact", "authors"] = "exact"
    """authors: images reach CLIP as in the authors' released code, which lowers 63 of the 256 pixel values by one."""

    prompts: str | None = operational(None)
    """File of prompts (.jsonl, .tsv, text) in place of the protocol's. Its sha256 decides the result, not its place."""

    assets: dict[str, str] = operational({})
    """Asset -> path of a copy of your own in place of a fetched one, such as {"coco-2014-val": "/data/val2014"}."""

    in_process_shards: int = operational(8, ge=0)
    """Up to so many shards are generated and judged in this process; more are spread over Ray, one task a shard."""

    shard_size: int = operational(256, ge=1)
    """Images generated and judged in one task; another size finds no kept features."""

    image_size: int = Field(32, ge=4)
    """Side of the base model's images, pixels; real images are judged at the same size."""

    upsampled_size: int = Field(128, ge=8)
    """Side of the upsampler's images, pixels."""

    max_images: int | None = Field(None, ge=2)
    """Judge at most this many images, drawn by seed; None: all that the protocol has."""

    psi: float = Field(1.0, ge=0.0, le=1.0)
    """Truncation: 1 leaves the model as it is, lower trades diversity for fidelity."""

    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Decides latents, bootstrap draws, patches, baselines and the samples shown."""

    normalise_features: bool = True
    """Distances on features of unit length; see `evaluation.features.image_features`."""

    recall_k: int = Field(10, ge=1)
    """k of image-to-caption recall@k."""

    neighbours: int = Field(3, ge=1)
    """k of the manifolds of precision and recall (Kynkaanniemi et al. use 3)."""

    bootstrap_resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""

    patch_size: int = Field(32, ge=4)
    """Side of the upsampler's patches, pixels at full resolution."""

    patches_per_image: int = Field(4, ge=1)

    consistency_tolerance: float = Field(0.05, gt=0.0)
    """An upsampler's output, shrunk, matches its input up to this root mean square of the pixel range."""

    samples_shown: int = Field(24, ge=1)
    upsampled_shown: int = Field(8, ge=1)

    gallery_shown: int = Field(8, ge=1)
    """Images of each gallery: best, worst, failures, nearest training images."""

    training_searched: int = Field(50_000, ge=1)
    """Nearest neighbours are looked for among at most this many training images, drawn by seed; in the report of a
    protocol with outside networks among at most as many generated and real ones too."""

    latency_batches: tuple[Annotated[int, Field(ge=1)], ...] = operational(())
    """Batch sizes to time the model with; none: not timed. `gigagan latency` times it without an evaluation."""

    batch_size: int = operational(64, ge=1)
    """Images generated or judged at once."""

    threads: int | None = operational(None, ge=1)
    """That decode images of a protocol; none: one for each processor, in a Ray task 2."""

    @property
    def unread(self) -> frozenset[str]:
        """The fields that the protocol does not read: what they hold decides nothing."""
        if self.protocol == OPENMOJI:
            return PROTOCOLS_ALONE
        return frozenset(type(self).model_fields) - PROTOCOLS_ALONE - ALL_READ

    def as_read(self) -> EvaluateSettings:
        """The same with defaults in the fields that are not read, so that these make no other artifact."""
        defaults = {name: type(self).model_fields[name].default for name in self.unread}
        return self.model_copy(update=defaults)
