"""The page, used by a visitor in Debian's Chromium: with mouse, keyboard, a phone, and no luck."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.sampling import Rewritten
from serve.in_process import served
from serve.keys import Keys, hashed
from serve.local import LocalHands
from serve.settings import Limits
from studies import screenshots

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
if not os.environ.get("CLLM_NEEDS_BROWSER"):  # as CI sets it: there the tests have to run
    pytest.importorskip("playwright")
    if not CHROMIUM:
        pytestmark.append(pytest.mark.skip(reason="there is no `chromium` to drive"))

SIZES = {"phone": (390, 844), "tablet": (900, 1000), "desk": (1440, 900)}
SEVERE = ("serious", "critical")
PATIENCE = 60_000  # ms: machines may be busy


@pytest.fixture(scope="module")
def hands() -> LocalHands:
    return LocalHands.load(RunFolder(SHIPPED_VOIDS))


@pytest.fixture(scope="module")
def url(hands: LocalHands) -> Iterator[str]:
    with served(hands, Limits(per_minute=0)) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CLLM_NEEDS_BROWSER is set, and there is no `chromium`"
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=screenshots.CHROMIUM)
        yield one
        one.close()


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Opens an address of the page; nothing may go wrong in it that a test does not expect."""
    contexts, faults = [], list[str]()

    def opened(
        path: str = "/",
        size: str = "desk",
        at: str = url,
        wait: bool = True,
        fails: bool = False,
        **more: Any,
    ) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))

        def hear(told: Any) -> None:
            expected = fails and "Failed to load resource" in told.text
            if told.type == "error" and not expected:
                faults.append(told.text)

        page.on("console", hear)
        page.goto(at + path)
        if wait:
            page.wait_for_selector("#voids li")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def shows(page: Any, place: str, words: str) -> None:
    """Waits until a place says so; the page's policy forbids to look by `eval`."""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(re.compile(words), timeout=PATIENCE)


def ended(page: Any) -> str:
    """What is told when writing has ended."""
    shows(page, "#end", r"of \d|Stopped")
    return page.inner_text("#end")


def written(page: Any) -> list[str]:
    ended(page)
    return page.locator("#texts > li > .text").all_inner_texts()


def test_it_opens_with_the_map_and_the_voids_and_says_what_to_make_of_them(visit: Any) -> None:
    page = visit()
    about = page.inner_text("#about")
    assert about.startswith("built-in recipes (plain): 17,939 texts in 32 coordinates; voids")
    caption = page.inner_text("#caption")
    assert "5,000 of " in caption
    assert "Distances here mislead" in caption
    voids = page.locator("#voids button").all_inner_texts()
    kind = re.compile(r"Void \d+ – (around|found by the search,) (no|\d+) new texts? of")
    told = [kind.match(one) for one in voids]
    new = [(one[1] == "around", int(one[2].replace("no", "0"))) for one in told if one]
    assert len(new) == len(voids)
    assert [count for _, count in new] == sorted((count for _, count in new), reverse=True)
    assert all(around == (count > 0) for around, count in new)
    drawn = page.evaluate(
        "() => { const c = document.querySelector('#map'); "
        "return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size; }"
    )
    assert drawn > 20  # shades of how many texts there are
    assert page.evaluate("performance.getEntriesByType('resource').every("
                         "one => one.name.startsWith(location.origin))")  # fmt: skip


def test_texts_are_written_from_voids_between_groups(visit: Any) -> None:
    page = visit("/?groups=between&n=1&novel=0&valid=0")
    assert page.locator("#amid").is_visible()
    assert page.input_value("#groups") == "between"
    with page.expect_request("**/v1/generate") as asked:
        page.locator("#go").click()
    assert asked.value.post_data_json["groups"] == "between"
    page.get_by_text("decodes.").wait_for()
    page.locator("input[name=mode][value=topic]").check()
    assert not page.locator("#amid").is_visible()


def test_a_void_is_opened_and_written_from(visit: Any) -> None:
    page = visit()
    page.locator("#voids button").nth(1).click()
    name = page.inner_text("#void h3 >> nth=0")
    assert page.locator("#voids button").nth(1).get_attribute("aria-pressed") == "true"
    facts = page.locator("#void dt").all_inner_texts()
    assert facts[:4] == ["void score", "radius, rad", "p", "where from"]
    assert [name.partition(" ")[2] for name in facts[4:]] == ["groups"], "recipes have dishes"
    assert "of this run" in page.inner_text("#void dd >> nth=3")
    page.locator("#void details summary").first.click()
    assert page.locator("#void details .text").first.is_visible()
    page.uncheck("#novel")
    page.uncheck("#valid")
    page.fill("#n", "3")
    page.get_by_role("button", name="Write from here").click()
    assert len(written(page)) == 3
    first = page.locator("#texts > li").first
    assert name.lower() in first.inner_text()
    first.locator("summary").click()
    assert first.locator("details .text del, details .text ins").count()
    assert first.locator("details ul").last.locator("li").count() == 3


