"""The real pages in a real browser, of the real service."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from api import open_store
from scripts.demo import copy_photographs
from sightline.encoders.composed import ComposedEncoder
from tests.api.http.web.serving import served, sightline

ARTEFACTS = Path(__file__).resolve().parents[4] / ".ci" / "artefacts"
"""Where screenshots go; what CI keeps of a run."""

NUM_MANY = 72  # more than a page of results
NUM_TO_INDEX = 1500  # pictures of a job: enough for its progress to be seen
TIMEOUT_MS = 60_000  # of whatever a page is waited for, on a machine with other things to do

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, for a module.

    While it is there Playwright keeps an event loop running, beside which other tests cannot have theirs.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def photographs(work: Path) -> Path:
    """The photographs of the demo."""
    copy_photographs(work / "photographs")
    return work / "photographs"


@pytest.fixture(scope="session")
def open_store_folder(work: Path, photographs: Path, tiny_encoder_path: Path) -> Path:
    """A store without keys: photographs in `default`, plain colours and two texts in `many`.

    The photographs are embedded by the encoder that is bundled, everything else by the tiny one, which takes no time.
    """
    with open_store(work / "store") as store:
        store.index(photographs)
    with open_store(work / "store", encoder=str(tiny_encoder_path)) as store:
        store.index(write_colours(work / "colours", num_pictures=NUM_MANY), collection="many")
        notes = work / "notes.txt"
        notes.write_text("a note about the colour blue\na note about the colour green\n")
        store.index(notes, collection="many")
    write_colours(work / "sources" / "new", num_pictures=NUM_TO_INDEX)
    return work / "store"


@pytest.fixture(scope="module")
def open_service(work: Path, open_store_folder: Path, tiny_encoder_path: Path) -> Iterator[str]:
    """A service that asks for no key; its jobs may read `sources`, and new collections get the tiny encoder."""
    settings = {
        "SIGHTLINE_ENCODER": str(tiny_encoder_path),
        "SIGHTLINE_SERVICE_SOURCE_ROOTS": f'["{work / "sources"}"]',
        "SIGHTLINE_SERVICE_REQUEST_DEADLINE_MS": str(TIMEOUT_MS),
    }
    with served(open_store_folder, settings=settings) as address:
        yield address


@pytest.fixture(scope="session")
def keyed_store(work: Path, tiny_encoder: ComposedEncoder) -> tuple[Path, str]:
    """A store with a key, whose scope is admin."""
    store = work / "keyed"
    with open_store(store, encoder=tiny_encoder) as opened:
        opened.index(write_colours(work / "few", num_pictures=6))
    return store, sightline("keys", "create", "the tests", "--scope", "admin", store=store).stdout.split()[-1]


@pytest.fixture(scope="module")
def keyed_service(keyed_store: tuple[Path, str]) -> Iterator[tuple[str, str]]:
    """A service that asks for keys, and one that it takes."""
    store, key = keyed_store
    with served(store) as address:
        yield address, key


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages with a window's size and colours; none may fail in its script, or ask another host for anything."""
    opened = []
    broken: list[str] = []

    def open_one(address: str, *, width: int = 1280, height: int = 800, scheme: str = "light", is_still: bool = True) -> Page:
        base = "/".join(address.split("/")[:3])
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce" if is_still else "no-preference",
            has_touch=width < 500,
            is_mobile=width < 500,
        )
        opened.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()

        def requested(request: Request) -> None:
            if not request.url.startswith((base, "data:", "blob:")):
                broken.append(f"asked {request.url}")

        page.on("request", requested)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda message: broken.append(message.text) if "Content Security Policy" in message.text else None)
        page.goto(address)
        return page

    yield open_one
    for context in opened:
        context.close()
    assert broken == []


def write_colours(folder: Path, *, num_pictures: int) -> Path:
    """Small pictures of one colour each, in three shapes."""
    folder.mkdir(parents=True)
    shapes = [(96, 64), (64, 96), (120, 60)]
    for number in range(num_pictures):
        colour = (number * 37 % 256, number * 91 % 256, number * 153 % 256)
        Image.new("RGB", shapes[number % 3], colour).save(folder / f"{number:03}.png")
    return folder


def wait_until(page: Page, condition: str) -> None:
    """Until the JavaScript is true. Playwright's own waiting evaluates strings, which the pages' security policy refuses."""
    page.evaluate(
        f"""async () => {{
          const end = performance.now() + {TIMEOUT_MS};
          while (!({condition})) {{
            if (performance.now() > end) throw new Error("waited in vain");
            await new Promise(requestAnimationFrame);
          }}
        }}"""
    )


def keep_screenshot(page: Page, name: str) -> None:
    """Keeps what the page looks like, for people."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")
