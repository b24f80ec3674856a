"""What a protocol is: which images, captions, networks, counts and measures make a number that others can compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["exact", "authors"]
Layout = Literal["coco", "parti", "file"]


@dataclass(frozen=True)
class Judge:
    """A network by the asset that holds its weights, and the measures (of `set_metrics.MEASURES`) taken with it.

    asset: None: the encoder artifact that is given as judge.
    truncate: of CLIPs, images lose the fraction of their values on the way, as in the authors' released code.
    """

    asset: str | None
    metrics: tuple[str, ...]
    truncate: bool = False


@dataclass(frozen=True)
class Prompts:
    """Where captions come from. asset: None where a person names the file. layout: see `prompts.load_prompts`."""

    layout: Layout
    asset: str | None = None


@dataclass(frozen=True)
class Patches:
    """Patches cut out of paired images: side in pixels, how many of each image."""

    size: int
    per_image: int


@dataclass(frozen=True)
class Protocol:
    """A protocol's settings, all of them.

    task: ``text-to-image`` (captions become images) or ``upsampling`` (real images are shrunk to `low` and enlarged).
    judges: the networks, the first of them for patches. size: side that real and generated images alike are centre
    cropped and Lanczos-resized to, pixels; None: as they are. made: side of the images that the model is expected to
    make. count: generated images. prompts: None: the captions of the data set given. reference: asset with the real
    images, ``data`` for the data set given, None where no measure needs any. pairs: measures of image beside image.
    lpips: asset of LPIPS' backbone. seed: of captions, latents, subsets and intervals. psi: truncation. origin: who
    says so, how sure (marks: V stated, I inferred, R recollected). rows: what published numbers it is
    meant to stand beside, as `published_tables` calls the table.
    """

    name: str
    what: str
    task: Literal["text-to-image", "upsampling"]
    judges: tuple[Judge, ...]
    size: int | None
    made: int
    count: int
    origin: str
    prompts: Prompts | None = None
    reference: str | None = "data"
    mode: Mode = "exact"
    low: int | None = None
    pairs: tuple[str, ...] = ()
    lpips: str | None = None
    patches: Patches | None = None
    seed: int = 0
    psi: float = 1.0
    rows: str | None = None

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of every asset it needs."""
        found = [judge.asset for judge in self.judges if judge.asset is not None]
        found += [self.lpips] if self.lpips else []
        found += [self.prompts.asset] if self.prompts and self.prompts.asset else []
        found += [self.reference] if self.reference not in (None, "data") else []
        return tuple(dict.fromkeys(found))

    @property
    def needs_data(self) -> bool:
        """Whether a data set has to be given."""
        takes_captions = self.prompts is None
        return self.reference == "data" or takes_captions
