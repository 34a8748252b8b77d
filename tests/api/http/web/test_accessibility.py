"""Both pages, light and dark, as axe judges them: nothing serious may be wrong."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.api.http.web.conftest import OpenPage, keep_screenshot
from tests.api.http.web.test_search_page import wait_for_pictures, wait_for_results

pytestmark = [pytest.mark.chromium, pytest.mark.slow]


def serious_findings(page: Page) -> list[str]:
    """What axe calls serious or critical, with where it is."""
    violations: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_each_of_its_states(open_service: str, open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page(open_service, scheme=scheme, width=width)
    wait_for_pictures(page)
    found = {"start": serious_findings(page)}
    page.goto(f"{open_service}/?q=a+cat&match=5")
    wait_for_results(page)
    wait_for_pictures(page)
    found["results"] = serious_findings(page)
    keep_screenshot(page, f"axe-results-{scheme}-{width}")
    page.get_by_role("button", name="Filters").click()
    found["filters"] = serious_findings(page)
    page.keyboard.press("Escape")
    page.locator(".tile .open").first.click()
    page.get_by_role("dialog").get_by_role("button", name="cat").wait_for()
    found["picture"] = serious_findings(page)
    keep_screenshot(page, f"axe-picture-{scheme}-{width}")
    page.goto(f"{open_service}/?q=a+cat&match=95")
    expect(page.locator("#state")).to_contain_text("Nothing found")
    found["nothing found"] = serious_findings(page)
    assert {state: findings for state, findings in found.items() if findings} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_administrators_page_in_each_section(
    open_service: str, keyed_service: tuple[str, str], open_page: OpenPage, scheme: str
) -> None:
    page = open_page(f"{keyed_service[0]}/admin", scheme=scheme)
    page.locator("#gate-key").wait_for()
    found = {"gate": serious_findings(page)}
    page = open_page(f"{open_service}/admin", scheme=scheme)
    for section in ("Collections", "Jobs", "Skipped inputs", "Keys", "Audit", "Service"):
        page.get_by_role("link", name=section, exact=True).click()
        expect(page.get_by_role("heading", level=2).first).to_have_text(section)
        found[section] = serious_findings(page)
        keep_screenshot(page, f"admin-{section.lower().replace(' ', '-')}-{scheme}")
    page.get_by_role("link", name="Keys", exact=True).click()
    page.get_by_role("button", name="New key").click()
    found["form"] = serious_findings(page)
    assert {state: findings for state, findings in found.items() if findings} == {}
