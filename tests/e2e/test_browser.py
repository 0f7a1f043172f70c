"""The example chat in a real browser: whatever happens to the page, the answer is there once and whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import StartServer
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    async_playwright,
    expect,
)
from requirements import need_chromium
from testkit.process import python_path
from testkit.servers import TESTS, Server
from testkit.valkey import Valkey
from testkit.wait import wait_until

EXAMPLE = TESTS.parent / "examples" / "chat"
ARTIFACTS = TESTS / ".artifacts"
CHROMIUM_FLAGS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUESTION = "How does the sea keep count of its waves?"
SLOW, FAST = "60", "600"  # words a second: an answer takes about five seconds, or half of one
PATIENCE = 15_000  # ms, for what comes within five when all is well

expect.set_options(timeout=PATIENCE)


def story(question: str) -> str:
    """What the example answers."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return str(import_module("storyteller").tell(question)).strip()
    finally:
        sys.path.remove(str(EXAMPLE))


@dataclass(frozen=True)
class Site:
    """Where the page is, and the process that its resume and stop requests are sent to."""

    base: str
    elsewhere: str
    server: Server


StartSite = Callable[..., Site]


@pytest.fixture(params=["memory", "valkey"])
def start_site(request: pytest.FixtureRequest, start_server: StartServer) -> StartSite:
    """Serve the example at a given speed: one process with memory, or two that share only Valkey."""

    def start(words_per_second: str, *, lease: str = "2") -> Site:
        url = "memory://"
        if request.param == "valkey":
            valkey: Valkey = request.getfixturevalue("valkey")
            url = valkey.url
        options = {
            "app": "app:app",
            "env": {
                "PYTHONPATH": python_path(EXAMPLE),
                "REDIS_URL": url,
                "CHAT_WORDS_PER_SECOND": words_per_second,
                "RESUMABLE_LEASE": lease,
                "OPENAI_API_KEY": "",
                "OPENAI_BASE_URL": "",
            },
            "ready_path": "/api/about",
        }
        page = start_server(**options)
        other = start_server(**options) if request.param == "valkey" else page
        return Site(page.base, other.base, page)

    return start


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = need_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Person:
    """Somebody with a browser and any number of tabs, whose complaints are collected."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.context.on("console", self._heard)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    async def visit(self, site: Site, url: str | None = None) -> Tab:
        async def reroute(route: Route) -> None:
            await route.continue_(url=route.request.url.replace(site.base, site.elsewhere))

        page = await self.context.new_page()
        if site.elsewhere != site.base:
            await page.route(re.compile(r"/api/chat/[^/]+/(stream|stop)$"), reroute)
        await page.goto(url or site.base)
        return Tab(page)


@pytest.fixture
async def person(browser: Browser) -> AsyncIterator[Person]:
    """Whoever uses the page may not find errors in the console."""
    context = await browser.new_context(viewport={"width": 1180, "height": 820})
    person = Person(context)
    yield person
    await context.close()
    assert person.complaints == []


class Cable:
    """A port that leads to another one, until it is pulled."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._port = 0
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Cable:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pull()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def pull(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for end in self._ends:
            end.transport.abort()
        await wait_until(lambda: not self._ends, what="the connections to be cut")

    async def _join(self, from_page: asyncio.StreamReader, to_page: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        ends = {to_page, to_server}
        self._ends |= ends
        try:
            await asyncio.gather(self._carry(from_page, to_server), self._carry(from_server, to_page))
        finally:
            self._ends -= ends

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()


class Tab:
    """One tab showing the chat."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.answers = page.locator(".message.assistant .text")
        self.questions = page.locator(".message.user .text")
        self.status = page.locator("#status")
        self.prompt = page.get_by_label("Your message")
        self.stop = page.get_by_role("button", name="Stop")
        self.try_again = page.get_by_role("button", name="Try again")

    async def ask(self, question: str = QUESTION) -> None:
        await self.prompt.fill(question)
        await self.prompt.press("Enter")

    async def shows_some(self, *, more_than: int = 100) -> str:
        """Wait until that much of the one answer can be read, and give it."""

        async def text() -> str | None:
            shown = await self.answers.all_text_contents()
            return shown[0] if len(shown) == 1 and len(shown[0]) > more_than else None

        seen = await wait_until(text, timeout=PATIENCE / 1000, what="some of the answer to be shown")
        assert seen
        return seen

    async def says(self, state: str) -> None:
        await expect(self.status).to_have_attribute("data-state", state)

    async def shows(self, *answers: str, questions: int | None = None) -> None:
        """Exactly these answers, each once."""
        await expect(self.questions).to_have_count(len(answers) if questions is None else questions)
        await expect(self.answers).to_have_count(len(answers))
        assert [text.strip() for text in await self.answers.all_text_contents()] == list(answers)

    async def reload(self) -> None:
        await self.page.reload()

    async def note_states(self) -> None:
        """Note every state that the status shows from now on."""
        await self.page.evaluate("""
            const line = document.getElementById("status");
            window.noted = [];
            const observer = new MutationObserver(() => noted.push(line.dataset.state));
            observer.observe(line, { attributeFilter: ["data-state"] });
        """)

    async def noted_states(self) -> list[str]:
        return await self.page.evaluate("noted")


async def test_an_answer_is_streamed_and_kept(start_site: StartSite, person: Person) -> None:
    """Nothing happens to the page here: the baseline of all the others."""
    tab = await person.visit(start_site(FAST))
    await tab.says("ready")
    await tab.ask()
    await tab.says("done")
    await tab.shows(story(QUESTION))
    await tab.ask("And the tides?")
    await expect(tab.answers).to_have_count(2)
    await tab.says("done")
    await tab.reload()
    await tab.shows(story(QUESTION), story("And the tides?"))


async def test_a_reload_in_the_middle_loses_and_repeats_nothing(
    start_site: StartSite, person: Person
) -> None:
    """Twice, since a resumed answer must be as good as the first one."""
    tab = await person.visit(start_site(SLOW))
    await tab.ask()
    await tab.says("streaming")
    seen = await tab.shows_some()
    for _ in range(2):
        await tab.reload()
        await tab.says("resumed")
        seen = await tab.shows_some(more_than=len(seen) + 50)
    await tab.says("done")
    await tab.shows(story(QUESTION))
    await tab.reload()
    await tab.shows(story(QUESTION))


async def test_a_second_tab_joins_a_running_answer(start_site: StartSite, person: Person) -> None:
    """It opens the first one's address while the answer runs."""
    site = start_site(SLOW)
    first = await person.visit(site)
    await first.ask()
    await first.shows_some()
    second = await person.visit(site, first.page.url)
    await second.says("resumed")
    await second.shows_some()
    for tab in (first, second):
        await tab.says("done")
        await tab.shows(story(QUESTION))


async def test_an_open_second_tab_follows_what_the_first_asks(start_site: StartSite, person: Person) -> None:
    """Both have shown the empty chat for a while."""
    site = start_site(SLOW)
    first = await person.visit(site)
    second = await person.visit(site, first.page.url)
    await second.says("ready")
    await first.ask()
    await second.says("resumed")
    await second.shows_some()
    for tab in (first, second):
        await tab.says("done")
        await tab.shows(story(QUESTION))


async def test_another_browser_with_the_address_sees_the_running_answer(
    start_site: StartSite, person: Person, browser: Browser
) -> None:
    """It has none of the first one's history."""
    site = start_site(SLOW)
    tab = await person.visit(site)
    await tab.ask()
    await tab.shows_some()
    context = await browser.new_context()
    other = await Person(context).visit(site, tab.page.url)
    await other.says("done")
    await other.shows(story(QUESTION), questions=0)
    await context.close()


async def test_stop_stops_for_every_tab_and_for_good(start_site: StartSite, person: Person) -> None:
    """What had arrived stays, after a reload too."""
    site = start_site(SLOW)
    first = await person.visit(site)
    await first.ask()
    await first.shows_some()
    second = await person.visit(site, first.page.url)
    await second.shows_some()
    await second.stop.click()
    for tab in (first, second):
        await tab.says("stopped")
        await expect(tab.page.get_by_text("Stopped.")).to_be_visible()
        await expect(tab.stop).to_be_hidden()
    seen = await first.shows_some()
    assert story(QUESTION).startswith(seen)
    assert seen != story(QUESTION)
    async with first.page.expect_response("**/stream") as resumed:
        await first.reload()
    assert (await resumed.value).status == 204
    await expect(first.page.get_by_text("Stopped.")).to_be_visible()
    await first.shows(seen)


async def test_a_resumed_answer_can_be_stopped_and_asked_for_again(
    start_site: StartSite, person: Person
) -> None:
    """Stop works on what was found after a reload, and "Try again" replaces the half answer."""
    tab = await person.visit(start_site(SLOW))
    await tab.ask()
    await tab.shows_some()
    await tab.reload()
    await tab.says("resumed")
    await tab.stop.click()
    await tab.says("stopped")
    await tab.try_again.click()
    await tab.says("streaming")
    await tab.says("done")
    await tab.shows(story(QUESTION))


@pytest.mark.parametrize("key", ["Enter", "Space"])
@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_stop_is_reached_and_pressed_by_keyboard(
    start_site: StartSite, person: Person, key: str
) -> None:
    """The focus stays where it was put while text comes in, and is never lost with a button that goes."""
    tab = await person.visit(start_site(SLOW))
    await tab.ask()
    seen = await tab.shows_some()
    await tab.page.keyboard.press("Tab")
    await expect(tab.stop).to_be_focused()
    await tab.shows_some(more_than=len(seen) + 100)
    await expect(tab.stop).to_be_focused()
    await tab.page.keyboard.press(key)
    await tab.says("stopped")
    assert await tab.shows_some() != story(QUESTION)
    await expect(tab.prompt).to_be_focused()
    await tab.page.keyboard.press("Shift+Tab")
    await expect(tab.try_again).to_be_focused()
    await tab.page.keyboard.press(key)
    await tab.says("streaming")
    await expect(tab.prompt).to_be_focused()
    await tab.says("done")
    await tab.shows(story(QUESTION))


@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_esc_stops_what_comes_in_and_nothing_else(start_site: StartSite, person: Person) -> None:
    """It works from wherever the focus is, and what is being typed stays."""
    tab = await person.visit(start_site(SLOW))
    await tab.ask()
    await tab.shows_some()
    await tab.prompt.fill("And the tides?")
    await tab.page.keyboard.press("Escape")
    await tab.says("stopped")
    await expect(tab.prompt).to_have_value("And the tides?")
    await tab.page.keyboard.press("Escape")
    await tab.says("stopped")
    await tab.page.keyboard.press("Enter")
    await tab.says("streaming")
    new_chat = tab.page.get_by_role("button", name="New chat")
    await new_chat.focus()
    await tab.page.keyboard.press("Escape")
    await tab.says("stopped")
    await expect(new_chat).to_be_focused()


@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_a_stop_that_could_not_be_asked_for_can_be_pressed_again(
    start_site: StartSite, browser: Browser
) -> None:
    """The browser itself writes failed requests to the console, so that is not looked at."""
    context = await browser.new_context()
    tab = await Person(context).visit(start_site(SLOW))
    await tab.page.route("**/stop", lambda route: route.fulfill(status=503), times=1)
    await tab.ask()
    await tab.shows_some()
    await tab.stop.click()
    await tab.says("unstopped")
    await tab.stop.click()
    await tab.says("stopped")
    assert await tab.shows_some() != story(QUESTION)
    await context.close()


async def test_an_answer_finished_while_the_page_was_away_is_found(
    start_site: StartSite, person: Person
) -> None:
    """Nobody received its end, so the server still has it."""
    site = start_site(SLOW)
    tab = await person.visit(site)
    address = tab.page.url
    await tab.ask()
    await tab.shows_some()
    await tab.page.goto("about:blank")
    # The same answer to somebody else, begun later: when that has ended, so has ours.
    messages = [{"role": "user", "parts": [{"type": "text", "text": QUESTION}]}]
    later = await person.context.request.post(
        f"{site.base}/api/chat", data={"id": "somebody else", "messages": messages}
    )
    assert '"finish"' in await later.text()
    await tab.page.goto(address)
    await tab.says("done")
    await tab.shows(story(QUESTION))


async def test_a_new_chat_leaves_the_old_answer_running(start_site: StartSite, person: Person) -> None:
    """The browser's back button finds it again."""
    tab = await person.visit(start_site(SLOW))
    await tab.ask()
    await tab.shows_some()
    await tab.page.get_by_role("button", name="New chat").click()
    await tab.shows()
    await tab.ask("hello")
    await tab.shows_some()
    await tab.page.go_back()
    await tab.says("resumed")
    await tab.says("done")
    await tab.shows(story(QUESTION))


@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_a_lost_network_is_admitted_and_got_over(start_site: StartSite, browser: Browser) -> None:
    """The browser itself writes failed requests to the console, so that is not looked at."""
    site = start_site(SLOW)
    async with Cable(urlsplit(site.base).port or 0) as cable:
        context = await browser.new_context()
        tab = await Person(context).visit(dataclasses.replace(site, base=cable.base, elsewhere=cable.base))
        await tab.ask()
        await tab.shows_some()
        await cable.pull()
        await tab.says("reconnecting")
        seen = await tab.shows_some()
        await cable.mend()
        await tab.says("resumed")
        await tab.shows_some(more_than=len(seen) + 50)
        await tab.says("done")
        await tab.shows(story(QUESTION))
        await context.close()


@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_a_stop_pressed_while_the_network_is_away_is_kept(
    start_site: StartSite, browser: Browser
) -> None:
    """It is asked for as soon as the server can be reached."""
    site = start_site("20")
    async with Cable(urlsplit(site.base).port or 0) as cable:
        context = await browser.new_context()
        tab = await Person(context).visit(dataclasses.replace(site, base=cable.base, elsewhere=cable.base))
        await tab.ask()
        await tab.shows_some()
        await cable.pull()
        await tab.says("reconnecting")
        await tab.page.keyboard.press("Escape")
        await tab.says("unstopped")
        await cable.mend()
        await tab.says("stopped")
        assert await tab.shows_some() != story(QUESTION)
        await context.close()


@pytest.mark.parametrize("start_site", ["valkey"], indirect=True)
async def test_a_dead_worker_is_admitted_and_asking_again_helps(
    start_site: StartSite, browser: Browser
) -> None:
    """Half an answer is never passed off as a whole one, nor a replay of it as news."""
    site = start_site(SLOW, lease="5")
    context = await browser.new_context()
    tab = await Person(context).visit(site)
    await tab.ask()
    await tab.shows_some()
    await tab.note_states()
    site.server.kill()
    await tab.says("reconnecting")
    await tab.says("waiting")
    await expect(tab.status).to_have_text("Waiting for news of the answer…")
    await tab.says("failed")
    states = await tab.noted_states()
    assert states[-2:] == ["waiting", "failed"], states
    seen = await tab.shows_some(more_than=20)  # the worker may have taken its last words with it
    assert story(QUESTION).startswith(seen)
    await expect(tab.try_again).to_be_visible()
    ARTIFACTS.mkdir(exist_ok=True)
    await tab.page.screenshot(path=ARTIFACTS / "dead-worker.png")
    await tab.page.route(
        "**/api/chat", lambda route: route.continue_(url=route.request.url.replace(site.base, site.elsewhere))
    )
    await tab.try_again.click()
    await tab.says("done")
    await tab.shows(story(QUESTION))
    await context.close()


@pytest.mark.parametrize("start_site", ["valkey"], indirect=True)
async def test_a_tab_whose_connection_holds_says_that_it_waits_for_a_dead_worker(
    start_site: StartSite, browser: Browser
) -> None:
    """It follows the answer through the worker that lives."""
    site = start_site(SLOW, lease="5")
    context = await browser.new_context()
    first = await Person(context).visit(site)
    await first.ask()
    await first.shows_some()
    second = await Person(context).visit(site, first.page.url)
    await second.says("resumed")
    site.server.kill()
    await second.says("waiting")
    await second.says("failed")
    await expect(second.page.get_by_text("The rest of the answer was lost")).to_be_visible()
    await context.close()


@pytest.mark.parametrize("start_site", ["valkey"], indirect=True)
async def test_asking_again_shows_one_answer_in_every_tab(start_site: StartSite, browser: Browser) -> None:
    """The other tab sees the question before the server does, which still replays the old answer then."""
    site = start_site(SLOW)
    context = await browser.new_context()
    first = await Person(context).visit(site)
    await first.ask()
    await first.shows_some()
    second = await Person(context).visit(site, first.page.url)
    await second.says("resumed")
    site.server.kill()
    for tab in (first, second):
        await tab.says("failed")

    async def late(route: Route) -> None:
        await asyncio.sleep(1)
        await route.continue_(url=route.request.url.replace(site.base, site.elsewhere))

    await first.page.route("**/api/chat", late)
    await first.try_again.click()
    for tab in (first, second):
        await tab.says("done")
        await tab.shows(story(QUESTION))
    await context.close()


@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_what_people_write_is_shown_as_text(start_site: StartSite, person: Person) -> None:
    """The storyteller quotes the question, so it comes back from the server too."""
    tab = await person.visit(start_site(FAST))
    await tab.ask("<img src=x onerror=alert(1)> & <b>bold</b>")
    await tab.says("done")
    await expect(tab.questions).to_have_text("<img src=x onerror=alert(1)> & <b>bold</b>")
    await expect(tab.answers).to_contain_text("<img src=x onerror=alert(1)> & <b>bold</b>")
    assert await tab.page.locator("#messages :is(img, b)").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "height"), [(1180, 820), (390, 800), (800, 390)], ids=["desktop", "phone", "phone on its side"]
)
@pytest.mark.parametrize("start_site", ["memory"], indirect=True)
async def test_the_page_fits_its_screen(
    start_site: StartSite, browser: Browser, scheme: str, width: int, height: int, tmp_path: Path
) -> None:
    """Pictures of it, for somebody to look at, are left in `tests/.artifacts`."""
    ARTIFACTS.mkdir(exist_ok=True)
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=2,
    )
    tab = await Person(context).visit(start_site(SLOW))

    async def picture(name: str) -> None:
        await tab.page.screenshot(path=ARTIFACTS / f"{width}-{scheme}-{name}.png")
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width

    await expect(tab.page.get_by_text("Built-in storyteller")).to_be_visible()
    await expect(tab.page.get_by_role("heading", name="Ask, then pull the plug.")).to_be_in_viewport()
    await picture("1-welcome")
    await tab.ask()
    await tab.shows_some(more_than=500)
    await picture("2-streaming")
    await tab.reload()
    await tab.says("resumed")
    await tab.shows_some(more_than=600)
    await picture("3-resumed")
    await tab.stop.click()
    await tab.says("stopped")
    await picture("4-stopped")
    await context.close()
