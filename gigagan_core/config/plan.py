"""Settings of `gigagan plan`: the GPUs, and everything that a plan assumes and cannot count."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from gigagan_core.config.base import Settings
from gigagan_core.errors import nearest


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, from its maker's data sheet; dense figures, never those with sparsity.

    memory_gib: on the device. bfloat16, tf32, float32: peak FLOP/s of matrix products in that precision (float32: of
    the ordinary cores). nvlink: bytes a second to other GPUs of its node, one direction. network: bytes a second of
    its share of the node's network cards, one direction, in the maker's own systems.
    """

    memory_gib: float
    bfloat16: float
    tf32: float
    float32: float
    nvlink: float
    network: float
    source: str


_A100 = "NVIDIA A100 data sheet (SXM); DGX A100: eight 200 Gb/s cards a node"
_H100 = (
    "NVIDIA H100 data sheet (SXM), half of the figures with sparsity; DGX H100: eight 400 Gb/s cards a node"
)
_H200 = "NVIDIA H200 data sheet (SXM), half of the figures with sparsity; eight 400 Gb/s cards a node"

GPUS: dict[str, Gpu] = {
    "a100-40gb": Gpu(40, 312e12, 156e12, 19.5e12, 300e9, 25e9, _A100),
    "a100-80gb": Gpu(80, 312e12, 156e12, 19.5e12, 300e9, 25e9, _A100),
    "h100-80gb": Gpu(80, 989.4e12, 494.7e12, 66.9e12, 450e9, 50e9, _H100),
    "h200-141gb": Gpu(141, 989.4e12, 494.7e12, 66.9e12, 450e9, 50e9, _H200),
}


def gpu_named(device_name: str) -> Gpu | None:
    """The data sheet of what a driver calls "NVIDIA H100 80GB HBM3", or None where it is none of `GPUS`."""
    said = device_name.lower()
    for name, sheet in GPUS.items():
        kind, memory = name.split("-")
        # A PCIe card of the same name is slower than the sheet's.
        if kind in said and "pcie" not in said and (memory in said or kind == "h200"):
            return sheet
    return None


class PlanSettings(Settings):
    """What a plan assumes. Every value is printed with the plan."""

    gpu: str = "a100-80gb"
    """A name of `GPUS`; gives peak FLOP/s, memory and bandwidths."""

    gpu_memory: float | None = Field(None, gt=0)
    """GiB on a GPU; None: the data sheet's."""

    reserve: float = Field(0.1, ge=0, lt=1)
    """Share of the memory that no tensor gets: the driver's and NCCL's, libraries' workspaces, fragmentation. Ours."""

    mfu: float = Field(0.3, gt=0, le=1)
    """Share of the peak that the counted work reaches, what is recomputed counted as work. Ours; to be measured."""

    gpus_per_node: int = Field(8, ge=1)
    link_efficiency: float = Field(0.7, gt=0, le=1)
    """Share of a link's bandwidth that collectives reach. Ours."""

    gpu_hour_price: float = Field(2.5, ge=0)
    """Dollars for one GPU and hour. Ours; ask your provider."""

    @field_validator("gpu")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in GPUS:
            raise ValueError(f"unknown GPU; {nearest(name, GPUS)}")
        return name

    @property
    def sheet(self) -> Gpu:
        """The GPU's data sheet."""
        return GPUS[self.gpu]

    @property
    def memory_bytes(self) -> float:
        """What tensors may take on one GPU, bytes."""
        return (self.gpu_memory or self.sheet.memory_gib) * 2**30 * (1 - self.reserve)

    def bandwidth(self, gpus: int) -> float:
        """Bytes a second that each GPU of a ring of `gpus` sends and receives at once.

        Within a node NVLink; across nodes the slower of that and the node's network, whose cards share the ring.
        """
        link = self.sheet.nvlink
        if gpus > self.gpus_per_node:
            link = min(link, self.sheet.network * self.gpus_per_node)
        return link * self.link_efficiency
