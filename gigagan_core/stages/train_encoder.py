"""The train-encoder stage: captioned images become a small CLIP, for one of two roles.

Inputs by name: ``data`` (training shard set), ``heldout`` (shard set for retrieval figures, never trained on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.config.encoder import EncoderSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact, Input

if TYPE_CHECKING:
    from gigagan_core.encoders.training import ContrastiveTraining

SPEC = StageSpec("train-encoder", kind="encoder", module=__name__)
CHECKPOINT = "checkpoint.pt"
CURVES = "curves.json"
MAX_BYTES_IN_MEMORY = 8 * 2**30


def run(settings: EncoderSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """Train an encoder, or continue one that was cut off.

    The artifact holds `open_clip_config.json`, `model.safetensors` and `curves.json`; its notes say the role.
    Raises GigaganError where an input is missing, empty, or too large to be held in memory.
    """
    missing = [name for name in ("data", "heldout") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"train-encoder needs {' and '.join(missing)}; give a shard set for each")
    return materialise(SPEC, settings, inputs, context, _produce, label=f"train-encoder ({settings.role})")


def _produce(work: StageWork) -> Outcome:
    import torch

    from gigagan_core.encoders.open_clip_encoder import save_encoder
    from gigagan_core.encoders.training import PREPROCESSING, ContrastiveTraining

    settings: EncoderSettings = work.settings
    if settings.use_gpu and not torch.cuda.is_available():
        raise GigaganError("use_gpu is set and torch finds no GPU; leave it out to train on the CPU")
    for name in ("data", "heldout"):
        data = work.inputs[name]
        work.run.log_dataset(name, data.uri, data.output_digest, data.manifest.get("counts"))
    images, captions = _load(work, "data", settings.image_size)
    held_out = _load(work, "heldout", settings.image_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        device = "cuda" if settings.use_gpu else "cpu"
        training = ContrastiveTraining(settings, images, captions, held_out, device)
        curves = _train(training, work)
        result = training.evaluate()
    finally:
        torch.set_num_threads(threads)
    model = training.trained()
    save_encoder(work.output, model, PREPROCESSING, name=_name(work), role=settings.role)
    curves.write(work.output / CURVES)
    work.run.log_artifact(work.output / CURVES)
    return Outcome(
        counts={"in": len(captions), "out": len(captions), "rejected": {}, "heldout": result.count},
        summary={
            "retrieval_r1": result.r1,
            "retrieval_r10": result.r10,
            "chance_r10": result.chance_r10,
            "retrieval_r10_over_chance": result.r10 / result.chance_r10,
            "images_seen": float(training.images_seen),
        },
        notes={
            "role": settings.role,
            "name": _name(work),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **_origin(work.inputs["data"]),
        },
    )


def _name(work: StageWork) -> str:
    """As the settings say, or after what it is trained on: a figure's name must not tell of other data."""
    from gigagan_core.data.openmoji import are_drawings

    settings: EncoderSettings = work.settings
    data = "openmoji" if are_drawings(work.inputs["data"].notes) else "own"
    return settings.name or f"{data}-{settings.role}"


def _origin(data: Artifact) -> dict[str, Any]:
    """Licence and attribution of the pictures: an encoder is made of them."""
    return {name: data.notes[name] for name in ("licence", "attribution") if name in data.notes}


def _load(work: StageWork, name: str, image_size: int) -> tuple[Any, list[str]]:
    """A shard set in memory: uint8 [N, 3, S, S] and captions."""
    from gigagan_core.data.reader import load_all
    from gigagan_core.data.shards import read_index

    rows = sum(shard.selected for shard in read_index(work.inputs[name]))
    if rows < 2:
        raise GigaganError(f"train-encoder: {name} has {rows} usable rows; give a shard set with at least 2")
    size = rows * 3 * image_size**2
    if size > MAX_BYTES_IN_MEMORY:
        raise GigaganError(
            f"train-encoder: {rows:,} images of {image_size} px take {size / 2**30:.0f} GiB of memory; give a smaller "
            "shard set, or a CLIP's weight file as ARCH:PATH instead of training one"
        )
    images, captions, _ = load_all(work.inputs[name], image_size)
    return images, captions


class _Curves:
    """Metrics by images seen, in the form the report reads: {"images": [...], "metrics": {name: [...]}}."""

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows

    def add(self, images: int, values: dict[str, float]) -> None:
        self.rows.append({"images": float(images), **values})

    def write(self, path: Any) -> None:
        import json

        names = sorted({name for row in self.rows for name in row} - {"images"})
        columns = {name: [row.get(name) for row in self.rows] for name in names}
        images = [int(row["images"]) for row in self.rows]
        path.write_text(json.dumps({"images": images, "metrics": columns}) + "\n", encoding="utf-8")


def _train(training: ContrastiveTraining, work: StageWork) -> _Curves:
    settings: EncoderSettings = work.settings
    checkpoint = work.path / CHECKPOINT
    curves = _Curves(training.load(checkpoint)["curves"] if checkpoint.is_file() else [])
    for row in curves.rows:  # a run that was cut off left its metrics in a record of its own
        work.run.log_metrics(
            {name: value for name, value in row.items() if name != "images"}, step=int(row["images"])
        )
    with console.progress(f"training {_name(work)}", total=settings.total_images, unit="images") as bar:
        bar.start_from(training.images_seen)
        losses: list[float] = []
        while not training.finished:
            before = training.images_seen
            step = training.step()
            losses.append(step["loss"])
            bar.set(training.images_seen, loss=step["loss"])
            if _passed(before, training, settings.log_every):
                values = {**step, "loss": sum(losses) / len(losses)}
                losses.clear()
                if _passed(before, training, settings.evaluate_every):
                    result = training.evaluate()
                    values |= {"retrieval_r1": result.r1, "retrieval_r10": result.r10}
                    bar.set(training.images_seen, recall_at_10=result.r10)
                curves.add(training.images_seen, values)
                work.run.log_metrics(values, step=training.images_seen)
            if _passed(before, training, settings.checkpoint_every) and not training.finished:
                training.save(checkpoint, curves=curves.rows)
    return curves


def _passed(before: int, training: ContrastiveTraining, every: int) -> bool:
    """Whether the last step crossed a multiple of `every` images, or was the last of all."""
    return before // every != training.images_seen // every or training.finished
