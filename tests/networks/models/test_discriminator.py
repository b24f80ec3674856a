"""The multi-scale discriminator: which predictions there are, and what each may depend on."""

import pytest
import torch

from gigagan_core.models.discriminator import Discriminator, minibatch_std
from gigagan_core.models.settings import DiscriminatorSettings
from gigagan_core.models.text import TextFeatures


def make_pyramid(size=3, dtype=torch.float32, resolutions=(16, 8, 4), seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, r, r, generator=random, dtype=torch.float64).to(dtype) for r in resolutions]


def test_every_level_is_judged_at_every_later_scale(make_discriminator, make_text):
    predictions = make_discriminator()(make_pyramid(), make_text())
    assert [(p.level, p.scale, p.final) for p in predictions] == [
        (0, 0, False),
        (0, 1, False),
        (1, 1, False),
        (0, 2, True),
        (1, 2, True),
        (2, 2, True),
    ]
    assert [tuple(p.logits.shape) for p in predictions] == [
        (3, 1, 8, 8),
        (3, 1, 4, 4),
        (3, 1, 4, 4),
        (3, 1, 1, 1),
        (3, 1, 1, 1),
        (3, 1, 1, 1),
    ]


@pytest.mark.parametrize(("image_size", "count"), [(32, 10), (64, 15)])
def test_there_are_ten_predictions_at_32_px_and_fifteen_at_64(image_size, count):
    levels = {32: 4, 64: 5}[image_size]
    settings = DiscriminatorSettings(
        image_size=image_size,
        levels=levels,
        conditioning="none",
        channel_base=64,
        channel_max=8,
        blocks=(1,) * levels,
        attention_depths=(0,) * levels,
    )
    sizes = settings.input_resolutions
    with torch.device("meta"):
        predictions = Discriminator(settings)([torch.empty(2, 3, r, r) for r in sizes])
    assert len(predictions) == count


def test_a_prediction_has_exactly_zero_gradient_in_every_other_level(make_discriminator, make_text):
    network = make_discriminator(torch.float64)
    pyramid = [image.requires_grad_() for image in make_pyramid(dtype=torch.float64)]
    for prediction in network(pyramid, make_text(dtype=torch.float64)):
        gradients = torch.autograd.grad(
            prediction.logits.sum(), pyramid, retain_graph=True, materialize_grads=True
        )
        for level, gradient in enumerate(gradients):
            if level == prediction.level:
                assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()
            else:
                assert (gradient == 0).all()


def test_levels_side_by_side_give_what_each_gives_alone(make_discriminator, make_text):
    network, text, pyramid = (
        make_discriminator(torch.float64),
        make_text(dtype=torch.float64),
        make_pyramid(dtype=torch.float64),
    )
    together = network(pyramid, text)
    for level in range(3):
        others = [image if i == level else torch.full_like(image, 100.0) for i, image in enumerate(pyramid)]
        for ours, theirs in zip(network(others, text), together):
            if ours.level == level:
                torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-10, atol=1e-10)


def test_a_sample_does_not_depend_on_its_batch(make_discriminator, make_text):
    network, text, pyramid = (
        make_discriminator(torch.float64),
        make_text(dtype=torch.float64),
        make_pyramid(dtype=torch.float64),
    )
    whole = network(pyramid, text)
    rows = torch.tensor([1])
    for ours, theirs in zip(network([image[rows] for image in pyramid], text.index(rows)), whole):
        torch.testing.assert_close(ours.logits, theirs.logits[rows], rtol=1e-10, atol=1e-10)


def test_image_features_serve_any_caption(make_discriminator, make_text):
    network, text, pyramid = make_discriminator(), make_text(), make_pyramid()
    partner = torch.tensor([1, 2, 0])
    features, t_D = network.features(pyramid), network.encode(text)
    reused = network.predict(features, t_D[partner])
    for ours, theirs in zip(reused, network(pyramid, text.index(partner))):
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    rows = torch.tensor([2, 0])
    for ours, theirs in zip(network.predict(features.index(rows), t_D[rows]), network.predict(features, t_D)):
        torch.testing.assert_close(ours.logits, theirs.logits[rows], rtol=1e-5, atol=1e-5)


def test_padding_tokens_never_change_a_prediction(make_discriminator, make_text):
    network, text, pyramid = make_discriminator(), make_text(), make_pyramid()
    garbage = text._replace(features=text.features.masked_fill(~text.mask[..., None], 1e5))
    for ours, theirs in zip(network(pyramid, garbage), network(pyramid, text)):
        assert torch.equal(ours.logits, theirs.logits)


def test_the_caption_changes_every_prediction(make_discriminator, make_text):
    network, pyramid = make_discriminator(), make_pyramid()
    for ours, theirs in zip(network(pyramid, make_text()), network(pyramid, make_text(seed=8))):
        assert not torch.allclose(ours.logits, theirs.logits)


SWITCHES = {
    "no text": {"conditioning": "none"},
    "classes": {"conditioning": "class", "classes": 3},
    "classes by projection": {"conditioning": "class", "classes": 3, "predictor": "projection"},
    "captions by projection": {"predictor": "projection"},
    "one level": {"levels": 1},
    "last scale only": {"intermediate_predictions": False},
    "no attention": {"attention_depths": (0, 0, 0)},
    "mini-batch std": {"minibatch_std_group": 3},
    "narrow predictor": {"predictor_width": 4},
    "no residual": {"residual": "none"},
    "no transformer": {"text_depth": 0},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_gives_a_network_that_runs_and_learns(name, make_discriminator, make_condition):
    network = make_discriminator(**SWITCHES[name])
    predictions = network(make_pyramid(), make_condition(network))
    assert predictions[-1].final
    sum(p.logits.square().mean() for p in predictions).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle


def test_minibatch_std_sees_its_group_and_neither_neighbours_nor_other_levels():
    torch.manual_seed(0)
    x = torch.randn(8, 2, 4, 4, dtype=torch.float64)  # two levels of four samples, groups of two
    before = minibatch_std(x, group=2, size=4)
    x[0] += torch.randn(2, 4, 4, dtype=torch.float64)
    changed = (minibatch_std(x, group=2, size=4) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [True, True, False, False, False, False, False, False]
    deviation = x[2:4].var(dim=0, unbiased=False).sqrt().mean()
    torch.testing.assert_close(minibatch_std(x, 2, 4)[2, 0, 0, 0], deviation, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="groups of 3"):
        minibatch_std(x, group=3, size=4)


def test_a_pyramid_of_the_wrong_sizes_is_refused(make_discriminator, make_text):
    with pytest.raises(ValueError, match="takes a pyramid"):
        make_discriminator()(make_pyramid(resolutions=(8, 4, 2)), make_text())
    with pytest.raises(ValueError, match="takes a pyramid"):
        make_discriminator()(make_pyramid()[:2], make_text())


def test_further_levels_of_a_pyramid_are_not_looked_at(make_discriminator, make_text):
    network = make_discriminator(levels=2)
    for ours, theirs in zip(network(make_pyramid(), make_text()), network(make_pyramid()[:2], make_text())):
        assert torch.equal(ours.logits, theirs.logits)


def test_nothing_is_downcast_in_float64(make_discriminator, make_text):
    text = make_text(dtype=torch.float64)
    exact = make_discriminator(torch.float64)(make_pyramid(dtype=torch.float64), text)
    rough = make_discriminator()(make_pyramid(), TextFeatures(text.features.float(), *text[1:]))
    for ours, theirs in zip(exact, rough):
        assert ours.logits.dtype == torch.float64
        assert 0 < (ours.logits - theirs.logits).abs().max().item() < 1e-3
