"""Flower, in a real browser: what a person sees of jobs, and what its buttons do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from gpuqueue.model.names import worker_name
from gpuqueue.store.activity import activities
from tests.support.nodes import ProcessContainer
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WORKER = worker_name("t4")
WORKERS = "/workers?json=1"
#: A worker of an executor of 0.1: one for each attempt.
OLD = "t4-0a1b-1@pod-7"


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
            lambda: WORKER in get(made, "/api/workers?refresh=1"),
            PATIENCE,
            "Flower sees the worker of the class",
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
        "window-size=1600,2400",
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


#: A page replaces its tables meanwhile: they are read at one moment.
HEADS = """
const heads = Array.from(document.querySelectorAll(`#${arguments[0]}-table thead th`));
return heads.map(head => head.textContent);
"""
ROWS = """
const rows = Array.from(document.querySelectorAll(`#${arguments[0]}-table tbody tr`));
return rows.map(row => [row.innerHTML, Array.from(row.cells).map(cell => cell.innerText)]);
"""


def rows_of(browser: webdriver.Chrome, table: str) -> list[tuple[str, list[str]]]:
    """The rows of a table: HTML and cells of each, in which long names are broken."""
    found = browser.execute_script(ROWS, table)
    return [(html, [cell.replace("\n", "").strip() for cell in cells]) for html, cells in found]


def heads_of(browser: webdriver.Chrome, table: str) -> list[str]:
    """The names of the columns of a table."""
    found: list[str] = browser.execute_script(HEADS, table)
    return [each.strip().lower() for each in found]


def shown(browser: webdriver.Chrome, flower: FlowerStack, job_id: str) -> dict[str, str]:
    """The row of a job in Flower's list: column → text."""
    browser.get(flower.page + "/tasks")
    rows = WebDriverWait(browser, PATIENCE).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr td:nth-child(2)")
    )
    assert rows
    heads = heads_of(browser, "tasks")
    for html, cells in rows_of(browser, "tasks"):
        if job_id in html:
            return dict(zip(heads, cells, strict=False))
    return {}


def until_shown(
    browser: webdriver.Chrome, flower: FlowerStack, job_id: str, state: str
) -> dict[str, str]:
    # A page costs much more than an answer.
    path = f"/api/task/info/{job_id}"
    until(lambda: get(flower, path).get("state") == state, PATIENCE, f"Flower has heard of {state}")
    return until(
        lambda: (row := shown(browser, flower, job_id)).get("state") == state and row,
        PATIENCE,
        f"Flower shows {job_id} as {state}",
    )


def end(flower: FlowerStack, *jobs: Any) -> None:
    """Wait until jobs have succeeded, and Flower has heard so."""
    for each in jobs:
        each.get(timeout=PATIENCE)
        path = f"/api/task/info/{each.id}"
        until(partial(_has_succeeded, flower, path), PATIENCE, "Flower has heard of the end")


def _has_succeeded(flower: FlowerStack, path: str) -> bool:
    return bool(get(flower, path).get("state") == "SUCCESS")


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
    assert (row["name"], row["worker"]) == ("shop.hold", WORKER)
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
    assert "(2, 3)" in page and WORKER in page
    told = get(flower, f"/api/task/info/{waiting.id}")
    assert (told["result"], told["worker"]) == ("5", WORKER)
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
    end(flower, running)


def rows_of_workers(browser: webdriver.Chrome, flower: FlowerStack) -> dict[str, dict[str, str]]:
    """The first page of Flower: worker → column → text."""
    browser.get(flower.page + "/")
    WebDriverWait(browser, PATIENCE).until(
        lambda page: page.find_element(By.ID, "workers-online").text.isdecimal()
    )
    heads = heads_of(browser, "workers")
    rows = [cells for _, cells in rows_of(browser, "workers")]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows if len(row) == len(heads)}


def of(selector: str) -> tuple[str, str]:
    return By.CSS_SELECTOR, selector


def counts(flower: FlowerStack) -> dict[str, int]:
    """What Flower has counted of the worker of the class."""
    [found] = [each for each in get(flower, WORKERS)["data"] if each["hostname"] == WORKER]
    kinds = ("received", "started", "succeeded", "failed", "retried", "revoked")
    return {kind: found.get(f"task-{kind}", 0) for kind in kinds}


def begun(flower: FlowerStack) -> int:
    """How many attempts have had a slot, by Redis."""
    return activities(flower.client, ["t4"])["t4"].processed


