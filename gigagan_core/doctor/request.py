"""What a doctor's visit is about."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from gigagan_core import environment
from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.config import presets
from gigagan_core.config.backend import BackendKind, BackendSettings
from gigagan_core.config.base import all_settings, flat
from gigagan_core.config.encoder import demo_encoder

Part = Literal["base", "upsampler"]
PARTS: tuple[Part, ...] = ("base", "upsampler")
_PREFIX = "asset:"


@dataclass(frozen=True)
class Request:
    """preset: what is to run. backend: where. store: its URI. plan: whether memory on the GPUs is counted.

    ray_address: of the cluster's dashboard. kube_api: address of the Kubernetes API; None: as kubectl finds it.
    """

    preset: str = "demo"
    backend: BackendKind = "local"
    store: str = field(default_factory=environment.store_uri)
    plan: bool = True
    ray_address: str | None = field(default_factory=lambda: os.environ.get("RAY_API_SERVER_ADDRESS"))
    namespace: str = "default"
    kube_api: str | None = None
    kube_context: str | None = None

    @classmethod
    def at(cls, site: BackendSettings, **given: Any) -> Request:
        """A request from what a site's settings say (`GIGAGAN_BACKEND`); given: what is not None of it goes before."""
        kuberay = site.kuberay
        said = {
            "backend": site.kind,
            "ray_address": site.ray_job.address,
            "namespace": kuberay.namespace,
            "kube_api": kuberay.api_server,
            "kube_context": kuberay.context,
        }
        values = said | {name: value for name, value in given.items() if value is not None}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def sections(self) -> dict[str, Any]:
        """The preset's settings by section: of a whole pipeline, or the one that it is of."""
        part = presets.PRESETS[self.preset].part
        if part is not None:
            return {part: presets.section(self.preset, part)}
        settings = presets.preset(self.preset)
        return {name: getattr(settings, name) for name in type(settings).model_fields}

    def trainings(self) -> dict[Part, Any]:
        """The settings of the GANs that are trained."""
        sections = self.sections()
        return {part: sections[part] for part in PARTS if part in sections}

    def wants_gpu(self) -> bool:
        """Whether a training of the preset is to run on GPUs."""
        return any(settings.use_gpu for settings in self.trainings().values())

    def assets(self) -> list[str]:
        """Names in the catalogue of the files from outside that the preset needs."""
        from gigagan_core.config.evaluate import OPENMOJI

        sections = {name: each for name, each in self.sections().items() if each is not None}
        named = [name for each in sections.values() for name in _named_in(each)]
        evaluated = sections.get("evaluate")
        if evaluated is not None and evaluated.protocol != OPENMOJI:
            from gigagan_core.evaluation.protocols.named import protocol

            needed = protocol(evaluated.protocol, evaluated.mode).assets
            named += [name for name in needed if name not in evaluated.assets]
        if "upsampler" in sections and sections["upsampler"].training.losses.lpips:
            named.append("lpips-vgg")
        return [name for name in dict.fromkeys(named) if name in CATALOGUE]

    def usual_assets(self) -> dict[str, str]:
        """What a preset of one model is conditioned or judged by, unless another file is named: asset -> option."""
        if presets.PRESETS[self.preset].part is None:
            return {}
        found = {}
        for settings in self.trainings().values():
            network = settings.discriminator
            if network.text_conditioned and network.text_dim != demo_encoder("condition").text.width:
                found["clip-vit-l14"] = "--encoder"
            if network.vision_layers:
                found["clip-vit-b32"] = "--vision-encoder"
        return found


def _named_in(settings: Any) -> list[str]:
    """Assets that settings name as ``asset:NAME`` or ``READER:asset:NAME``."""
    texts = [value for value in flat(all_settings(settings)).values() if isinstance(value, str)]
    return [text.rpartition(_PREFIX)[2] for text in texts if _PREFIX in text]
