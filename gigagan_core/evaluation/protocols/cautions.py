"""What must be said with a protocol's figures: where a run is not the protocol, or a network not the published one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.evaluation.protocols.generation import place_of
from gigagan_core.evaluation.protocols.prompts import PromptSet
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.training.checkpoint import read_config

if TYPE_CHECKING:
    from gigagan_core.evaluation.protocols.run import ProtocolRun

SAW_DATA = "The model was trained on the very images it is judged by."


class Network(NamedTuple):
    """A network that judges. asset: whose place its weights have. name: in the figures. sha256: of its weights."""

    asset: str
    name: str
    sha256: str


def of_run(run: ProtocolRun, prompts: PromptSet, real: int | None, lost: int) -> list[str]:
    """Sentences for every figure. real: images of the reference, or None; lost: those of the data that are damaged."""
    protocol, count = run.protocol, len(prompts.prompts)
    takes_own = protocol.prompts is not None and protocol.prompts.layout == "file"
    found = []
    if count < protocol.count and not takes_own:
        found.append(
            f"{count:,} images where protocol {protocol.name} has {protocol.count:,}: do not quote these figures as its"
        )
    known = CATALOGUE.get(str(protocol.reference))
    if known is not None and known.images not in (None, real):
        found.append(
            f"{real or 0:,} real images where {known.name} has {known.images:,}: a distance to them is not the "
            "protocol's"
        )
    found += _of_sets(run)
    made = read_config(Path(place_of(run.model.upsampler or run.model.base)))["image_size"]
    if made != protocol.made:
        found.append(
            f"the model makes images of {made} px and protocol {protocol.name} is for {protocol.made} px"
        )
    if run.model.psi != protocol.psi:
        found.append(
            f"images with truncation psi = {run.model.psi:g} where protocol {protocol.name} has {protocol.psi:g}"
        )
    if run.prompts is not None and not takes_own:
        found.append(f"prompts of {run.prompts} took the place of the protocol's")
    if lost:
        found.append(f"{lost} real images of the set are damaged and were left out")
    return [*found, SAW_DATA] if run.saw_data else found


def of_networks(run: ProtocolRun, networks: Iterable[Network]) -> dict[str, tuple[str, ...]]:
    """Sentences for the figures of a network, by its name."""
    return {each.name: tuple(_of_network(run, each)) for each in networks}


def _of_network(run: ProtocolRun, network: Network) -> list[str]:
    found, short = [], network.sha256[:12]
    expected = CATALOGUE[network.asset].sha256
    if expected is None and network.asset not in run.fetched:
        found.append(
            f"nothing shows that {network.name} (sha256 {short}) is {network.asset}, whose sum no public source states"
        )
    elif expected not in (None, network.sha256):
        found.append(
            f"{network.name} is not the published {network.asset} (sha256 {short}): figures by it stand beside no "
            "published ones"
        )
    if role := run.teachers.get(network.sha256):
        found.append(
            f"{network.name} (sha256 {short}) took part in making the model ({role}): figures by it flatter the model"
        )
    return found


def _of_sets(run: ProtocolRun) -> list[str]:
    """Of the real images and captions that are not the catalogue's, or not known to be."""
    protocol, found = run.protocol, []
    captions = protocol.prompts.asset if protocol.prompts and run.prompts is None else None
    for name in (protocol.reference, captions):
        if name not in CATALOGUE or name in run.fetched:
            continue
        each, path = CATALOGUE[name], run.assets[name]
        if each.member is not None:  # the sum is the archive's: of what was unpacked of one nobody states any
            found.append(
                f"{path} has the place of {name} and nothing shows that it is the same: put {each.file} into the "
                f"assets folder, where `gigagan assets fetch {name}` takes it in by its sum"
            )
        elif (sha256 := sha256_file(path)) != each.sha256:
            found.append(f"{path} is not the published {name} (sha256 {sha256[:12]})")
    return found
