"""Settings of `gigagan serve`."""

from __future__ import annotations

from pydantic import Field

from gigagan_core.config.base import Settings


class ServeLimits(Settings):
    """What strangers may ask for. Everything beyond is refused before it reaches a model."""

    prompt_characters: int = Field(1000, ge=1)
    """Of one prompt; the encoder reads far fewer tokens than that."""

    pictures: int = Field(16, ge=1)
    """Pictures that one request may ask for."""

    picture_side: int = Field(1024, ge=1)
    """Longer side of a picture that is sent to be upsampled, pixels."""

    result_side: int = Field(4096, ge=1)
    """Longer side of an upsampled picture, pixels."""

    body_bytes: int = Field(16 * 2**20, ge=1024)
    """Of a request's body, counted while it arrives; base64 makes a picture a third larger."""

    body_seconds: float = Field(30.0, gt=0)
    """In which a body must have arrived."""

    waiting_requests: int = Field(64, ge=1)
    """Requests accepted and not answered yet, whose bodies are in memory; those beyond are told to come back."""

    request_seconds: float = Field(60.0, gt=0)
    """From a request's acceptance to its answer, a replica's replacement included."""

    retry_after_seconds: int = Field(2, ge=1)
    """What those who are told to come back are told."""

    tries: int = Field(4, ge=1)
    """How many replicas may die under one request before it is given up: it may be what kills them."""


class ServeSettings(Settings):
    """The server: where it listens, how many replicas there are, what goes in one batch."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    """0: any free one."""

    replicas: int = Field(1, ge=1)
    """Processes with a copy of the model each. They share the machine's cores or GPUs."""

    max_batch_size: int = Field(32, ge=1)
    """Pictures made in one forward pass."""

    batch_wait_seconds: float = Field(0.005, ge=0.0)
    """A batch goes when it is full, or nobody has come for so long; right after one of several, for half of what that
    one took."""

    page: bool = True
    """Serve the page for people at / besides the API."""

    limits: ServeLimits = ServeLimits()