def test_the_first_page_shows_one_worker_with_true_counts(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    before = counts(flower)
    send, shared = flower.shop, {"queue": "gpu.t4.shared"}
    done = [send.add.apply_async((each, 1), **shared) for each in range(5)]
    assert [each.get(timeout=PATIENCE) for each in done] == [1, 2, 3, 4, 5]
    for each in (send.fail.apply_async(**shared), send.give_up.apply_async(("enough",), **shared)):
        assert isinstance(each.get(timeout=PATIENCE, propagate=False), Exception)
    running = [send.hold.apply_async((key,), **shared) for _ in range(2)]
    for each in running:
        flower.in_state(each.id, "running")
    waiting = send.hold.apply_async((key,), **shared)
    # give_up is received and started once more, by its retry
    more = {"received": 11, "started": 10, "succeeded": 5, "failed": 2, "retried": 1, "revoked": 0}
    expected = {kind: before[kind] + number for kind, number in more.items()}
    until(lambda: counts(flower) == expected, PATIENCE, "true counts", lambda: str(counts(flower)))
    shown_now = until(
        lambda: (
            (rows := rows_of_workers(browser, flower))
            and [each["active"] for each in rows.values()] == ["2"]
            and rows
        ),
        PATIENCE,
        "two active tasks",
    )
    assert list(shown_now) == [WORKER]
    row = shown_now[WORKER]
    assert row["status"].lower() == "online"
    columns = {"processed": "received", "failed": "failed", "succeeded": "succeeded"}
    assert {column: row[column] for column in columns} == {
        column: str(expected[kind]) for column, kind in columns.items()
    }
    cards = {
        name: browser.find_element(By.ID, f"workers-{name}").text
        for name in ("online", "active", "succeeded", "failed")
    }
    assert cards == {
        "online": "1",
        "active": "2",
        "succeeded": str(expected["succeeded"]),
        "failed": str(expected["failed"]),
    }
    until(
        lambda: get(flower, WORKERS)["data"][0]["processed"] == begun(flower),
        PATIENCE,
        "the heartbeat tells how many attempts have begun",
    )
    assert begun(flower) == expected["started"]
    flower.go(key, 3)
    end(flower, *running, waiting)


@pytest.mark.slow
def test_the_page_of_the_worker_lists_its_jobs_slots_and_queues(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    running = [flower.shop.hold.apply_async((key,), queue="gpu.t4.shared") for _ in range(2)]
    for each in running:
        flower.in_state(each.id, "running")
    waiting = flower.shop.hold.apply_async((key,), queue="gpu.t4.shared")
    flower.in_state(waiting.id, "waiting")
    later = flower.shop.add.apply_async((3, 4), queue="gpu.t4.shared", countdown=3600)
    flower.in_state(later.id, "delayed")

    def tables() -> dict[str, str]:
        browser.get(f"{flower.page}/worker/{WORKER}")
        captions = browser.find_elements(*of("caption"))
        return {
            (each.get_attribute("textContent") or "").strip(): each.find_element(
                By.XPATH, ".."
            ).get_attribute("textContent")
            or ""
            for each in captions
        }

    def shown() -> dict[str, str] | None:  # Flower leaves out what is not answered in its time
        found = tables()
        lists = {
            "Active tasks": [each.id for each in running],
            "Reserved tasks": [waiting.id],
            "Scheduled tasks": [later.id],
            "Worker pool options": ["Max concurrency"],
            "Active queues": ["gpu.t4.shared"],
        }
        listed = all(each in found.get(name, "") for name, texts in lists.items() for each in texts)
        return found if listed else None

    found = until(shown, PATIENCE, "the jobs are listed", lambda: str(tables()))
    assert waiting.id not in found["Active tasks"] and key in found["Active tasks"]
    pool = " ".join(found["Worker pool options"].split())
    assert "Max concurrency 2" in pool and "Exclusive slots 1" in pool
    assert {"gpu.t4.shared", "gpu.t4.exclusive"} <= set(found["Active queues"].split())
    browser.get(flower.page + "/broker")
    page = browser.find_element(By.TAG_NAME, "body").text
    assert "gpu.t4.shared" in page and "gpu.t4.exclusive" in page
    later.revoke()
    flower.go(key, 3)
    end(flower, *running, waiting)


def test_the_buttons_of_the_worker_are_followed_or_say_why_not(
    flower: FlowerStack, browser: webdriver.Chrome
) -> None:
    def answer(tab: str, button: str, fill: tuple[str, str] | None = None) -> str:
        browser.get(f"{flower.page}/worker/{WORKER}")
        for name in (tab, button):
            if fill and name == button:
                browser.find_element(By.ID, fill[0]).send_keys(fill[1])
            WebDriverWait(browser, PATIENCE).until(
                expected_conditions.element_to_be_clickable((By.ID, name))
            ).click()
        toast = WebDriverWait(browser, PATIENCE).until(
            lambda page: page.find_elements(*of("#toast-container .toast-body"))
        )
        return str(toast[0].get_attribute("textContent"))

    assert "pool of a GPU class is its slots" in answer("worker-tab-pool", "worker-pool-grow")
    assert "pool of a GPU class is its slots" in answer("worker-tab-pool", "worker-pool-shrink")
    assert "no pool to restart" in answer("worker-group", "worker-pool-restart")
    add = ("worker-tab-queues", "worker-add-consumer")
    assert "queue='cpu' is no GPU queue" in answer(*add, ("add-consumer-name", "cpu"))
    queue = "gpu.t4.exclusive"
    cancel = f"worker-cancel-consumer-{queue}"
    assert answer("worker-tab-queues", cancel) == f"no longer consuming from {queue}"
    job = flower.shop.add.apply_async((1, 1), queue=queue)
    assert answer(*add, ("add-consumer-name", queue)) == f"add consumer {queue}"
    end(flower, job)


@pytest.mark.slow
def test_the_metrics_of_flower_are_bounded_by_the_classes(flower: FlowerStack) -> None:
    expected = counts(flower)["succeeded"] + 10
    for each in [flower.shop.add.apply_async((n, 1), queue="gpu.t4.shared") for n in range(10)]:
        assert each.get(timeout=PATIENCE)
    until(lambda: counts(flower)["succeeded"] == expected, PATIENCE, "all events have come")
    with urllib.request.urlopen(flower.page + "/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    workers = set(re.findall(r'worker="([^"]*)"', text))
    assert workers == {WORKER}
    series = re.findall(r"^flower_events_total\{.*type=\"task-succeeded\".*\} (.*)$", text, re.M)
    assert sum(map(float, series)) == expected
    assert f'flower_worker_online{{worker="{WORKER}"}} 1.0' in text


@pytest.mark.slow
def test_an_executor_of_an_older_image_leaves_the_list_again(
    flower: FlowerStack, browser: webdriver.Chrome
) -> None:
    job = str(uuid.uuid4())
    with (
        flower.app.connection_for_write() as connection,
        flower.app.events.Dispatcher(connection, hostname=OLD) as older,
    ):
        older.send("task-started", uuid=job)
        until(
            lambda: OLD in rows_of_workers(browser, flower), PATIENCE, "the old executor is shown"
        )
        older.send("task-succeeded", uuid=job, result="1", runtime=0.1)
        older.send("worker-offline")
    until(
        lambda: list(rows_of_workers(browser, flower)) == [WORKER],
        PATIENCE,
        "the old executor is listed no more",
    )


@pytest.mark.slow
def test_the_shutdown_button_ends_the_dispatchers_and_no_job(
    flower: FlowerStack, browser: webdriver.Chrome, key: str
) -> None:
    second = flower.dispatcher("second")
    running = flower.shop.hold.apply_async((key,), queue="gpu.t4.shared")
    flower.in_state(running.id, "running")
    browser.get(f"{flower.page}/worker/{WORKER}")
    browser.find_element(By.ID, "worker-group").click()
    WebDriverWait(browser, PATIENCE).until(
        expected_conditions.element_to_be_clickable((By.ID, "worker-shutdown"))
    ).click()
    until(
        lambda: all(each.container.status == "exited" for each in flower.workers),
        PATIENCE,
        "both dispatchers have ended",
        second.logs,
    )
    until(
        lambda: rows_of_workers(browser, flower) == {},
        PATIENCE,
        "no worker is online",
    )
    assert "shuts down; running jobs continue" in second.logs()
    flower.dispatcher("third")
    until(
        lambda: list(rows_of_workers(browser, flower)) == [WORKER], PATIENCE, "it is online again"
    )
    flower.go(key)
    assert running.get(timeout=PATIENCE) == key
