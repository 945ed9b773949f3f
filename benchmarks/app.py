"""Benchmark of the app in a real browser: start, uploads, page switches, a large chart, and many sessions at once.

    python benchmarks/app.py [--quick] [--load-seconds N] [--json FILE]

The server is a fresh `streamlit run app.py`, the browser a headless Chromium with a private context per visitor. A page
is *complete* when its script has ended and for half a second nothing in it has changed and no canvas (a chart or a
table) was painted. Seconds run from the click to the last of those changes, so drawing counts. First and later visits
of a page are listed apart; the goal is on the median of the later visits of the slowest page.

Bytes are all bodies and websocket frames that the browser receives after the click. The run of the large chart has a
million rows of four experts with twelve tier norms. It was judged and its chart was drawn once before timing.

The sessions of the load are websocket clients (app_client.py), because twenty browsers would fill the machine. Each
session uploads two runs and visits all pages in turn, with a few seconds of reading in between, until the time is over.
An error is any complaint of a script, the browser's console or the server's log, or a page without the session's own
runs. Mixed data is the id of another session's run in any frame. Memory is the resident bytes of the server and its
children: before, after one session has come, seen all pages and been closed; after, when all twenty have. Then fifty
such sessions come at once to a fresh server: what they wait for is told, and only errors are judged.

Exits 0 only if every goal holds. Without --quick the figures go to benchmarks/results/app.json. `--quick` is one round,
a fifth of the rows, 20 seconds of each load and early closing of sessions: to try the benchmark, not to report figures.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app_browser import FLAGS, Server, served, visitor
from app_client import Client, client
from app_files import DATA, large_run, small_run
from common import ROOT, Skips, conclude, judged, options
from playwright.async_api import Browser, async_playwright

RESULTS = ROOT / "benchmarks" / "results" / "app.json"
NOW = DATA / "now"  # logs and runs of this benchmark run
SESSIONS = 20
CROWD = 50
LOOKS = 7  # seconds in which the server searches three times for ended sessions
BRUSHED = (0.1, 0.5, 0.3, 0.7, 0.2)  # where each range begins: always outside the range before it
READING = (3.0, 9.0)  # seconds between two clicks of a session


@dataclass(frozen=True)
class Work:
    """The size of the benchmark."""

    rounds: int
    rows: int
    """Of the run with the large chart."""
    load_seconds: float
    crowd_seconds: float
    forget_after: int
    """Seconds after which the server closes an ended session: Streamlit's default of 120, or less."""


FULL = Work(rounds=5, rows=1_000_000, load_seconds=300.0, crowd_seconds=60.0, forget_after=120)
QUICK = Work(rounds=1, rows=200_000, load_seconds=20.0, crowd_seconds=20.0, forget_after=2)


@dataclass
class Answers:
    """The seconds that the sessions of a load waited for."""

    uploads: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)


@dataclass
class Report(Skips):
    """The measurements, in seconds and bytes."""

    start: list[float] = field(default_factory=list)
    start_of_nothing: list[float] = field(default_factory=list)
    """The same for an app with only a title: the time of Streamlit and the browser themselves."""
    torch: bool = False
    uploads: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)
    later: dict[str, list[float]] = field(default_factory=dict)
    chart: list[float] = field(default_factory=list)
    chart_bytes: list[int] = field(default_factory=list)
    brush: list[float] = field(default_factory=list)
    brush_bytes: list[int] = field(default_factory=list)
    load: Answers = field(default_factory=Answers)
    crowd: Answers = field(default_factory=Answers)
    memory: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)


def main() -> int:
    """Measure, print the tables, and return 0 if every goal holds."""
    parser = options(__doc__, "one round, few rows, 20 seconds of load")
    parser.add_argument("--load-seconds", type=float, metavar="N", help="how long the twenty sessions stay")
    chosen = parser.parse_args()
    work = QUICK if chosen.quick else FULL
    if chosen.load_seconds is not None:
        work = replace(work, load_seconds=chosen.load_seconds)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("no Chromium on the PATH: install it with `apt-get install chromium`")
        return 2
    report = Report(versions={name: importlib.metadata.version(name) for name in ("streamlit", "altair", "playwright")})
    asyncio.run(measure(chromium, work, report))
    print_tables(work, report)
    figures = {name: value for name, value in asdict(report).items() if name not in ("skipped", "versions")}
    target = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(work, report), {"work": vars(work)} | figures, report, quick=chosen.quick, to=target)


