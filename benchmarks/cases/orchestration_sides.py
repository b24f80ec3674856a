"""What orchestration costs where there is next to no work: empty partitions, a cached pipeline, a stage of one URL."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.side_by_side import ROOT, answer


class Partitions:
    """`ingest`'s partitions, each an artifact, whose download does nothing. again: all of them are there already."""

    parameters = None

    def __init__(self, options: dict[str, Any]):
        from gigagan_core.data.download import PartitionResult
        from gigagan_core.stages import partitions

        self.calls = options["partitions"]
        self._again = options["again"]
        partitions.download_partition = lambda *_: PartitionResult(rows=1, success=1)
        self._folder = tempfile.TemporaryDirectory()
        self._runs = 0

    def warm_up(self) -> None:
        # Half a second of imports, and the digest of the source.
        self._fetch("warm", 10)
        if self._again:
            self._fetch("again", self.calls)

    def run(self) -> None:
        self._runs += 1
        found = self._fetch("again" if self._again else f"run-{self._runs}", self.calls)
        assert sum(found.fresh) == (0 if self._again else self.calls)

    def _fetch(self, store: str, number: int) -> Any:
        from gigagan_core.config.ingest import IngestSettings
        from gigagan_core.stages.base import RunContext, StageWork
        from gigagan_core.stages.partitions import cut, fetch_partitions
        from gigagan_core.store.artifact import ExternalTable
        from gigagan_core.tracking.null import NullRun

        tables = [
            ExternalTable(f"/tables/{index:05d}.parquet", hashlib.sha256(str(index).encode()).hexdigest(), 1)
            for index in range(number)
        ]
        settings = IngestSettings(ray_tasks=False)
        with RunContext.open(f"{self._folder.name}/{store}") as context:
            folder = context.store.scratch()
            work = StageWork(folder, folder, settings, {}, context.store, NullRun(), context, "ingest")
            return fetch_partitions(cut(tables, settings.rows_per_partition), work)


MAIN = "from gigagan_core.cli import main; main()"
COMMAND = """
import atexit, json, sys
heavy = lambda: "HEAVY " + json.dumps(sorted({"torch", "ray"} & set(sys.modules)))
atexit.register(lambda: print(heavy(), file=sys.stderr))
sys.argv[1:] = ["pipeline", "--preset", sys.argv[1], "--json"]
from gigagan_core.cli import main
main()
"""


class CachedPipeline:
    """The command `gigagan pipeline` where every stage has its artifact."""

    parameters, calls = None, 1

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._modules: dict[str, list[str]] = {}
        self._environment = {**os.environ, "GIGAGAN_HOME": options["home"], "PYTHONPATH": str(ROOT)}
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "GIGAGAN_STORE"):
            self._environment.pop(name, None)

    def warm_up(self) -> None:
        self.run()

    def run(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, self._options["preset"]],
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr[-2000:])
        stages = json.loads(done.stdout)["stages"]
        assert all(stage["cached"] for stage in stages), [s["label"] for s in stages if not s["cached"]]
        heavy = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
        self._modules = {"imported": json.loads(heavy.removeprefix("HEAVY "))}

    def facts(self) -> dict[str, Any]:
        """What the last run had imported of torch and ray."""
        return self._modules


FLOW = """
import json, sys
from flows.ingest import ingest
metadata, hosts = sys.argv[1:]
print(ingest(preset="tiny", metadata=metadata, overrides=[f"fetch.hosts={hosts}"]))
"""


class UncachedStage:
    """The flow `ingest`, in a process of its own, of a table with one URL, which no artifact has yet.

    environment: of a shell that uses running servers. port: of a site with pictures.
    """

    parameters, calls = None, 1

    def __init__(self, options: dict[str, Any]):
        self._environment = {**os.environ, **options["environment"], "PYTHONPATH": str(ROOT)}
        self._port = options["port"]
        self._folder = tempfile.TemporaryDirectory()
        self._made: list[str] = []

    def warm_up(self) -> None:
        self.run()

    def run(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = Path(self._folder.name) / f"{len(self._made)}.parquet"
        url = f"http://images.example/{os.getpid()}-{len(self._made)}/0.jpg"
        pq.write_table(pa.table({"url": [url], "caption": ["a picture"]}), table)
        hosts = json.dumps({"images.example": f"127.0.0.1:{self._port}"})
        fingerprint = self._said("-c", FLOW, str(table), hosts).split()[-1]
        assert fingerprint not in self._made
        self._made.append(fingerprint)

    def facts(self) -> dict[str, Any]:
        """Pictures in the shard set of each run but the first; by the store, after the last one."""
        shown = [
            json.loads(self._said("-c", MAIN, "store", "show", each, "--json")) for each in self._made[1:]
        ]
        return {"pictures": [each["manifest"]["counts"]["out"] for each in shown]}

    def _said(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=self._environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr[-2000:])
        return done.stdout


if __name__ == "__main__":
    import importlib.metadata

    answer(
        {"partitions": Partitions, "pipeline": CachedPipeline, "stage": UncachedStage},
        {name: importlib.metadata.version(name) for name in ("prefect", "mlflow", "ray")},
    )
