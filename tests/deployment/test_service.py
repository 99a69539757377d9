import io
import json
import pickle
import re
import socket
import threading
import time

import numpy as np
import pytest
from conftest import EMOTIONS

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

import httpx
import uvicorn

from lmf_multitask.deployment.bodies import Limits
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.deployment.service import allowed_names, create_app
from lmf_multitask.errors import ConfigError, RunError

from .conftest import SEQUENCES, make_rows, make_run


class Service(httpx.Client):
    """The application behind a real server on a free port of this machine, and a client of it."""

    def __init__(self, app):
        self.app = app
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        super().__init__(base_url=f"http://127.0.0.1:{self._listener.getsockname()[1]}", timeout=30)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported)


@pytest.fixture(scope="module")
def client(predictor):
    limits = Limits(body_bytes=100_000, json_bytes=50_000, rows=16)
    with Service(create_app(predictor, limits, allowed_names("127.0.0.1"))) as client:
        yield client


def as_json(rows):
    return {name: values.tolist() for name, values in rows.items()}


def as_npz(rows, save=np.savez):
    buffer = io.BytesIO()
    save(buffer, **rows)
    return buffer.getvalue()


def post_npz(client, content, kind="application/x-npz"):
    return client.post("/predict", content=content, headers={"Content-Type": kind})


# -- answers


@pytest.mark.parametrize("form", ["json", "npz", "compressed"])
def test_answers_are_those_of_the_predictor(client, predictor, form):
    rows = make_rows(5)
    if form == "json":
        response = client.post("/predict", json=as_json(rows))
    else:
        response = post_npz(client, as_npz(rows, np.savez if form == "npz" else np.savez_compressed))
    assert response.status_code == 200
    answer = response.json()
    expected = predictor.predict(**rows)
    assert answer["emotions"] == list(EMOTIONS)
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-6)
    assert answer["present"] == (expected > 0.5).tolist()
    odds = expected / (1 - expected.astype("float64"))
    joint = odds / odds.sum(axis=1, keepdims=True)
    assert [one["emotion"] for one in answer["decided"]] == [EMOTIONS[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose([one["probability"] for one in answer["decided"]], joint.max(axis=1), rtol=1e-5)


def test_no_decision_among_tasks_that_are_not_exclusive(tmp_path):
    run = make_run(tmp_path / "run", exclusive=False)
    with Service(create_app(Predictor(run))) as other:
        assert "decided" not in other.post("/predict", json=as_json(make_rows(1))).json()
        schema = other.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]["200"]
        assert "decided" not in schema["content"]["application/json"]["schema"]["properties"]


@pytest.mark.parametrize("form", ["json", "npz"])
def test_sequences_of_every_modality(tmp_path, form):
    predictor = Predictor(make_run(tmp_path / "run", inputs=SEQUENCES))
    rows = make_rows(3, inputs=SEQUENCES, steps=4)
    with Service(create_app(predictor)) as other:
        response = other.post("/predict", json=as_json(rows)) if form == "json" else post_npz(other, as_npz(rows))
        np.testing.assert_allclose(response.json()["probabilities"], predictor.predict(**rows), rtol=1e-6)


@pytest.mark.parametrize("kind", ["application/zip", "application/octet-stream", "Application/X-NPZ; charset=binary"])
def test_other_names_for_npz(client, kind):
    assert post_npz(client, as_npz(make_rows(1)), kind).status_code == 200


def test_nan_counts_as_zero(client):
    rows = as_json(make_rows(1))
    rows["audio"][0][0] = 0.0
    zero = client.post("/predict", json=rows).json()
    rows["audio"][0][0] = float("nan")
    dirty = client.post("/predict", content=json.dumps(rows), headers={"Content-Type": "application/json"}).json()
    assert zero == dirty


def test_many_at_once_get_their_own_answers(client, predictor):
    inputs = [make_rows(1 + n % 3, seed=n) for n in range(24)]
    answers = [None] * len(inputs)

    def ask(n):
        answers[n] = client.post("/predict", json=as_json(inputs[n])).json()["probabilities"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, answer in zip(inputs, answers):
        np.testing.assert_allclose(answer, predictor.predict(**rows), atol=1e-6)


@pytest.mark.parametrize("form", ["json", "null", "npz"])
def test_a_modality_that_is_left_out_is_zeros_and_counted(client, predictor, form):
    rows = make_rows(3)
    rows["audio"][1] = 0
    left = {name: values for name, values in rows.items() if name != "video"}
    if form == "npz":
        response = post_npz(client, as_npz(left))
    else:
        response = client.post("/predict", json={**as_json(left), **({"video": None} if form == "null" else {})})
    answer = response.json()
    np.testing.assert_allclose(answer["probabilities"], predictor.predict(**left), rtol=1e-6)
    assert answer["missing"] == {"audio": 1, "video": 3, "text": 0}
    assert answer["missing_in"] == {"audio": [1], "video": [0, 1, 2], "text": []}
    assert re.search(r'lmf_missing_total{modality="video"} [1-9]', client.get("/metrics").text)
    assert client.post("/predict", json=as_json(make_rows(2))).json()["missing"] == dict.fromkeys(rows, 0)


# -- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.clear(), "the body must be an object with audio, video and text, or some of them, and nothing else, but has []."),
        (lambda rows: rows.update(dict.fromkeys(rows)), "at least one of audio, video, text, which the model uses, must be given, but none is."),
        (lambda rows: rows.update(more=1), "the body must be an object with audio, video and text, or some of them, and nothing else, but has ['audio', 'more', 'text', 'video']."),
        (lambda rows: rows.update(audio=3), "audio must be a list of clips, but is 3."),
        (lambda rows: rows.update(audio=[]), "audio must have the shape [rows, 5], but got [0]."),
        (lambda rows: rows["audio"][0].pop(), "audio must have the shape [rows, 5], but got [1, 4]."),
        (lambda rows: rows["text"][0].clear(), "text must have the shape [rows, steps, 3], but got [1, 1, 0]."),
        (lambda rows: rows["audio"].append([0.0] * 5), "audio, video and text must have the same number of rows, but have {'audio': 2, 'video': 1, 'text': 1}."),
        (lambda rows: rows["audio"][0].__setitem__(0, None), "audio must be an array of numbers [rows, 5], but got the type object."),
        (lambda rows: rows["audio"][0].__setitem__(0, "1"), "audio, video, text must hold numbers, but text or a name stands among them."),
        (lambda rows: rows["audio"][0].__setitem__(0, {}), "the body must be one object with lists of numbers, but has too many lists, objects or texts."),
        (lambda rows: rows["audio"][0].__setitem__(0, 10**400), "audio must be an array of numbers [rows, 5], but got the type object."),
        (lambda rows: rows["audio"][0].__setitem__(0, [1]), "audio must be an array [rows, 5], but its rows differ in length."),
    ],
)  # fmt: skip
def test_wrong_json(client, change, message):
    rows = as_json(make_rows(1))
    change(rows)
    response = client.post("/predict", json=rows)
    assert (response.status_code, response.json()) == (422, {"error": message})


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 40_000, b"\xff", b"[1]", b"null"])
def test_broken_json(client, body):
    response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"].startswith("the body must be")


