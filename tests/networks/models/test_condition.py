"""Class labels in the place of captions, and predictors by projection."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.models.pyramid import image_pyramid

CLASSES = {"conditioning": "class", "classes": 4}


def test_a_class_changes_the_image_and_only_its_own_vector_learns(make_generator) -> None:
    generator = make_generator(**CLASSES, cross_attention=False)
    z = torch.randn(1, 6).expand(2, -1)
    first, second = generator(z, torch.tensor([1, 2]))[0]
    assert not torch.allclose(first, second)
    generator(z, torch.tensor([1, 1]))[0].square().mean().backward()
    rows = generator.condition_encoder.vectors.grad.abs().sum(dim=1)
    assert rows[1] > 0
    assert rows[[0, 2, 3]].sum() == 0


@pytest.mark.parametrize("predictor", ["modulated", "projection"])
def test_a_class_changes_every_prediction(make_discriminator, predictor: str) -> None:
    network = make_discriminator(**CLASSES, predictor=predictor)
    pyramid = image_pyramid(torch.rand(2, 3, 16, 16) * 2 - 1, (16, 8, 4))
    first, second = (network(pyramid, torch.tensor(labels)) for labels in ([0, 1], [2, 3]))
    for ours, theirs in zip(first, second):
        assert not torch.allclose(ours.logits, theirs.logits)


def test_projection_is_the_inner_product_of_features_and_code(make_discriminator) -> None:
    network = make_discriminator(torch.float64, **CLASSES, predictor="projection", levels=1)
    pyramid = image_pyramid(torch.rand(2, 3, 16, 16, dtype=torch.float64), (16, 8, 4))
    features, t_D = network.features(pyramid), network.encode(torch.tensor([3, 0]))
    for prediction, psi, x in zip(network.predict(features, t_D), network.predictors, features.maps):
        channels = x.shape[1]
        code = t_D @ psi.project.weight.T / (t_D.shape[1] ** 0.5)
        expected = torch.einsum("nchw,nc->nhw", x, code) / channels**0.5 + psi.unconditional(x)[:, 0]
        torch.testing.assert_close(prediction.logits[:, 0], expected)
