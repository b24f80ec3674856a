"""CLIP contrastive loss (equation 9): a generated image should be nearest to its own caption."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.models.layers import at_least_fp32


def clip_contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    *,
    temperature: float = 0.07,
    ids: Tensor | None = None,
    other_text_embeds: Tensor | None = None,
    other_ids: Tensor | None = None,
    other_image_embeds: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of cosine similarities / temperature over the captions of the batch. Scalar.

    image_embeds, text_embeds: [N, E] from a frozen encoder, row n of each belonging together; normalised here.
    temperature: I, the paper's is not known: CLIP's training starts at 0.07 and ended at about 0.01 (R).
    ids, other_ids: int64 caption ids; a caption equal to one's own is no negative and leaves the sum.
    other_text_embeds, other_image_embeds [M, E]: negatives gathered from other workers (with gradient, where images are
    meant to learn from them).
    symmetric: adds the direction text to image (Radford et al.); equation 9 has image to text only.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        images = F.normalize(at_least_fp32(image_embeds), dim=-1)
        texts = F.normalize(at_least_fp32(text_embeds), dim=-1)
        loss = _cross_entropy(images, texts, other_text_embeds, temperature, ids, other_ids)
        if symmetric:
            backwards = _cross_entropy(texts, images, other_image_embeds, temperature, ids, other_ids)
            loss = 0.5 * (loss + backwards)
        return loss


def _cross_entropy(
    query: Tensor,
    candidates: Tensor,
    others: Tensor | None,
    temperature: float,
    ids: Tensor | None,
    other_ids: Tensor | None,
) -> Tensor:
    size = len(query)
    if others is not None:
        candidates = torch.cat([candidates, F.normalize(at_least_fp32(others), dim=-1)])
        if (ids is None) != (other_ids is None):
            raise ValueError(
                "give ids and other_ids together: duplicates are known in both batches or in none"
            )
    logits = query @ candidates.T / temperature
    if ids is not None:
        all_ids = ids if others is None else torch.cat([ids, other_ids])
        same = ids[:, None] == all_ids[None]
        own = torch.zeros_like(same)
        own[:, :size] = torch.eye(size, dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(same & ~own, float("-inf"))
    return F.cross_entropy(logits, torch.arange(size, device=logits.device))
