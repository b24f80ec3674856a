"""Settings of the ingest and import stages: what is filtered, fetched, kept and ruled out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gigagan_core.config.base import Settings, operational

DEFAULT_QUALITY = {"png": 6, "jpg": 95, "webp": 95}


FilterPreset = Literal["laion-aesthetic", "sd-v1", "datacomp-basic", "coyo-basic", "gigagan"]

FILTER_PRESETS: Mapping[FilterPreset, Mapping[str, Any]] = {
    # How LAION cut laion2B-en-aesthetic out of the whole: predictor V1 above 7.
    "laion-aesthetic": {
        "min_aesthetic_laion_v1": 7.0,
        "max_watermark_laion": 0.8,
        "max_nsfw_laion": 0.5,
        "missing": "drop",
    },
    # Stable Diffusion 1.x: laion-improved-aesthetics, which is predictor V2 above 5.
    "sd-v1": {"min_side": 512, "min_aesthetic_laion_v2": 5.0, "max_watermark_laion": 0.5, "missing": "drop"},
    # DataComp's basic filter; its language rule needs a detector, and is not here.
    "datacomp-basic": {
        "min_caption_words": 3,
        "min_caption_characters": 6,
        "min_side": 200,
        "max_aspect": 3.0,
        "missing": "drop",
    },
    # COYO-700M's own rules. More than 5 KB is known after fetching only; unique (phash, text) is a rule of `rules`.
    "coyo-basic": {"min_side": 200, "max_aspect": 3.0, "max_nsfw_coyo": 0.5, "missing": "drop"},
    # The paper filters LAION2B-en and COYO-700M by CLIP score, aesthetic score and watermark, and does not publish
    # its numbers. These are LAION's and Stable Diffusion's. Tables that lack a score are kept: `curate` can add it.
    "gigagan": {
        "min_clip_similarity_b32": 0.28,
        "min_aesthetic_laion_v1": 7.0,
        "min_aesthetic_laion_v2": 5.0,
        "max_watermark_laion": 0.5,
        "max_watermark_coyo": 0.5,
        "missing": "keep",
    },
}
"""Published thresholds by name. Where the publisher says "above", a score equal to the bound stays here."""

_FILTER_DEFAULTS = {"min_caption_characters": 1, "missing": "keep"}


class FilterSettings(Settings):
    """Thresholds on what the table itself says, before anything is fetched.

    None: as the preset says, and without one the rule is off. A preset's rule is turned off by a bound that
    everything meets. A threshold names the model whose score it is for; another model's score does not count, and a
    row is without a value where it has no score that the rule has a threshold for.
    """

    preset: FilterPreset | None = operational(None)
    """Thresholds to start from. Its name decides nothing: the numbers are what a result is known by."""

    min_side: int | None = Field(None, ge=1)
    """Shorter side in the table, pixels."""

    max_aspect: float | None = Field(None, ge=1.0)
    """Longer side over shorter side in the table."""

    min_clip_similarity_b32: float | None = None
    """Image-text score by OpenAI's ViT-B/32; LAION-5B-en was cut at 0.28."""

    min_clip_similarity_l14: float | None = None
    """The same by ViT-L/14, whose scores are lower."""

    min_aesthetic_laion_v1: float | None = None
    """LAION's first predictor: the column `aesthetic` of laion2B-en-aesthetic, which begins at 7."""

    min_aesthetic_laion_v2: float | None = None
    """The improved predictor: COYO's aesthetic_score_laion_v2, from 1.17 to 8.08 with mean 4.77."""

    max_watermark_laion: float | None = None
    """LAION's pwatermark, a probability."""

    max_watermark_coyo: float | None = None
    """COYO's watermark_score, a probability by another model."""

    max_nsfw_laion: float | None = None
    """LAION's punsafe, a probability."""

    max_nsfw_coyo: float | None = None
    """COYO's nsfw_score_opennsfw2, a probability."""

    refused_nsfw_tags: tuple[Literal["UNLIKELY", "UNSURE", "NSFW"], ...] | None = None
    """Tags of laion2B-en's column NSFW, the only judgement that table has."""

    min_caption_characters: int | None = Field(None, ge=0)
    """None: 1."""

    max_caption_characters: int | None = Field(None, ge=1)
    min_caption_words: int | None = Field(None, ge=0)

    missing: Literal["keep", "drop", "fail"] | None = None
    """What a row meets that has no value for a rule that is on: it stays, it goes, or the run stops. None: it
    stays."""

    def resolved(self) -> FilterSettings:
        """With the preset's thresholds where none is given, and the defaults."""
        given = {name: value for name, value in self if value is not None}
        preset = FILTER_PRESETS[self.preset] if self.preset else {}
        return FilterSettings(**{**_FILTER_DEFAULTS, **preset, **given})


