"""How good a checkpoint's average is, measured beside the training that goes on.

The figures watch a training run: the encoder is the one that conditions the model, and the pictures to compare with
are of the training set. They are no result; `evaluate` has a judge and held-out pictures for that.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gigagan_core.text import plain
from gigagan_core.training.record import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from gigagan_core.training.worker import TrainingJob

BATCH = 32


def validated(checkpoint: Path, job: TrainingJob) -> Event:
    """The news of `validate`; of what went wrong there, too: a run must not end for a figure that only watches it."""
    try:
        images_seen, figures = validate(checkpoint, job)
    except Exception as error:  # whatever a diverged model or damaged pictures can do to a measure
        return Event("not_validated", 0, message=f"a checkpoint could not be measured: {plain(error)}")
    return Event("validated", images_seen, metrics=figures)


@torch.no_grad()
def validate(checkpoint: Path, job: TrainingJob) -> tuple[int, dict[str, float]]:
    """(images seen, figures) of a checkpoint: Frechet distance and CLIP score of `validation_images` pictures.

    The pictures made, and the training pictures they are compared with, are the same at every checkpoint. Runs on the
    CPU; the names hold encoder, resolution and count, as ``validation/fd_openmoji-condition_32_256``.
    """
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.evaluation.clip_score import clip_score
    from gigagan_core.evaluation.features import caption_features, image_features
    from gigagan_core.evaluation.frechet import frechet_distance
    from gigagan_core.evaluation.moments import Moments
    from gigagan_core.evaluation.names import extractor_name, metric_name
    from gigagan_core.training.checkpoint import read_state
    from gigagan_core.training.worker import network_settings

    saved, encoder = read_state(checkpoint), load_encoder(job.encoder)
    real, captions, labels = _pictures(job)
    by_class = network_settings(job.settings).conditioning == "class"
    made = _maker(job, saved["ema"], encoder)(real, labels if by_class else captions)
    of_made, of_real = (image_features(encoder, pictures, batch_size=BATCH) for pictures in (made, real))
    distance = frechet_distance(
        Moments.of(of_made, "made pictures"), Moments.of(of_real, "training pictures")
    )
    score = clip_score(of_made, caption_features(encoder, captions), captions, resamples=1)
    about = {
        "extractor": extractor_name(encoder.name),
        "resolution": job.settings.image_size,
        "count": len(captions),
    }
    return saved["images_seen"], {
        f"validation/{metric_name('fd', **about)}": distance.distance,
        f"validation/{metric_name('clip-score', **about)}": score.score,
    }


def _pictures(job: TrainingJob) -> tuple[Tensor, list[str], list[int]]:
    """The first pictures of the training order, uint8 [N, 3, H, W], their captions, and any labels."""
    from gigagan_core.data.mixture import Mixture
    from gigagan_core.data.reader import ShardReader

    settings = job.settings
    data = Mixture(job.data)
    count = min(settings.validation_images, len(data))
    reader = ShardReader(data, settings.image_size, 1, seed=settings.training.schedule.seed, cache_mb=0)
    batches = list(islice(reader, count))
    labels = [int(batch.labels[0]) for batch in batches if batch.labels is not None]
    return torch.cat([batch.images for batch in batches]), [batch.captions[0] for batch in batches], labels


def _maker(
    job: TrainingJob, weights: dict[str, Tensor], encoder: Any
) -> Callable[[Tensor, list[Any]], Tensor]:
    """(real pictures, captions or labels) -> what the model makes of these, or of the pictures made small."""
    from gigagan_core.inference.generate import draw, enlarge, to_uint8
    from gigagan_core.models.pyramid import resize
    from gigagan_core.training.recipes import initial_network
    from gigagan_core.training.samples import SEED
    from gigagan_core.training.steps import to_unit_range
    from gigagan_core.training.worker import network_settings

    network = initial_network(network_settings(job.settings), seed=0)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)

    def make(real: Tensor, prompts: list[Any]) -> Tensor:
        made = []
        for rows in torch.arange(len(prompts)).split(BATCH):
            texts = [prompts[row] for row in rows.tolist()]
            if hasattr(network.settings, "low_size"):
                low = to_uint8(resize(to_unit_range(real[rows], torch.float32), network.settings.low_size))
                made.append(enlarge(network, encoder, low, texts, rows, SEED, 0.0))
            else:
                made.append(draw(network, encoder, texts, rows, SEED, 1.0))
        return torch.cat(made)

    return make