async def measure(chromium: str, work: Work, report: Report) -> None:
    """Run all parts one after the other, so that each is timed alone."""
    shutil.rmtree(NOW, ignore_errors=True)
    large = large_run(work.rows)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        report.versions["chromium"] = browser.version
        for number in range(max(2, work.rounds)):
            with errors_of(report, "start"):
                await time_start(browser, report, number)
        async with served(NOW / "alone.log", large.parent.parent) as server:
            for number in range(work.rounds):
                with errors_of(report, "uploads"):
                    await time_uploads(browser, server, report, number)
            with errors_of(report, "pages"):
                await time_pages(browser, server, work, report)
            with errors_of(report, "chart"):
                await time_chart(browser, server, work, report)
            report.torch |= server.has_loaded("torch")
        report.errors += server.complaints()
        await browser.close()
    researchers = [Researcher(number) for number in range(CROWD)]
    await load(researchers[: SESSIONS + 1], work, report)
    await crowd(researchers, work, report)


def new_run(run: str, **about: Any) -> Path:
    """Write a run whose bytes no server has read before."""
    (NOW / run).mkdir(parents=True)
    return small_run(NOW / run / "dynamics.db", run, **about)


# -- One visitor -------------------------------------------------------------------------------------------------------


@contextmanager
def errors_of(report: Report, part: str) -> Iterator[None]:
    """Record an exception of one part as an error, and let the other parts run."""
    try:
        yield
    except Exception as error:
        report.errors.append(f"{part}: {type(error).__name__}: {str(error)[:300]}")


async def time_start(browser: Browser, report: Report, number: int) -> None:
    """Time from the command to the first words in a new browser, in turns with an app of one line."""
    runs = NOW / "no-runs"
    nothing = served(NOW / f"nothing-{number}.log", runs, root=app_of_nothing())
    async with nothing as server, visitor(browser, server) as guest:
        await guest.arrive()
        report.start_of_nothing.append(time.perf_counter() - server.started)
    async with served(NOW / f"start-{number}.log", runs) as server, visitor(browser, server) as guest:
        await guest.arrive()
        report.start.append(time.perf_counter() - server.started)
        await guest.complete()
        report.torch |= server.has_loaded("torch")
        report.errors += guest.errors


def app_of_nothing() -> Path:
    """Return the folder of an app with only a title and our server settings."""
    folder = NOW / "nothing"
    (folder / ".streamlit").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ".streamlit" / "config.toml", folder / ".streamlit")
    (folder / "app.py").write_text("import streamlit as st\n\nst.title('Nothing')\n")
    return folder


async def time_uploads(browser: Browser, server: Server, report: Report, number: int) -> None:
    """Time uploads of two new runs of 1 MB: one with many rows, one with many layers."""
    for kind, steps, layers in (("many rows", 4000, 1), ("many layers", 580, 4)):
        path = new_run(f"{0xB000000 + 16 * number + layers:09x}", seed=number, steps=steps, layers=layers)
        async with visitor(browser, server) as guest:
            await guest.arrive()
            await guest.complete()
            verdict, _ = await guest.upload(path)
            report.uploads.setdefault(kind, []).append(verdict)
            report.errors += guest.errors


async def time_pages(browser: Browser, server: Server, work: Work, report: Report) -> None:
    """Time each page of a session with four runs of 1 MB, two of them sham runs."""
    files = [new_run(f"{0xC000000 + n:09x}", seed=10 + n, steps=580, layers=4, scale=float(n < 2)) for n in range(4)]
    async with visitor(browser, server) as guest:
        await guest.arrive()
        await guest.complete()
        await guest.upload(*files)
        names = await guest.pages()
        for times in (report.first, *[report.later] * max(2, work.rounds)):
            for name in (*names[1:], names[0]):
                times.setdefault(name, []).append(await guest.visit(name))
        report.errors += guest.errors + ["a page shows an exception"] * await guest.failures()