_HOST = re.compile(r"[^\s/:@?#]+")


def _is_address(text: str) -> bool:
    """Whether it is an IPv4 address, or an IPv6 one, in brackets or not."""
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


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

    max_pixels: int = Field(90_000_000, ge=1)
    """A picture of more is not decoded: a few KB can hold a billion equal pixels."""

    max_redirects: int = Field(5, ge=0)

    deadline_s: float | None = Field(None, gt=0)
    """Seconds for a whole partition, all rounds together; what has no answer by then has failed. None: no end."""

    verify_sha256: bool = True
    """Refuse a body whose sha256 is not the table's, where the table has one: a URL's owner may have changed."""

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

    @field_validator("hosts")
    @classmethod
    def _hosts_are_mapped_to_addresses(cls, hosts: dict[str, str]) -> dict[str, str]:
        for name, target in hosts.items():
            if not _HOST.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no host; write its name alone, as it stands between // and / of a URL"
                )
            address, _, port = target.rpartition(":")
            if not (_is_address(address) and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
                raise ValueError(
                    f"host {name} is mapped to {target!r}; write ADDRESS:PORT, such as 127.0.0.1:8080"
                )
        return hosts


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
    """Keep the first of pictures with equal perceptual hash, where the captions are equal too, or whatever the
    captions say. The hash is the one computed here, and also the table's own where it has one (COYO's image_phash).
    Of what was fetched: a duplicate whose first one is dead stays."""


class KeptSettings(Settings):
    """How pictures are kept, which of them, and whose they are."""

    encode_format: Literal["png", "jpg", "webp"] = "jpg"
    encode_quality: int | None = Field(None, ge=0, le=100)
    """1 to 100 for jpg and webp, compression 0 to 9 for png. None: 95, and 6 for png."""

    rules: RuleSettings = RuleSettings()

    licence: str | None = None
    attribution: str | None = None
    """Travel into the manifest and the shard set where they are given."""

    @model_validator(mode="after")
    def _quality_fits_format(self) -> KeptSettings:
        if self.encode_format == "png" and (self.encode_quality or 0) > 9:
            raise ValueError("encode_quality of png is its compression, 0 to 9")
        return self

    @property
    def quality(self) -> int:
        """The quality or compression that is used."""
        return DEFAULT_QUALITY[self.encode_format] if self.encode_quality is None else self.encode_quality


class IngestSettings(KeptSettings):
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

    filter: FilterSettings = FilterSettings()
    fetch: FetchSettings = FetchSettings()

    block_list: str | None = operational(None)
    """File or URI with one sha256 (hex) of an image's bytes a line; such images are not kept. It decides the result
    by its content."""

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
        return self

    @property
    def min_side(self) -> int:
        """The shorter side that a fetched picture must have."""
        return self.image_size if self.rules.min_side is None else self.rules.min_side


class ImportSettings(KeptSettings):
    """Pictures that are there already become a shard set."""

    layout: Literal["auto", "shards", "captions", "classes"] = "auto"
    """`shards`: tars of webdataset or img2dataset. `captions`: a folder of pictures, each with a .txt beside it or a
    row in a table. `classes`: a folder of pictures for each class, as ImageNet has it. `auto`: what is found."""

    rows_per_shard: int = Field(10_000, ge=1)
    """Pictures of a folder in one tar; tars that are imported keep their cut."""

    image_size: int | None = Field(None, ge=4)
    """Side to which pictures are cropped and shrunk. None: their bytes are kept as they are."""

    threads: int = operational(4, ge=1)
    """Shards made at the same time."""

    @property
    def min_side(self) -> int:
        """The shorter side that a picture must have."""
        return self.rules.min_side or self.image_size or 1


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
        return cls(start=start, rows=rows, filter=settings.filter.resolved(), fetch=settings.fetch, **values)
