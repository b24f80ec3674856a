"""Generator and discriminator together, under bf16 autocast: finite for 30 steps, all losses on."""

import torch

from gigagan_core.losses.adversarial import discriminator_loss, generator_loss
from gigagan_core.losses.contrastive import clip_contrastive_loss
from gigagan_core.losses.matching import caption_ids, matching_loss, valid_pairs
from gigagan_core.losses.r1 import r1_penalty
from gigagan_core.models.pyramid import image_pyramid
from gigagan_core.models.randomness import keyed_derangement, keyed_normal

SIZE = 4


def assert_finite(network, loss):
    assert torch.isfinite(loss)
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_thirty_bf16_autocast_steps_stay_finite(make_generator, make_discriminator, make_text):
    generator, discriminator = make_generator(), make_discriminator()
    optimizers = [
        torch.optim.AdamW(network.parameters(), lr=0.0025, betas=(0.0, 0.99), weight_decay=1e-5)
        for network in (generator, discriminator)
    ]
    embed = torch.nn.Linear(3 * 16 * 16, 8).requires_grad_(False)
    ids = caption_ids(["one", "two", "two", "three"])
    for step in range(30):
        indices = torch.arange(step * SIZE, (step + 1) * SIZE)
        images = keyed_normal(0, "images", indices, (3, 16, 16)).clamp(-1, 1)
        text = make_text(SIZE, seed=step)
        latents = keyed_normal(0, "z", indices, (6,))
        partner = keyed_derangement(0, "match", indices)
        valid = valid_pairs(ids, partner)
        reals = image_pyramid(images, (16, 8, 4))

        with torch.autocast("cpu", torch.bfloat16):
            fakes = [image.detach() for image in generator(latents, text)]
            t_D = discriminator.text_code(text)
            on_real, on_fake = discriminator.features(reals), discriminator.features(fakes)
            loss = discriminator_loss(
                discriminator.predict(on_real, t_D), discriminator.predict(on_fake, t_D)
            )
            wrong = [discriminator.predict(f, t_D[partner]) for f in (on_real, on_fake)]
            loss = loss + matching_loss(wrong, valid).loss
        loss.backward()
        if step % 4 == 0:
            (r1_penalty(discriminator, reals, text) * 4).backward()
        assert_finite(discriminator, loss)
        optimizers[1].step()
        optimizers[1].zero_grad()

        with torch.autocast("cpu", torch.bfloat16):
            fakes = generator(latents, text)
            t_D, features = discriminator.text_code(text), discriminator.features(fakes)
            loss = generator_loss(discriminator.predict(features, t_D))
            loss = loss + matching_loss([discriminator.predict(features, t_D[partner])], valid).loss
            loss = loss + clip_contrastive_loss(embed(fakes[0].flatten(1)), torch.randn(SIZE, 8), ids=ids)
        loss.backward()
        assert all(image.dtype == torch.float32 for image in fakes)
        assert_finite(generator, loss)
        optimizers[0].step()
        optimizers[0].zero_grad()
        optimizers[1].zero_grad()