async def time_chart(browser: Browser, server: Server, work: Work, report: Report) -> None:
    """Time the chart of the large run, and ranges of it chosen with the brush."""
    async with visitor(browser, server) as guest:
        await guest.follow(f"{work.rows:09x}")
        await guest.visit("Dynamics")
        for _ in range(max(2, work.rounds)):
            for other in ("Diagnostics", "Runs", "Diagnostics"):  # so that the browser drops the chart's data
                await guest.visit(other)
            report.chart.append(await guest.visit("Dynamics"))
            report.chart_bytes.append(guest.received)
        for place in BRUSHED[: max(2, work.rounds)]:
            report.brush.append(await guest.brush(place))
            report.brush_bytes.append(guest.received)
        report.errors += guest.errors


# -- Many sessions ----------------------------------------------------------------------------------------------------


class Researcher:
    """A session's user with two runs, which are recognised by their ids and number of steps."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.steps = 150 + number
        self.runs = [f"{0xA000000 + 16 * number + seed:09x}" for seed in range(2)]
        self.files = [
            new_run(run, seed=100 * number + seed, steps=self.steps, layers=2) for seed, run in enumerate(self.runs)
        ]


async def load(researchers: list[Researcher], work: Work, report: Report) -> None:
    """Run twenty sessions at once, and measure the server's memory before and after."""
    closing = f"--server.disconnectedSessionTTL={work.forget_after}"
    async with served(NOW / "load.log", NOW / "no-runs", closing) as server:
        *guests, first = researchers
        await stay(server, first, researchers, 0.0, report.load, report)
        report.memory["before"] = await forgotten(server, work)
        watch = asyncio.create_task(highest(server))
        await together(server, guests, researchers, work.load_seconds, report.load, report)
        report.memory["sessions open"] = server.memory
        watch.cancel()
        report.memory |= {"highest": await watch, "after": await forgotten(server, work)}
    report.errors += server.complaints()


async def crowd(researchers: list[Researcher], work: Work, report: Report) -> None:
    """Run all sessions at once on a fresh server."""
    async with served(NOW / "crowd.log", NOW / "no-runs") as server:
        await together(server, researchers, researchers, work.crowd_seconds, report.crowd, report)
    report.errors += server.complaints()


async def together(
    server: Server,
    guests: list[Researcher],
    all_of_them: list[Researcher],
    seconds: float,
    waits: Answers,
    report: Report,
) -> None:
    """Run the sessions of the guests at once."""
    await asyncio.gather(*(stay(server, guest, all_of_them, seconds, waits, report) for guest in guests))


async def stay(
    server: Server, user: Researcher, researchers: list[Researcher], seconds: float, waits: Answers, report: Report
) -> None:
    """Run one session: upload, then visit pages for `seconds`, or each page once if that is 0."""
    dice = random.Random(user.number)
    foreign = [run.encode() for other in researchers if other is not user for run in other.runs]
    with errors_of(report, f"session {user.number}"):
        async with client(server, foreign) as session:
            waits.uploads.append(await session.upload(*user.files))
            names, until = list(session.pages), time.perf_counter() + seconds
            for place in itertools.count(user.number):
                if time.perf_counter() > until and (seconds or place == user.number + len(names)):
                    break
                name = names[place % len(names)]
                waits.pages.append(await session.visit(name))
                check(session, user, name, report)
                if name == "Runs":
                    await session.press("Run query")
                    check(session, user, name, report)
                await asyncio.sleep(dice.uniform(*READING) if seconds else 0)
            report.errors += [f"session {user.number}: {error}" for error in session.errors]
            report.mixed += [f"session {user.number} saw {word.decode()}" for word in session.seen]


