"""GigaGAN's networks: generator, discriminator, upsampler, and the keyed randomness they draw from (torch only)."""
