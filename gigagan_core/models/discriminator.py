"""Multi-scale-input, multi-scale-output discriminator (paper, section 3.3, equations 6 and 7).

Image x_i of the pyramid (i = 0 the largest) enters the trunk phi at its own resolution, alone; predictions are
read at every later scale. Scale j is the feature map after the stage of the j-th largest resolution:

    D_ij(x_i, c) = psi_j(phi_{i->j}(x_i), t_D) + Conv1x1(phi_{i->j}(x_i)),   j >= i

Levels share the trunk but never mix: at each resolution those already under way and the one that enters lie side
by side on the batch axis, so a stage runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gigagan_core.models.attention import AttentionBlock
from gigagan_core.models.condition import Condition, code_width, condition_encoder
from gigagan_core.models.layers import (
    EqualConv2d,
    Recomputing,
    at_least_fp32,
    downsample,
    residual_projection,
)
from gigagan_core.models.predictor import predictor
from gigagan_core.models.settings import DiscriminatorSettings
from gigagan_core.models.vision_aided import VisionAidedHeads


class Prediction(NamedTuple):
    """D_ij for a batch: what scale j says about the image at level i."""

    level: int  # i: 0 is the largest image
    scale: int  # j >= i: 0 is the earliest scale
    final: bool  # at the last scale, after the whole trunk
    logits: Tensor  # [N, 1, h, w], fp32 or wider; larger: more real


Predictions = list[Prediction]


class ImageFeatures(NamedTuple):
    """phi of a batch: reusable against any number of captions."""

    maps: tuple[
        Tensor | None, ...
    ]  # per scale [levels * N, C, h, w], levels in order; None: no prediction there
    batch: int  # N

    def index(self, rows: Tensor) -> ImageFeatures:
        """The images `rows` (int64 [M]) of every level."""
        maps = tuple(
            None if m is None else m.unflatten(0, (-1, self.batch))[:, rows].flatten(0, 1) for m in self.maps
        )
        return ImageFeatures(maps, len(rows))


class Discriminator(Recomputing, nn.Module):
    """Trunk phi, text branch and predictors psi_j. Without a condition, the predictors are Conv1x1 alone."""

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.condition_encoder = condition_encoder(settings)
        self.stages = nn.ModuleList()
        self.predictors = nn.ModuleList()
        entering = set(settings.input_resolutions)
        for resolution in reversed(settings.resolutions):
            position = settings.resolutions.index(resolution)
            last = resolution == 4
            stage = _Stage(
                settings,
                settings.channels(resolution),
                settings.channels(resolution if last else resolution // 2),
                blocks=settings.blocks[position],
                attention_depth=settings.attention_depths[position],
                enters=resolution in entering,
                last=last,
            )
            self.stages.append(stage)
            predicts = last or settings.intermediate_predictions
            self.predictors.append(predictor(settings, stage.out_channels) if predicts else None)
        self.vision_aided = None
        if settings.vision_layers:
            self.vision_aided = VisionAidedHeads(
                len(settings.vision_layers),
                settings.vision_width,
                settings.vision_channels,
                code_width(settings),
            )

    def forward(self, pyramid: Sequence[Tensor], condition: Condition = None) -> Predictions:
        """pyramid [N, 3, r, r] from high to low, N captions or labels (None without condition) -> all predictions.

        L levels give L (L + 1) / 2 predictions where L counts every scale (15 at 64 px), by scale, then level.
        Lower levels than `settings.levels` may be present and are not looked at.
        """
        return self.predict(self.features(pyramid), self.encode(condition))

    def encode(self, condition: Condition) -> Tensor | None:
        """Frozen features of N captions, or labels -> t_D [N, text_width]; None for a network without condition."""
        return None if self.condition_encoder is None else self.condition_encoder(condition).t_global

    def features(self, pyramid: Sequence[Tensor]) -> ImageFeatures:
        """phi of every level at every scale. pyramid: [N, 3, r, r] from high to low."""
        wanted = self.settings.input_resolutions
        found = tuple(image.shape[-1] for image in pyramid[: len(wanted)])
        if found != wanted:
            raise ValueError(f"the discriminator takes a pyramid of {wanted} px, not {found}")
        size = len(pyramid[0])
        x, maps = None, []
        for i, (stage, psi) in enumerate(zip(self.stages, self.predictors)):
            x = self.run(stage, x, pyramid[i] if stage.from_rgb is not None else None, size)
            maps.append(None if psi is None else x)
        return ImageFeatures(tuple(maps), size)

    def predict(self, features: ImageFeatures, t_D: Tensor | None = None) -> Predictions:
        """phi of N images and t_D [N, text_width] of N captions -> predictions; costs the psi_j only."""
        predictions = []
        last = len(self.predictors) - 1
        for scale, (psi, x) in enumerate(zip(self.predictors, features.maps)):
            if psi is None:
                continue
            logits = at_least_fp32(psi(x, t_D))
            predictions += [
                Prediction(level, scale, scale == last, part)
                for level, part in enumerate(logits.split(features.batch))
            ]
        return predictions

    def predict_vision(self, maps: Sequence[Tensor], t_D: Tensor | None = None) -> Predictions:
        """Feature maps of a frozen image encoder [N, vision_width, h, w], one a layer read -> the heads' predictions.

        All count as final: each head is a discriminator of its own.
        """
        return [
            Prediction(0, scale, True, at_least_fp32(logits))
            for scale, logits in enumerate(self.vision_aided(maps, t_D))
        ]


class _Stage(nn.Module):
    """One resolution: fromRGB, blocks, attention; the last block halves it (at 4 px: is the epilogue)."""

    def __init__(
        self,
        settings: DiscriminatorSettings,
        channels: int,
        out_channels: int,
        *,
        blocks: int,
        attention_depth: int,
        enters: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.from_rgb = EqualConv2d(3, channels, 1, activate=True) if enters else None
        self.blocks = nn.ModuleList(_Block(settings, channels, channels) for _ in range(blocks - 1))
        self.attention = nn.ModuleList(
            AttentionBlock(
                channels,
                settings.attention_head_dim,
                settings.attention_gain,
                settings.attention_width,
                settings.attention_mlp_ratio,
            )
            for _ in range(attention_depth)
        )
        self.down = None if last else _Block(settings, channels, out_channels, down=True)
        self.epilogue = _Epilogue(channels, settings.minibatch_std_group) if last else None

    def forward(self, x: Tensor | None, image: Tensor | None, size: int) -> Tensor:
        """x [levels * N, C, r, r] or None, image [N, 3, r, r] or None -> [levels' * N, out, r / 2, r / 2]."""
        if image is not None:
            image = image.contiguous(memory_format=torch.channels_last)
            entering = self.from_rgb(image)
            x = entering if x is None else torch.cat([x, entering.to(x.dtype)])
        for block in self.blocks:
            x = block(x)
        for module in self.attention:
            x = module(x)
        return self.epilogue(x, size) if self.down is None else self.down(x)


class _Block(nn.Module):
    """skip(x) + residual_gain * two convolutions; with `down` the second works at half the resolution."""

    def __init__(
        self, settings: DiscriminatorSettings, in_channels: int, out_channels: int, down: bool = False
    ) -> None:
        super().__init__()
        self.down = down
        self.skip = residual_projection(settings.residual, in_channels, out_channels)
        gain = settings.residual_gain if self.skip is not None else 1.0
        self.first = EqualConv2d(in_channels, in_channels, 3, activate=True)
        self.second = EqualConv2d(in_channels, out_channels, 3, activate=True, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, r, r] -> [N, out, r', r']."""
        y = self.first(x)
        if self.down:
            y = downsample(y)
            x = downsample(x)
        y = self.second(y)
        return y if self.skip is None else y + self.skip(x)


class _Epilogue(nn.Module):
    """[N, C, 4, 4] -> [N, C, 1, 1]: mini-batch standard deviation, 3x3 convolution, dense layer (StyleGAN2)."""

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.conv = EqualConv2d(channels + (1 if group else 0), channels, 3, activate=True)
        self.dense = EqualConv2d(channels, channels, 4, activate=True, padding=0)

    def forward(self, x: Tensor, size: int) -> Tensor:
        """x [levels * N, C, 4, 4]; size: N."""
        if self.group:
            x = torch.cat([x, minibatch_std(x, min(self.group, size), size)], dim=1)
        return self.dense(self.conv(x))


def minibatch_std(x: Tensor, group: int, size: int, eps: float = 1e-8) -> Tensor:
    """x [levels * size, C, H, W] -> [levels * size, 1, H, W]: mean standard deviation within contiguous groups.

    Groups never cross a level. ValueError where `size` is no multiple of `group`: a worker's batch would then
    share a group with its neighbour's.
    """
    if size % group:
        raise ValueError(f"a batch of {size} does not split into mini-batch-std groups of {group}")
    y = at_least_fp32(x).unflatten(0, (-1, group))
    deviation = (y.var(dim=1, unbiased=False) + eps).sqrt().mean(dim=(1, 2, 3))
    expanded = deviation.to(x.dtype).repeat_interleave(group)
    return expanded[:, None, None, None].expand(-1, 1, *x.shape[-2:])
