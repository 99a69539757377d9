"""`lmf serve` as a process of its own: what it says, how it stops, and the answers under load."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

import httpx

from lmf_multitask.deployment.predictor import Predictor

from .conftest import make_rows, make_run

ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A running `lmf serve`."""

    def __init__(self, model, port=0):
        command = [sys.executable, "-m", "lmf_multitask", "serve", str(model), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        line = self.process.stderr.readline()
        if "serving on" not in line:
            self.stop(signal.SIGKILL)
            pytest.fail(line)
        self.url = re.search(r"http://\S+", line)[0]
        self.port = int(self.url.rpartition(":")[2])
        while True:
            try:
                assert httpx.get(f"{self.url}/health").status_code == 200
                return
            except httpx.TransportError:
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop(signal.SIGKILL)

    def stop(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self.process.stderr.close()
        return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_says_where_and_stops_when_told(exported, number, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Served(exported) as served:
        rows = make_rows(2)
        answer = httpx.post(f"{served.url}/predict", json={name: v.tolist() for name, v in rows.items()}).json()
        np.testing.assert_allclose(answer["probabilities"], Predictor(exported).predict(**rows), rtol=1e-6)
        assert served.stop(number) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("lmf-")] == []


def test_an_address_that_is_taken(exported):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "lmf_multitask.serve", str(exported), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    message = f"error: --host and --port must be free, but 127.0.0.1:{port} is not (Address already in use). Choose another --port.\n"
    assert (done.returncode, done.stderr) == (2, message)


def ask_until(stop, url, inputs, expected, number, outcome):
    """Asks with other clips every time and notes: right answers, wrong ones, refusals to connect."""
    random = np.random.default_rng(number)
    client = httpx.Client(base_url=url(), timeout=60)
    while not stop():
        chosen = int(random.integers(len(inputs)))
        try:
            response = client.post("/predict", content=inputs[chosen], headers={"Content-Type": "application/json"})
        except httpx.TransportError:  # the service is away: killed, not yet back
            outcome["away"] += 1
            client.close()
            time.sleep(0.02)
            client = httpx.Client(base_url=url(), timeout=60)
            continue
        right = response.status_code == 200 and np.allclose(
            response.json()["probabilities"], expected[chosen], atol=1e-6
        )
        outcome["right" if right else f"wrong {response.status_code}"] = (
            outcome.get("right" if right else f"wrong {response.status_code}", 0) + 1
        )
    client.close()


def load(served, exported, clients, seconds, meanwhile=lambda: None):
    """So many clients for so many seconds; what they saw, all together."""
    rows = [make_rows(1 + n % 4, seed=n) for n in range(40)]
    inputs = [json.dumps({name: values.tolist() for name, values in one.items()}).encode() for one in rows]
    expected = [Predictor(exported).predict(**one) for one in rows]
    outcomes = [{"right": 0, "away": 0} for _ in range(clients)]
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(
            target=ask_until,
            args=(lambda: time.monotonic() > end, lambda: served[-1].url, inputs, expected, n, outcomes[n]),
        )
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join()
    return {name: sum(outcome.get(name, 0) for outcome in outcomes) for name in {n for o in outcomes for n in o}}


@pytest.mark.slow
def test_32_clients_for_30_seconds_lose_nothing(exported):
    with Served(exported) as served:
        seen = load([served], exported, clients=32, seconds=30)
        metrics = httpx.get(f"{served.url}/metrics").text
        passes = float(re.search(r"lmf_batch_requests_count ([\d.]+)", metrics)[1])
    print(
        f"{seen}, {seen['right'] / 30:.0f} requests per second, {seen['right'] / passes:.2f} requests per forward pass"
    )
    assert set(seen) == {"right", "away"}
    assert seen["away"] == 0
    assert seen["right"] > 20
    assert passes < seen["right"]  # some shared a pass


@pytest.mark.slow
def test_killed_and_restarted_under_load_every_answer_is_right(exported):
    served = [Served(exported)]

    def kill_and_restart():
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            time.sleep(2)
            served[-1].stop(number)
            served.append(Served(exported, served[-1].port))

    try:
        seen = load(served, exported, clients=8, seconds=25, meanwhile=kill_and_restart)
    finally:
        served[-1].stop(signal.SIGKILL)
    print(seen)
    assert set(seen) == {"right", "away"}
    assert seen["away"] > 0
    assert seen["right"] > 20


def test_a_stop_finishes_what_was_accepted(exported):
    """Every request that was sent before the signal gets its answer."""
    rows = {name: values.tolist() for name, values in make_rows(400).items()}
    expected = Predictor(exported).predict(**make_rows(400))
    with Served(exported) as served:
        answers = []

        def ask():
            answers.append(httpx.post(f"{served.url}/predict", json=rows, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        while "lmf_answers_total" not in httpx.get(f"{served.url}/metrics").text:
            pass
        time.sleep(0.2)
        served.stop(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert len(answers) == 6
        for answer in answers:
            np.testing.assert_allclose(answer.json()["probabilities"], expected, atol=1e-6)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page_after(url):
    """The page's HTML once its script has run, in a headless browser of its own."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_page_in_a_browser(tmp_path):
    run = make_run(tmp_path / "run", sizes={"audio": 74, "video": 35, "text": 300})
    with Served(run.folder) as served:
        clip = httpx.get(f"{served.url}/samples/3").json()
        answer = httpx.post(f"{served.url}/predict", json=clip["clip"]).json()
        html = page_after(f"{served.url}/?sample=3")
    shown = re.findall(r'aria-label="(\w+)"[^>]*aria-valuenow="([\d.]+)"', html)
    assert shown == [(e, f"{100 * p:.1f}") for e, p in zip(answer["emotions"], answer["probabilities"][0])]
    assert f"made-up clip 3 (drawn as {clip['emotion']})" in html
    assert f"If it must be one of them: {answer['four_way'][0]}." in html


@pytest.mark.slow
def test_openapi_document_fuzzed(exported):
    """schemathesis makes requests from the OpenAPI document, right and wrong ones; none may give a 5xx."""
    tool = shutil.which("schemathesis") or shutil.which("st")
    if tool is None:
        pytest.skip("needs schemathesis")
    with Served(exported) as served:
        command = [
            tool,
            "run",
            f"{served.url}/openapi.json",
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ]
        done = subprocess.run([*command, "--max-examples", "200"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