def test_a_void_that_nothing_is_written_from_says_what_to_do(visit: Any) -> None:
    page = visit("/?mode=void&void-id=0&n=1&written=1")
    assert ended(page).startswith("0 texts of 1, 40 decodes")
    assert "any void, or near a text on its rim" in page.inner_text("#end")


def on_the_map(page: Any, where: tuple[float, float], all_of: np.ndarray) -> tuple[float, float]:
    """Where on the screen a place of the plane is drawn: the map shows all places, evenly."""
    box = page.locator("#map").bounding_box()
    low, size = all_of.min(0), np.ptp(all_of, axis=0)
    scale = min(box["width"] / size[0], box["height"] / size[1]) * 0.94
    left, below = (box["width"] - size[0] * scale) / 2, (box["height"] - size[1] * scale) / 2
    x, y = (np.array(where) - low) * scale
    return box["x"] + left + x, box["y"] + box["height"] - below - y


def test_a_click_on_the_map_opens_the_void_or_the_text_that_is_there(
    visit: Any, hands: LocalHands
) -> None:
    page = visit()
    voids, points = hands.catalogue.void_list()["voids"], hands.catalogue.map(5000)["points"]
    all_of = np.array(points + [[one["x"], one["y"]] for one in voids])
    for one in (voids[-1], voids[0]):
        page.mouse.click(*on_the_map(page, (one["x"], one["y"]), all_of))
        page.locator("#void").wait_for()
        assert page.inner_text("#void h3 >> nth=0") == f"Void {one['id']}"
    page.uncheck("#rings")  # where no void is shown, none is clicked
    page.mouse.click(*on_the_map(page, points[0], all_of))
    page.wait_for_selector("#near:focus")
    assert page.input_value("#near").startswith("title: ")


def test_known_texts_are_found_and_written_near_to(visit: Any) -> None:
    page = visit()
    page.fill("#query", "soup leeks")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found li")
    assert all("soup" in text.lower() for text in page.locator("#found li").all_inner_texts())
    page.locator("#found").get_by_role("button", name="Near this").first.click()
    assert "soup" in page.input_value("#near")
    page.fill("#n", "2")
    page.get_by_role("button", name="Write", exact=True).click()
    assert len(written(page)) == 2
    page.fill("#query", "xyzzy")
    page.keyboard.press("Enter")
    page.get_by_text("No known text has all of these words").wait_for()


def test_its_address_shows_another_visitor_the_same(visit: Any) -> None:
    page = visit()
    page.get_by_label("a topic").check()
    page.fill("#topic", "soup leeks")
    page.fill("#seed", "7")
    page.fill("#n", "2")
    page.keyboard.press("Enter")
    texts = written(page)
    page.click("#theme")
    theme = page.get_attribute("html", "data-theme")
    address = page.url.split("/", 3)[3]
    other = visit("/" + address)
    assert written(other) == texts
    assert other.input_value("#seed") == "7"
    assert other.get_attribute("html", "data-theme") == theme
    other.reload()
    assert written(other) == texts


def test_between_two_texts_a_slider_shows_what_lies_on_the_way(visit: Any) -> None:
    page = visit()
    page.fill("#query", "soup")
    page.keyboard.press("Enter")
    page.locator("#found").get_by_role("button", name="From").nth(0).click()
    page.locator("#found").get_by_role("button", name="To", exact=True).nth(4).click()
    for at, told in (("0", "0 %"), ("20", "100 %")):
        page.locator("#at").fill(at)
        shows(page, "#at-told", f"^{told}$")
        shows(page, "#way", "^title: .*soup")
    other = visit("/" + page.url.split("/", 3)[3])
    shows(other, "#at-told", "^100 %$")
    shows(other, "#way", re.escape(page.inner_text("#way")))
    assert "theme" not in other.url  # which nobody chose


def test_what_is_looked_at_beside_leaves_what_is_written_in_the_address(visit: Any) -> None:
    page = visit("/?mode=topic&topic=soup+leeks&n=1&written=1")
    written(page)
    page.uncheck("#rings")
    assert "written=1" in page.url
    page.fill("#seed", "3")
    page.locator("#seed").blur()
    assert "written" not in page.url


def test_an_address_of_a_void_that_is_gone_says_so(visit: Any) -> None:
    page = visit("/?mode=void&void-id=999&written=1")
    page.get_by_text("That void is not in this run").wait_for()
    assert page.locator("#texts li").count() == 0


def test_what_is_kept_stays_and_is_exported(visit: Any, tmp_path: Path) -> None:
    page = visit("/?mode=topic&topic=soup+leeks&n=2&written=1")
    texts = written(page)
    left = page.locator("#texts").get_by_role("button", name="Keep")
    while left.count():
        left.first.click()
    page.reload()
    kept = page.locator("#kept .text").all_inner_texts()
    assert kept == texts
    files = {}
    for kind in ("JSON", "CSV", "Markdown"):
        with page.expect_download() as download:
            page.locator("#exports").get_by_role("button", name=kind).click()
        download.value.save_as(tmp_path / kind)
        files[kind] = (tmp_path / kind).read_bytes().decode()
    assert [one["text"] for one in json.loads(files["JSON"])] == texts
    assert files["CSV"].startswith('text,verdict,novelty,void,nearest\r\n"title: ')
    assert files["Markdown"].count("- title: ") == 2
    page.locator("#kept").get_by_role("button", name="Remove").first.click()
    page.wait_for_selector("#kept-title:focus")
    assert page.locator("#kept .text").all_inner_texts() == texts[1:]


