"""GigaGAN as a pipeline: data, encoders, the GAN and its upsampler, evaluation, records."""

import sys

__version__ = "0.1.0"

if not (3, 11) <= sys.version_info[:2] < (3, 13):
    raise ImportError(
        f"gigagan needs Python 3.11 or 3.12 and this is {sys.version_info[0]}.{sys.version_info[1]}; "
        "run `make install`, then .venv/bin/gigagan"
    )
