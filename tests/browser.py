"""A real browser without a screen, spoken to as the W3C WebDriver protocol says: JSON over HTTP.

Only the loopback address is asked; the browser itself is told to load nothing but what it is given.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

PROGRAMS = ("chromium", "chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to one
_ANSWER_SECONDS = 60.0
_ELEMENT_SECONDS = 10.0  # to wait for an element that a script may still have to make
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --force-device-scale-factor=1 --window-size=1280,900"
)
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Shift": "\ue008"}
KEYS |= {"ArrowRight": "\ue014", "ArrowDown": "\ue015", "Space": " "}


def missing_programs() -> list[str]:
    """What a browser needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Browser:
    """One window. Errors that the browser answers with are raised as AssertionError."""

    def __init__(self, driver: str, session: str) -> None:
        self._address = f"{driver}/session/{session}"

    def open_blank(self) -> None:
        """An empty page; what earlier ones logged is forgotten."""
        self._ask("POST", "url", {"url": "about:blank"})
        self.complaints()
        self.requests()

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a file anew, even if only the fragment changes."""
        self.open_blank()
        self._ask("POST", "url", {"url": page.as_uri() + fragment})

    def run(self, script: str, *arguments: object) -> Any:
        """What a function's body returns; waits if that is a promise."""
        return self._ask("POST", "execute/sync", {"script": script, "args": [*arguments]})

    def texts(self, selector: str) -> list[str]:
        """What the elements read like on the screen."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector
        )
        return found

    def text(self, selector: str) -> str:
        """That of the only such element."""
        (text,) = self.texts(selector)
        return text

    def click(self, selector: str) -> None:
        """With the pointer, on an element that is in sight and not covered."""
        self._ask("POST", f"{self._find(selector)}/click", {})

    def write(self, selector: str, text: str) -> None:
        """Type into a field, after what is in it."""
        self._ask("POST", f"{self._find(selector)}/value", {"text": text})

    def choose(self, selector: str, value: str) -> None:
        """An option of a select element by its value."""
        self.click(f'{selector} option[value="{value}"]')

    def press(self, *keys: str) -> None:
        """Keys one after another, by name; `Shift+Tab` holds the first while the second goes."""
        for names in keys:
            codes = [KEYS.get(name, name) for name in names.split("+")]
            actions = [{"type": "keyDown", "value": code} for code in codes]
            actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
            source = {"type": "key", "id": "keyboard", "actions": actions}
            self._ask("POST", "actions", {"actions": [source]})

    def focused(self) -> str:
        """What a screen reader calls the element with the focus."""
        return self._label(self._ask("GET", "element/active"))

    def label(self, selector: str) -> str:
        """What a screen reader calls the first such element."""
        return self._label(self._ask("POST", "element", _css(selector)))

    def screen(self, width: int, height: int) -> None:
        """The size of the window's inside, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._tell("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """What the user prefers, such as `color_scheme="dark"`; nothing takes it back."""
        listed = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self._tell("Emulation.setEmulatedMedia", {"features": listed})
        self.wait_for_paint()

    def wait_for(self, selector: str) -> None:
        """Until there is such an element."""
        self._find(selector)

    def wait_for_paint(self) -> None:
        """Until the browser has answered changes of its own, such as a theme, and painted."""
        self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def photograph(self, path: Path, whole: bool = False) -> None:
        """Save what is in sight, or the whole page, as PNG."""
        taken = self._tell("Page.captureScreenshot", {"captureBeyondViewport": whole})
        if whole:
            size = self._tell("Page.getLayoutMetrics", {})["cssContentSize"]
            clip = {**size, "scale": 1}
            taken = self._tell(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
            )
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """What was written to the console since the last call, blocked loads among it."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> set[str]:
        """Kinds of addresses (file, data, https, ...) that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {m["params"]["request"]["url"].partition(":")[0] for m in sent}

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", "")

    def _find(self, selector: str) -> str:
        found = self._ask("POST", "element", _css(selector))
        return f"element/{found[_ELEMENT]}"

    def _label(self, element: Mapping[str, str]) -> str:
        label: str = self._ask("GET", f"element/{element[_ELEMENT]}/computedlabel")
        return label

    def _log(self, kind: str) -> list[Mapping[str, Any]]:
        entries: list[Mapping[str, Any]] = self._ask("POST", "se/log", {"type": kind})
        return entries

    def _tell(self, command: str, parameters: Mapping[str, object]) -> Any:
        return self._ask("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        return _ask(method, f"{self._address}/{path}".rstrip("/"), body)


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in `folder`; it and its driver end with the context."""
    with _driver() as driver:
        options = {
            "args": [*_FLAGS.split(), f"--user-data-dir={folder / 'profile'}"],
            "binary": shutil.which("chromium"),
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        session = _ask("POST", f"{driver}/session", body)["sessionId"]
        waits = {"implicit": int(1000 * _ELEMENT_SECONDS)}
        _ask("POST", f"{driver}/session/{session}/timeouts", waits)
        running = Browser(driver, session)
        running.open_blank()
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def _driver() -> Iterator[str]:
    """The address of a chromedriver on a free port of the loopback interface."""
    process = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{_port(process.stdout)}"
    finally:
        process.terminate()
        process.communicate(timeout=_ANSWER_SECONDS)


def _port(output: IO[str]) -> str:
    said = []
    for line in output:
        said.append(line)
        if found := re.search(r"started successfully on port (\d+)", line):
            return found[1]
    raise AssertionError(f"chromedriver did not start: {''.join(said)}")


def _ask(method: str, address: str, body: Mapping[str, object] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, method=method)
    # No proxy is asked, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        told = json.load(error)["value"]
        raise AssertionError(f"{told['error']}: {told['message']}") from None


def _css(selector: str) -> dict[str, str]:
    return {"using": "css selector", "value": selector}
