"""What every stage may ask of a frozen text-image encoder. Needs torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from gigagan_core.models.text import TextFeatures


@runtime_checkable
class Encoder(Protocol):
    """A frozen CLIP: captions and images to features that can be compared.

    name: for the names of scores and metrics, e.g. "openmoji-judge". role: "condition" or "judge" where it was
    trained here, else None. context_length: L, tokens a caption is cut or padded to. width: C, channels of a token
    feature. embed_dim: E, of the common space. image_size: side in pixels that images are resized to.
    logit_scale: inverse temperature it was trained with. sha256: of the weights.
    """

    name: str
    role: str | None
    context_length: int
    width: int
    embed_dim: int
    image_size: int
    logit_scale: float
    sha256: str

    def tokenize(self, captions: list[str]) -> Tensor:
        """N captions -> int64 [N, L] on the encoder's device; a longer caption is cut, its last token is the end."""
        ...

    def text_tokens(self, tokens: Tensor, text_layer: int = -2) -> TextFeatures:
        """int64 [N, L] -> features [N, L, C] float32, eot_index int64 [N], mask bool [N, L] (True: present).

        text_layer: which hidden state, counted from the end: -1 the last block's output, -2 its input.
        """
        ...

    def text_embed(self, tokens: Tensor) -> Tensor:
        """int64 [N, L] -> float32 [N, E], not normalised."""
        ...

    def image_features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """What `image_embed` gives, and in the same pass the patches after some blocks (from 1) as maps.

        images as there -> [N, E], and for each of `layers` float32 [N, C, h, w]; differentiable.
        """
        ...

    def image_embed(self, images: Tensor) -> Tensor:
        """float32 [N, 3, H, W] in [-1, 1], any size -> float32 [N, E], not normalised; differentiable."""
        ...
