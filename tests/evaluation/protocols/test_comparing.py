"""Reports that protocols wrote, beside each other: what they were judged on is read back from them."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import gate
from gigagan_core.evaluation.comparison import compare
from gigagan_core.evaluation.protocols import document
from gigagan_core.evaluation.protocols.run import evaluate
from gigagan_core.evaluation.protocols.showcase import show
from gigagan_core.evaluation.report_file import read_report

from .conftest import no_ray

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_other_real_images_and_other_captions_are_seen(run, tmp_path):
    def judged(name: str, captions: str = "captions", **changed):
        settings = EvaluateSettings(protocol="gigagan-coco-30k")
        unknown = dict.fromkeys(("stage", "made", "git_commit", "mlflow_run"), "") | {"settings": {}}
        line = {
            **unknown,
            "role": "asset/coco-2014-captions",
            "output_digest": captions,
            "fingerprint": captions,
        }
        (tmp_path / name).mkdir()
        asked = run(metrics=("kid",), limit=12, **changed)
        result = evaluate(asked, no_ray)
        shown = show(asked, result, no_ray)
        document.write(document.ProtocolReport(result, shown, settings, lineage=[line]), tmp_path / name)
        return read_report(tmp_path / name)

    first = judged("first")
    pictures = tmp_path / "pictures"
    shutil.copytree(run().assets["coco-2014-val"], pictures)
    picture = min(pictures.iterdir())
    Image.open(picture).rotate(180).save(picture)
    found = compare(first, judged("turned", assets={**run().assets, "coco-2014-val": pictures}))
    assert all(each.name.startswith("clip-score") for each in found.figures)
    assert "kid_" in found.refused[0]
    assert "other real images" in found.refused[0]

    (tmp_path / "prompts.txt").write_text("".join(f"a disc of size {row}\n" for row in range(12)))
    asked = judged("prompts", captions="others", prompts=tmp_path / "prompts.txt")
    found = compare(first, asked)
    assert found.figures == []
    assert "other captions" in found.refused[0]
    assert any("prompts.txt took the place of the protocol's" in said for said in found.second_cautions)
    assert "do not quote these figures" in found.first_cautions[0]
    assert "do not quote these figures" in gate.refusals(first)[0]
