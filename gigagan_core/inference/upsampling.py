"""Pictures of any size through an upsampler: tiles with one latent, blended on a canvas in CPU memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.config.noise import LARGEST_NOISE
from gigagan_core.errors import GigaganError, nearest
from gigagan_core.inference import pictures
from gigagan_core.inference.conditions import Prompt, check_prompts, code_of
from gigagan_core.inference.generate import NotFinite
from gigagan_core.inference.latents import LOW_NOISE, Keys, draw_z, each, keys_of, truncate_each
from gigagan_core.inference.memory import OutOfMemory, batch_that_fits, free_bytes, in_batches
from gigagan_core.inference.tiles import Axis, axis, mirrored, tile_noise
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.text import TextCode

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

Precision = Literal["float32", "bfloat16", "float16"]
OnTiles = Callable[[int, int], None]
"""on_tiles(tiles just done, tiles in all of this pass)."""

_OVERLAP = 1 / 4
"""Of a tile's side: what neighbouring tiles share."""


def check_precision(precision: str) -> None:
    """Raise GigaganError where it is none that networks are run in."""
    if precision not in get_args(Precision):
        raise GigaganError(f"precision {precision!r}; {nearest(precision, get_args(Precision))}")


def check_noise(noise: float, upsampled: bool = True) -> None:
    """Raise GigaganError for a level of noise on an upsampler's input that is none, or that no upsampler would take.

    upsampled: whether the pictures go through one.
    """
    if not 0 <= noise <= LARGEST_NOISE:
        raise GigaganError(f"the noise level is {noise:g}; give 0 to {LARGEST_NOISE:g}, such as 0.1")
    if noise and not upsampled:
        raise GigaganError(
            f"the noise level is {noise:g}, and it is of an upsampler's input, but these pictures go through none; "
            "leave the noise out, or name an upsampler"
        )


@dataclass(frozen=True)
class TileOptions:
    """How the work is done.

    tile: side of a tile in input pixels; None: what the network was trained with. batch_size: tiles at a time; None:
    what fits memory_limit (GiB of working memory; None: half of what is free). precision: of the tiles; where it gives
    a number that is none, the tile is made again in float32. Raises GigaganError for what can be none of these.
    """

    tile: int | None = None
    batch_size: int | None = None
    memory_limit: float | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.batch_size is not None and self.batch_size < 1:
            raise GigaganError(f"{self.batch_size} tiles at a time make no picture; give 1 or more")


