"""Settings of the curate stage: which scores are added, and which rows they leave selected."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational

ScorerName = Literal["clip_similarity", "aesthetic_v1", "aesthetic_v2", "watermark", "nsfw", "language"]
SCORERS: tuple[ScorerName, ...] = get_args(ScorerName)
"""Every scorer, in the order in which their rules are asked; also the names of the rules in `CurateSettings`."""

HEAD_WIDTH = 768
"""Of the embedding that LAION's heads read: OpenAI's ViT-L/14."""

BOILERPLATE = {
    # The whole caption, or its end, is a file's name: IMG_1234.jpg, red-shoes_480x480.png.
    "file_name": r"\.(jpe?g|png|gif|webp|bmp|tiff?|svg)$",
    # What a camera or a program called it: IMG_1234, DSC 0042, Screenshot 3, untitled-1.
    "camera_name": r"^(img|dscn?f?|pict?|image|photo|picture|screenshot|untitled|slide)?[\s_#-]*\d+$",
    # What stands where a caption is missing.
    "placeholder": r"^(no )?(image|photo|picture|thumbnail|logo|banner|untitled|default)( available| not found)?$",
    "click_here": r"\b(click|tap) (here|to (view|enlarge|zoom|see|open|buy)|for (more|larger|full))\b|\bread more\b",
    "stock_photo": r"\b(royalty[- ]free|stock[- ](photo|image|picture|illustration|vector|footage))",
    # Sellers of pictures put their names into captions, and their watermarks into the pictures.
    "site_name": r"\b(shutterstock|i?stock ?photo|getty ?images|dreamstime|alamy|depositphotos|123rf|adobe ?stock)\b",
    "web_address": r"https?://|\bwww\.",
}
"""Pattern by name: searched in the caption without the blanks around it, in any case."""


class Rule(Settings):
    """A rule on a score."""

    missing: Literal["keep", "drop", "fail"] = "drop"
    """What a row meets whose score could not be computed: it stays, it leaves, or the run stops."""


class ScoreRule(Rule):
    """What a score must be for a row to stay selected. Neither bound set: the score is added, nothing leaves."""

    minimum: float | None = None
    """The lowest score that stays."""

    keep_fraction: float | None = Field(None, gt=0, le=1)
    """The share of scored rows that stays, the best ones; equal scores stay or leave together (they stay)."""

    @model_validator(mode="after")
    def _one_bound(self) -> ScoreRule:
        if self.minimum is not None and self.keep_fraction is not None:
            raise ValueError("give minimum or keep_fraction, not both")
        return self


class AestheticRule(ScoreRule):
    """A LAION aesthetic predictor, about 1 to 10; off without weights."""

    weights: str | None = operational(None)
    """Its weight file, or asset:NAME. The file's sha256 decides the scores, its place does not."""

    sha256: str | None = operational(None)
    """What the file's sha256 must be; another one is refused. None: any file, recorded with its sum."""

    @model_validator(mode="after")
    def _has_weights(self) -> AestheticRule:
        if self.weights is None and (self.minimum is not None or self.keep_fraction is not None):
            raise ValueError("a bound needs scores; give weights, the predictor's file")
        return self


class UnwantedRule(Rule):
    """A probability that a picture is what nobody wants; off without weights."""

    maximum: float | None = Field(None, ge=0, le=1)
    """The highest probability that stays; None: the score is added, nothing leaves."""

    weights: str | None = operational(None)
    """Its weight file, or asset:NAME. The file's sha256 decides the scores, its place does not."""

    sha256: str | None = operational(None)
    """What the file's sha256 must be; another one is refused. None: any file, recorded with its sum."""

    @model_validator(mode="after")
    def _has_weights(self) -> UnwantedRule:
        if self.weights is None and self.maximum is not None:
            raise ValueError("a bound needs scores; give weights, the classifier's file")
        return self


class LanguageRule(Rule):
    """The probability that a caption is in one language; off without a language."""

    language: str | None = None
    """ISO 639-1 code, such as en."""

    minimum: float | None = Field(0.2, ge=0, le=1)
    """The lowest probability that stays. Low on purpose: a caption of three words is rarely sure of its language."""

    missing: Literal["keep", "drop", "fail"] = "keep"
    """What a caption without a letter meets, such as 1967."""


