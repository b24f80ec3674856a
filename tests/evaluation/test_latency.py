"""Times: every part apart, the warm-up not timed, the device waited for, memory seen."""

from __future__ import annotations

import json
import time

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import latency
from gigagan_core.evaluation.report_sections import timing_cells


def test_each_part_is_timed_at_each_batch_size(inputs):
    told = []
    timed = latency.time_models(
        inputs["model"].path,
        inputs["upsampler"].path,
        inputs["condition"].uri,
        batches=(1, 3),
        device="cpu",
        calls=3,
        warm_up=1,
        on_part=told.append,
    )
    places = [(each.part, each.batch) for each in timed.timings]
    assert places == [
        (part, batch) for part in ("text encoder", "base", "upsampler", "all") for batch in (1, 3)
    ]
    assert sum(told) == len(places)
    for each in timed.timings:
        assert 0 < each.p50 <= each.p95
        assert each.throughput == pytest.approx(each.batch / each.mean)
        assert (each.calls, each.device) == (3, "cpu")
    document = json.loads(json.dumps(timed.as_json()))
    assert document["timings"][2]["part"] == "base"
    assert document["threads"] == torch.get_num_threads()
    assert "latency/text-encoder/batch3/p95" in latency.as_metrics(timed.timings)


def test_preparation_and_warm_up_are_not_timed_and_quantiles_are_of_the_calls():
    calls = []

    def prepare(batch: int):
        time.sleep(0.2)

        def call():
            calls.append(batch)
            time.sleep({1: 0.2, 2: 0.2, 7: 0.06}.get(len(calls), 0.005))

        return call

    (timing,) = latency.measure({"part": prepare}, [4], "cpu", warm_up=2, calls=5)
    assert calls == [4] * 7
    assert 0.005 <= timing.p50 < 0.02
    assert 0.02 < timing.p95 < 0.1  # the one slow call
    assert timing.mean < 0.05


def test_the_device_is_waited_for_before_and_after_every_call(monkeypatch):
    order = []
    monkeypatch.setattr(latency, "_wait_for", lambda device: order.append("wait"))
    latency.measure({"part": lambda batch: lambda: order.append("call")}, [1], "cpu", warm_up=1, calls=2)
    assert order == ["call", "wait", "call", "wait", "wait", "call", "wait"]


def test_peak_memory_is_that_of_the_call_though_it_is_given_back():
    def prepare(batch: int):
        return lambda: torch.ones(batch * 2**20, dtype=torch.float32).sum()

    small, large = latency.measure({"part": prepare}, [8, 64], "cpu", warm_up=1, calls=2)
    assert 20 < small.peak_mib < 60
    assert 230 < large.peak_mib < 300


def test_the_upsampler_alone_or_of_another_size_has_no_time_for_all(inputs):
    timed = latency.time_models(
        inputs["model"].path, None, inputs["condition"].uri, batches=(1,), device="cpu", calls=1
    )
    assert [each.part for each in timed.timings] == ["text encoder", "base"]


