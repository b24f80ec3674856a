"""Settings of the ingest stage: what is filtered, fetched, kept and ruled out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational

DEFAULT_QUALITY = {"png": 6, "jpg": 95, "webp": 95}


class FilterSettings(Settings):
    """Thresholds on what the table itself says, before anything is fetched. None: the rule is off."""

    min_side: int | None = Field(None, ge=1)
    """Shorter side in the table, pixels."""

    max_aspect: float | None = Field(None, ge=1.0)
    """Longer side over shorter side in the table."""

    min_clip_similarity: float | None = None
    """The table's own image-text score; LAION-5B-en was cut at 0.28."""

    max_nsfw: float | None = None
    """LAION's punsafe, a probability."""

    max_watermark: float | None = None
    """LAION's pwatermark, a probability."""

    min_caption_characters: int = Field(1, ge=0)
    max_caption_characters: int | None = Field(None, ge=1)

    missing: Literal["keep", "drop", "fail"] = "keep"
    """What a row meets that has no value for a rule that is on: it stays, it goes, or the run stops."""


class FetchSettings(Settings):
    """How images are asked for."""

    timeout_s: float = Field(10.0, gt=0)
    """Seconds for one attempt, from connecting to the last byte; redirects included."""

    retries: int = Field(2, ge=0)
    """Further rounds for what failed transiently: time-outs, resets, cut bodies, 5xx, 429. Never 404."""

    backoff_s: float = Field(1.0, ge=0)
    """Seconds before the first further round; each later one waits twice as long."""

    max_bytes: int = Field(20_000_000, ge=1)
    """A longer body is given up, whatever its header promised."""

    max_redirects: int = Field(5, ge=0)

    honour_opt_out: bool = True
    """Leave images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex."""

    user_agent: str = "Mozilla/5.0 (compatible; gigagan-pipeline/0.1)"

    allow_private_addresses: bool = False
    """Fetch from private, loopback and link-local addresses too. `hosts` allows single ones."""

    concurrency: int = operational(64, ge=1)
    """Requests in flight in one partition."""

    per_host: int = operational(32, ge=1)
    """Connections to one host from one partition."""

    hosts: dict[str, str] = operational({})
    """Logical host -> ADDRESS:PORT that really answers for it; such an address may be private."""

    max_failed_share: float = operational(0.5, ge=0.0, le=1.0)
    """The error budget: a partition in which more of the URLs fail is not kept, and the run stops."""


class RuleSettings(Settings):
    """What the fetched pictures and their captions must be, over all partitions together."""

    min_caption_words: int = Field(1, ge=0)
    max_caption_words: int | None = Field(None, ge=1)

    min_side: int | None = Field(None, ge=1)
    """Shorter side of the picture as it was fetched, pixels. None: `image_size`, so nothing is enlarged."""

    max_aspect: float | None = Field(None, ge=1.0)
    """Longer side over shorter side of the picture as it was fetched."""

    duplicate_urls: bool = True
    """Keep the first of equal URLs."""

    duplicate_bytes: bool = True
    """Keep the first of pictures whose fetched bytes are equal."""

    duplicate_pictures: Literal["off", "with-caption", "any-caption"] = "with-caption"
    """Keep the first of pictures with equal perceptual hash, where the captions are equal too, or whatever
    the captions say."""


class IngestSettings(Settings):
    """Tables of URLs and captions become one shard set."""

    table_schema: str = "auto"
    """Name of a schema in `gigagan_core.data.schemas`, or `auto`: known by its columns."""

    url_column: str | None = None
    caption_column: str | None = None
    """For a table with columns of other names; both or none."""

    rows_per_partition: int = Field(10_000, ge=1)
    """A longer table is cut into partitions of this many rows, one tar each."""

    image_size: int = Field(128, ge=4)
    """Side of the pictures kept, pixels: the largest size any later stage will ask for."""

    encode_format: Literal["png", "jpg", "webp"] = "jpg"
    encode_quality: int | None = Field(None, ge=0, le=100)
    """1 to 100 for jpg and webp, compression 0 to 9 for png. None: 95, and 6 for png."""

    filter: FilterSettings = FilterSettings()
    fetch: FetchSettings = FetchSettings()
    rules: RuleSettings = RuleSettings()

    licence: str | None = None
    attribution: str | None = None
    """Travel into the manifest and the shard set where they are given."""

    site: Literal["openmoji"] | None = operational(None)
    """Serve the embedded drawings on loopback while something has to be fetched."""

    site_faults: bool = operational(True)
    """Whether that site has its share of bad URLs (`gigagan_core.data.faults`)."""

    ray_tasks: bool = operational(True)
    """One Ray task a partition; false: fetch in this process."""

    partitions_in_flight: int = operational(4, ge=1)
    cpus_per_partition: float = operational(0.5, gt=0)
    """What Ray sets aside for one partition; it mostly waits for the network."""

    @model_validator(mode="after")
    def _fits_together(self) -> IngestSettings:
        if (self.url_column is None) != (self.caption_column is None):
            raise ValueError("give url_column and caption_column together")
        if self.encode_format == "png" and (self.encode_quality or 0) > 9:
            raise ValueError("encode_quality of png is its compression, 0 to 9")
        return self

    @property
    def quality(self) -> int:
        """The quality or compression that is used."""
        return DEFAULT_QUALITY[self.encode_format] if self.encode_quality is None else self.encode_quality

    @property
    def min_side(self) -> int:
        """The shorter side that a fetched picture must have."""
        return self.image_size if self.rules.min_side is None else self.rules.min_side


class PartitionSettings(Settings):
    """The part of `IngestSettings` that decides one downloaded partition, and which rows it takes."""

    start: int
    rows: int
    table_schema: str
    url_column: str | None
    caption_column: str | None
    image_size: int
    encode_format: str
    quality: int
    filter: FilterSettings
    fetch: FetchSettings

    @classmethod
    def of(cls, settings: IngestSettings, start: int, rows: int) -> PartitionSettings:
        """Rows [start, start + rows) of a table."""
        same = ("table_schema", "url_column", "caption_column", "image_size", "encode_format", "quality")
        values = {name: getattr(settings, name) for name in same}
        return cls(start=start, rows=rows, filter=settings.filter, fetch=settings.fetch, **values)
