"""Settings of training: plain dataclasses of the standard library, so that torch alone can run them.

Origin of a default: V2, V1 = stated by two, by one of the paper's notes; R = recollected, I = inferred;
"ours" = a choice of this code that the paper says nothing of. Lengths are in images, never in seconds.
A field with ``operational`` metadata says how the work is done and leaves the result's name alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

# Pydantic validates these dataclasses where a settings model embeds them, whose own configuration does not reach them:
# this makes it refuse unknown keys, NaN and infinity.
_STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Precision = Literal["float32", "bfloat16", "float64"]


def _operational(default: Any) -> Any:
    return field(default=default, metadata={"operational": True})


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW of one network."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    learning_rate: float = 0.0025  # V2
    beta1: float = 0.0  # V2
    beta2: float = 0.99  # V2
    epsilon: float = 1e-8  # torch's default; the paper's is not known
    weight_decay: float = 1e-5  # V2, everything outside attention
    # V2; what counts as attention is I: whole attention blocks of the image networks, with feed-forwards and norms, and
    # not the learned text encoder
    weight_decay_attention: float = 0.01
    warm_up_images: int = 0  # linear from 0; ours

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be in [0, 1), not {self.beta1} and {self.beta2}")
        if self.warm_up_images < 0:
            raise ValueError(f"warm_up_images must not be negative, not {self.warm_up_images}")


@dataclass(frozen=True)
class EmaSettings:
    """The moving average of the generator's weights, which is what gets exported."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    decay: float = 0.9999  # V1; per step
    # The average never reaches back further than this share of the images seen (as a half-life), so that
    # the untrained weights are forgotten early; StyleGAN2-ADA's ramp. 0 turns it off; so does a model to start from.
    ramp: float = 0.05  # I

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {self.decay}")
        if self.ramp < 0:
            raise ValueError(f"ramp must not be negative, not {self.ramp}")


