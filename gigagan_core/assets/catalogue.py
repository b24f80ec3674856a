"""Every file from outside that an evaluation, a loss or a scorer needs, with its address, sum and licence.

A sum is written here only where a public source states it, and `sum_source` says which; where none was found the state
is `unknown`: the first fetch pins what it got, with a warning. Addresses and sums were looked up in public code, not
by fetching the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gigagan_core.errors import GigaganError, nearest

_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_DINO = "https://dl.fbaipublicfiles.com/dinov2"
_COCO = "http://images.cocodataset.org"
_TORCH = "https://download.pytorch.org/models"
_MANY, _ONE = "stated by several independent projects", "stated by one public project"
_NONE = "no public source found"


@dataclass(frozen=True)
class Asset:
    """name: how the command and ``asset:NAME`` call it. file: its name in the assets folder and on a mirror.

    sha256: of the file at the address, or None where nobody states it; weaker: (algorithm, sum) that is checked too.
    sum_source: who states them. size: bytes, or None where unknown. member: of an archive, the file or folder inside
    that is wanted; it is unpacked, and is what ``asset:NAME`` stands for. reader: what stands before the colon where an
    extractor, a CLIP or LPIPS is named by it, such as ``ViT-B-32-quickgelu``. images: how many a folder of them has.
    needed_by: commands and settings.
    """

    name: str
    what: str
    address: str
    file: str
    licence: str
    needed_by: tuple[str, ...]
    sha256: str | None = None
    weaker: tuple[str, str] | None = None
    sum_source: str = _NONE
    size: int | None = None
    member: str | None = None
    reader: str | None = None
    images: int | None = None

    @property
    def sum_state(self) -> str:
        """``known``, ``weaker`` (a sum that is no sha256) or ``unknown``."""
        if self.sha256 is not None:
            return "known"
        return "unknown" if self.weaker is None else "weaker"


def _clip(name: str, what: str, sha256: str, file: str, reader: str, *needed_by: str) -> Asset:
    """OpenAI's own files hold their sum in the address. They are TorchScript archives of float16."""
    return Asset(
        name=name,
        what=what,
        address=f"{_OPENAI}/{sha256}/{file}",
        file=file,
        licence="MIT",
        needed_by=needed_by,
        sha256=sha256,
        sum_source="part of OpenAI's address",
        reader=reader,
    )


def _dino(size: str, sha256: str, length: int, source: str) -> Asset:
    file = f"dinov2_{size}14_pretrain.pth"
    return Asset(
        name=f"dinov2-{size}14",
        what=f"DINOv2 {size.upper()}/14 (Oquab et al. 2023)",
        address=f"{_DINO}/dinov2_{size}14/{file}",
        file=file,
        licence="Apache-2.0",
        needed_by=("metrics --extractor",),
        sha256=sha256,
        sum_source=source,
        size=length,
        reader=f"dinov2-{size}14",
    )


