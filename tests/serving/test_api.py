"""The API over a fake backend: what it takes, what it refuses and how, what it counts."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import NotFinite
from gigagan_core.inference.outputs import read_record
from gigagan_core.inference.recipes import Interpolation, Point, PromptMixing
from gigagan_core.serving.backend import ReplicasLost

from .conftest import LIMITS, FakeBackend, encoded


def refused(response, status: int) -> str:
    """The one sentence of a refusal."""
    assert response.status_code == status, response.text
    document = response.json()
    assert set(document) == {"error"}
    sentence = document["error"]
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert 0 < len(sentence) < 600
    return sentence


def opened(picture: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture["png"])))


# ---- generate --------------------------------------------------------------------------------------


def test_every_prompt_has_count_pictures_keyed_as_on_the_command_line(client, backend) -> None:
    asked = {"prompts": ["a dog", "a cat"], "seed": 7, "count": 2, "truncation": 0.5, "upsample": True}
    response = client.post("/v1/generate", json=asked)
    assert response.status_code == 200
    whats = [job.what for job in backend.jobs]
    assert whats == [
        Point(prompt=prompt, seed=7, index=index, truncation=0.5)
        for prompt in ("a dog", "a cat")
        for index in (0, 1)
    ]
    assert all(job.upsample for job in backend.jobs)
    pictures = response.json()["pictures"]
    assert [opened(picture).getpixel((0, 0))[0] for picture in pictures] == [0, 1, 2, 3]
    record = read_record(io.BytesIO(base64.b64decode(pictures[1]["png"])))
    assert record == pictures[1]["record"]
    assert (record["prompt"], record["seed"], record["index"]) == ("a dog", 7, 1)
    assert record["model"]["name"] == "tiny"
    assert record["upsampler"]["name"] == "larger"


def test_two_prompts_are_blended_or_crossed_over(client, backend) -> None:
    for mixing in ({"mix": 0.25}, {"crossover": 3}):
        answer = client.post("/v1/generate", json={"prompts": ["a", "b"], "mixing": mixing, "count": 2})
        assert len(answer.json()["pictures"]) == 2
    blended, _, crossed, _ = (job.what for job in backend.jobs)
    assert blended == Interpolation(prompts=("a", "b"), rows=1, columns=1, shares=(0.25,))
    assert crossed == PromptMixing(first=(Point(prompt="a"),), second=(Point(prompt="b"),), layers=(3,))
    assert answer.json()["pictures"][0]["record"]["recipe"]["kind"] == "prompt-mixing"


def test_a_single_picture_comes_as_png_where_it_is_asked_for(client) -> None:
    answer = client.post("/v1/generate", json={"prompts": ["a"]}, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)
    several = client.post(
        "/v1/generate", json={"prompts": ["a", "b"]}, headers={"accept": "image/png, text/html"}
    )
    assert "holds one picture, and there are 2" in refused(several, 406)
    either = {"accept": "application/json, image/png"}
    assert client.post("/v1/generate", json={"prompts": ["a"]}, headers=either).json()["pictures"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "prompts: Field required"),
        ({"prompts": []}, "prompts: List should have at least 1 item"),
        ({"prompts": "a dog"}, "prompts: Input should be a valid list"),
        ({"prompts": [["a"]]}, "prompts.0"),
        ({"prompts": ["a"], "promts": 1}, "promts: Extra inputs are not permitted"),
        ({"prompts": ["x" * 41]}, "a prompt has 41 characters, and at most 40 are taken"),
        ({"prompts": ["a"], "count": 5}, "5 pictures are asked for, and a request may ask for 4"),
        ({"prompts": ["a"] * 5}, "5 pictures are asked for"),
        ({"prompts": ["a"], "count": 10**30}, "pictures are asked for"),
        ({"prompts": ["a"], "count": 0}, "count: Input should be greater than or equal to 1"),
        ({"prompts": ["a"], "seed": -1}, "seed"),
        ({"prompts": ["a"], "seed": 2**63}, "seed"),
        ({"prompts": ["a"], "seed": [1, 2]}, "seed: Input should be a valid integer"),
        ({"prompts": ["a"], "truncation": 3}, "truncation"),
        ({"prompts": ["a"], "noise": -0.1}, "noise"),
        (
            {"prompts": ["a"], "noise": 0.6, "upsample": True},
            "noise: Input should be less than or equal to 0.5",
        ),
        ({"prompts": ["a"], "noise": 0.1}, "noise is of the upsampler's input; ask with upsample"),
        ({"prompts": ["a"], "mixing": {"mix": 0.5}}, "mixing takes two prompts, not 1"),
        ({"prompts": ["a", "b"], "mixing": {}}, "mixing: give mix or crossover, one of them"),
        ({"prompts": ["a", "b"], "mixing": {"mix": 0.5, "crossover": 1}}, "mixing: give mix or crossover"),
        ({"prompts": ["a", "b"], "mixing": {"mix": 1.5}}, "mixing.mix"),
        ({"prompts": ["a", None], "mixing": {"mix": 0.5}}, "mixing takes two prompts; give text for both"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(client, backend, asked, sentence) -> None:
    assert sentence in refused(client.post("/v1/generate", json=asked), 422)
    assert backend.jobs == []


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"{", b"\xff\xfe", b'{"prompts": ["a"], "seed": 1', b"[" * 15_000, b"nul"],
)
def test_what_is_no_json_is_refused(client, body) -> None:
    answer = client.post("/v1/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code)


@pytest.mark.parametrize("text", ['{"prompts": ["\\ud800"]}', '{"prompts": ["a"], "truncation": NaN}'])
def test_what_json_can_write_and_nobody_can_mean_is_refused(client, backend, text) -> None:
    answer = client.post("/v1/generate", content=text, headers={"content-type": "application/json"})
    refused(answer, 422)
    assert backend.jobs == []


# ---- upsample --------------------------------------------------------------------------------------


def test_a_picture_comes_as_a_form_or_as_base64(client, backend) -> None:
    form = client.post(
        "/v1/upsample", files={"image": ("a.png", encoded())}, data={"scale": "2.5", "noise": "0.1"}
    )
    text = base64.b64encode(encoded(kind="JPEG")).decode()
    plain = client.post("/v1/upsample", json={"image": text, "prompt": "a dog", "seed": 4})
    as_url = client.post("/v1/upsample", json={"image": f"data:image/jpeg;base64,{text}"})
    assert [answer.status_code for answer in (form, plain, as_url)] == [200, 200, 200]
    sizes = [opened(answer.json()["pictures"][0]).size for answer in (form, plain, as_url)]
    assert sizes == [(25, 15), (40, 24), (40, 24)]
    assert [(job.scale, job.noise, job.seed, job.prompt) for job in backend.enlarged] == [
        (2.5, 0.1, 0, None),
        (None, 0.0, 4, "a dog"),
        (None, 0.0, 0, None),
    ]
    assert form.json()["pictures"][0]["record"]["upsampler"]["name"] == "larger"


def test_a_label_in_a_form_is_a_number_where_the_upsampler_wants_one(client, backend) -> None:
    def ask(prompt: str):
        return client.post("/v1/upsample", files={"image": ("a.png", encoded())}, data={"prompt": prompt})

    assert ask("3").status_code == 200
    classes = {**backend.facts["upsampler"], "conditioning": "class", "classes": 10}
    backend.facts = {**backend.facts, "upsampler": classes}
    assert ask("3").status_code == 200
    assert [job.prompt for job in backend.enlarged] == ["3", 3]
    for text in ("a dog", "", "-1", "9" * 5000):
        assert "is no label; give a number" in refused(ask(text), 422)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels, and which has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the picture is none that is known"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the picture is none that is known"),
        (encoded(kind="GIF"), "the picture is none that is known"),
        (encoded()[:-25], "the picture cannot be decoded"),
        (encoded((65, 3)), "65 x 3 pixels, and at most 64 a side"),
        (bomb(5_000), "5000 x 5000 pixels, and at most 64 a side"),
        (bomb(60_000), "far more than the 64 pixels a side"),
        (bomb(32), "cannot be decoded"),
    ],
    ids=["nothing", "svg", "gif", "cut", "large", "bomb", "far too large", "no pixels"],
)
def test_what_is_no_picture_or_too_large_is_refused_before_it_is_unpacked(
    client, backend, body, sentence
) -> None:
    assert sentence in refused(client.post("/v1/upsample", files={"image": ("a.png", body)}), 422)
    text = base64.b64encode(body).decode()
    assert sentence in refused(client.post("/v1/upsample", json={"image": text}), 422)
    assert backend.enlarged == []


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        ({"json": {"image": "%%%"}}, 422, "image is no base64"),
        ({"json": {"image": 5}}, 422, "image: Input should be a valid string"),
        ({"json": {"picture": "AA=="}}, 422, "image: Field required"),
        ({"json": {"image": "", "scale": 0.5}}, 422, "scale"),
        ({"json": []}, 422, "send an object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "the body is no JSON"),
        ({"content": b"PNG", "headers": {"content-type": "image/png"}}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
        ({"files": {"other": ("a.png", encoded())}}, 422, "the form has no file `image`"),
        ({"files": {"image": ("a.png", encoded())}, "data": {"scale": "much"}}, 422, "scale"),
        ({"files": {"image": ("a.png", encoded())}, "data": {"zoom": "2"}}, 422, "zoom"),
        ({"files": {"image": ("a.png", encoded())}, "data": {"prompt": "x" * 41}}, 422, "41 characters"),
        ({"files": [("image", ("a", b"a")), ("image", ("b", b"b"))]}, 400, "files"),
        (
            {"files": {"image": ("a.png", encoded((60, 60)))}, "data": {"scale": "5"}},
            422,
            "300 pixels a side",
        ),
    ],
)
def test_what_is_wrong_about_an_upload_is_one_sentence(client, sent, status, sentence) -> None:
    assert sentence in refused(client.post("/v1/upsample", **sent), status)


def test_without_an_upsampler_that_is_said(client, backend) -> None:
    backend.facts = {**backend.facts, "upsampler": None}
    assert "has no upsampler" in refused(
        client.post("/v1/upsample", files={"image": ("a.png", encoded())}), 422
    )


# ---- failures, load --------------------------------------------------------------------------------


def test_what_the_model_cannot_make_is_its_sentence(client, backend) -> None:
    backend.failure = GigaganError("the model has no layer 9; its layers are cut at 0 to 5")
    answer = client.post("/v1/generate", json={"prompts": ["a", "b"], "mixing": {"crossover": 9}})
    assert refused(answer, 422) == "the model has no layer 9; its layers are cut at 0 to 5"


def test_a_model_whose_weights_are_damaged_is_the_servers_failure(client, backend, caplog) -> None:
    backend.failure = NotFinite("1 of 1 images are not finite: the model's weights are damaged")
    assert "are not finite" in refused(client.post("/v1/generate", json={"prompts": ["a"]}), 500)
    files = {"image": ("a.png", encoded())}
    assert "are not finite" in refused(client.post("/v1/upsample", files=files), 500)
    assert [
        record.getMessage().split(":")[0] for record in caplog.records if record.levelname == "ERROR"
    ] == [
        "POST /v1/generate failed",
        "POST /v1/upsample failed",
    ]


def test_a_defect_shows_nothing_of_itself(client, backend) -> None:
    backend.failure = RuntimeError("secret /path/of/ours")
    sentence = refused(client.post("/v1/generate", json={"prompts": ["a"]}), 500)
    assert sentence == "the server failed on this request; its log says why"
    backend.failure = ReplicasLost("4 replicas ended while they worked on one request")
    assert "4 replicas ended" in refused(client.post("/v1/generate", json={"prompts": ["a"]}), 500)


def test_what_takes_too_long_is_given_up(client, backend, studio) -> None:
    studio.limits = LIMITS.model_copy(update={"request_seconds": 0.05})
    backend.seconds = 1.0
    assert "within 0.05 seconds" in refused(client.post("/v1/generate", json={"prompts": ["a"]}), 504)


def test_more_than_may_wait_are_told_to_come_back(client, backend) -> None:
    backend.seconds = 0.6
    answers = []

    def ask() -> None:
        answers.append(client.post("/v1/generate", json={"prompts": ["a"]}))

    with client:  # one event loop for all of them, as in the server
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        third = client.post("/v1/generate", json={"prompts": ["a"]})
        for thread in threads:
            thread.join()
        assert "2 requests wait already" in refused(third, 503)
        assert third.headers["retry-after"] == str(LIMITS.retry_after_seconds)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.post("/v1/generate", json={"prompts": ["a"]}).status_code == 200, (
            "places are given back"
        )


def test_whoever_finds_no_place_need_not_send_the_picture(client, studio) -> None:
    studio.limits = LIMITS.model_copy(update={"waiting_requests": 0})
    read = 0

    def pieces():
        nonlocal read
        for _ in range(19):
            read += 1
            yield b"x" * 1000

    answer = client.post("/v1/upsample", content=pieces(), headers={"content-type": "application/json"})
    refused(answer, 503)
    assert read == 0


# ---- state -----------------------------------------------------------------------------------------


def test_health_readiness_and_the_model(client, backend) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "replicas": 1}
    backend.replicas = 0
    assert "no replica serves" in refused(client.get("/readyz"), 503)
    assert client.get("/healthz").status_code == 200, "the front lives all the same"
    model = client.get("/v1/model").json()
    assert model["licence"] == {"data": "CC BY-SA 4.0"}
    assert model["limits"]["pictures"] == 4


def test_metrics_count_requests_pictures_batches_and_refusals(client) -> None:
    client.post("/v1/generate", json={"prompts": ["a", "b"]})
    client.post("/v1/generate", json={"prompts": []})
    client.post("/v1/generate", json={"prompts": ["a", "b"], "mixing": {"mix": 0.5}})
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert lines['gigagan_requests_total{endpoint="/v1/generate",status="200"}'] == "2.0"
    assert lines['gigagan_requests_total{endpoint="/v1/generate",status="422"}'] == "1.0"
    assert lines['gigagan_request_seconds_count{endpoint="/v1/generate"}'] == "3.0"
    assert lines['gigagan_pictures_total{kind="generate"}'] == "2.0"
    assert lines['gigagan_pictures_total{kind="mix"}'] == "1.0"
    assert lines["gigagan_batch_pictures_sum"] == "3.0"
    assert lines["gigagan_batch_pictures_count"] == "2.0"
    assert lines["gigagan_waiting_requests"] == "0.0"
    assert lines["gigagan_ready_replicas"] == "1.0"


def test_openapi_describes_requests_answers_and_limits(client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/generate", "/v1/upsample", "/v1/model", "/healthz", "/readyz", "/metrics")
    }
    generate = document["paths"]["/v1/generate"]["post"]
    assert {"200", "413", "422", "503", "504"} <= set(generate["responses"])
    assert "GenerateRequest" in json.dumps(generate["requestBody"])
    upsample = document["paths"]["/v1/upsample"]["post"]
    assert set(upsample["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert "prompt_characters 40" in document["info"]["description"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/v1/other", 404), ("get", "/", 404), ("get", "/docs", 404), ("patch", "/v1/other", 404)],
)
def test_what_is_not_there_is_one_sentence(client, method, path, status) -> None:
    refused(client.request(method, path), status)


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/upsample"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_than_post_is_told_so(client, method, path) -> None:
    answer = client.request(method, path)
    assert f"POST {path}" in refused(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_what_is_there_to_be_read_says_so(client, method) -> None:
    answer = client.request(method, "/v1/model")
    assert "GET" in refused(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/model"])
def test_what_looks_with_head_is_answered(client, path) -> None:
    answer = client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_a_body_that_does_not_say_that_it_is_json_is_told_so(client, backend, kind) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/v1/generate", content=b'{"prompts": ["a"]}', headers=headers)
    assert "application/json" in refused(answer, 415)
    assert backend.jobs == []


_TOO_LONG = b'{"seed": 1' + b"0" * 5000 + b"}"  # a number that Python does not read


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/upsample"])
@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"7", b'"a dog"', b"[" * 15_000, b"\x1f\x8b", _TOO_LONG]
)
def test_a_body_that_is_no_object_is_told_what_to_send(client, path, body) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert "send an object" in refused(answer, answer.status_code)


# ---- bodies ----------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_refused_unread(client, backend) -> None:
    body = json.dumps({"prompts": ["a" * 30_000]})
    assert "more than 20000 bytes" in refused(client.post("/v1/generate", content=body), 413)
    files = {"image": ("a.png", b"x" * 30_000)}
    assert "more than 20000 bytes" in refused(client.post("/v1/upsample", files=files), 413)


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/upsample"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_a_body_that_does_not_say_so_is_cut_off_while_it_arrives(client: TestClient, path, kind) -> None:
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b"x" * 1000

    answer = client.post(path, content=pieces(), headers={"content-type": kind})
    assert "more than 20000 bytes" in refused(answer, 413)


def test_the_fake_is_asked_for_what_the_limits_allow(client, backend: FakeBackend) -> None:
    assert client.post("/v1/generate", json={"prompts": ["x" * 40], "count": 4}).status_code == 200
    assert len(backend.jobs) == 4
