"""Ingest: tables of URLs and captions -> filter -> download -> rules -> one shard set.

Partitions are fetched as artifacts of their own, so a folder with one more table fetches that one only. The
shard set is their union: each tar with a table of every row and what became of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact, ExternalTable
from gigagan_core.store.fingerprint import digest

SPEC = StageSpec("ingest", kind="shard-set", module=__name__)


def run(
    settings: IngestSettings, inputs: Mapping[str, Any], context: RunContext, label: str | None = None
) -> Artifact:
    """The shard set of `inputs["metadata"]`: a parquet file, a folder of them, a URI, or a list of these.

    label: how the run is called where there are several, e.g. "ingest heldout".
    Raises GigaganError for tables that cannot be used, before anything is fetched, and over the error budget.
    """
    from gigagan_core.data.tables import find_tables

    metadata = inputs["metadata"]
    tables = list(metadata) if _are_tables(metadata) else find_tables(metadata)
    _check_schemas(tables, settings)
    return materialise(SPEC, settings, {"metadata": tables}, context, _produce, label=label)


def _are_tables(metadata: Any) -> bool:
    is_list = isinstance(metadata, Sequence) and not isinstance(metadata, str)
    return is_list and all(isinstance(item, ExternalTable) for item in metadata)


def _check_schemas(tables: list[ExternalTable], settings: IngestSettings) -> None:
    from gigagan_core.data.schemas import detect
    from gigagan_core.data.tables import read_head

    for table in tables:
        columns = read_head(table.uri).columns
        detect(columns, table.uri, settings.table_schema, settings.url_column, settings.caption_column)


def _produce(work: StageWork) -> Outcome:
    from gigagan_core.data.rules import Rules
    from gigagan_core.data.shards import Shard, read_table, write_index, write_shard
    from gigagan_core.stages.partitions import cut, fetch_partitions

    settings: IngestSettings = work.settings
    partitions = cut(work.inputs["metadata"], settings.rows_per_partition)
    fetching = fetch_partitions(partitions, work)
    rules, shards = Rules(settings), []
    for partition, artifact in zip(partitions, fetching.artifacts, strict=True):
        stem = artifact.path / "00000"
        whole = Shard(stem.with_suffix(".tar"), stem.with_suffix(".parquet"), partition.rows, 0)
        rows = rules.apply(read_table(whole))
        shards.append(write_shard(work.output, partition.number, whole.tar, rows))
    counts = rules.outcome()
    tables = work.inputs["metadata"]
    work.run.log_dataset(work.label, tables[0].uri, digest([table.sha256 for table in tables]), counts)
    if not counts["out"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items())
        raise GigaganError(
            f"none of {counts['in']} rows is left ({reasons}); see which rule is too strict for these tables "
            "and set it with --set"
        )
    write_index(work.output, shards)
    notes = _notes(settings, work)
    notes |= {
        "partitions": [artifact.fingerprint for artifact in fetching.artifacts],
        "schemas": sorted({result.schema for result in fetching.results}),
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


def _notes(settings: IngestSettings, work: StageWork) -> dict[str, Any]:
    """Licence and attribution, which also go into the shard set as a file."""
    from gigagan_core.data.shards import ATTRIBUTION_FILE

    licence, attribution = settings.licence, settings.attribution
    if settings.site == "openmoji":
        from gigagan_core.data import openmoji

        licence, attribution = licence or openmoji.LICENCE, attribution or openmoji.ATTRIBUTION
    given = {
        name: text for name, text in (("licence", licence), ("attribution", attribution)) if text is not None
    }
    if given:
        (work.output / ATTRIBUTION_FILE).write_text("\n".join(given.values()) + "\n", encoding="utf-8")
    return given