def check(session: Client, user: Researcher, name: str, report: Report) -> None:
    """Record an error if the page does not show the session's own runs."""
    steps = [] if name == "Compare" else [f"{user.steps} logged steps"]
    if not session.shows(*user.runs, *steps):
        report.errors.append(f"session {user.number}: {name} does not show its own runs")


async def forgotten(server: Server, work: Work) -> int:
    """Return the server's memory after it closed all ended sessions, which it does when another one ends."""
    await asyncio.sleep(work.forget_after + LOOKS)
    async with client(server):
        pass
    await asyncio.sleep(LOOKS)
    return server.memory


async def highest(server: Server) -> int:
    """Return the highest memory of the server until this task is cancelled."""
    most = 0
    try:
        while True:
            most = max(most, server.memory)
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return most


# -- Results -----------------------------------------------------------------------------------------------------------


def print_tables(work: Work, report: Report) -> None:
    """Print a line per page, then the load."""
    print(f"\n{'seconds':<24}{'first':>9}{'later':>9}{'slowest':>9}")
    for name, times in report.later.items():
        print(f"  {name:<22}{report.first[name][0]:>9.2f}{statistics.median(times):>9.2f}{max(times):>9.2f}")
    for what, times in (("first text", report.start), ("of an app of one line", report.start_of_nothing)):
        print(f"{what}: {', '.join(f'{seconds:.2f} s' for seconds in times)}")
    print(f"large chart: {', '.join(f'{s:.2f} s' for s in report.chart)}; {max(report.chart_bytes, default=0):,} bytes")
    print(f"brush: {', '.join(f'{s:.2f} s' for s in report.brush)}; {max(report.brush_bytes, default=0):,} bytes")
    for count, seconds, waits in (
        (SESSIONS, work.load_seconds, report.load),
        (CROWD, work.crowd_seconds, report.crowd),
    ):
        waited = f"script seconds: page {spread(waits.pages)}, upload {spread(waits.uploads)}"
        print(f"{count} sessions for {seconds:g} s, {len(waits.pages)} pages, {waited}")
    print("memory, MiB: " + ", ".join(f"{when} {size / 2**20:,.0f}" for when, size in report.memory.items()))
    for line in (*report.errors[:10], *report.mixed[:10]):
        print(f"wrong: {line}")


def spread(times: list[float]) -> str:
    """Return median, 95th percentile and slowest as text."""
    ordered = sorted(times) or [math.nan]
    return f"{statistics.median(ordered):.2f} (95 % {ordered[int(0.95 * (len(ordered) - 1))]:.2f}, {ordered[-1]:.2f})"


def goals(work: Work, report: Report) -> list[dict[str, Any]]:
    """Return the goals with their measured values."""
    slowest = max(report.later, key=lambda name: statistics.median(report.later[name]), default="none")
    memory = report.memory.get("after", math.nan) / report.memory.get("before", math.nan)
    at_most = [
        (
            "server start to first text, as a multiple of an app of one line",
            median(report.start) / median(report.start_of_nothing),
            1.05,
        ),
        ("torch in the memory of the server", float(report.torch), 0),
        *[(f"upload of 1 MB with {kind} to verdict, s", median(times), 0.5) for kind, times in report.uploads.items()],
        (f"page switch, seconds; the slowest page is {slowest}", median(report.later.get(slowest, [])), 0.35),
        (f"chart of {work.rows:,} rows x 12 series, warm, seconds", median(report.chart), 0.5),
        ("the same, KB received", max(report.chart_bytes, default=math.nan) / 1000, 100),
        ("brush to redrawn, seconds", median(report.brush), 0.3),
        (f"{SESSIONS} and then {CROWD} sessions at once: errors, and in all before", len(report.errors), 0),
        ("the same, runs of other sessions seen", len(report.mixed), 0),
        (f"memory after {SESSIONS} sessions as a multiple of before", memory, 1.15),
    ]
    return judged([], at_most)


def median(figures: list[float]) -> float:
    """Return the median, or NaN without figures."""
    return statistics.median(figures) if figures else math.nan


if __name__ == "__main__":
    sys.exit(main())
