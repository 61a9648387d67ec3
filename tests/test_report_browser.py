"""The report in a real browser, Debian's own: it loads in silence, fetches nothing, its slider works, nothing overflows.

With ``ADARENA_SCREENSHOTS=FOLDER`` the pictures ``phone.png`` and ``desktop.png`` are left there, of the page of
``ADARENA_PAGE=FILE`` if that is given and of the made-up one otherwise.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_up_report as made_up
import pytest

from adarena.experiments import results
from adarena.experiments.report import page

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    made_up.write_run(root, "whole")
    made_up.write_run(root, "broken", failure="RuntimeError: a loss that is not finite")
    file = root / "page.html"
    file.write_text(page.render(results.read_all([root])), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"):
        options.add_argument(word)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def load(browser: Any, address: str, size: str, scheme: str = "light") -> None:
    """Opens the page at a size and waits for its panels."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wishes = {
        "prefers-color-scheme": scheme,
        "prefers-reduced-motion": "reduce",
    }  # no click while the page still scrolls
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)
    ready = "const done = arguments[0], at = document.getElementById('day'); (function wait() { "
    browser.execute_async_script(f"{ready} at.dataset.ready ? done() : setTimeout(wait, 50); }})()")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_in_silence_and_fits(browser: Any, address: str, size: str, scheme: str) -> None:
    load(browser, address, size, scheme)
    # Everything opened, so that no table hides its width.
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth, window.innerWidth]"
    assert browser.execute_script(wide) == [SIZES[size][0]] * 3
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    assert said == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert fetched[0] == address
    assert all(url.startswith("data:") for url in fetched[1:]), fetched


def test_the_slider_moves_the_day_by_mouse_and_by_keyboard(browser: Any, address: str) -> None:
    load(browser, address, "desktop")
    readout, spend = browser.find_element("id", "readout"), browser.find_element("id", "tile-spend")
    slider = browser.find_element("id", "tick")
    assert slider.accessible_name == "Time of day"
    assert slider.get_attribute("max") == str(made_up.TICKS - 1)
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(move, slider, "0")
    assert readout.text == "00:00 to 04:00, tick 1 of 6"
    assert spend.text == str(int(made_up.SPEND[0].sum()))
    assert browser.find_element("id", "tile-price").text != "–"
    slider.send_keys("\ue014")  # the right arrow
    assert readout.text == "04:00 to 08:00, tick 2 of 6"
    assert slider.get_attribute("aria-valuetext") == readout.text
    assert spend.text == str(int(made_up.SPEND[1].sum()))
    find = "return Bokeh.documents.map(d => d.get_model_by_name('data-wins')).find(m => m !== null).data.y"
    assert list(browser.execute_script(find)) == list(made_up.WINS[1])
    browser.execute_script(move, slider, "3")
    assert browser.find_element("id", "tile-price").text == "–"  # nothing was won
    browser.execute_script(move, slider, "5")
    assert browser.find_element("id", "tile-seat").text == f"{100 * made_up.SPEND[:, 2].sum() / 110.0:.3g} %"
    assert browser.find_element("id", "tile-out").text == "1 of 5"  # the last one, of 90 currency units


def test_play_runs_and_stops(browser: Any, address: str) -> None:
    load(browser, address, "phone")
    button, readout = browser.find_element("id", "play"), browser.find_element("id", "readout")
    before = readout.text
    button.click()
    changes = "const [before, done] = arguments, at = document.getElementById('readout'); (function wait() { "
    browser.execute_async_script(f"{changes} at.textContent !== before ? done() : setTimeout(wait, 50); }})()", before)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"


@pytest.mark.skipif("ADARENA_SCREENSHOTS" not in os.environ, reason="pictures are taken where ADARENA_SCREENSHOTS says")
@pytest.mark.parametrize("size", SIZES)
def test_pictures(browser: Any, address: str, size: str) -> None:
    out = Path(os.environ["ADARENA_SCREENSHOTS"])
    out.mkdir(parents=True, exist_ok=True)
    shown = os.environ.get("ADARENA_PAGE")
    load(browser, Path(shown).resolve().as_uri() if shown else address, size)
    clip = {"x": 0, "y": 0, "width": SIZES[size][0], "height": 3400 if size == "phone" else 2400, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    (out / f"{size}.png").write_bytes(base64.b64decode(taken["data"]))
    assert (out / f"{size}.png").stat().st_size < 300_000