def test_where_the_service_fails_it_says_so_and_can_be_asked_again(visit: Any) -> None:
    page = visit("/?mode=topic&topic=soup+leeks&n=1", fails=True)
    problem = json.dumps({"detail": "too many requests are worked on; come back"})
    page.route("**/v1/generate", lambda route: route.fulfill(status=503, body=problem))
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("Too many requests are worked on").wait_for()
    page.unroute("**/v1/generate")
    page.get_by_role("button", name="Try again").click()
    assert len(written(page)) == 1
    page.route("**/v1/generate", lambda route: route.abort())
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("The service does not answer").wait_for()
    page.route("**/v1/map*", lambda route: route.fulfill(status=500, body="not JSON"))
    page.reload()
    page.get_by_text("The service answered 500").wait_for()
    page.unroute("**/v1/map*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#voids li button")


def test_a_topic_that_no_text_has_is_told_as_such(visit: Any) -> None:
    page = visit("/?mode=topic&topic=xyzzy", fails=True)
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("No text has all words").wait_for()


class Slow(LocalHands):
    """Half of what is asked for, and after the first texts a long wait."""

    async def rewrite(self, points_nD: np.ndarray) -> Rewritten:
        self.rounds.append(len(points_nD))
        if len(self.rounds) > 2:
            await asyncio.sleep(20)
        return await super().rewrite(points_nD[: (len(points_nD) + 1) // 2])


@pytest.mark.parametrize(
    ("mode", "field", "words"),
    [("between", "first", "From this text"), ("topic", "topic", "Words that its texts have")],
)
def test_what_is_not_filled_in_is_asked_for(visit: Any, mode: str, field: str, words: str) -> None:
    page = visit()
    page.check(f"input[name=mode][value={mode}]")
    page.click("#go")
    shows(page, "#status", f"“{words}” is empty")
    assert page.evaluate("document.activeElement.id") == field
    assert not page.inner_text("#end")


def test_a_long_writing_can_be_stopped(visit: Any, hands: LocalHands) -> None:
    slow = Slow(hands.model, hands.places, hands.likely, hands.catalogue)
    object.__setattr__(slow, "rounds", [])
    with served(slow, Limits(per_minute=0)) as url:
        page = visit("/?n=50&novel=0&valid=0", at=url)
        page.get_by_role("button", name="Write", exact=True).click()
        page.wait_for_selector("#texts li")
        page.get_by_role("button", name="Stop").click()
        assert re.match(r"Stopped after \d+ text", ended(page))


def test_a_space_without_voids_says_what_to_do(visit: Any) -> None:
    page = visit(wait=False)
    found = json.dumps({"void_dim": 8, "search": {}, "voids": []})
    page.route("**/v1/voids", lambda route: route.fulfill(body=found))
    page.reload()
    page.get_by_text("No void stands in this space").wait_for()
    assert page.locator("#map").is_visible()


def test_all_of_it_works_from_the_keyboard(visit: Any) -> None:
    page = visit("/?n=1&novel=0&valid=0")

    def reach(test: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate(f"() => {{ const e = document.activeElement; return {test}; }}"):
                return
        raise AssertionError(f"no Tab leads to {test}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#writing"
    page.goto(page.url.split("#")[0])
    page.wait_for_selector("#voids li")
    reach("e.closest('#voids')")
    page.keyboard.press("Enter")
    reach("e.textContent === 'Write from here'")
    page.keyboard.press("Enter")
    assert len(written(page)) == 1
    reach("e.closest('#texts') && e.tagName === 'SUMMARY'")
    page.keyboard.press("Enter")
    assert page.locator("#texts details[open]").count() == 1
    reach("e.textContent === 'Keep'")
    page.keyboard.press("Space")
    assert page.locator("#kept .text").count() == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_screen_readers_and_phones_are_served(visit: Any, size: str, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(f"/?theme={theme}&mode=topic&topic=soup+leeks&n=2&written=1&query=soup", size,
                 bypass_csp=True, reduced_motion="reduce")  # fmt: skip
    ended(page)
    page.locator("#voids button").first.click()
    page.locator("#texts summary").first.click()
    found = Axe().run(page).response["violations"]
    told = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found
            if one["impact"] in SEVERE]  # fmt: skip
    assert not told
    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert over <= 0  # nothing sticks out to the side


def test_a_service_with_keys_asks_for_one(visit: Any, hands: LocalHands) -> None:
    with served(hands, Limits(per_minute=0), Keys({"ann": hashed("a key")})) as url:
        page = visit("/", at=url, wait=False, fails=True)
        page.get_by_label("This service asks for a key").wait_for()
        page.fill("#key", "another")
        page.keyboard.press("Enter")
        page.get_by_label("This service asks for a key").wait_for()
        page.fill("#key", "a key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#voids li button")
        assert not page.locator("#unlock").is_visible()