def test_a_report_has_times_where_they_are_asked_for_and_is_the_same_artifact(inputs, tmp_path):
    from gigagan_core.config.base import result_settings
    from gigagan_core.config.evaluate import EvaluateSettings
    from gigagan_core.stages import evaluate
    from gigagan_core.stages.base import RunContext

    plain = EvaluateSettings(image_size=8, upsampled_size=16, patch_size=8, bootstrap_resamples=100)
    timed = plain.model_copy(update={"latency_batches": (1, 2)})
    assert result_settings(plain) == result_settings(timed)
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(timed, inputs, context)
        assert evaluate.run(plain, inputs, context).fingerprint == made.fingerprint
    stored = json.loads((made.path / "report.json").read_text())
    assert len(stored["latency"]) == 8
    assert not any("latency" in name for name in [*stored["metrics"], *made.summary])
    assert "text encoder, batch 2" in (made.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batches": (0,)}, "batch sizes and calls of at least 1"),
        ({"batches": (1,), "calls": 0}, "batch sizes and calls of at least 1"),
        ({"batches": (1,), "device": "cuda:7"}, "device 'cuda:7' cannot be used"),
        ({"batches": (1,), "device": "toaster"}, "device 'toaster' cannot be used"),
    ],
)
def test_what_cannot_be_timed_is_a_sentence(inputs, options, sentence):
    with pytest.raises(GigaganError, match=sentence):
        latency.time_models(
            inputs["model"].path, None, inputs["condition"].uri, **{"device": "cpu", **options}
        )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("2 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_a_batch_that_does_not_fit_is_a_row_without_times_and_the_others_are_timed(error):
    def prepare(batch: int):
        if batch == 8:
            raise error
        return lambda: None

    def runs_out_later(batch: int):
        def call():
            raise error

        return call

    told = []
    found = latency.measure(
        {"base": prepare, "all": runs_out_later}, [1, 8, 2], "cpu", calls=2, on_part=told.append
    )
    assert [(each.part, each.batch, each.fits) for each in found] == [
        *(("base", 1, True), ("base", 8, False), ("base", 2, True)),
        *(("all", 1, False), ("all", 8, False), ("all", 2, False)),
    ]
    assert sum(told) == 6
    lost = found[1]
    assert (lost.p50, lost.p95, lost.mean, lost.throughput, lost.peak_mib, lost.calls) == (None,) * 5 + (0,)
    assert not any("batch8" in name for name in latency.as_metrics(found))
    assert "did not fit into memory" in timing_cells(lost)
    with pytest.raises(RuntimeError, match="another defect"):
        latency.measure({"base": raising(RuntimeError("another defect"))}, [1], "cpu")


def raising(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def test_what_torch_refuses_to_allocate_did_not_fit():
    (found,) = latency.measure({"part": lambda batch: lambda: torch.empty(batch, 2**50)}, [8], "cpu")
    assert not found.fits


@pytest.mark.parametrize(("fails", "timed"), [("_generating", 3), ("time_models", 0)])
def test_an_evaluation_whose_timing_runs_out_of_memory_stands(inputs, tmp_path, monkeypatch, fails, timed):
    from gigagan_core.config.evaluate import EvaluateSettings
    from gigagan_core.stages import evaluate
    from gigagan_core.stages.base import RunContext

    monkeypatch.setattr(latency, fails, raising(torch.OutOfMemoryError("2 TiB")))
    settings = EvaluateSettings(
        image_size=8, upsampled_size=16, patch_size=8, bootstrap_resamples=100, latency_batches=(1,)
    )
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(settings, inputs, context)
    rows = json.loads((made.path / "report.json").read_text())["latency"]
    assert [row["part"] for row in rows if row["mean"] is not None] == ["text encoder", "upsampler", "all"][
        :timed
    ]
    assert [row["part"] for row in rows if row["mean"] is None] == ["base"][:timed]
    assert ("did not fit into memory" in (made.path / "report.html").read_text()) is bool(timed)


def test_batches_to_time_are_looked_at_before_the_judging():
    from pydantic import ValidationError

    from gigagan_core.config.evaluate import EvaluateSettings

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        EvaluateSettings(latency_batches=(8, 0))


def test_memory_on_a_gpu_is_the_parts_own_weights_and_what_its_calls_took(monkeypatch):
    def gpu(held: int, peak: int):
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held * 2**20)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak * 2**20)
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
        return torch.device("cuda")

    # three networks of 1,000 MiB are loaded, of which this part runs one
    memory = latency.PeakMemory(gpu(held=1000, peak=1250), weights=200 * 2**20)
    assert memory.mib() == 450


def test_every_part_counts_the_networks_that_it_runs():
    networks = [torch.nn.Linear(4, 2, bias=False), torch.nn.BatchNorm1d(4), torch.nn.Linear(1, 1)]
    assert latency.weight_bytes(*networks) == {
        "text encoder": 8,
        "base": 32,
        "upsampler": 72,  # weight, bias, running mean and variance, and an int64 count
        "all": 112,
    }
    assert latency.weight_bytes(networks[0], None, networks[2]) == {"text encoder": 8, "base": 32, "all": 40}
    small, large = latency.measure(
        dict.fromkeys("ab", lambda batch: lambda: None), [1], "cpu", weights={"b": 2**30}
    )
    assert large.peak_mib - small.peak_mib == pytest.approx(1024, abs=32)