def test_a_pickle_is_never_read(client, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    hostile = pickle.dumps(Bomb())
    for kind in ("application/x-npz", "application/octet-stream"):
        response = post_npz(client, hostile, kind)
        assert (response.status_code, response.json()["error"]) == (
            422,
            "the body: must be an .npz file, but is not a zip archive. Write it with numpy.savez.",
        )
    for kind in ("application/python-pickle", "text/plain"):
        response = post_npz(client, hostile, kind)
        assert response.status_code == 415
        assert "the content type must be application/json or" in response.json()["error"]
    content = as_npz({**make_rows(1), "audio": np.array([[Bomb()] * 5], object)})
    response = post_npz(client, content)
    assert (response.status_code, response.json()["error"]) == (
        422,
        "the body: audio must be a whole .npy array of numbers, but it holds Python objects. Save it as float32.",
    )
    assert not (tmp_path / "exploded").exists()


def test_too_many_clips(client):
    for response in (client.post("/predict", json=as_json(make_rows(17))), post_npz(client, as_npz(make_rows(17)))):
        assert response.status_code == 422
        assert response.json() == {"error": "a request must have from 1 to 16 clips, but has 17. Split it."}
    assert client.post("/predict", json=as_json(make_rows(16))).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    ("kind", "limit", "hint"),
    [
        ("application/json", 50_000, "Send .npz instead, or fewer clips at a time."),
        ("application/x-npz", 100_000, "Send fewer clips at a time."),
    ],
)
def test_too_large_a_body(client, announced, kind, limit, hint):
    content = b" " * (limit + 1)
    pieces = content if announced else (content[start : start + 10_000] for start in range(0, limit + 1, 10_000))
    response = client.post("/predict", content=pieces, headers={"Content-Type": kind})
    message = f"the body must have at most {limit:,} bytes, but has more. {hint}"
    assert (response.status_code, response.json()) == (413, {"error": message})


