"""The administrator's page, as an administrator uses it."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.http.web.conftest import NUM_TO_INDEX, OpenPage, keep_screenshot, wait_until

pytestmark = [pytest.mark.chromium, pytest.mark.slow]


def begin_indexing(page: Page, work: Path, *, collection: str) -> Locator:
    """The card of a job over the many pictures."""
    page.get_by_role("button", name="New job").click()
    page.get_by_label("Collection", exact=True).fill(collection)
    page.get_by_label("Source (to index)").fill(f"{work}/sources/new")
    page.get_by_role("button", name="Begin").click()
    return page.locator(".job", has=page.get_by_role("heading", name=f"index · {collection}"))


def test_a_job_is_begun_and_its_progress_is_seen(open_service: str, open_page: OpenPage, work: Path) -> None:
    page = open_page(f"{open_service}/admin#jobs")
    card = begin_indexing(page, work, collection="fresh")
    card.wait_for()
    wait_until(page, "[0, 100].every((end) => end !== Number(document.querySelector('.job .progress')?.ariaValueNow ?? 0))")
    keep_screenshot(page, "admin-job")
    expect(card).to_have_attribute("data-state", "done")
    expect(card.locator(".progress-told")).to_contain_text(f"new {NUM_TO_INDEX:,}")
    expect(card.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    expect(card.get_by_role("button")).to_have_count(0)


def test_a_job_is_paused_resumed_and_cancelled(open_service: str, open_page: OpenPage, work: Path) -> None:
    page = open_page(f"{open_service}/admin#jobs")
    card = begin_indexing(page, work, collection="held")
    card.get_by_role("button", name="Pause").click()
    expect(card).to_have_attribute("data-state", "paused")
    card.get_by_role("button", name="Resume").click()
    card.get_by_role("button", name="Pause").wait_for()  # it is queued again, or runs
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_have_attribute("data-state", "cancelled")
    expect(card.get_by_role("button", name="Retry")).to_be_visible()


def test_a_verification_begun_at_its_collection_is_followed_to_its_end(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin#collections")
    collection = page.locator(".card", has=page.get_by_role("heading", name="default", exact=True))
    collection.get_by_role("button", name="Verify").click()
    page.wait_for_url("**#jobs")
    card = page.locator(".job", has=page.get_by_role("heading", name="verify · default"))
    expect(card).to_have_attribute("data-state", "done")
    expect(card.locator(".progress-told")).to_contain_text("nothing is wrong")


def test_a_source_that_jobs_may_not_read_is_refused_in_the_form(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin#jobs")
    page.get_by_role("button", name="New job").click()
    page.get_by_label("Source (to index)").fill("/etc")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("/etc")


def test_collections_are_told_made_renamed_and_deleted(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin")
    card = page.locator(".card", has=page.get_by_role("heading", name="default", exact=True))
    expect(card).to_contain_text("sightline-mini")
    expect(card.locator("dl")).to_contain_text("Pictures16")
    keep_screenshot(page, "admin-collections")
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name", exact=True).fill("empty")
    page.get_by_label("What it holds").fill("Nothing yet")
    page.get_by_role("button", name="Create").click()
    made = page.locator(".card", has=page.get_by_role("heading", name="empty", exact=True))
    expect(made).to_contain_text("Nothing yet")
    made.get_by_role("button", name="Describe").click()
    page.get_by_label("What it holds").fill("Nothing at all")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(made).to_contain_text("Nothing at all")
    made.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("hollow")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    renamed = page.locator(".card", has=page.get_by_role("heading", name="hollow", exact=True))
    renamed.get_by_role("button", name="Delete").click()
    page.get_by_label("Type hollow to go on").fill("something else")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("That is not hollow")
    page.get_by_label("Type hollow to go on").fill("hollow")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(renamed).to_have_count(0)


def test_what_is_taken_off_of_the_hubness_bias_is_seen_and_changed(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin")
    card = page.locator(".card", has=page.get_by_role("heading", name="default", exact=True))
    before = page.request.get(f"{open_service}/v1/collections/default").json()["hubness"]["image"]["strength"]
    for share, shown in (("0.25", "images 25"), (str(before), "images")):
        card.get_by_role("button", name="Hubness").click()
        page.get_by_label("Share taken off of images").fill(share)
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(card.locator("dl")).to_contain_text(shown)
        assert page.request.get(f"{open_service}/v1/collections/default").json()["hubness"]["image"]["strength"] == float(share)
    expect(
        page.locator(".card", has=page.get_by_role("heading", name="many", exact=True)).get_by_role("button", name="Hubness")
    ).to_have_count(0)


def test_a_key_opens_and_makes_and_revokes_others(keyed_service: tuple[str, str], open_page: OpenPage) -> None:
    address, key = keyed_service
    page = open_page(f"{address}/admin#keys")
    gate = page.get_by_label("Key", exact=True)
    gate.fill("sl_" + "x" * 43)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#gate-problem")).not_to_be_empty()
    gate.fill(key)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Whose, or what for").fill("a visitor")
    page.get_by_label("What it may do").select_option("search")
    page.get_by_label("Days until it expires").fill("7")
    page.get_by_role("button", name="Make the key").click()
    secret = page.locator(".secret").inner_text()
    assert secret.startswith("sl_")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    row = page.get_by_role("row", name="a visitor")
    expect(row).to_contain_text("valid")
    wait_until(page, f"!document.documentElement.outerHTML.includes({secret!r})")
    keep_screenshot(page, "admin-keys")
    assert page.request.get(f"{address}/v1/collections", headers={"Authorization": f"Bearer {secret}"}).status == 200
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("row", name="key.revoke").first).to_contain_text("the tests")
    page.get_by_role("button", name="Forget the key").click()
    expect(gate).to_be_visible()


def test_settings_aliases_and_the_log_level(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin#service")
    expect(page.get_by_role("row", name="max_pixels").first).to_contain_text("100,000,000")
    page.get_by_label("Log level").select_option("info")
    expect(page.locator("#toast")).to_contain_text("logs at info")
    page.get_by_role("button", name="New alias").click()
    page.get_by_label("Name", exact=True).fill("current")
    page.get_by_label("Collection", exact=True).select_option("many")
    page.get_by_role("button", name="Create").click()
    row = page.get_by_role("row", name="current")
    expect(row).to_contain_text("many")
    row.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)


def test_skipped_inputs_and_runs_are_listed(open_service: str, open_page: OpenPage) -> None:
    page = open_page(f"{open_service}/admin#ledger")
    expect(page.get_by_role("table", name="Indexing runs")).to_contain_text("default")
    with page.expect_download() as downloaded:
        page.get_by_role("button", name="CSV").click()
    assert downloaded.value.suggested_filename == "sightline-skipped.csv"
