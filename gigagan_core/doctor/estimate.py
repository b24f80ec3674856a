"""What a preset writes to the disk, estimated from its settings; ours, and on the large side."""

from __future__ import annotations

from typing import Any

from gigagan_core.doctor.request import Request

FLOAT = 4
# Of a generator: weights, their average, Adam's two moments. Of a discriminator: the same without the average.
GENERATOR_COPIES, DISCRIMINATOR_COPIES = 4, 3
CHECKPOINTS = 2
"""A new one is written beside the last."""
BYTES_A_PIXEL = {"png": 2.0, "jpg": 1.0, "webp": 0.7}
OPENMOJI_ROWS = 4_000
ENCODERS = 500 * 2**20
"""Both small ones with their checkpoints."""


def estimate(request: Request) -> int:
    """Bytes: models with their checkpoints, and of a pipeline the pictures, where their number can be known."""
    sections = request.sections()
    total = sum(_training(part, settings) for part, settings in request.trainings().items())
    if "control" in sections and sections["control"] is not None:
        total += _training("upsampler", sections["control"])
    if "ingest" in sections:
        total += ENCODERS + _pictures(sections["source"], sections["ingest"])
    return round(total)


def _training(part: str, settings: Any) -> float:
    from gigagan_core.models.counting import count_parameters

    network = settings.generator if part == "base" else settings.upsampler
    _, generator = count_parameters(network)
    _, discriminator = count_parameters(settings.discriminator)
    checkpoint = GENERATOR_COPIES * generator + DISCRIMINATOR_COPIES * discriminator
    return FLOAT * (CHECKPOINTS * checkpoint + generator)


def _pictures(source: Any, ingest: Any) -> float:
    pixels = ingest.image_size**2
    return _rows(source) * pixels * BYTES_A_PIXEL[ingest.encode_format]


def _rows(source: Any) -> int:
    """Rows of all tables; nothing where they cannot be read from here."""
    if source.kind == "openmoji":
        return min(source.limit or OPENMOJI_ROWS, OPENMOJI_ROWS)
    from pyarrow import ArrowException, dataset

    given = [tables for tables in (source.train, source.heldout, source.upsampler) if tables]
    try:
        return sum(
            dataset.dataset(
                tables if isinstance(tables, str) else list(tables), format="parquet"
            ).count_rows()
            for tables in given
        )
    except (OSError, ArrowException):
        return 0
