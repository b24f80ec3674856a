"""The protocols, by name."""

from __future__ import annotations

from dataclasses import replace

from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.protocols.protocol import Judge, Mode, Patches, Prompts, Protocol

_FID = Judge("inception", ("fd", "fd-infinity"))
_FID_IS = Judge("inception", ("fd", "fd-infinity", "is"))
_CLIP_B32, _CLIP_G14 = Judge("clip-vit-b32", ("clip-score",)), Judge("clip-vit-g14", ("clip-score",))
_COCO_2014 = Prompts("coco", "coco-2014-captions")

PROTOCOLS: dict[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(
            name="gigagan-coco-30k",
            what="zero-shot COCO FID and CLIP score as GigaGAN's authors compute them",
            task="text-to-image",
            judges=(_FID, _CLIP_B32, _CLIP_G14),
            size=256,
            made=512,
            count=30_000,
            prompts=_COCO_2014,
            reference="coco-2014-val",
            rows="table2",
            origin="the authors' released evaluation code (V); which 30,000 captions they drew is not published: here "
            "one of each of 30,000 images, drawn by seed (I)",
        ),
        Protocol(
            name="coco2017-5k",
            what="FID and CLIP score on the 5,000 images of COCO 2017",
            task="text-to-image",
            judges=(_FID, _CLIP_B32),
            size=256,
            made=512,
            count=5_000,
            prompts=Prompts("coco", "coco-2017-captions"),
            reference="coco-2017-val",
            rows="table3",
            origin="count and set of the paper's Table 3 (V); size, network of the CLIP score and choice of captions "
            "as in gigagan-coco-30k (I)",
        ),
        Protocol(
            name="coco-30k-64",
            what="zero-shot COCO FID at 64 px, for a base model without upsampler",
            task="text-to-image",
            judges=(_FID, _CLIP_B32),
            size=64,
            made=64,
            count=30_000,
            prompts=_COCO_2014,
            reference="coco-2014-val",
            rows="table2",
            origin="gigagan-coco-30k with 64 px in the place of 256 (I)",
        ),
        Protocol(
            name="ladder-fid-10k",
            what="FID-10k and CLIP score of the paper's Table 1, at 64 px",
            task="text-to-image",
            judges=(_FID, _CLIP_B32),
            size=64,
            made=64,
            count=10_000,
            rows="table1",
            origin="resolution, count and CLIP of Table 1 (V); its reference images are not published: here the "
            "held-out set given (R)",
        ),
        Protocol(
            name="imagenet-64-to-256",
            what="FID-50k and Inception Score of an upsampler of ImageNet, 64 to 256 px",
            task="upsampling",
            judges=(_FID_IS,),
            size=256,
            made=256,
            low=64,
            count=50_000,
            rows="table5",
            origin="sizes, count and measures of Table 5 (V); reference: the set given, ImageNet's validation set (R)",
        ),
        Protocol(
            name="laion-128-to-1024",
            what="FID-10k, patch-FID, CLIP score and LPIPS of an upsampler, 128 to 1024 px",
            task="upsampling",
            judges=(_FID, _CLIP_B32),
            size=1024,
            made=1024,
            low=128,
            count=10_000,
            pairs=("lpips",),
            lpips="lpips-vgg",
            patches=Patches(size=256, per_image=4),
            rows="table4",
            origin="sizes, count and measures of Table 4 (V); patches of 256 px, LPIPS' backbone, the CLIP and the "
            "reference, the set given, are R",
        ),
        Protocol(
            name="parti-prompts",
            what="CLIP score on PartiPrompts; there are no real images, so no distance",
            task="text-to-image",
            judges=(_CLIP_B32,),
            size=256,
            made=512,
            count=1_632,
            prompts=Prompts("parti", "parti-prompts"),
            reference=None,
            origin="all prompts (V); image path and CLIP as in gigagan-coco-30k (I)",
        ),
        Protocol(
            name="prompt-file",
            what="CLIP score on prompts of your own: a text file, one a line, or JSONL",
            task="text-to-image",
            judges=(_CLIP_B32,),
            size=256,
            made=512,
            count=1_000_000,
            prompts=Prompts("file"),
            reference=None,
            origin="image path and CLIP as in gigagan-coco-30k",
        ),
    )
}
"""Those of outside networks, by name."""

HELD_OUT = Protocol(
    name="openmoji-heldout",
    what="distance, precision, recall and CLIP score on held-out captioned pictures, with baselines and verdicts",
    task="text-to-image",
    judges=(Judge(None, ("fd", "precision-recall", "clip-score")),),
    size=32,
    made=32,
    count=1_000_000,
    patches=Patches(size=32, per_image=4),
    origin="this project's: every held-out picture or max_images drawn by seed, at the base model's size (32 px or the "
    "preset's), by an encoder that no training stage used; an upsampler's patches by the same",
)
"""The demonstration's, as it is without other settings. The evaluate stage does it by itself, for its judge is an
artifact and it has baselines; on other pictures than the drawings a report calls it own-heldout."""


def protocol(name: str, mode: Mode = "exact") -> Protocol:
    """A protocol in one of its two modes. Raises GigaganError for an unknown name, with the nearest.

    mode: ``exact``: images reach CLIP as they are. ``authors``: bit for bit as in the authors' released code, whose
    image path lowers 63 of the 256 pixel values by one before CLIP; Inception's path is the same in both.
    """
    known = {**PROTOCOLS, HELD_OUT.name: HELD_OUT}
    if name not in known:
        raise GigaganError(f"no protocol {name!r}; {nearest(name, known)}")
    found = known[name]
    if mode == "authors":
        judges = tuple(
            replace(judge, truncate=(judge.asset or "").startswith("clip-")) for judge in found.judges
        )
        found = replace(found, mode=mode, judges=judges)
    return found
