"""The logistic loss: its value, its weights, and its numerics."""

import math

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    logistic_terms,
    mean_logit,
    prediction_weights,
)
from gigagan_core.models.discriminator import Prediction


def predictions(dtype=torch.float64, size=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = [(0, 0, False, 4), (0, 1, True, 1), (1, 1, True, 1)]
    return [
        Prediction(i, j, final, torch.randn(size, 1, r, r, generator=random, dtype=torch.float64).to(dtype))
        for i, j, final, r in shapes
    ]


def test_terms_are_the_weighted_sum_over_predictions_of_spatial_means():
    found = logistic_terms(predictions(), -1.0, level_weights=(0.3, 0.2), intermediate_weight=0.01)
    first, second, third = (p.logits for p in predictions())
    wanted = (
        0.3 * 0.01 * F.softplus(-first).mean(dim=(1, 2, 3))
        + 0.3 * F.softplus(-second)[:, 0, 0, 0]
        + 0.2 * F.softplus(-third)[:, 0, 0, 0]
    )
    torch.testing.assert_close(found, wanted)


def test_losses_push_logits_the_right_way():
    real, fake = predictions(), predictions(seed=1)
    for p in (*real, *fake):
        p.logits.requires_grad_()
    discriminator_loss(real, fake).backward()
    assert all((p.logits.grad < 0).all() for p in real)
    assert all((p.logits.grad > 0).all() for p in fake)
    again = predictions(seed=1)
    for p in again:
        p.logits.requires_grad_()
    generator_loss(again).backward()
    assert all((p.logits.grad < 0).all() for p in again)


def test_an_undecided_discriminator_loses_two_log_two_per_prediction():
    undecided = [p._replace(logits=torch.zeros_like(p.logits)) for p in predictions()]
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(3 * 2 * math.log(2))


def test_gradients_equal_finite_differences():
    real, fake = (
        [torch.randn(2, 1, side, side, dtype=torch.float64, requires_grad=True) for side in (3, 1)]
        for _ in range(2)
    )

    def loss(*logits):
        on_real, on_fake = (
            [Prediction(0, scale, scale == 1, part) for scale, part in enumerate(parts)]
            for parts in (logits[:2], logits[2:])
        )
        return discriminator_loss(on_real, on_fake, (0.3,), 0.1) + generator_loss(on_fake, (0.3,), 0.1)

    assert torch.autograd.gradcheck(loss, (*real, *fake))


@pytest.mark.parametrize("size", [1e4, 3e38])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_huge_bf16_logits_give_finite_loss_and_gradient(size, sign):
    huge = [p._replace(logits=torch.full_like(p.logits, size)) for p in predictions(torch.bfloat16)]
    for p in huge:
        p.logits.requires_grad_()
    loss = logistic_terms(huge, sign).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) or size > 1e38
    assert all(torch.isfinite(p.logits.grad).all() for p in huge)
    assert not torch.isnan(loss)


def test_bf16_logits_are_summed_in_fp32():
    rough = predictions(torch.bfloat16)
    exact = [p._replace(logits=p.logits.double()) for p in rough]
    torch.testing.assert_close(generator_loss(rough).double(), generator_loss(exact), rtol=1e-6, atol=1e-6)


def test_nothing_is_downcast_in_float64():
    assert generator_loss(predictions()).dtype == torch.float64
    logits = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    check = lambda x: generator_loss([Prediction(0, 0, True, x)])  # noqa: E731
    assert torch.autograd.gradcheck(check, (logits + 0.3,))


def test_weights_follow_levels_and_spare_the_last_scale():
    assert prediction_weights(predictions(), (0.3, 0.2), 0.5) == [0.15, 0.3, 0.2]
    assert prediction_weights(predictions()) == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="3 entries for 2"):
        prediction_weights(predictions(), (1.0, 1.0, 1.0))


def test_the_mean_logit_is_that_of_the_last_scale():
    found = mean_logit(predictions(), level=1)
    assert found == predictions()[2].logits.mean()
    assert not found.requires_grad
