"""Headless Chromium, driven over its DevTools protocol through a pipe: no driver and no library is needed."""

import base64
import fcntl
import importlib.metadata
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
]  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

FAULTS = """({
  scroll: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  missing: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length,
  images: document.images.length,
  unlabelled: [...document.querySelectorAll("input, select, button")].filter(i =>
    !(i.labels?.length || i.ariaLabel || i.textContent.trim())).length,
  cut: [...document.querySelectorAll("table")].filter(t => t.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    && getComputedStyle(t.parentElement).overflowX === "visible").map(t => t.getAttribute("aria-labelledby")),
})"""


class Chromium:
    """A browser with one page; use it as a context."""

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # the protocol's pipes are the browser's descriptors 3 and 4; ours have other numbers
        low = [*os.pipe(), *os.pipe()]
        theirs, self._to, self._from, other = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in low)
        for one in low:
            os.close(one)
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{other}', "bash"]
        command = [*shell, CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs, other), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs), os.close(other)
        self._numbers, self._events, self._buffer, self._session = itertools.count(1), [], b"", None
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        os.close(self._to)  # which ends it
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    def _message(self, seconds=60):
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise EOFError("the browser ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        """A command of the protocol; events that arrive meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            found = self._message()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]
            self._events.append(found)

    def open(self, url, width=1280, height=900, *, dark=False, print_=False):
        """Loads a page, in a window of a size."""
        self._events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if print_ else "", features=[theme])
        self.call("Page.navigate", url=url)
        while not any(one.get("method") == "Page.loadEventFired" for one in self._events):
            self._events.append(self._message())

    def run(self, script):
        """The value of an expression, or of the promise that it gives."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script, seconds=20):
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, f"not true in time: {script}"
            time.sleep(0.05)

    def console(self):
        """What the page has written to the console since it was opened, and its errors."""
        self.run("1")  # so that all earlier events have arrived
        wanted = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [one["params"] for one in self._events if one.get("method") in wanted]

    def choose_file(self, selector, path):
        """As if the user had chosen a file."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path, whole=True):
        """A PNG, of the whole page or of the window."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path):
        """Prints the page, with the paper that its style sheet wants."""
        data = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def axe(self):
        """What axe-core finds, of serious and critical impact: rule -> elements; skips the test where it is not installed."""
        try:
            files = importlib.metadata.files("axe-core-python") or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("needs axe-core-python")
        (script,) = [one for one in files if one.name == "axe.min.js"]
        self.run(script.locate().read_text(encoding="utf-8") + ";0")
        # rows that are all alike are looked at once: contrast of thousands of cells takes minutes
        scope, options = {"exclude": [["tbody tr:nth-child(n+12)"]]}, {"preload": False, "resultTypes": ["violations"]}
        script = f"axe.run({json.dumps(scope)}, {json.dumps(options)}).then(found => JSON.stringify(found.violations))"
        found = json.loads(self.run(script))
        return {
            one["id"]: [node["html"][:200] for node in one["nodes"]][:5]
            for one in found
            if one["impact"] in ("serious", "critical", "moderate")
        }


def faults(browser, page, images=None):
    """Opens a page at both widths, light and dark, and as on A4: what is wrong with it."""
    found = {}
    for width, dark, print_ in (
        (1280, False, False),
        (1280, True, False),
        (390, False, False),
        (390, True, False),
        (695, False, True),
    ):
        browser.open(page if isinstance(page, str) else page.as_uri(), width, dark=dark, print_=print_)
        one = browser.run(FAULTS)
        if images is not None:
            assert one["images"] == images
        wrong = {
            name: value
            for name, value in one.items()
            if value and name != "images" and not (name == "scroll" and value < 0)
        }
        if console := browser.console():
            wrong["console"] = console
        if not print_ and (axe := browser.axe()):
            wrong["axe"] = axe
        if wrong:
            found[f"{width} {'dark' if dark else 'light'}{' print' if print_ else ''}"] = wrong
    return found
