"""Settings of training that no step could use, or of which a part would lie idle, are one sentence."""

from __future__ import annotations

import pytest

from gigagan_core.config.ablations import PREFIX, ROWS
from gigagan_core.config.base import result_settings, with_overrides
from gigagan_core.config.presets import section
from gigagan_core.errors import GigaganError

CLASSES = ["conditioning=class", "classes=3"]
IN_BOTH = [f"{network}.{change}" for network in ("generator", "discriminator") for change in CLASSES]


@pytest.mark.parametrize(
    ("preset", "part", "changes", "sentence"),
    [
        (
            "demo",
            "base",
            IN_BOTH,
            "contrastive loss compares images with captions; set losses.contrastive to 0",
        ),
        (
            "demo",
            "base",
            IN_BOTH[:2],
            r"of the generator is class \(3\) and of the discriminator text; make them equal",
        ),
        (
            "imagenet-256",
            "base",
            ["discriminator.classes=10"],
            r"generator is class \(1000\) and of the discriminator class \(10\)",
        ),
        (
            "imagenet-upsampler-64-to-256",
            "upsampler",
            ["upsampler.conditioning=text"],
            "of the upsampler is text and of the discriminator none",
        ),
        ("demo", "base", ["training.losses.vision_aided=1"], "vision_aided is 1 and .* has 0 entries"),
        ("demo", "base", ["discriminator.vision_layers=[1,2]"], "vision_aided is 0 and .* has 2 entries"),
        ("demo", "upsampler", ["discriminator.vision_layers=[1]"], "an upsampler has no vision-aided loss"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    preset: str, part: str, changes: list[str], sentence: str
) -> None:
    with pytest.raises(GigaganError, match=sentence) as caught:
        with_overrides(section(preset, part), changes)
    assert "\n" not in str(caught.value)


def test_classes_train_without_the_contrastive_loss() -> None:
    settings = with_overrides(section("demo", "base"), [*IN_BOTH, "training.losses.contrastive=0"])
    assert settings.generator.classes == settings.discriminator.classes == 3


def test_the_control_of_an_upsampler_needs_no_discriminator_that_fits() -> None:
    changes = ["upsampler.conditioning=none", "upsampler.cross_attention=false"]
    assert with_overrides(section("demo", "control"), changes).training.objective == "l1"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("base", "training.generator.learning_rate"),
        ("base", "training.losses.matching"),
        ("base", "training.losses.level_weights"),
        ("base", "training.r1.strength"),
        ("base", "training.ema.decay"),
        ("base", "training.schedule.w_mean_decay"),
        ("base", "generator.residual_gain"),
        ("base", "discriminator.attention_gain"),
        ("upsampler", "upsampler.rgb_gain"),
        ("upsampler", "training.losses.lpips"),
    ],
)
def test_a_number_that_is_none_is_refused_however_deep(part: str, key: str, value: str) -> None:
    given = f"[{value}, 1, 1, 1]" if key.endswith("level_weights") else value
    with pytest.raises(GigaganError, match=f"{key}.*finite number"):
        with_overrides(section("demo", part), [f"{key}={given}"])


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_ladder_trains_on_gpus_and_shares_its_steps(name: str) -> None:
    settings = section(PREFIX + name, "base")
    assert settings.use_gpu
    assert (settings.training.schedule.batch_size, settings.training.schedule.total_images) == (
        256,
        25_600_000,
    )
    for sharing in ("workers=8", "workers=32", "training.schedule.micro_batch_size=32"):
        shared = with_overrides(settings, [sharing])
        assert result_settings(shared) == result_settings(settings)
