"""`GigaGANPipeline`: prompts and seeds to pictures, edited and enlarged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import Prompt, check_prompts, code_of, cut_prompts
from gigagan_core.inference.editing import Sheet, Styles, lay_out
from gigagan_core.inference.generate import check_bundle, finite, to_uint8
from gigagan_core.inference.latents import Keys, draw_z, each, fixed_noise, keys_of, truncate_each
from gigagan_core.inference.memory import batch_that_fits, in_batches
from gigagan_core.inference.pictures import to_pil
from gigagan_core.inference.places import Place, find_bundle, find_device, find_encoder, other_size
from gigagan_core.inference.recipes import Point, Recipe
from gigagan_core.inference.upsampling import (
    Precision,
    TiledUpsampler,
    TileOptions,
    check_noise,
    check_precision,
)
from gigagan_core.models.text import TextCode
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.training.checkpoint import WEIGHTS, bundle_folder, load_bundle

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder
    from gigagan_core.store.store import Store

OnBatch = Callable[[int], None]
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Generated:
    """Pictures and where they come from.

    images: N, RGB. z: float32 [N, z_dim]. w: float32 [N, w_dim], truncated as the pictures are. points: what makes
    each picture again, alone or in any batch. cut: prompts of which the encoder read the beginning only.
    """

    images: list[Image.Image]
    z: Tensor
    w: Tensor
    points: list[Point]
    cut: list[str]


@dataclass(frozen=True)
class Edited:
    """The pictures of a recipe, row by row; w: float32 [N, w_dim] or [N, layers, w_dim]."""

    images: list[Image.Image]
    w: Tensor
    rows: int
    columns: int

    def grid(self, margin: int = 2) -> Image.Image:
        """All in one picture, `margin` white pixels between them."""
        width, height = self.images[0].size
        size = (
            self.columns * (width + margin) - margin,
            self.rows * (height + margin) - margin,
        )
        sheet = Image.new("RGB", size, "white")
        for place, image in enumerate(self.images):
            row, column = divmod(place, self.columns)
            sheet.paste(image, (column * (width + margin), row * (height + margin)))
        return sheet


class GigaGANPipeline:
    """A base generator with its encoder and, where wanted, an upsampler; may be called from several threads."""

    def __init__(
        self,
        network: nn.Module,
        encoder: Encoder | None = None,
        upsampler: TiledUpsampler | None = None,
        *,
        precision: Precision = "float32",
        model: dict[str, Any] | None = None,
    ) -> None:
        """network: a `Generator` in evaluation mode. precision: of its synthesis and of the upsampler's. model: what it
        is, for records. Raises GigaganError for a precision that is none.
        """
        check_precision(precision)
        self.network, self.encoder, self.upsampler = network, encoder, upsampler
        self.precision, self.model = precision, dict(model or {})

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        encoder: str | Path | Encoder | None = None,
        upsampler: str | Path | TiledUpsampler | None = None,
        device: str | None = None,
        *,
        store: Store | None = None,
        precision: Precision = "float32",
    ) -> GigaGANPipeline:
        """Load a model.

        path, upsampler: a bundle's or an artifact's folder, ``models:/NAME@ALIAS`` of MLflow's registry, or a
        fingerprint, a prefix of one or `latest` of the store. encoder: a loaded one, its folder, an artifact or
        ARCH:PATH; None: the one the model was trained with, from the store. device: None takes a GPU where there is
        one. Raises GigaganError for what is missing or does not belong together; warns where the upsampler was
        trained on pictures of another size.
        """
        check_precision(precision)
        device = find_device(device)
        place = find_bundle(path, "base", store)
        network, config = load_bundle(place.folder, device)
        found = find_encoder(encoder, place, store, device)
        check_bundle(place.folder, network, config, "base", found)
        if upsampler is not None and not isinstance(upsampler, TiledUpsampler):
            upsampler = load_upsampler(upsampler, found, device, store=store)
        low_size = None if upsampler is None else upsampler.network.settings.low_size
        if low_size is not None and (said := other_size(network.settings.image_size, low_size)):
            console.warn(f"{said}; expect less of what it enlarges")
        return cls(network, found, upsampler, precision=precision, model=_identity(place))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels, before upsampling."""
        return self.network.settings.image_size

    @property
    def num_layers(self) -> int:
        """Layers that recipes address, from coarse to fine."""
        return self.network.num_layers

    # ---- pictures -----------------------------------------------------------------------------------

    def __call__(
        self,
        prompts: Prompt | Sequence[Prompt],
        seed: int | Sequence[int] = 0,
        truncation: Numbers = 1.0,
        prompt_truncation: Numbers = 1.0,
        *,
        index: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        memory_limit: float | None = None,
        upsample: bool = False,
        noise: float = 0.0,
        on_batch: OnBatch = lambda done: None,
    ) -> Generated:
        """Pictures of prompts, any number of them.

        prompts: captions, or class labels, or Nones, as the model wants. seed, index: see `latents.keys_of`; the same
        (prompt, seed, index) gives the same picture in whatever batch. truncation: psi towards the mean of all
        prompts; prompt_truncation: towards the prompt's own, applied first; one for all, or one a picture.
        batch_size: None finds what fits memory_limit (GiB of working memory; None: half of what is free); memory that
        runs out halves it. upsample: through the upsampler, noise as in `TiledUpsampler.enlarge`.
        on_batch(number of pictures just made). Raises GigaganError.
        """
        check_noise(noise, upsample)
        alone = prompts is None or isinstance(prompts, (str, int))
        points = self.points([prompts] if alone else prompts, seed, truncation, prompt_truncation, index)
        cut = self._warn_of_cut([point.prompt for point in points])
        settings = self.network.settings
        z, w = torch.empty(len(points), settings.z_dim), torch.empty(len(points), settings.w_dim)
        images: list[Image.Image] = []
        for rows, drawn in self._drawn(points, batch_size, memory_limit):
            z[rows], w[rows] = drawn[0].float().cpu(), drawn[1].float().cpu()
            batch = [points[row] for row in rows.tolist()]
            images += self.finished(drawn[2], batch, upsample, noise, memory_limit)
            on_batch(len(rows))
        return Generated(images, z, w, points, cut)

    def points(
        self,
        prompts: Sequence[Prompt],
        seed: int | Sequence[int] = 0,
        truncation: Numbers = 1.0,
        prompt_truncation: Numbers = 1.0,
        index: int | Sequence[int] | None = None,
    ) -> list[Point]:
        """The same arguments as one point a picture. Raises GigaganError where they do not fit."""
        check_prompts(self.network, prompts)
        keys = keys_of(len(prompts), seed, index)
        psis = each(truncation, len(prompts), "truncations")
        prompt_psis = each(prompt_truncation, len(prompts), "prompt truncations")
        fields = zip(prompts, keys.seeds, keys.indices, psis, prompt_psis)
        return [_point(*values) for values in fields]

    def pixels(
        self, points: Sequence[Point], batch_size: int | None = None, memory_limit: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows int64 [M], float [M, 3, H, W] about [-1, 1], neither clamped nor rounded), batch by batch."""
        for rows, drawn in self._drawn(points, batch_size, memory_limit):
            yield rows, drawn[2]

    def apply(
        self,
        recipe: Recipe | Sheet,
        *,
        batch_size: int | None = None,
        memory_limit: float | None = None,
        upsample: bool = False,
        noise: float = 0.0,
        on_batch: OnBatch = lambda done: None,
    ) -> Edited:
        """The pictures of an editing recipe, or of what `lay_out` has made of one.

        The other arguments are those of a call. Raises GigaganError.
        """
        check_noise(noise, upsample)
        sheet = recipe if isinstance(recipe, Sheet) else lay_out(recipe, self)
        rows = torch.arange(sheet.rows * sheet.columns)
        # An edited picture has no prompt of its own; all share a latent of the upsampler.
        nameless = [Point() for _ in rows]
        images: list[Image.Image] = []
        size = self.batch_size(batch_size, memory_limit)
        for batch, made in in_batches(rows, size, lambda part: self.synthesise(sheet.styles.index(part))):
            images += self.finished(made, nameless[: len(batch)], upsample, noise, memory_limit)
            on_batch(len(batch))
        return Edited(images, sheet.styles.w.float().cpu(), sheet.rows, sheet.columns)

    def upsample(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Anybody's pictures through the upsampler; see `TiledUpsampler`. Raises GigaganError without one.

        Without `options`, in the pipeline's precision.
        """
        kwargs.setdefault("options", TileOptions(precision=self.precision))
        return self._needs_upsampler()(images, *args, **kwargs)

    # ---- parts, for recipes and servers -------------------------------------------------------------

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt]) -> TextCode | None:
        """N prompts as the network sees them; None for a model without condition. Raises GigaganError."""
        check_prompts(self.network, prompts)
        self._warn_of_cut(prompts)
        return code_of(self.network, self.encoder, prompts)

    @torch.no_grad()
    def styles(self, points: Sequence[Point]) -> Styles:
        """w [N, w_dim] and text codes of N points. Raises GigaganError."""
        self._warn_of_cut([point.prompt for point in points])
        return self.latents(points)[1]

    @torch.no_grad()
    def synthesise(self, styles: Styles) -> Tensor:
        """float [N, 3, H, W] about [-1, 1] on the pipeline's device, in one batch.

        What a faster precision gave that is no number is made again in float32. Raises GigaganError where that is
        none either.
        """

        def made() -> Tensor:
            return self.network.synthesise(styles.w, styles.code, fixed_noise(self.device))[0]

        if self.precision != "float32":
            with torch.autocast(self.device.type, getattr(torch, self.precision)):
                images = made()
            if torch.isfinite(images).all():
                return images
        return finite(made())

    @torch.no_grad()
    def latents(self, points: Sequence[Point]) -> tuple[Tensor, Styles]:
        """z [N, z_dim], and what `styles` gives, without a word of prompts that are cut. Raises GigaganError."""
        prompts = [point.prompt for point in points]
        check_prompts(self.network, prompts)
        keys = Keys(tuple(point.seed for point in points), tuple(point.index for point in points))
        z = draw_z(keys, self.network.settings.z_dim, self.device)
        code = code_of(self.network, self.encoder, prompts)
        psis = [point.truncation for point in points], [point.prompt_truncation for point in points]
        return z, Styles(truncate_each(self.network, self.network.map(z, code), code, *psis), code)

    def _drawn(
        self, points: Sequence[Point], batch_size: int | None, memory_limit: float | None
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
        """Rows of a batch, and z, w, images."""

        def work(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z, styles = self.latents([points[row] for row in rows.tolist()])
            return z, styles.w, self.synthesise(styles)

        size = self.batch_size(batch_size, memory_limit) if len(points) else 1
        return in_batches(torch.arange(len(points)), size, work)

    def batch_size(self, batch_size: int | None = None, memory_limit: float | None = None) -> int:
        """How many pictures are made at a time with these arguments of a call. Raises GigaganError."""
        if batch_size is not None and batch_size < 1:
            raise GigaganError(f"the batch size is {batch_size}; give 1 or more")
        return batch_size or batch_that_fits(self.network, memory_limit)

    def finished(
        self,
        made: Tensor,
        points: Sequence[Point],
        upsample: bool,
        noise: float = 0.0,
        memory_limit: float | None = None,
    ) -> list[Image.Image]:
        """What `synthesise` gave -> pictures, enlarged where wanted; points: N, which key the upsampler's latents."""
        if upsample:
            upsampler = self._needs_upsampler()
            keys = Keys(tuple(point.seed for point in points), tuple(point.index for point in points))
            # Rounded first, so that the picture is the one that a saved small one would give.
            low = to_uint8(made).float() / 127.5 - 1
            made = upsampler.enlarge(
                low,
                [point.prompt for point in points],
                keys=keys,
                noise=noise,
                options=TileOptions(memory_limit=memory_limit, precision=self.precision),
            )
        return [to_pil(image) for image in made]

    def _needs_upsampler(self) -> TiledUpsampler:
        if self.upsampler is None:
            raise GigaganError(
                "the pipeline has no upsampler; name one, `from_pretrained(..., upsampler=...)`"
            )
        return self.upsampler

    def _warn_of_cut(self, prompts: Sequence[Prompt]) -> list[str]:
        if not self.network.settings.text_conditioned or self.encoder is None:
            return []
        cut = cut_prompts(self.encoder, [prompt for prompt in prompts if isinstance(prompt, str)])
        if cut:
            more = f" and of {len(cut) - 1} more" if len(cut) > 1 else ""
            console.warn(
                f"the encoder reads {self.encoder.context_length} tokens; the end of {cut[0][:60]!r}{more} is left out"
            )
        return cut


def load_upsampler(
    path: str | Path,
    encoder: str | Path | Encoder | None = None,
    device: str | None = None,
    *,
    store: Store | None = None,
) -> TiledUpsampler:
    """An upsampler alone; the arguments are those of `GigaGANPipeline.from_pretrained`. Raises GigaganError."""
    device = find_device(device)
    place = find_bundle(path, "upsampler", store)
    network, config = load_bundle(place.folder, device)
    found = find_encoder(encoder, place, store, device)
    check_bundle(place.folder, network, config, "upsampler", found)
    return TiledUpsampler(network, found, _identity(place))


def _identity(place: Place) -> dict[str, Any]:
    """What a model is, whatever it is called."""
    return {"name": place.name, "sha256": sha256_file(bundle_folder(place.folder) / WEIGHTS)}


def _point(prompt: Prompt, seed: int, index: int, truncation: float, prompt_truncation: float) -> Point:
    from pydantic import ValidationError

    try:
        return Point(
            prompt=prompt,
            seed=seed,
            index=index,
            truncation=truncation,
            prompt_truncation=prompt_truncation,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise GigaganError(f"{name} {first['input']!r} cannot be used: {first['msg']}") from None