class TiledUpsampler:
    """An upsampler for pictures of any size and scale; may be called from several threads."""

    def __init__(
        self, network: nn.Module, encoder: Encoder | None = None, model: dict[str, Any] | None = None
    ) -> None:
        """network: an `Upsampler` in evaluation mode. encoder: of its captions. model: what it is, for records."""
        self.network, self.encoder, self.model = network, encoder, dict(model or {})

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def named(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts as the network takes them: None, nothing is known, is an empty caption where it reads captions.

        Raises GigaganError for prompts of another kind, and for None where it wants a class: none of them stands for
        no class.
        """
        settings = self.network.settings
        if settings.conditioning == "class" and None in prompts:
            raise GigaganError(
                "the upsampler is conditioned on classes, and no label says what a picture shows; give one from 0 to "
                f"{settings.classes - 1}"
            )
        nothing = "" if settings.conditioning == "text" else None
        taken = [nothing if prompt is None else prompt for prompt in prompts]
        check_prompts(self.network, taken)
        return taken

    def __call__(
        self,
        images: Any,
        prompts: Prompt | Sequence[Prompt] = None,
        scale: float | None = None,
        *,
        seed: int | Sequence[int] = 0,
        index: int | Sequence[int] | None = 0,
        noise: float = 0.0,
        truncation: float | Sequence[float] = 1.0,
        output: Literal["pil", "np", "pt"] = "pil",
        options: TileOptions | None = None,
        on_tiles: OnTiles = lambda done, total: None,
    ) -> Any:
        """Pictures, larger; see `pictures.read_images` and `pictures.as_output` for what goes in and comes out.

        prompts: one for all, or one a picture; None: see `named`. scale: at least 1, not only whole numbers; None:
        the network's own. Beyond the network's it is applied again. noise: see `enlarge`. Transparency is resized
        apart, greys stay grey, EXIF orientation is applied. Raises GigaganError.
        """
        taken = pictures.read_images(images)
        wanted = each(prompts, len(taken), "prompts")
        keys, psis = keys_of(len(taken), seed, index), each(truncation, len(taken), "truncations")
        made = []
        for i, apart in enumerate(taken):
            large = self.enlarge(
                apart.rgb[None],
                [wanted[i]],
                scale,
                keys=Keys((keys.seeds[i],), (keys.indices[i],)),
                noise=noise,
                truncation=psis[i],
                options=options,
                on_tiles=on_tiles,
            )
            made.append((apart, large[0]))
        return pictures.as_output(made, output)

    @torch.no_grad()
    def enlarge(
        self,
        low: Tensor,
        prompts: Sequence[Prompt],
        scale: float | None = None,
        *,
        keys: Keys | None = None,
        noise: float = 0.0,
        truncation: float | Sequence[float] = 1.0,
        options: TileOptions | None = None,
        on_tiles: OnTiles = lambda done, total: None,
    ) -> Tensor:
        """low float [N, 3, h, w] in [-1, 1], N prompts -> float32 [N, 3, H, W] in [-1, 1] on the CPU.

        H = round(scale h), W = round(scale w). keys: one latent an image, by default of seed 0. noise: standard
        deviation of Gaussian noise added to the input, in units of [-1, 1] and at most `LARGEST_NOISE`; more lets the
        network invent more.
        Raises GigaganError, before any work, for arguments that do not fit and for a result larger than free memory.
        """
        scale, options = float(self.network.scale if scale is None else scale), options or TileOptions()
        if not 1 <= scale < math.inf:
            raise GigaganError(f"the scale is {scale:g}, and an upsampler does not shrink; give 1 or more")
        check_noise(noise)
        if not low.numel() and len(low):
            raise GigaganError(
                f"a picture of {low.shape[-1]} x {low.shape[-2]} px has nothing to enlarge; give another"
            )
        keys = keys or keys_of(len(low), 0, 0)
        _require_room(len(low), low.shape[-2] * scale, low.shape[-1] * scale)
        target = (max(1, round(low.shape[-2] * scale)), max(1, round(low.shape[-1] * scale)))
        psis = [_psi(value) for value in each(truncation, len(low), "truncations")]
        styles = self._styles(prompts, keys, psis)
        image = _with_noise(low, keys, noise)
        for size in self._passes(tuple(low.shape[-2:]), target):
            image = _resized(image, size)
            image = self._apply(image, styles, options, on_tiles).clamp_(-1, 1)
        return _resized(image, target)

    def _passes(self, size: tuple[int, int], target: tuple[int, int]) -> list[tuple[int, int]]:
        """The input size of every pass: the last one's result is `target`, or covers it where one pass is too much.

        So a second pass does not make more pixels than are wanted.
        """
        factor, sizes = self.network.scale, [size]
        while sizes[-1][0] * factor < target[0] or sizes[-1][1] * factor < target[1]:
            grown = [min(have * factor, -(-want // factor)) for have, want in zip(sizes[-1], target)]
            sizes.append((grown[0], grown[1]))
        return sizes

    def _styles(
        self, prompts: Sequence[Prompt], keys: Keys, truncation: Sequence[float]
    ) -> tuple[Tensor, TextCode | None]:
        if any(psi != 1.0 for psi in truncation) and not self.network.w_mean.any():
            raise GigaganError(
                "this upsampler holds no mean of w to truncate towards (those of an earlier version learned none); set "
                "truncation to 1, or train it again"
            )
        code = code_of(self.network, self.encoder, self.named(prompts))
        z = draw_z(keys, self.network.settings.z_dim, self.device)
        w = truncate_each(self.network, self.network.map(z, code), code, truncation, [1.0] * len(z))
        return w, code

    def _apply(
        self, low: Tensor, styles: tuple[Tensor, TextCode | None], options: TileOptions, on_tiles: OnTiles
    ) -> Tensor:
        """One pass: [N, 3, h, w] -> [N, 3, scale h, scale w] on the CPU; smaller tiles where memory runs out."""
        stride = self.network.stride
        tile = self.network.settings.low_size if options.tile is None else options.tile
        if tile < 2 * stride or tile % stride:
            raise GigaganError(
                f"tiles of {tile} px do not fit this upsampler; give a multiple of {stride} from {2 * stride} on"
            )
        _require_room_for_tiles(tile, self.network.scale)
        while True:
            try:
                return self._tiled(low, tile, styles, options, on_tiles)
            except OutOfMemory:
                smaller = tile // 2 // stride * stride
                if smaller < 2 * stride:
                    raise OutOfMemory(
                        f"memory ran out upsampling tiles of {tile} px, the smallest there are; free some, or "
                        "upsample on another device"
                    ) from None
            tile, options = smaller, replace(options, batch_size=1)

    def _tiled(
        self,
        low: Tensor,
        tile: int,
        styles: tuple[Tensor, TextCode | None],
        options: TileOptions,
        on_tiles: OnTiles,
    ) -> Tensor:
        network, factor = self.network, self.network.scale
        overlap = max(network.stride, int(tile * _OVERLAP) // network.stride * network.stride)
        height, width = (axis(length, tile, overlap, network.stride) for length in low.shape[-2:])
        padded = mirrored(low, height.padded, width.padded)
        canvas = torch.zeros(len(low), 3, height.length * factor, width.length * factor)
        jobs = [
            (image, i, j)
            for image in range(len(low))
            for i in range(len(height.starts))
            for j in range(len(width.starts))
        ]
        batch_size = options.batch_size or batch_that_fits(network, options.memory_limit, tile)

        def made(rows: Tensor) -> Tensor:
            return self._tiles(padded, [jobs[row] for row in rows.tolist()], height, width, styles, options)

        windows = height.windows(factor), width.windows(factor)
        for rows, images in in_batches(torch.arange(len(jobs)), batch_size, made):
            for row, image in zip(rows.tolist(), images):
                _add(canvas, image, jobs[row], height, width, windows, factor)
            on_tiles(len(rows), len(jobs))
        return canvas

    def _tiles(
        self,
        padded: Tensor,
        jobs: list[tuple[int, int, int]],
        height: Axis,
        width: Axis,
        styles: tuple[Tensor, TextCode | None],
        options: TileOptions,
    ) -> Tensor:
        """A batch of tiles -> float32 [len(jobs), 3, H, W] on the CPU."""
        places = [(height.starts[i], width.starts[j]) for _, i, j in jobs]
        side, device = height.tile, self.device
        low = torch.stack(
            [
                padded[image, :, top : top + side, left : left + side]
                for (image, _, _), (top, left) in zip(jobs, places)
            ]
        ).to(device)
        rows = torch.tensor([image for image, _, _ in jobs], device=device)
        w, code = styles
        inputs = (low, w[rows], None if code is None else code.index(rows))
        noise = tile_noise(places, side, self.network.stride, device)
        return _finite(self.network, inputs, noise, options.precision).float().cpu()


def _finite(network: nn.Module, inputs: tuple[Any, ...], noise: Any, precision: Precision) -> Tensor:
    """The largest image of the pyramid; in float32 where the faster precision gave something that is no number."""
    device = inputs[0].device.type
    fast = precision != "float32"
    with torch.autocast(device, getattr(torch, precision)) if fast else contextlib.nullcontext():
        image = network.synthesise(*inputs, noise)[0]
    if fast and not torch.isfinite(image).all():
        image = network.synthesise(*inputs, noise)[0]
    if not torch.isfinite(image).all():
        raise NotFinite(
            "the upsampler's result is not finite, in float32 either: its weights are damaged or its training "
            "diverged; take an earlier checkpoint"
        )
    return image


def _psi(value: float) -> float:
    if not -2 <= value <= 2:
        raise GigaganError(
            f"truncation {value!r} cannot be used; give a number from 0 to 1, at most from -2 to 2"
        )
    return float(value)


_FLOATS = 3 * 4
"""Bytes of a pixel."""


def _require_room(count: int, height: float, width: float) -> None:
    """Raise GigaganError where the result is larger than free memory: the passes before it may take an hour."""
    needed, free = count * _FLOATS * height * width, free_bytes("cpu")
    if needed > free:
        raise GigaganError(
            f"the result of {width:.9g} x {height:.9g} px takes {needed / 2**30:,.3g} GiB of memory and "
            f"{free / 2**30:,.3g} GiB are free; choose a smaller scale"
        )


def _require_room_for_tiles(tile: int, factor: int) -> None:
    """Raise GigaganError where one tile is larger than free memory; a small picture is padded to it."""
    needed, free = _FLOATS * (1 + factor**2) * float(tile) ** 2, free_bytes("cpu")
    if needed > free:
        raise GigaganError(
            f"tiles of {tile} px take {needed / 2**30:,.3g} GiB of memory each and {free / 2**30:,.3g} GiB are free; "
            "choose smaller ones"
        )


def _add(
    canvas: Tensor,
    image: Tensor,
    job: tuple[int, int, int],
    height: Axis,
    width: Axis,
    windows: tuple[Tensor, Tensor],
    factor: int,
) -> None:
    """Add a tile's result [3, H, W] to its place on the canvas, weighted; what was only padding is left out."""
    row, i, j = job
    top, left = height.starts[i] * factor, width.starts[j] * factor
    target = canvas[row, :, top : top + image.shape[-2], left : left + image.shape[-1]]
    high, wide = target.shape[-2:]
    weight = windows[0][i, :high, None] * windows[1][j, None, :wide]
    target.addcmul_(image[:, :high, :wide], weight)


def _with_noise(low: Tensor, keys: Keys, level: float) -> Tensor:
    """Noise for the whole picture, before it is cut: where tiles overlap they meet the same numbers."""
    low = low.to("cpu", torch.float32)
    if not level:
        return low
    shape = tuple(low.shape[1:])
    return low + level * keyed_normal(keys.seeds, LOW_NOISE, torch.tensor(keys.indices), shape)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    resized = F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp_(-1, 1)