def test_text_in_json_cannot_fill_the_memory(client):
    """numpy would store every item as wide as the longest text: 40,000 x 20,000 letters."""
    for count, message in (
        (9_000, "the body must be one object with lists of numbers, but has too many lists, objects or texts."),
        (9, "audio must hold numbers, but text or a name stands among them."),
    ):
        body = b'{"audio": ["' + b"a" * 20_000 + b'"' + b',""' * count + b"]}"
        response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()) == (422, {"error": message})


def test_rows_of_another_length_are_not_read(client):
    """Rows of another length than the model's are counted, not read: reading holds Python's lock."""
    for body in (b'{"audio": [[' + b"1," * 24_000 + b"1]]}", b'{"audio": [' + b"[0]," * 12_000 + b"[1]]}"):
        response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert response.json()["error"].startswith(("audio must have the shape", "a request must have from 1 to 16"))


def test_long_sequences_count_as_several_clips(client):
    """16 clips of 5 + 4 + 6 * 3 numbers may be sent."""
    rows = make_rows(1, steps=300)
    assert post_npz(client, as_npz(rows)).status_code == 422
    response = client.post("/predict", json=as_json(make_rows(1, steps=150)))
    assert (response.status_code, response.json()) == (
        422,
        {"error": "a request must have at most 432 numbers, but has 459. Send fewer clips."},
    )
    assert post_npz(client, as_npz(make_rows(1, steps=140))).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("10.0.0.1", 421),
        ("", 421),
    ],
)
def test_foreign_host_names_are_refused(client, host, status):
    """A page elsewhere may let its own host name point to this machine (DNS rebinding)."""
    for path in ("/health", "/", "/nothing"):
        response = client.get(path, headers={"Host": host})
        assert (response.status_code == 421) == (status == 421)
    assert status == 200 or response.json()["error"].startswith("the host name must be that of the service")


def test_allowed_names():
    assert {"model.example", "localhost"} < set(allowed_names("127.0.0.1", ["Model.example"]))
    assert "<address>" in allowed_names("0.0.0.0")
    assert "<address>" not in allowed_names("10.0.0.5")


def test_a_service_on_all_addresses_may_be_reached_by_address(predictor):
    with Service(create_app(predictor, None, allowed_names("0.0.0.0"))) as other:
        for host, status in (("10.0.0.1:8000", 200), ("[fe80::1]", 200), ("evil.example", 421)):
            assert other.get("/health", headers={"Host": host}).status_code == status


def test_a_slow_body_ends_with_408_and_is_not_counted_any_more(predictor):
    def pieces():
        yield b" "
        time.sleep(1.2)
        yield b" "

    with Service(create_app(predictor, Limits(body_seconds=0.6))) as other:
        response = other.post("/predict", content=pieces(), headers={"Content-Type": "application/json"})
        assert response.status_code == 408
        assert other.post("/predict", json=as_json(make_rows(1))).status_code == 200
        assert other.app.state.service.bodies.held == 0


def test_too_many_bytes_in_work(predictor):
    with Service(create_app(predictor, Limits(held_bytes=4000))) as other:
        assert other.post("/predict", json=as_json(make_rows(1))).status_code == 200
        response = other.post("/predict", json=as_json(make_rows(9)))
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
        assert response.json() == {"error": "too many large requests are in work. Try again in a moment."}
        assert other.app.state.service.bodies.held == 0


def test_a_zip_bomb(client):
    rows = make_rows(1)
    rows["text"] = np.zeros((100_000, 6, 3), "float32")
    content = as_npz(rows, np.savez_compressed)
    assert len(content) < 100_000
    response = post_npz(client, content)
    assert response.status_code == 422
    rows["audio"], rows["video"] = np.zeros((100_000, 5)), np.zeros((100_000, 4))
    response = post_npz(client, as_npz(rows, np.savez_compressed))
    assert response.status_code == 422
    assert "must hold at most" in response.json()["error"]