@dataclass(frozen=True)
class R1Settings:
    """Gradient penalty on real images, every `interval` steps and then `interval` times as strong.

    I: it is the gradient of the weighted sum of predictions, as in the logistic loss, so that a level's part is
    multiplied by the square of its weight: 0.33 and 0.17 make it 0.1089 and 0.0289 times as strong.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    strength: float = 0.2048  # V1: 0.2048 to 2.048
    interval: int = 16  # V1

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"strength must not be negative, not {self.strength}")
        if self.interval < 1:
            raise ValueError(f"interval must be 1 or more, not {self.interval}")


@dataclass(frozen=True)
class ScheduleSettings:
    """How long, how often, and on what."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    batch_size: int = 512  # V1: 512 to 1024; over all workers
    total_images: int = 1_350_000 * 512  # V1: 1,350k steps
    seed: int = 0
    flip: bool = False  # mirror images left to right at random; captions may name a side
    precision: Precision = "float32"
    w_mean_decay: float = 0.995  # moving mean of w for truncation; StyleGAN2's value, I
    micro_batch_size: int = _operational(0)  # gradients add up over so many samples a worker; 0: all at once
    # networks' stages are computed again in the backward pass instead of kept; R1 keeps them
    activation_checkpointing: bool = _operational(False)
    # "replicated": every worker holds all weights and optimiser state. "sharded": each holds its part and gathers the
    # rest when needed (FSDP2): less memory, more traffic, the same steps. One worker always holds all.
    parallelism: Literal["replicated", "sharded"] = _operational("replicated")
    compile: bool = _operational(False)  # torch.compile of the networks; R1 always runs eagerly
    threads: int = _operational(0)  # CPU threads a worker; 0: all it is given
    metrics_every_steps: int = _operational(10)  # losses stay on the device in between
    diagnostics_every_steps: int = _operational(200)  # entropies, distance of the average; 0: never
    checkpoint_every_images: int = _operational(1_000_000)
    keep_checkpoints: int = _operational(2)  # the newest so many
    keep_every_images: int = _operational(0)  # and, apart, the first after each so many images; 0: none
    max_rollbacks: int = _operational(3)  # from one checkpoint, when a loss or gradient is not finite
    sample_every_images: int = _operational(1_000_000)

    def __post_init__(self) -> None:
        for name in ("batch_size", "total_images", "metrics_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        _not_negative(self, "checkpoint_every_images", "sample_every_images", "keep_every_images")
        _not_negative(self, "threads", "micro_batch_size", "diagnostics_every_steps", "max_rollbacks")
        if not 0 <= self.w_mean_decay < 1:
            raise ValueError(f"w_mean_decay must be in [0, 1), not {self.w_mean_decay}")


@dataclass(frozen=True)
class BaseLossSettings:
    """Weights of the base model's losses. Levels run from the largest image to the smallest."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    level_weights: tuple[float, ...] | None = (0.33, 0.17, 0.17, 0.17, 0.17)  # R; None: 1 for every level
    intermediate_adversarial: float = 0.01  # R: predictions before the last scale
    intermediate_matching: float = 0.05  # R
    matching: float = 1.0  # R; 0: off, in D and in G
    matching_in: Literal["both", "discriminator"] = "both"  # V1; D alone is a row of Table 1
    matching_block: int = 0  # captions are exchanged within blocks of so many samples; 0: a worker's batch; I
    contrastive: float = 0.2  # R: 0.2 to 1.0; 0: off
    contrastive_temperature: float = 0.07  # I: where CLIP's training starts; about 0.01 where it ended (R)
    vision_aided: float = (
        0.0  # weight of the heads on a frozen image encoder, where the discriminator has some
    )

    def __post_init__(self) -> None:
        _not_negative(self, "intermediate_adversarial", "intermediate_matching", "matching", "contrastive")
        _not_negative(self, "vision_aided")
        _check_common(self)


@dataclass(frozen=True)
class UpsamplerLossSettings:
    """Weights of the upsampler's losses.

    The low-resolution input is the image shrunk by antialiased bicubic resizing plus Gaussian noise, whose
    standard deviation is drawn from [0, noise] for each sample, in units of [-1, 1].
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    noise: float = 0.1  # I: noise augmentation is V1, its strength unknown
    level_weights: tuple[float, ...] | None = (0.33, 0.17, 0.17, 0.17, 0.17)  # R
    intermediate_adversarial: float = 0.01  # R
    intermediate_matching: float = 0.05  # R
    adversarial: float = 1.0
    matching: float = 1.0  # R
    matching_in: Literal["both", "discriminator"] = "both"  # V1
    matching_block: int = 0  # I
    contrastive: float = 1.0  # R
    contrastive_temperature: float = 0.07  # I, as the base's
    lpips: float = 10.0  # V1 at 64 -> 512; needs its weights by path
    feature_distance: float = 0.0  # ours: a frozen encoder's embeddings, where LPIPS weights are not at hand
    feature_patches: int = 0  # patches an image that the encoder sees at full resolution; 0: the whole image
    l1: float = 0.0  # ours
    consistency: float = 0.0  # ours: the output, shrunk, should be the input

    def __post_init__(self) -> None:
        _not_negative(self, "noise", "intermediate_adversarial", "intermediate_matching", "adversarial")
        _not_negative(
            self,
            "matching",
            "contrastive",
            "lpips",
            "feature_distance",
            "feature_patches",
            "l1",
            "consistency",
        )
        _check_common(self)


@dataclass(frozen=True)
class BaseTraining:
    """Everything that decides how a base model is trained, networks apart."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    losses: BaseLossSettings = field(default_factory=BaseLossSettings)
    generator: OptimiserSettings = field(default_factory=OptimiserSettings)
    discriminator: OptimiserSettings = field(default_factory=OptimiserSettings)
    r1: R1Settings = field(default_factory=R1Settings)
    ema: EmaSettings = field(default_factory=EmaSettings)


@dataclass(frozen=True)
class UpsamplerTraining:
    """Everything that decides how an upsampler is trained, networks apart.

    objective: "gan", or "l1" for the control: the same network, mean absolute error alone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    objective: Literal["gan", "l1"] = "gan"
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    losses: UpsamplerLossSettings = field(default_factory=UpsamplerLossSettings)
    generator: OptimiserSettings = field(default_factory=OptimiserSettings)
    discriminator: OptimiserSettings = field(default_factory=OptimiserSettings)
    r1: R1Settings = field(default_factory=R1Settings)
    ema: EmaSettings = field(default_factory=lambda: EmaSettings(decay=0.9890))  # R


def _not_negative(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative, not {getattr(settings, name)}")


def _check_common(settings: BaseLossSettings | UpsamplerLossSettings) -> None:
    if settings.contrastive_temperature <= 0:
        raise ValueError(f"contrastive_temperature must be above 0, not {settings.contrastive_temperature}")
    if settings.matching_block == 1 or settings.matching_block < 0:
        raise ValueError(f"matching_block must be 0 or 2 and more, not {settings.matching_block}")
