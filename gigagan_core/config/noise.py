"""The noise that people may add to an upsampler's input: one bound for Python, commands, server and page."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST_NOISE = 0.5
"""Standard deviation in units of [-1, 1]: five times the most that the presets train with."""

UpsamplerNoise = Annotated[float, Field(ge=0.0, le=LARGEST_NOISE, allow_inf_nan=False)]
