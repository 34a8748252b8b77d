"""The page to search with, as a person uses it."""

import base64
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.api.http.web.conftest import OpenPage, keep_screenshot, wait_until

pytestmark = [pytest.mark.chromium, pytest.mark.slow]

DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: "image/png"}));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
  }
}"""

PASTE = """([target, name, type, content, words]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const clipboardData = new DataTransfer();
  if (name) clipboardData.items.add(new File([bytes], name, {type}));
  if (words) clipboardData.setData("text/plain", words);
  const event = new ClipboardEvent("paste", {bubbles: true, cancelable: true, clipboardData});
  return !document.querySelector(target).dispatchEvent(event);
}"""
"""Pastes into an element, and tells whether the page has kept the browser from doing so itself."""

HEAT = """() => {
  const canvas = document.querySelector("#viewer canvas");
  if (!canvas || !canvas.width) return 0;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let i = 3; i < pixels.length; i += 4) sum += pixels[i];
  return sum / pixels.length * 4 / 255;
}"""
"""How much of the picture is covered, from 0 to 1."""

ORDER = "() => [...document.querySelectorAll('.tile')].map((tile) => tile.hit.key)"


ORDER_AT_FIRST = """() => [...document.querySelectorAll('.tile')].map((tile) => tile.hit)
  .sort((one, other) => one.first_rank - other.first_rank).map((hit) => hit.key)"""

QUESTIONS_OF_BOTH_LOOKS = ("a person in a space suit", "a man with a camera on a tripod", "a person outside")
"""Of one at least the second look moves something, whatever sightline-mini is trained to next."""


HOLD_COLLECTIONS = """(() => {
  const ask = window.fetch;
  const held = new Promise((resolve) => { window.letCollectionsCome = resolve; });
  window.fetch = async (path, ...rest) => {
    if (String(path).endsWith("/v1/collections")) await held;
    return ask(path, ...rest);
  };
})()"""
"""A page that the names of the collections come to late."""


def search_for(page: Page, words: str) -> None:
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")
    wait_until(page, f"document.title === {f'{words} – Sightline'!r}")
    wait_for_results(page)


def wait_for_results(page: Page) -> None:
    is_ready = "document.querySelector('main').getAttribute('aria-busy') === 'false'"
    wait_until(page, f"document.querySelector('.tile') && document.body.dataset.state === 'results' && {is_ready}")


def order_of(page: Page) -> list[str]:
    keys: list[str] = page.evaluate(ORDER)
    return keys


def wait_for_pictures(page: Page) -> None:
    """Until the first ones are there."""
    first = "[...document.querySelectorAll('.tile img')].slice(0, 6)"
    wait_until(page, f"{first}.length > 0 && {first}.every((img) => img.classList.contains('shown'))")


def test_words_find_the_cat_and_the_address_says_so(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    expect(page.get_by_role("heading", level=1)).to_have_text("Find a picture by describing it")
    wait_for_pictures(page)  # of the collection, before anything is asked
    keep_screenshot(page, "start")

    search_for(page, "a cat")
    assert order_of(page)[0].endswith("chelsea.png")
    assert "q=a+cat" in page.url
    wait_for_pictures(page)
    keep_screenshot(page, "results")

    page.reload()
    wait_for_results(page)
    assert order_of(page)[0].endswith("chelsea.png")
    expect(page.get_by_role("searchbox")).to_have_value("a cat")


@pytest.mark.parametrize("is_sent_at_once", [False, True])
def test_words_typed_while_the_page_still_loads_are_kept(open_service: str, open_page: OpenPage, is_sent_at_once: bool) -> None:
    page = open_page(f"{open_service}/livez")
    page.add_init_script(HOLD_COLLECTIONS)
    page.goto(open_service)
    box = page.get_by_role("searchbox")
    box.fill("a cat")
    if is_sent_at_once:
        box.press("Enter")
    page.evaluate("window.letCollectionsCome()")
    if not is_sent_at_once:
        wait_for_pictures(page)  # so that the collections have come
        box.press("Enter")
    wait_until(page, "document.querySelector('.tile')?.hit.key.endsWith('chelsea.png') && document.title.startsWith('a cat')")
    expect(box).to_have_value("a cat")


def test_an_address_is_in_the_box_before_the_service_has_answered(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/livez")
    page.add_init_script(HOLD_COLLECTIONS)
    page.goto(f"{open_service}/?q=a+cat&show=image")
    expect(page.get_by_role("searchbox")).to_have_value("a cat")


def test_what_is_typed_and_not_sent_outlives_a_filter(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=blue&in=many")
    wait_for_results(page)
    box = page.get_by_role("searchbox")
    box.fill("green")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("radio", name="Texts").check(force=True)
    page.wait_for_url("**show=text**")
    expect(box).to_have_value("green")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear the search").click()
    expect(box).to_have_value("")


def test_back_and_forward_go_through_searches(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    search_for(page, "a cat")
    search_for(page, "a cup of coffee")
    wait_until(page, "document.querySelector('.tile').hit.key.endsWith('coffee.png')")
    page.go_back()
    wait_until(page, "document.querySelector('.tile').hit.key.endsWith('chelsea.png')")
    expect(page.get_by_role("searchbox")).to_have_value("a cat")
    page.go_back()
    expect(page.locator("body")).to_have_attribute("data-state", "start")
    page.go_forward()
    wait_until(page, "document.querySelector('.tile')?.hit.key.endsWith('chelsea.png')")


def test_pictures_keep_their_shapes_and_fill_the_rows(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=coffee")
    wait_for_results(page)
    boxes = page.evaluate(
        """() => [...document.querySelectorAll('.tile')].map((tile) => {
          const box = tile.querySelector('.open').getBoundingClientRect();
          return {shape: tile.hit.width / tile.hit.height, width: box.width, height: box.height, right: box.right, row: tile.box.row};
        })"""
    )
    right_edge = max(box["right"] for box in boxes)
    last_row = max(box["row"] for box in boxes)
    for box in boxes:
        assert box["width"] / box["height"] == pytest.approx(box["shape"], rel=0.02)  # whole pixels
    for row in range(last_row):
        assert max(box["right"] for box in boxes if box["row"] == row) == pytest.approx(right_edge, abs=1)


def test_more_results_come_as_one_scrolls(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=blue&in=many")
    wait_for_results(page)
    page.mouse.move(600, 500)
    page.mouse.wheel(0, 20_000)
    wait_until(page, "document.querySelectorAll('.tile').length > 64")
    keys = order_of(page)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("way", ["dropped", "chosen", "pasted", "pasted into the box"])
def test_a_picture_finds_itself(open_service: str, open_page: OpenPage, photographs: Path, way: str) -> None:
    page = open_page(open_service)
    content = base64.b64encode((photographs / "chelsea.png").read_bytes()).decode()
    if way == "dropped":
        page.evaluate(DROP, [content, "a cat.png"])
    elif way.startswith("pasted"):
        target = "#words" if way.endswith("box") else "body"
        assert page.evaluate(PASTE, [target, "image.png", "image/png", content, ""])
    else:
        page.locator("#file").set_input_files(photographs / "chelsea.png")
    page.wait_for_url("**picture=**")
    wait_for_results(page)
    assert order_of(page)[0].endswith("chelsea.png")
    expect(page.locator("#given img")).to_be_visible()
    keep_screenshot(page, f"picture-{way}")
    page.reload()  # the tab has kept the picture
    wait_for_results(page)
    assert order_of(page)[0].endswith("chelsea.png")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("", "", "a cat"),
        ("notes.txt", "text/plain", ""),
        ("image.png", "image/png", "a cat"),  # what text editors and spreadsheets copy: words, and a picture of them
    ],
)
def test_words_that_are_pasted_are_words(
    open_service: str, open_page: OpenPage, photographs: Path, name: str, kind: str, words: str
) -> None:
    page = open_page(open_service)
    content = base64.b64encode((photographs / "chelsea.png").read_bytes()).decode()
    assert not page.evaluate(PASTE, ["#words", name, kind, content, words])
    page.get_by_role("searchbox").fill("a cat")  # a picture would have been asked for by now
    page.get_by_role("searchbox").press("Enter")
    wait_for_results(page)
    assert "picture=" not in page.url
    expect(page.locator("#given img")).to_have_count(0)


def test_a_link_to_somebody_elses_picture_says_so(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?picture=0123456789abcdef")
    expect(page.locator("#state")).to_contain_text("The picture is not here")


def test_what_is_no_picture_is_refused_in_a_sentence(open_service: str, open_page: OpenPage, work: Path) -> None:
    page = open_page(open_service)
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#state")).to_contain_text("notes.txt is not a picture that can be read")


def test_a_sentence_about_a_file_outlives_the_beginning_of_the_page(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    held: list[Route] = []
    page.route("**/v1/collections", lambda route: held.append(route))
    page.reload()
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_timeout(200)  # for the browser to find out that it is none
    held[0].continue_()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#state")).to_contain_text("notes.txt is not a picture that can be read")
    expect(page.locator(".tile")).to_have_count(0)


def test_more_like_this_leaves_it_out_and_shows_it_in_the_box(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+cat")
    wait_for_results(page)
    first = page.locator(".tile").first
    first.hover()
    first.get_by_role("button", name="More like").click()
    page.wait_for_url("**like=**")
    wait_for_results(page)
    wait_until(page, "![...document.querySelectorAll('.tile')].some((tile) => tile.hit.key.endsWith('chelsea.png'))")
    expect(page.locator("#given")).to_contain_text("More like this")


def test_the_looks_are_two_orders_of_the_same_hits(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service, is_still=False)
    first: list[str] = []
    second: list[str] = []
    for words in QUESTIONS_OF_BOTH_LOOKS:
        search_for(page, words)
        second, first = order_of(page), page.evaluate(ORDER_AT_FIRST)
        if first != second:
            break
    assert first != second, "the second look moved nothing, so that this test would see nothing"
    page.get_by_label("First look").check()
    assert page.evaluate("document.getAnimations().some((each) => each.effect.target?.classList.contains('tile'))")
    keep_screenshot(page, "looks-moving")
    assert order_of(page) == first
    assert "look=first" in page.url
    page.get_by_label("Second look").check()
    assert order_of(page) == second


def test_words_are_seen_in_the_picture(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+cat")
    wait_for_results(page)
    page.locator(".tile .open").first.click()
    dialog = page.get_by_role("dialog")
    word = dialog.get_by_role("button", name="cat")
    word.wait_for()
    assert page.evaluate(HEAT) == 0
    word.hover()
    wait_until(page, f"({HEAT})() > 0.02")
    keep_screenshot(page, "heat-map")
    dialog.get_by_role("heading", level=2).hover()
    wait_until(page, f"({HEAT})() === 0")
    dialog.get_by_role("button", name="All words").focus()
    page.keyboard.press("Tab")  # the first word, reached by keys
    wait_until(page, f"({HEAT})() > 0.02")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    wait_until(page, "!location.href.includes('item=')")


def test_a_shared_address_opens_the_picture(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+cat")
    wait_for_results(page)
    page.locator(".tile .open").nth(1).click()
    page.wait_for_url("**item=**")
    name = page.locator("#viewer-title").inner_text()
    other = open_page(page.url)
    expect(other.locator("#viewer-title")).to_have_text(name)
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_filters_narrow_and_are_taken_off(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+note+about+blue&in=many")
    wait_for_results(page)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Texts").check()
    page.wait_for_url("**show=text**")
    wait_until(page, "document.querySelectorAll('.tile').length === 2")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove: Texts only").click()
    wait_until(page, "document.querySelectorAll('.tile').length > 2")
    assert "show=" not in page.url


def test_a_least_match_where_nothing_can_be_read_says_so_and_is_taken_off(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?in=many&q=blue&show=text&match=50")
    state = page.locator("#state")
    expect(state).to_contain_text("none is known here: ")
    keep_screenshot(page, "no-match-known")
    state.get_by_role("button", name="Search without “match at least”").click()
    wait_for_results(page)
    assert "show=text" in page.url
    assert "match=" not in page.url


def test_nothing_found_says_what_may_be_the_reason(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+page+of+mathematics+about+nothing&match=95")
    expect(page.locator("#state")).to_contain_text("Nothing found")
    expect(page.locator("#state")).to_contain_text("nothing matches with 95% or more")
    keep_screenshot(page, "nothing-found")
    page.get_by_role("button", name="Search without filters").click()
    wait_for_results(page)


def test_results_are_downloaded(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+cat")
    wait_for_results(page)
    contents = {}
    for name in ("JSON", "CSV"):
        page.get_by_role("button", name="Download").click()
        with page.expect_download() as downloaded:
            page.get_by_role("button", name=f"As {name}").click()
        contents[name] = Path(downloaded.value.path()).read_text()
        assert downloaded.value.suggested_filename == f"sightline-a-cat.{name.lower()}"
    hits = json.loads(contents["JSON"])["hits"]
    lines = contents["CSV"].splitlines()
    assert lines[0].startswith("rank,item_id,key")
    assert [line.split(",")[2] for line in lines[1:]] == [hit["key"] for hit in hits] == order_of(page)


def test_a_cell_is_never_a_formula(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    hit = {"rank": 1, "key": "=HYPERLINK(1)", "text": 'say "hello", twice'}
    line = page.evaluate("async (hit) => (await import('/web/js/download.js')).csv([hit])", hit).splitlines()[1]
    assert line.startswith("1,,'=HYPERLINK(1),")
    assert '"say ""hello"", twice"' in line


def test_a_service_that_is_away_is_waited_for(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    wait_until(page, "document.querySelectorAll('#collection option').length > 1")
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("a cat")
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator("#state")).to_contain_text("The service cannot be reached")
    keep_screenshot(page, "offline")
    page.context.set_offline(False)
    wait_for_results(page)
    assert order_of(page)[0].endswith("chelsea.png")


def test_what_the_service_refuses_is_its_sentence(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+cat&in=nowhere")
    expect(page.locator("#state")).to_contain_text("there is no collection 'nowhere'")


def test_who_chooses_a_collection_is_told_what_it_holds(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    page.request.patch(f"{open_service}/v1/collections/many", data={"description": "Plain colours"})
    page.goto(f"{open_service}/?in=many")
    wait_until(page, "document.querySelectorAll('#collection option').length > 1")
    assert page.locator("#collection option[value=many]").get_attribute("title") == "Plain colours"
    assert page.locator("#collection").get_attribute("title") == "Plain colours"
    page.locator("#collection").select_option("default")
    wait_until(page, "document.querySelector('#collection').title === ''")


def test_keys_alone_are_enough(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    wait_until(page, "document.querySelectorAll('#collection option').length > 1")
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=a+cat**")
    wait_for_results(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    place = "[...document.querySelectorAll('.tile .open')].indexOf(document.activeElement)"
    assert page.evaluate(place) == 1
    page.keyboard.press("ArrowDown")
    below = page.evaluate(place)
    assert below > 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(30):  # more than there are stops
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('#viewer').contains(document.activeElement)")
    opened = page.url
    page.keyboard.press("ArrowRight")
    wait_until(page, f"location.href !== {opened!r}")
    page.keyboard.press("ArrowLeft")
    wait_until(page, f"location.href === {opened!r}")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate(place) in (0, 1, 2)  # back on a tile of the row that was left
    page.keyboard.press("m")
    page.wait_for_url("**like=**")


def test_a_narrow_phone_shows_words_beside_the_button_and_the_tools_within(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/?q=a+note+about+the+colour+blue&in=many&show=text", width=360, height=700)
    wait_for_results(page)
    expect(page.locator(".tile .words")).to_have_count(2)
    for name in ("Filters", "Download"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 360 - 8, name
    covered = page.evaluate(
        """[...document.querySelectorAll(".tile")].map((tile) => {
          const like = tile.querySelector(".like").getBoundingClientRect();
          const span = tile.querySelector(".words span");
          span.lastChild.data = "so it is ".repeat(60);
          const range = document.createRange();
          range.selectNodeContents(span.lastChild);
          const shown = [...range.getClientRects()].filter((line) => line.bottom <= span.getBoundingClientRect().bottom + 1);
          const beside = shown.filter((line) => line.bottom > like.top + 4 && line.top < like.bottom);
          return [shown.length > 2, beside.length > 0, beside.some((line) => line.right > like.left)];
        })"""
    )
    assert covered == [[True, True, False]] * 2  # many lines are shown, some beside the button, and none below it
    keep_screenshot(page, "narrow-phone-texts")


def test_a_collection_whose_name_has_a_slash_cannot_be_chosen(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service)
    body = [{"name": name, "description": "", "num_items": {"image": 1}} for name in ("holidays/2009", "photos")]
    page.route("**/v1/collections", lambda route: route.fulfill(json=body))
    page.reload()
    expect(page.get_by_role("option", name="holidays/2009")).to_be_disabled()
    expect(page.get_by_label("Collection")).to_have_value("photos")


def test_a_phone_shows_all_without_scrolling_sideways(open_service: str, open_page: OpenPage) -> None:
    page = open_page(open_service, width=390, height=800)
    wait_for_pictures(page)
    keep_screenshot(page, "phone-start")
    search_for(page, "a cat")
    wait_for_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    keep_screenshot(page, "phone-results")
    page.locator(".tile .open").first.tap()
    expect(page.get_by_role("button", name="Close")).to_be_in_viewport()
    word = page.get_by_role("dialog").get_by_role("button", name="cat")
    word.tap()
    wait_until(page, f"({HEAT})() > 0.02")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    keep_screenshot(page, "phone-picture")


def test_with_a_key_everything_is_shown_and_without_it_is_asked_for(keyed_service: tuple[str, str], open_page: OpenPage) -> None:
    address, key = keyed_service
    page = open_page(f"{address}/?q=red")
    expect(page.locator("#state")).to_contain_text("A key is needed")
    page.get_by_role("button", name="Enter a key").click()
    page.get_by_label("Key", exact=True).fill("sl_" + "x" * 43)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-problem")).to_contain_text("does not know this key")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()
    wait_for_results(page)
    wait_for_pictures(page)
    assert page.evaluate("document.querySelector('.tile img').src").startswith("blob:")
    page.locator(".tile .open").first.click()
    wait_until(page, "document.querySelector('#viewer img').naturalWidth > 0")
