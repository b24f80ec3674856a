"""4096 px on a CPU: memory does not grow with the picture, apart from the picture itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from gigagan_core.inference.upsampling import TiledUpsampler, TileOptions
from gigagan_core.models.settings import demo_upsampler
from gigagan_core.models.upsampler import Upsampler

torch.manual_seed(0)
torch.set_num_threads(1)
network = Upsampler(demo_upsampler(text_dim=8)).eval().requires_grad_(False)

class Words:
    context_length = 4
    def tokenize(self, captions):
        return torch.zeros(len(captions), 4, dtype=torch.int64)
    def text_tokens(self, tokens, text_layer):
        from gigagan_core.models.text import TextFeatures
        features = torch.zeros(len(tokens), 4, 8)
        return TextFeatures(features, torch.ones(len(tokens)).long(), torch.ones(len(tokens), 4).bool())

image = torch.rand(512, 512, 3).numpy()
large = TiledUpsampler(network, Words())(image, scale=8, options=TileOptions(memory_limit=2.0))[0]
assert large.size == (4096, 4096)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_4096_px_from_512_take_less_than_8_gib_with_the_demonstrations_upsampler() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8, "GiB at the fullest moment"
