"""Import: pictures that are there already -> rules -> one shard set, of the same form as ingest makes.

Inputs by name: ``source`` (a folder of webdataset or img2dataset tars, of captioned pictures, or of one folder for
each class), ``captions`` (a table of captions or class names; optional).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.config.ingest import ImportSettings
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.forget import remembered
from gigagan_core.stages.pages import log_data_page
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.fingerprint import digest, sha256_file
from gigagan_core.text import some_of

if TYPE_CHECKING:
    import pyarrow as pa

    from gigagan_core.data.forget import Forgotten
    from gigagan_core.data.imports import ImportPlan, Piece
    from gigagan_core.data.shards import Shard

SPEC = StageSpec("import", kind="shard-set", module=__name__)


def run(
    settings: ImportSettings, inputs: Mapping[str, Any], context: RunContext, label: str | None = None
) -> Artifact:
    """The shard set of the pictures in `inputs["source"]`; its rows have a column `label`.

    label: how the run is called where there are several, e.g. "import heldout".
    Raises GigaganError for a folder or table that cannot be used, before anything is written, for a damaged tar, and
    where the rules leave no row.
    """
    from gigagan_core.data.imports import folder_sum, plan_import

    folder = Path(os.path.abspath(inputs["source"]))
    captions = Path(inputs["captions"]) if inputs.get("captions") else None
    plan = plan_import(folder, settings, captions)
    if plan.left_out:
        context.warn(
            f"{folder}: left out of layout={plan.layout}: {some_of(plan.left_out)}; unpack what is packed, and import "
            "tars and pictures from a folder each"
        )
    given: dict[str, Any] = {"source": ExternalFile(str(folder), folder_sum(folder))}
    if captions:
        given["captions"] = ExternalFile(str(captions), sha256_file(captions))
    return materialise(SPEC, settings, given, context, lambda work: _produce(work, plan), label=label)


def _produce(work: StageWork, plan: ImportPlan) -> Outcome:
    from gigagan_core.data.rules import Rules
    from gigagan_core.data.shards import read_table, write_index, write_shard

    rules, shards, class_captions = Rules(work.settings), [], Counter()
    for piece, shard in zip(plan.pieces, _shards(work, plan), strict=True):
        rows = read_table(shard)
        class_captions += _class_captions(rows)
        shards.append(write_shard(work.output, piece.number, shard.tar, rules.apply(rows)))
    counts = rules.outcome()
    rules.require_rows("these pictures")
    write_index(work.output, shards)
    source = work.inputs["source"]
    work.run.log_dataset(work.label, source.uri, source.sha256, counts)
    notes = {"layout": plan.layout, **_attribution(work)}
    log_data_page(work, shards, f"Shard set of {work.label}", notes)
    if plan.labels:
        notes["classes"] = list(plan.labels)
    if class_captions:
        notes["captions_from"] = dict(class_captions)
    summary = {"rows_in": counts["in"], "rows_out": counts["out"], "kept_share": counts["out"] / counts["in"]}
    return Outcome(counts=counts, summary=summary, notes=notes)


def _class_captions(rows: pa.Table) -> Counter[str]:
    """How many rows of a tar are captioned by their class alone, by where its name is from."""
    known = (json.loads(extra) for extra in rows["extra"].to_pylist() if extra and '"caption_from"' in extra)
    return Counter(origin for each in known if isinstance(origin := each.get("caption_from"), str))


def _shards(work: StageWork, plan: ImportPlan) -> Iterator[Shard]:
    """Every piece's tar and table as they were found, in order; a run that was cut off goes on with what lacks."""
    forgotten = remembered(work.store)
    folder = _pieces_folder(work.path, forgotten)
    with (
        console.progress("importing", total=len(plan.pieces), unit="shards") as bar,
        ThreadPoolExecutor(work.settings.threads) as threads,
    ):
        futures = [
            threads.submit(_import, piece, plan, work.settings, folder, forgotten) for piece in plan.pieces
        ]
        try:
            for future in futures:
                yield future.result()
                bar.advance(1)
        finally:
            for future in futures:
                future.cancel()


def _pieces_folder(scratch: Path, forgotten: Forgotten) -> Path:
    """Where this run's pieces lie: those made before the last request to forget hold what it named, and go."""
    name = f"pieces-{digest(forgotten.as_json())[:12]}" if forgotten else "pieces"
    for older in scratch.glob("pieces*"):
        if older.name != name:
            shutil.rmtree(older)
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder


def _import(
    piece: Piece, plan: ImportPlan, settings: ImportSettings, folder: Path, forgotten: Forgotten
) -> Shard:
    from gigagan_core.data.import_writing import import_piece
    from gigagan_core.data.shards import Shard

    shard = Shard(folder / f"{piece.number:05d}.tar", folder / f"{piece.number:05d}.parquet", 0, 0)
    if not shard.parquet.is_file():
        partial = shard.parquet.with_suffix(".partial")
        import_piece(plan, piece, settings, shard.tar, partial, forgotten)
        # The table comes last, in one step: without it a tar does not count.
        os.replace(partial, shard.parquet)
    return shard


def _attribution(work: StageWork) -> dict[str, str]:
    """Licence and attribution, which also go into the shard set as a file."""
    from gigagan_core.data.shards import ATTRIBUTION_FILE

    texts = {"licence": work.settings.licence, "attribution": work.settings.attribution}
    given = {name: text for name, text in texts.items() if text is not None}
    if given:
        (work.output / ATTRIBUTION_FILE).write_text("\n".join(given.values()) + "\n", encoding="utf-8")
    return given
