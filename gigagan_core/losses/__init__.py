"""GigaGAN's objectives, each callable alone on tensors or on a network's predictions (torch only)."""
