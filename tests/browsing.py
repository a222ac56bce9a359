"""For tests of the web page: a browser, and the page in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

Found = TypeVar("Found")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def start_browser() -> webdriver.Chrome:
    """A Chromium without a window. Skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs a browser (on Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1200,900",
        "--lang=en-US",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """The page of one server, used as a person would."""

    def __init__(self, driver: webdriver.Chrome, base: str, connected: bool) -> None:
        self.driver, self.base = driver, base
        driver.get_log("browser")  # type: ignore[no-untyped-call]  # of the test before
        self.emulate(theme="light")
        self.resize(1200, 900)
        # The byte vocabulary needs more tokens than the model's default of 16.
        driver.get(f"{base}/web/icon.svg")
        self.run("localStorage.setItem('dsv4.settings', JSON.stringify({maxTokens: '3000'}))")
        self.open(connected=connected)

    def open(self, *, connected: bool = True) -> None:
        self.driver.get(self.base)
        if connected:
            self.until(lambda: self.text("#model"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def until(self, condition: Callable[[], Found], seconds: float = 15) -> Found:
        """What the condition gives once it is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = condition()
            except StaleElementReferenceException:
                found = None  # type: ignore[assignment]
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"it did not happen in time; on the page:\n{self.shown()}")
            time.sleep(0.02)

    def shown(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def content(self, selector: str) -> str:
        """The text of an element that may be folded away."""
        return str(self.one(selector).get_property("textContent"))

    def visible(self, selector: str) -> bool:
        return any(element.is_displayed() for element in self.all(selector))

    def click(self, selector: str) -> None:
        self.until(lambda: self.visible(selector))
        self.one(selector).click()

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def type(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def send(self, text: str) -> None:
        """Ask something; does not wait for the answer."""
        self.one("#draft").send_keys(text, Keys.ENTER)

    def ask(self, text: str) -> str:
        """Ask something and give the text of the answer."""
        before = len(self.all(".assistant"))
        self.send(text)
        self.until(lambda: len(self.all(".assistant")) > before)
        self.finished()
        return self.all(".assistant .markdown")[-1].text

    def finished(self) -> None:
        """Wait for the end of the answer."""
        self.until(lambda: self.visible("#send") and not self.all("[aria-busy=true]"))

    def mode(self, name: str) -> None:
        """Choose how much to think."""
        self.one(f"label:has(input[value={name}])").click()

    def setting(self, selector: str, value: str) -> None:
        """Change one of the settings."""
        self.click("#open-settings")
        self.type(selector, value)
        self.click("#settings .primary")
        self.until(lambda: not self.visible("#settings"))

    def emulate(self, *, theme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """Errors in the browser's log: of scripts, of the content policy."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


__all__ = ["Keys", "Page", "start_browser"]