class CaptionRules(Settings):
    """What a caption itself must be; these need no scores."""

    min_words: int = Field(0, ge=0)
    max_words: int | None = Field(None, ge=1)
    min_characters: int = Field(0, ge=0)
    max_characters: int | None = Field(None, ge=1)

    boilerplate: dict[str, str] = BOILERPLATE
    """Name -> regular expression; the row's reason is `caption_boilerplate_<name>`. {} lets everything pass."""

    @model_validator(mode="after")
    def _patterns_compile(self) -> CaptionRules:
        for name, pattern in self.boilerplate.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"boilerplate {name} is no regular expression: {error}") from None
        return self


class NearDuplicateRule(Settings):
    """Pictures whose perceptual hashes are near, whatever their captions say: the first by order stays."""

    max_distance: int | None = Field(None, ge=0, le=8)
    """Differing bits of 64 up to which two pictures count as one; None: off. 0 is the same hash; 4 also finds most
    re-encoded and slightly cropped copies. Drawings on a white ground have few bits set and are near one another
    without being copies: look at the report before raising it."""

    missing: Literal["keep", "drop", "fail"] = "keep"
    """What a row meets that has no perceptual hash."""


class SpreadSettings(Settings):
    """How scoring is spread; none of it decides a score."""

    batch_size: int = operational(128, ge=1)
    """Images scored at once."""

    in_process_shards: int = operational(4, ge=0)
    """Up to so many shards are scored in this process; more are spread over Ray, one task a shard."""

    cpus_per_task: float = operational(1.0, gt=0)

    gpus_per_task: float = operational(0.0, ge=0, le=1)
    """What a task asks Ray for; above 0, networks run on CUDA, in this process too. 0.25: four tasks share a GPU."""


class CurateSettings(SpreadSettings):
    """Scores are artifacts of their own, one a scorer: other rules score nothing again, one more scorer reruns none.
    So are the image embeddings of a CLIP: whatever reads them, it looks at every picture once.

    A row's reason is the first of: captions, the scores in the order of `SCORERS`, duplicates.
    """

    captions: CaptionRules = CaptionRules()

    clip_similarity: ScoreRule = ScoreRule(keep_fraction=0.97)
    """Cosine of image and caption by the encoder given. The default drops the 3% that fit least: an encoder trained
    on these very rows has seen their captions, so it is trusted with mistakes in the data and no more."""

    aesthetic_v1: AestheticRule = AestheticRule()
    """LAION's first predictor (of laion2B-en-aesthetic): one linear layer."""

    aesthetic_v2: AestheticRule = AestheticRule()
    """LAION's improved predictor (of COYO's aesthetic_score_laion_v2); its scale is not V1's."""

    watermark: UnwantedRule = UnwantedRule()
    """LAION's watermark detector (pwatermark)."""

    nsfw: UnwantedRule = UnwantedRule()
    """LAION's CLIP-based NSFW detector (punsafe)."""

    language: LanguageRule = LanguageRule()

    clip_vit_l14: str | None = operational(None)
    """ARCH:PATH of OpenAI's ViT-L/14, such as asset:clip-vit-l14 or ViT-L-14-quickgelu:/weights/ViT.pt: the aesthetic
    predictors and the NSFW detector read its image embedding, and no other one's."""

    duplicates: NearDuplicateRule = NearDuplicateRule()

    @model_validator(mode="after")
    def _embedding_for_heads(self) -> CurateSettings:
        heads = [name for name in ("aesthetic_v1", "aesthetic_v2", "nsfw") if getattr(self, name).weights]
        if heads and self.clip_vit_l14 is None:
            raise ValueError(f"{' and '.join(heads)} read a CLIP embedding; give clip_vit_l14=ARCH:PATH")
        return self


class ScoreSettings(SpreadSettings):
    """What decides one scorer's scores, beside the pictures and the weights."""

    scorer: ScorerName | Literal["image_embedding"] = "clip_similarity"
    """`image_embedding` judges nothing: it is what scorers that read embeddings are given."""

    architecture: str | None = None
    """Of a CLIP's weight file from outside (ARCH of ARCH:PATH); None for an encoder artifact, which knows its own."""

    language: str | None = None
    library: str | None = None
    """Name and version of the library whose model scores, where it is not a weight file."""

    width: int | None = operational(None)
    """What an embedding must have for those who will read it; None: any."""

    @property
    def device(self) -> str:
        """Where a network runs."""
        return "cuda" if self.gpus_per_task else "cpu"