def test_a_full_queue(predictor, monkeypatch):
    release, entered = threading.Event(), threading.Event()

    def slow(clips):
        entered.set()
        release.wait(10)
        return np.zeros((len(clips), 4), "float32")

    monkeypatch.setattr(predictor, "predict_checked", slow)
    with Service(create_app(predictor, Limits(rows=8, queue_rows=4))) as client:
        statuses = {}

        def ask(name, count):
            statuses[name] = client.post("/predict", json=as_json(make_rows(count)))

        threads = [threading.Thread(target=ask, args=("in work", 1))]
        threads[0].start()
        entered.wait(10)
        threads.append(threading.Thread(target=ask, args=("waiting", 4)))
        threads[1].start()
        while client.app.state.service.batcher.waiting_rows < 4:
            pass
        full = client.post("/predict", json=as_json(make_rows(1)))
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        assert full.json()["error"].startswith("the queue must hold at most 432 bytes of features, but is full.")
        assert "lmf_waiting_rows 4.0" in client.get("/metrics").text
        release.set()
        for thread in threads:
            thread.join()
        assert {name: response.status_code for name, response in statuses.items()} == {"in work": 200, "waiting": 200}


def test_a_model_that_fails_on_a_request(predictor, monkeypatch):
    def fails(clips):
        raise RunError("the model must run on features of its shapes, but does not.")

    monkeypatch.setattr(predictor, "predict_checked", fails)
    with Service(create_app(predictor)) as client:
        response = client.post("/predict", json=as_json(make_rows(1)))
    assert (response.status_code, response.json()) == (
        500,
        {"error": "the model must run on features of its shapes, but does not."},
    )


def test_a_stopping_service_refuses(predictor):
    with Service(create_app(predictor)) as client:
        service = client.app.state.service
        service.stopping = service.batcher._closing = True
        assert client.get("/health").status_code == 503
        response = client.post("/predict", json=as_json(make_rows(1)))
        assert response.status_code == 503
        assert "the service is stopping" in response.json()["error"]


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="rows must be above 0, but got 0"):
        Limits(rows=0)


# -- the other paths


def test_health_and_model(client, predictor):
    assert client.get("/health").json() == {"status": "ok"}
    about = client.get("/model").json()
    assert about["emotions"] == list(EMOTIONS)
    assert about["limits"]["rows"] == 16
    assert about["settings"]["backend"] == "paddle"
    assert about["thresholds"] == dict(zip(EMOTIONS, predictor.thresholds()))


def test_openapi_describes_the_body(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-npz", "application/zip", "application/octet-stream"}
    text = body["application/json"]["schema"]["properties"]["text"]["items"]
    assert text == {
        "type": "array",
        "minItems": 1,
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    }
    statuses = {"200", "408", "413", "415", "421", "422", "429", "503"}
    assert set(document["paths"]["/predict"]["post"]["responses"]) == statuses
    assert client.get("/docs").status_code == 404  # its script would come from elsewhere


def test_metrics_count(client):
    def count(status):
        found = re.search(
            rf'lmf_answers_total{{path="/predict",status="{status}"}} ([\d.]+)', client.get("/metrics").text
        )
        return float(found[1]) if found else 0.0

    before = count(200), count(415)
    client.post("/predict", json=as_json(make_rows(2)))
    client.post("/predict", content=b"", headers={"Content-Type": "text/plain"})
    assert (count(200), count(415)) == (before[0] + 1, before[1] + 1)
    for number in range(3):
        client.get(f"/nothing/{number}")
    assert 'path="other",status="404"} ' in client.get("/metrics").text
    assert "/nothing" not in client.get("/metrics").text


def test_unknown_paths_answer_in_the_same_form(client):
    response = client.get("/nothing")
    assert (response.status_code, response.json()) == (404, {"error": "GET /nothing: Not Found"})
    assert client.get("/predict").status_code == 405


def test_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == "default-src 'self'"
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        assert client.get(name).status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_samples_where_the_sizes_are_iemocaps(client, tmp_path):
    assert client.get("/samples").json() == {"samples": []}
    run = make_run(tmp_path / "run", inputs={"audio": (74,), "video": (35,), "text": (20, 300)})
    with Service(create_app(Predictor(run))) as other:
        samples = other.get("/samples").json()["samples"]
        assert len(samples) == 12
        assert {sample["emotion"] for sample in samples} <= set(EMOTIONS)
        first, last = (other.get(f"/samples/{number}").json() for number in (1, 12))
        assert {"name": first["name"], "emotion": first["emotion"]} == samples[0]
        assert last["name"] == "made-up clip 12"
        assert other.post("/predict", json=first["clip"]).status_code == 200
        for number in ("0", "13", "-1", "1e3", "x"):
            response = other.get(f"/samples/{number}")
            assert response.status_code == 404
            assert response.json() == {"error": f"the sample must be from 1 to 12, but got {number!r}."}
