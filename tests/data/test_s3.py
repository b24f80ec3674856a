"""The same stages against an S3 server on loopback: write, resume, read, forget."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data.forget import Forgotten
from gigagan_core.data.openmoji import HOST, PublishedSet
from gigagan_core.data.reader import load_all
from gigagan_core.doctor import storage
from gigagan_core.doctor.request import Request
from gigagan_core.errors import GigaganError
from gigagan_core.stages import ingest
from gigagan_core.stages.base import RunContext
from gigagan_core.stages.forget import forget
from gigagan_core.store import claims, garbage, pins
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import open_store


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in an empty bucket."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"shards-{secrets.token_hex(4)}"  # the server's buckets outlive it within a process
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/store"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def run(uri: str, published: PublishedSet, settings: IngestSettings) -> tuple[Artifact, list[bool]]:
    """The shard set, and for each artifact looked for whether it was there."""
    with RunContext.open(uri) as context:
        made = ingest.run(settings, {"metadata": str(published.train)}, context)
        return made, [line.cached for line in context.history]


def test_what_is_written_is_found_again_and_can_be_read(
    bucket: str,
    published: PublishedSet,
    ingest_settings: Callable[..., IngestSettings],
    tmp_path,
    monkeypatch,
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "one"))
    made, cached = run(bucket, published, ingest_settings())
    assert made.uri.startswith(f"{bucket}/ingest/")
    assert cached == [False]
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "another machine"))
    again, cached = run(bucket, published, ingest_settings())
    assert cached == [True]
    assert again.output_digest == made.output_digest
    images, captions, keys = load_all(again, image_size=16)
    assert len(images) == len(captions) == len(set(keys)) == made.manifest["counts"]["out"] > 20


def test_a_folder_of_a_bucket_is_claimed_once(bucket: str, monkeypatch) -> None:
    fs, folder = open_store(bucket).fs, f"{bucket}/ingest/folder"
    assert [claims.claim(fs, folder, owner) for owner in (b"one", b"two", b"one")] == [True, False, True]
    # Both look before either writes: the server lets one of them.
    read, seen = claims._read, []
    monkeypatch.setattr(claims, "_read", lambda *place: read(*place) if seen else seen.append(place))
    assert not claims.claim(fs, folder, b"three")


def test_partitions_that_are_there_are_not_fetched_again(
    bucket: str,
    published: PublishedSet,
    ingest_settings: Callable[..., IngestSettings],
    tmp_path,
    monkeypatch,
) -> None:
    """A run that lost everything but the store goes on: the rules are applied anew, nothing is asked for."""
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "one"))
    run(bucket, published, ingest_settings())
    stricter = ingest_settings(rules={"min_caption_words": 2}, fetch={"hosts": {}})
    made, cached = run(bucket, published, stricter)
    assert cached == [False]
    assert made.summary["fetched_urls"] == 0


def test_samples_are_forgotten_in_a_bucket_too(
    bucket: str,
    published: PublishedSet,
    ingest_settings: Callable[..., IngestSettings],
    tmp_path,
    monkeypatch,
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "one"))
    made, _ = run(bucket, published, ingest_settings())
    _, captions, keys = load_all(made, image_size=16)
    store = open_store(bucket)
    removal = forget(store, Forgotten.of(hosts=[HOST]))
    assert {each.kind for each, _ in removal.rows} == {"partition", "shard-set"}
    kept = tmp_path / "one" / "cache"
    assert not any((kept / each.output_digest).exists() for each, _ in removal.rows), "no copy stays here"
    after = store.find("ingest", made.fingerprint)
    assert after.manifest["counts"]["out"] == 0
    with pytest.raises(GigaganError, match="no selected sample"):
        load_all(after, image_size=16)
    assert len(keys) == len(captions) > 0


def test_what_nothing_refers_to_is_removed_from_a_bucket(
    bucket: str,
    published: PublishedSet,
    ingest_settings: Callable[..., IngestSettings],
    tmp_path,
    monkeypatch,
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "one"))
    kept, _ = run(bucket, published, ingest_settings())
    other, _ = run(bucket, published, ingest_settings(rules={"min_caption_words": 2}))
    assert other.path.is_dir()
    store = open_store(bucket)
    pins.pin(store, kept)
    month = timedelta(days=30)
    assert garbage.plan(store, month).remove == []
    later = time.time() + 40 * 86400
    monkeypatch.setattr(garbage, "time", SimpleNamespace(time=lambda: later))
    gone = garbage.collect(store, garbage.plan(store, month), month)
    assert gone.remove == [other]
    assert gone.bytes == other.bytes > 0
    assert not (tmp_path / "one" / "cache" / other.output_digest).exists(), "no copy stays here"
    left = open_store(bucket)
    assert left.find("ingest", other.fingerprint) is None
    assert len(left.artifacts("download")) == 2
    assert left.find("ingest", kept.fingerprint) == kept


def test_a_bucket_is_probed_and_left_as_it_was(bucket: str) -> None:
    found = list(storage.probed(Request(store=bucket)))
    assert [each.status for each in found] == ["ok", "ok"], found
    assert open_store(bucket).fs.find(bucket) == []


def test_a_store_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(GigaganError, match="store s3://shards/store cannot be reached"):
        open_store("s3://shards/store")
    s3fs.S3FileSystem.clear_instance_cache()
