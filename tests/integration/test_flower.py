"""Flower, in a real browser: what a person sees of jobs, and what its buttons do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.nodes import ProcessContainer
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class FlowerStack(Stack):
    """A stack with Flower beside it, at the address ``page``."""

    page: str


@pytest.fixture(scope="module")
def flower(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[FlowerStack]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "gpuqueue",
        "flower",
        "--address=127.0.0.1",
        f"--port={port}",
    ]
    stack = FlowerStack(tmp_path_factory.mktemp("flower"), {"T4_SHARED_SLOTS": "2"})
    with listed(running_stacks, stack) as made, ExitStack() as stopped:
        env = {
            **made.env,
            "FLOWER_UNAUTHENTICATED_API": "true",
            "FLOWER_PURGE_OFFLINE_WORKERS": "1",
        }
        node = ProcessContainer("flower", argv, env, made.directory)
        stopped.callback(node.stop)
        made.page = f"http://127.0.0.1:{port}"
        node.start()
        made.dispatcher()
        until(
            lambda: "dispatcher@test" in get(made, "/api/workers?refresh=1"),
            PATIENCE,
            "Flower sees the dispatcher",
            node.logs,
        )
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("CI"):
            pytest.fail(
                "chromium and chromedriver are not here: apt-get install chromium chromium-driver"
            )
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "no-first-run",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def get(flower: FlowerStack, path: str) -> Any:
    """What Flower's API answers; nothing while it is not up."""
    try:
        with urllib.request.urlopen(flower.page + path, timeout=PATIENCE) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError):
        return {}


def shown(browser: webdriver.Chrome, flower: FlowerStack, job_id: str) -> dict[str, str]:
    """The row of a job in Flower's list: column → text."""
    browser.get(flower.page + "/tasks")
    rows = WebDriverWait(browser, PATIENCE).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr td:nth-child(2)")
    )
    assert rows
    heads = [
        (each.get_attribute("textContent") or "").strip().lower()
        for each in browser.find_elements(By.CSS_SELECTOR, "#tasks-table thead th")
    ]
    for row in browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr"):
        if job_id in (row.get_attribute("innerHTML") or ""):
            return dict(
                zip(
                    heads,
                    [each.text for each in row.find_elements(By.TAG_NAME, "td")],
                    strict=False,
                )
            )
    return {}


def until_shown(
    browser: webdriver.Chrome, flower: FlowerStack, job_id: str, state: str
) -> dict[str, str]:
    return until(
        lambda: (row := shown(browser, flower, job_id)).get("state") == state and row,
        PATIENCE,
        f"Flower shows {job_id} as {state}",
    )


def press(browser: webdriver.Chrome, flower: FlowerStack, job_id: str, button: str) -> None:
    browser.get(f"{flower.page}/task/{job_id}")
    WebDriverWait(browser, PATIENCE).until(lambda page: page.find_elements(By.ID, button))[
        0
    ].click()


def test_flower_shows_a_job_as_received_then_started_then_ended(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    running = flower.shop.hold.apply_async((key,), queue="gpu.t4.exclusive")
    flower.in_state(running.id, "running")
    waiting = flower.shop.add.apply_async((2, 3), queue="gpu.t4.shared")
    failing = flower.shop.fail.apply_async(queue="gpu.t4.shared")
    assert until_shown(browser, flower, waiting.id, "RECEIVED")["name"] == "shop.add"
    row = until_shown(browser, flower, running.id, "STARTED")
    assert (row["name"], row["worker"].startswith("t4-")) == ("shop.hold", True)
    flower.go(key)
    assert until_shown(browser, flower, waiting.id, "SUCCESS")["runtime"]
    until_shown(browser, flower, failing.id, "FAILURE")
    browser.get(f"{flower.page}/task/{waiting.id}")
    page = browser.find_element(By.TAG_NAME, "body").text
    record = until(
        lambda: (seen := flower.record(waiting.id)) and "released" in seen and seen,
        PATIENCE,
        "its slot is free",
    )
    assert "(2, 3)" in page and record["worker"] in page
    told = get(flower, f"/api/task/info/{waiting.id}")
    assert (told["result"], told["worker"]) == ("5", record["worker"])
    assert 0 < told["runtime"] <= record["released"] - record["started"] + 1


def test_the_terminate_button_stops_a_running_job(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    running = flower.shop.hold.apply_async((key,), queue="gpu.t4.shared")
    flower.in_state(running.id, "running")
    until_shown(browser, flower, running.id, "STARTED")
    press(browser, flower, running.id, "task-terminate")
    flower.in_state(running.id, "ended")
    until_shown(browser, flower, running.id, "REVOKED")
    assert running.state == "REVOKED"


def test_the_revoke_button_takes_a_waiting_job_out_of_line(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    running = flower.shop.hold.apply_async((key,), queue="gpu.t4.exclusive")
    flower.in_state(running.id, "running")
    waiting = flower.shop.add.apply_async((1, 1), queue="gpu.t4.shared")
    until_shown(browser, flower, waiting.id, "RECEIVED")
    press(browser, flower, waiting.id, "task-revoke")
    flower.in_state(waiting.id, "ended")
    until_shown(browser, flower, waiting.id, "REVOKED")
    assert waiting.state == "REVOKED"
    flower.go(key)
    assert running.get(timeout=PATIENCE) is not None


def test_workers_of_ended_attempts_leave_the_list_and_the_queues_are_shown(
    flower: FlowerStack, browser: webdriver.Chrome
) -> None:
    done = flower.shop.add.apply_async((1, 1), queue="gpu.t4.shared")
    assert done.get(timeout=PATIENCE) == 2
    worker = flower.known(done.id)["worker"]
    until(
        lambda: get(flower, f"/api/task/info/{done.id}").get("worker") == worker,
        PATIENCE,
        "Flower knows the attempt's worker",
    )

    def workers() -> str:
        browser.get(flower.page + "/workers")
        WebDriverWait(browser, PATIENCE).until(lambda page: "dispatcher@test" in page.page_source)
        return browser.page_source

    until(
        lambda: worker not in workers(),
        PATIENCE,
        "the worker of an ended attempt is listed no more",
    )
    browser.get(flower.page + "/broker")
    page = browser.find_element(By.TAG_NAME, "body").text
    assert "gpu.t4.shared" in page and "gpu.t4.exclusive" in page
