"""Ingest: tables of URLs and captions -> filter -> download -> rules -> one shard set.

Partitions are fetched as artifacts of their own, so a folder with one more table fetches that one only. The
shard set is their union: each tar with a table of every row and what became of it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.pages import log_data_page
from gigagan_core.store.artifact import Artifact, ExternalFile, ExternalTable
from gigagan_core.store.fingerprint import digest

if TYPE_CHECKING:
    import pyarrow as pa

SPEC = StageSpec("ingest", kind="shard-set", module=__name__)


def run(
    settings: IngestSettings, inputs: Mapping[str, Any], context: RunContext, label: str | None = None
) -> Artifact:
    """The shard set of `inputs["metadata"]`: a parquet file, a folder of them, a URI, or a list of these.

    label: how the run is called where there are several, e.g. "ingest heldout".
    Raises GigaganError for tables that cannot be used, before anything is fetched, and over the error budget.
    """
    from gigagan_core.data.tables import find_tables

    # An artifact is known by the numbers of its filter, not by the name of the preset that they came from.
    settings = settings.model_copy(update={"filter": settings.filter.resolved()})
    metadata = inputs["metadata"]
    tables = list(metadata) if _are_tables(metadata) else find_tables(metadata, context.warn)
    for warning in _warnings(_schemas(tables, settings), settings):
        context.warn(warning)
    given: dict[str, Any] = {"metadata": tables}
    if settings.block_list:
        given["block_list"] = _block_list(settings.block_list)
    return materialise(SPEC, settings, given, context, _produce, label=label)


def _block_list(place: str) -> ExternalFile:
    """The block list by the sums it holds: their order and the comments beside them decide nothing."""
    from gigagan_core.data.download import read_block_list

    return ExternalFile(place, digest(sorted(read_block_list(place))))


def _are_tables(metadata: Any) -> bool:
    is_list = isinstance(metadata, Sequence) and not isinstance(metadata, str)
    return is_list and all(isinstance(item, ExternalTable) for item in metadata)


def _schemas(tables: list[ExternalTable], settings: IngestSettings) -> set[str]:
    """The names of the tables' schemas; GigaganError where one has none."""
    from gigagan_core.data.schemas import detect
    from gigagan_core.data.tables import read_head

    names = set()
    for table in tables:
        columns = read_head(table.uri).columns
        found = detect(
            columns, table.uri, settings.table_schema, settings.url_column, settings.caption_column
        )
        names.add(found.name)
    return names


def _warnings(schemas: Iterable[str], settings: IngestSettings) -> list[str]:
    """What a person must hear of these tables. The embedded drawings only borrow a schema."""
    from gigagan_core.data.schemas import withdrawal_warning

    if settings.site is not None:
        return []
    said = [withdrawal_warning(name, settings.block_list is not None) for name in sorted(schemas)]
    return [warning for warning in said if warning is not None]


def _produce(work: StageWork) -> Outcome:
    from gigagan_core.data.rules import Rules
    from gigagan_core.data.shards import Shard, read_table, write_index, write_shard
    from gigagan_core.stages.partitions import cut, fetch_partitions

    settings: IngestSettings = work.settings
    partitions = cut(work.inputs["metadata"], settings.rows_per_partition)
    fetching = fetch_partitions(partitions, work)
    rules, shards, strangers = Rules(settings), [], 0
    for partition, artifact in zip(partitions, fetching.artifacts, strict=True):
        stem = artifact.path / "00000"
        whole = Shard(stem.with_suffix(".tar"), stem.with_suffix(".parquet"), partition.rows, 0)
        rows = rules.apply(read_table(whole))
        strangers += _strangers(rows)
        shards.append(write_shard(work.output, partition.number, whole.tar, rows))
    counts = rules.outcome()
    tables = work.inputs["metadata"]
    work.run.log_dataset(work.label, _place(tables), digest([table.sha256 for table in tables]), counts)
    rules.require_rows("these tables")
    write_index(work.output, shards)
    notes = _notes(settings, work, only_drawings=not strangers)
    log_data_page(work, shards, f"Shard set of {work.label}", notes)
    schemas = {result.schema for result in fetching.results}
    if warnings := _warnings(schemas, settings):
        notes["warnings"] = warnings
    notes |= {
        "partitions": [artifact.fingerprint for artifact in fetching.artifacts],
        "schemas": sorted(schemas),
        "missing_values": dict(sum((Counter(result.missing) for result in fetching.results), Counter())),
    }
    fresh = sum(
        result.rows for result, is_fresh in zip(fetching.results, fetching.fresh, strict=True) if is_fresh
    )
    summary = {
        "rows_in": counts["in"],
        "rows_out": counts["out"],
        "kept_share": counts["out"] / counts["in"],
        "fetched_urls": fresh,
        "fetched_urls_per_second": fresh / fetching.seconds,
    }
    return Outcome(counts=counts, summary=summary, notes=notes)


def _place(tables: Sequence[ExternalTable]) -> str:
    """Where the tables lie: the file, or what the places of several begin with."""
    first, *others = [table.uri.split("/") for table in tables]
    if not others:
        return tables[0].uri
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(first, *others, strict=False))
    return "/".join(part for part, *_ in shared)


def _strangers(rows: pa.Table) -> int:
    """How many of the rows that are kept are none of the embedded drawings."""
    import pyarrow.compute as pc

    from gigagan_core.data.openmoji import HOST

    urls = rows.filter(rows["selected"])["url"]
    return len(urls) - (pc.sum(pc.starts_with(urls, f"http://{HOST}/")).as_py() or 0)


def _notes(settings: IngestSettings, work: StageWork, only_drawings: bool) -> dict[str, Any]:
    """Licence and attribution, which also go into the shard set as a file.

    only_drawings: where the drawings are served, no picture came from elsewhere.
    """
    from gigagan_core.data.shards import ATTRIBUTION_FILE

    licence, attribution = settings.licence, settings.attribution
    if settings.site == "openmoji":
        from gigagan_core.data import openmoji

        part = "" if only_drawings else "Of a part of the pictures: "
        licence = licence or part + openmoji.LICENCE
        attribution = attribution or part + openmoji.ATTRIBUTION
    given = {
        name: text for name, text in (("licence", licence), ("attribution", attribution)) if text is not None
    }
    if given:
        (work.output / ATTRIBUTION_FILE).write_text("\n".join(given.values()) + "\n", encoding="utf-8")
    return given