_COCO_PROTOCOLS = ("gigagan-coco-30k", "coco-30k-64")
_ALL = (
    Asset(
        name="inception",
        what="Inception v3 of 2015 as TorchScript: clean-fid's mode clean, the network of FID",
        address="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        file="inception-2015-12-05.pt",
        licence="Apache-2.0 weights (TensorFlow); translation: NVIDIA Source Code License",
        needed_by=("every protocol with a FID", "metrics --extractor"),
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        sum_source=_MANY,
        size=95_607_719,
        reader="inception",
    ),
    Asset(
        name="inception-legacy",
        what="Inception v3 of pytorch-fid: clean-fid's mode legacy_pytorch",
        address="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        file="pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0",
        needed_by=("metrics --extractor",),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        sum_source=_MANY,
        size=95_628_359,
        reader="inception-legacy_pytorch",
    ),
    _clip(
        "clip-vit-b32",
        "OpenAI's CLIP ViT-B/32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "ViT-B-32.pt",
        "ViT-B-32-quickgelu",
        "every protocol with a CLIP score",
        "train-base --vision-encoder",
    ),
    _clip(
        "clip-vit-l14",
        "OpenAI's CLIP ViT-L/14",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        "ViT-L-14.pt",
        "ViT-L-14-quickgelu",
        "train-base --encoder",
        "curate clip_vit_l14",
    ),
    _clip(
        "clip-vit-l14-336",
        "OpenAI's CLIP ViT-L/14 at 336 px, the network of the published CMMD",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        "ViT-L-14-336px.pt",
        "ViT-L-14-336-quickgelu",
        "metrics --metrics cmmd",
    ),
    Asset(
        name="clip-vit-g14",
        what="open_clip ViT-g-14 laion2b_s12b_b42k, the authors' second CLIP score",
        address="https://huggingface.co/laion/CLIP-ViT-g-14-laion2B-s12B-b42K/resolve/main/open_clip_pytorch_model.bin",
        file="CLIP-ViT-g-14-laion2B-s12B-b42K.bin",
        licence="MIT",
        needed_by=("gigagan-coco-30k",),
        reader="ViT-g-14",
    ),
    _dino("vits", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88_283_115, _MANY),
    _dino("vitb", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346_378_731, _MANY),
    _dino("vitl", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1_217_586_395, _MANY),
    _dino("vitg", "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3", 4_546_108_579, _MANY),
    Asset(
        name="lpips-vgg",
        what="torchvision's VGG-16, the backbone of LPIPS vgg; its heads are part of the lpips package",
        address=f"{_TORCH}/vgg16-397923af.pth",
        file="vgg16-397923af.pth",
        licence="BSD-3-Clause",
        needed_by=("train-upsampler --lpips", "laion-128-to-1024", "metrics --lpips"),
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        sum_source=_MANY,
        reader="vgg",
    ),
    Asset(
        name="lpips-alex",
        what="torchvision's AlexNet, the backbone of LPIPS alex; its heads are part of the lpips package",
        address=f"{_TORCH}/alexnet-owt-7be5be79.pth",
        file="alexnet-owt-7be5be79.pth",
        licence="BSD-3-Clause",
        needed_by=("metrics --lpips",),
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        sum_source=_MANY,
        size=244_408_911,
        reader="alex",
    ),
    Asset(
        name="aesthetic-v1",
        what="LAION's first aesthetic predictor on ViT-L/14: one linear layer",
        address="https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
        file="sa_0_4_vit_l_14_linear.pth",
        licence="MIT",
        needed_by=("curate aesthetic_v1.weights",),
    ),
    Asset(
        name="aesthetic-v2",
        what="LAION's improved aesthetic predictor on ViT-L/14",
        address="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
        file="sac+logos+ava1-l14-linearMSE.pth",
        licence="Apache-2.0",
        needed_by=("curate aesthetic_v2.weights",),
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        sum_source=_MANY,
        size=3_714_759,
    ),
    Asset(
        name="watermark",
        what="LAION-5B's watermark detector (EfficientNet-B3)",
        address="https://github.com/LAION-AI/LAION-5B-WatermarkDetection/raw/main/models/watermark_model_v1.pt",
        file="watermark_model_v1.pt",
        licence="Apache-2.0",
        needed_by=("curate watermark.weights",),
    ),
    Asset(
        name="nsfw",
        what="LAION's CLIP-based NSFW head on ViT-L/14, translated to PyTorch",
        address="https://github.com/LAION-AI/CLIP-based-NSFW-Detector/files/10250461/clip_autokeras_binary_nsfw.zip",
        file="clip_autokeras_binary_nsfw.zip",
        licence="MIT",
        needed_by=("curate nsfw.weights",),
        member="clip_autokeras_binary_nsfw.pth",
    ),
    Asset(
        name="coco-2014-val",
        what="COCO 2014, the 40,504 validation images",
        address=f"{_COCO}/zips/val2014.zip",
        file="val2014.zip",
        licence="Flickr's terms of each image",
        needed_by=_COCO_PROTOCOLS,
        weaker=("sha1", "fbedd73593f242db65cce6bcefde193fcedcc5c0"),
        sum_source="sha1 stated by two versions of one public script",
        size=6_645_013_297,
        member="val2014",
        images=40_504,
    ),
    Asset(
        name="coco-2014-captions",
        what="COCO 2014, the captions of the validation images",
        address=f"{_COCO}/annotations/annotations_trainval2014.zip",
        file="annotations_trainval2014.zip",
        licence="CC BY 4.0",
        needed_by=_COCO_PROTOCOLS,
        sha256="031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        weaker=("sha1", "8e0b9df54c175f1688400e98d1a97f292e726870"),
        sum_source=f"{_ONE}; its sha1 by another",
        size=252_872_794,
        member="annotations/captions_val2014.json",
    ),
    Asset(
        name="coco-2017-val",
        what="COCO 2017, the 5,000 validation images",
        address=f"{_COCO}/zips/val2017.zip",
        file="val2017.zip",
        licence="Flickr's terms of each image",
        needed_by=("coco2017-5k",),
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        weaker=("md5", "442b8da7639aecaf257c1dceb8ba8c80"),
        sum_source=_MANY,
        size=815_585_330,
        member="val2017",
        images=5_000,
    ),
    Asset(
        name="coco-2017-captions",
        what="COCO 2017, the captions of the validation images",
        address=f"{_COCO}/annotations/annotations_trainval2017.zip",
        file="annotations_trainval2017.zip",
        licence="CC BY 4.0",
        needed_by=("coco2017-5k",),
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        weaker=("md5", "f4bbac642086de4f52a3fdda2de5fa2c"),
        sum_source=_MANY,
        size=252_907_541,
        member="annotations/captions_val2017.json",
    ),
    Asset(
        name="parti-prompts",
        what="PartiPrompts: 1,632 prompts by category and challenge",
        address="https://raw.githubusercontent.com/google-research/parti/5a657978134374ce28973948331b319adef164bd/PartiPrompts.tsv",
        file="PartiPrompts.tsv",
        licence="Apache-2.0",
        needed_by=("parti-prompts",),
        sha256="fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
        sum_source=_MANY,
        size=123_107,
    ),
)
CATALOGUE: dict[str, Asset] = {each.name: each for each in _ALL}


def asset(name: str) -> Asset:
    """The asset of a name. Raises GigaganError for an unknown one, with the nearest."""
    if name not in CATALOGUE:
        raise GigaganError(f"no asset {name!r}; {nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


def assets(names: Iterable[str]) -> list[Asset]:
    """The assets of these names, in order and each once; of no names, all of them."""
    wanted = list(dict.fromkeys(names))
    return [asset(name) for name in wanted] if wanted else list(CATALOGUE.values())
