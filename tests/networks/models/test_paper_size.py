"""The paper's sizes, counted on the meta device, and its ladder, each row by one switch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gigagan_core.config import presets
from gigagan_core.config.ablations import ROWS, ablation
from gigagan_core.models.counting import count_parameters, on_meta_device
from gigagan_core.models.published import PUBLISHED, Published
from gigagan_core.models.settings import GeneratorSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "parameters.md"


@pytest.mark.parametrize("entry", [e for e in PUBLISHED if e.explained], ids=lambda e: e.name)
def test_networks_are_within_one_percent_of_the_published_count(entry: Published) -> None:
    counted, _ = count_parameters(entry.settings)
    assert counted / 1e6 == pytest.approx(entry.millions, rel=0.01)


@pytest.mark.parametrize("name", ROWS)
def test_the_ladder_is_within_one_percent_and_its_increments_within_five(name: str) -> None:
    row = ROWS[name]
    counted, _ = count_parameters(ablation(name).generator)
    assert counted / 1e6 == pytest.approx(row.millions, rel=0.01)
    if row.increment is not None:
        before, _ = count_parameters(ablation(row.base).generator)
        assert (counted - before) / 1e6 == pytest.approx(row.increment, rel=0.05)


# What a row may change, and nothing else may.
SWITCHES = {
    "larger": {"generator.channel_base", "generator.channel_max"},
    "tuned": {"generator.z_dim", "generator.mapping_depth", "generator.mapping_text_dim"},
    "attention": {
        "generator.attention_depths",
        "generator.cross_attention",
        "generator.residual",
        "discriminator.attention_depths",
    },
    "matching-d": {"training.losses.matching", "training.losses.matching_in"},
    "matching": {"training.losses.matching_in"},
    "adaptive": {"generator.kernels"},
    "deeper": {"generator.blocks"},
    "clip-loss": {"training.losses.contrastive"},
    "multi-scale": {
        "generator.multi_scale",
        "generator.rgb_per",
        "discriminator.levels",
        "discriminator.intermediate_predictions",
        "training.losses.level_weights",
        "training.losses.intermediate_adversarial",
        "training.losses.intermediate_matching",
    },
    "vision-aided": {"discriminator.vision_layers", "training.losses.vision_aided"},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_row_is_one_switch_away_from_the_row_before(name: str) -> None:
    before, after = (_flat(ablation(row)) for row in (ROWS[name].base, name))
    assert {key for key in after if after[key] != before[key]} == SWITCHES[name]


def _flat(settings) -> dict[str, object]:
    from gigagan_core.config.base import flat

    return flat(settings)


def test_every_row_but_the_first_has_its_switch_named() -> None:
    assert set(SWITCHES) == set(ROWS) - {"stylegan2"}


def test_the_learned_text_encoder_has_the_size_of_four_transformer_layers() -> None:
    network = on_meta_device(GeneratorSettings()).condition_encoder
    assert sum(p.numel() for p in network.parameters()) == 28_351_488


def test_a_count_moves_with_the_settings() -> None:
    """The count is of the network: a published size that the settings do not make would be noticed."""
    wider, _ = count_parameters(GeneratorSettings(channel_max=1600))
    assert wider / 1e6 != pytest.approx(652.5, rel=0.01)


def test_the_document_shows_what_the_networks_count() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w' ]+) \| ([\d.]+) \| ([\d.]+) \|", DOCUMENT.read_text(), re.M)
    shown = {(name, place): (float(paper), float(ours)) for name, place, paper, ours in rows}
    expected = {}
    for name in presets.PRESETS:
        for place, entry in presets.published_counts(name).items():
            expected[name, place] = (
                entry.millions,
                round(count_parameters(presets.networks(name)[place])[0] / 1e6, 2),
            )
    assert shown == expected
