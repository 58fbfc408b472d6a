"""The page of `anyorder serve` in a real headless browser: tokens appear where they are committed, in any order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the tests of `anyorder serve` need: pip install 'anyorder[serve]'")

from anyorder.serving.service import Service
from test_browser import browser as browser
from tiny_server import save_tiny_words, service, serving, until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[tuple[Service, str]]:
    what = service(save_tiny_words(tmp_path_factory.mktemp("page") / "tiny"))
    with serving(what) as address:
        yield what, address


@pytest.fixture
def page(browser: Any, served: tuple[Service, str]) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.problems, page.asked = [], []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(f"{served[1]}/")
    until(lambda: page.text_content("#model") == "tiny")
    yield page
    assert all(url.startswith((served[1], "data:")) for url in page.asked), "nothing from elsewhere"
    context.close()


def draft(page: Any) -> list[str]:
    found: list[str] = page.evaluate("[...document.getElementById('draft').children].map((span) => span.textContent)")
    return found


def said(page: Any) -> str:
    return str(page.text_content("#said"))


def passes_one_by_one(what: Service) -> Any:
    """Lets one forward pass through at each call."""
    what.gate.clear()  # type: ignore[attr-defined]
    hook = what.denoiser.register_forward_hook(lambda *_: what.gate.clear())  # type: ignore[attr-defined]
    return hook


def test_tokens_appear_in_any_order_while_the_model_decodes(served: tuple[Service, str], page: Any) -> None:
    what = served[0]
    page.select_option("#order", "random")
    page.fill("#seed", "3")
    hook = passes_one_by_one(what)
    page.click("#go")
    places: list[int] = []
    for count in range(1, 7):
        what.gate.set()  # type: ignore[attr-defined]
        until(lambda count=count: said(page).startswith(f"step {count},"))  # type: ignore[misc]
        shown = draft(page)
        assert len(shown) == 12 and len([piece for piece in shown if piece != "_"]) == count
        fresh = page.evaluate("[...document.querySelectorAll('#draft span')].findIndex((s) => s.classList.contains('fresh'))")
        places.append(fresh)
    assert len(set(places)) == 6 and places != sorted(places), "not from left to right"
    hook.remove()
    what.gate.set()  # type: ignore[attr-defined]
    until(lambda: "done" in said(page))
    assert "_" not in draft(page) and page.problems == []


def test_stop_frees_the_row(served: tuple[Service, str], page: Any) -> None:
    what = served[0]
    hook = passes_one_by_one(what)
    page.click("#go")
    until(lambda: what.engine.load["running"] == 1)
    page.click("#stop")
    until(lambda: said(page) == "stopped")
    hook.remove()
    what.gate.set()  # type: ignore[attr-defined]
    until(lambda: what.engine.load == {"running": 0, "waiting": 0})


def test_what_is_refused_is_shown_as_text(page: Any) -> None:
    page.fill("#prompt", "<img src=x onerror=alert(1)>☃")
    page.click("#go")
    until(lambda: page.get_attribute("#said", "class") == "error")
    assert "is not one of the symbols of this model" in page.text_content("#said")
    page.select_option("#kind", "text")
    page.fill("#prompt", "What is 1 + 2?")
    page.fill("#tokens", "2000")
    page.click("#go")
    until(lambda: "1024 at most" in said(page))


def test_the_page_fits_a_phone(browser: Any, served: tuple[Service, str], tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{served[1]}/")
    until(lambda: page.text_content("#model") == "tiny")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
