"""The playback page in a real headless browser: Chromium, driven by Playwright. Skipped, and said so, where there is none."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anyorder.decoding.counts import Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.trajectories import Trajectories, Watch, states_of
from anyorder.orders import heuristics
from anyorder.report import page as page_module
from anyorder.report.page import build_page
from anyorder.tasks.sudoku import Sudoku
from conftest import HashDenoiser
from test_trajectories import Doubt

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, _NAMES) if path), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
EVIL = "</script><img src=x onerror=\"window.hacked='yes'\"><b>bold</b>"
TASK = Sudoku(2)


def trajectories(count: int = 8) -> Trajectories:
    """Three orders on 4x4 grids, one with undo; the first solves every other one. Markup wherever there is text."""
    instances = TASK.generate(count, 0, givens=9)
    watch = Watch(TASK, instances, {"task": EVIL, "data": EVIL, "denoiser": "hash"})
    for name, order, undo in (
        ("confidence", heuristics.confidence, False),
        (f"policy{EVIL}", heuristics.entropy, True),
        ("random", heuristics.random, False),
    ):
        undoing = Sampler(order, Fixed(3), remasker=CriticUndo(critic=Doubt()), steps=9)
        sampler = undoing if undo else Sampler(order, steps=5)
        watch.note(name, sampler, decode(HashDenoiser(5), instances.tokens, sampler, on_step=watch.record(0)))
    found = watch.trajectories()
    assert instances.x0 is not None
    for problem, decoded in zip(found.problems[::2], found.runs[0].decodes[::2], strict=True):
        put_right(problem.tokens, problem.solution or [], decoded)
    for problem in found.problems:
        problem.labels["difficulty"] = EVIL
        problem.notes.append(EVIL)
    found.texts[4] = EVIL
    return found


def put_right(tokens: list[int], solution: list[int], decoded: Any) -> None:
    """Make a decode one that solves the problem, in the same steps."""
    for step in decoded.steps:
        step.tokens = [solution[at] for at in step.positions]
    decoded.tokens, decoded.correct, decoded.dead_ends = list(solution), True, []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright (pip install playwright)")
    if BROWSER is None:
        pytest.skip("the browser tests need Chromium: none was found (set CHROMIUM to its path)")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page(trajectories()), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    yield from opened(browser, file)


def opened(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """A page that has drawn itself; no error, no request and no message of the browser may have come of it."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("request", lambda request: None if request.url == file.as_uri() else troubles.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    assert troubles == []
    assert page.evaluate("window.hacked") is None
    context.close()


def soon(what: Any) -> Any:
    """What is to become true of a part of the page. Asked from outside: the page itself evaluates no strings."""
    from playwright.sync_api import expect

    return expect(what)


def shown(page: Any, column: int = 0) -> list[str]:
    """What the cells of a column hold, empty ones as '.'."""
    cells = page.locator(".column").nth(column).locator(".board .cell")
    return cells.evaluate_all("cells => cells.map(c => c.classList.contains('masked') ? '.' : c.firstChild.textContent)")


def test_every_step_shows_the_state_that_the_trajectory_holds(page: Any) -> None:
    found = trajectories()
    for number in (0, 3):
        page.locator("#problems button").nth(number).click()
        for column in (0, 1):
            run = int(page.locator(".column select").nth(column).input_value())
            states = states_of(found.problems[number], found.runs[run].decodes[number], 0)
            page.keyboard.press("Home")
            for step in range(int(page.locator("#step").get_attribute("max")) + 1):
                state = states[min(step, len(states) - 1)]
                assert shown(page, column) == ["." if token == 0 else found.texts[token] for token in state]
                page.keyboard.press(".")


def test_it_opens_on_a_problem_that_the_orders_differ_on_and_marks_the_first_mistake(page: Any) -> None:
    assert page.locator(".verdict").all_inner_texts() == ["✓ solved", "✗ not solved"]
    assert page.locator(".column").nth(0).locator(".finds").inner_text() == "No wrong commitment"
    finds = page.locator(".column").nth(1).locator(".finds button")
    assert finds.nth(0).inner_text().startswith("First wrong commitment: step 1, row")
    assert "First dead end: after step" in finds.nth(1).inner_text()
    finds.nth(0).click()
    assert page.locator("#where").inner_text().startswith("step 1 of")
    assert page.locator(".column").nth(1).locator(".cell.first").count() >= 1
    assert page.locator(".column").nth(0).locator(".cell.wrong").count() == 0


def test_keys_step_and_play_goes_to_the_end(page: Any) -> None:
    last = int(page.locator("#step").get_attribute("max"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").inner_text() == f"step 2 of {last}"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#where").inner_text() == f"step 1 of {last}"
    page.keyboard.press("End")
    assert page.locator("#forth").is_disabled()
    page.keyboard.press("Home")
    page.select_option("#speed", "250")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press(" ")
    assert "pause" in page.locator("#play").inner_text()
    soon(page.locator("#where")).to_have_text(f"step {last} of {last}")
    soon(page.locator("#play")).to_contain_text("play")
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#where").inner_text() == f"step {last - 1} of {last}"


def test_the_list_is_filtered_by_who_is_right(page: Any) -> None:
    found = trajectories()
    a, b = (int(page.locator(".column select").nth(n).input_value()) for n in (0, 1))
    right = [[decoded.correct for decoded in found.runs[run].decodes] for run in (a, b)]
    for name, wanted in (("ab", (True, False)), ("ba", (False, True)), ("both", (True, True)), ("none", (False, False))):
        page.select_option("#filter", name)
        numbers = page.locator("#problems button").evaluate_all("all => all.map(b => Number(b.dataset.number))")
        assert numbers == [n for n, pair in enumerate(zip(*right, strict=True)) if pair == wanted]
    page.select_option("#filter", "ab")
    assert page.locator("#problems button[aria-current=true]").count() == 1
    before = page.locator("#problems button[aria-current=true]").inner_text()
    page.locator("#step").focus()
    page.keyboard.press("n")
    assert page.locator("#problems button[aria-current=true]").inner_text() != before


def test_what_was_taken_back_is_shown(page: Any) -> None:
    found = trajectories()
    page.select_option(".column:nth-child(2) select", "1")
    soon(page.locator("#problems button[aria-current=true]")).to_have_count(1)  # unpacked and drawn
    column = page.locator(".column").nth(1)
    moves = [decoded.steps for decoded in found.runs[1].decodes]
    number, step = next((n, t) for n, steps in enumerate(moves) for t, each in enumerate(steps, start=1) if each.remasked)
    page.locator("#problems button").nth(number).click()
    page.locator("#step").focus()
    for _ in range(step):
        page.keyboard.press(".")
    back = found.runs[1].decodes[number].steps[step - 1].remasked
    assert column.locator(".cell.taken").count() == len(back)
    assert f"{len(back)} remasked" in column.locator(".status").inner_text()


def test_a_cell_tells_what_was_proposed_and_arrows_move_on_a_board(page: Any) -> None:
    board = page.locator(".column").nth(0).locator(".board")
    board.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert "Row 2, column 1" in page.locator(".column").nth(0).locator(".detail").inner_text()
    assert page.locator("#where").inner_text().startswith("step 0")
    page.locator(".column").nth(0).locator(".cell.masked").first.click()
    assert "The next forward pass: score" in page.locator(".column").nth(0).locator(".detail").inner_text()
    assert page.locator(".column").nth(0).locator(".detail .bar").count() >= 1


def test_orders_are_added_and_removed(page: Any) -> None:
    page.click("#add")
    soon(page.locator(".column")).to_have_count(3)
    assert page.locator(".letter").all_inner_texts() == ["A", "B", "C"]
    page.get_by_label("remove order C").click()
    soon(page.locator(".column")).to_have_count(2)


def test_markup_in_names_and_tokens_is_text(page: Any) -> None:
    assert page.locator("img").count() == 0
    assert EVIL in page.locator("#results").inner_text()
    assert EVIL in page.locator("#notes").evaluate("e => e.textContent")
    assert EVIL in page.locator(".column select").first.evaluate("e => e.textContent")
    assert EVIL in page.locator(".board").first.evaluate("e => e.textContent")
    assert page.title() and page.locator("h1").inner_text()


def test_both_schemes_and_the_switch(page: Any) -> None:
    def paper() -> str:
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return color

    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    assert paper() != light
    page.click("#theme")
    assert page.locator("#theme").inner_text() == "theme: light"
    assert paper() == light


def test_a_phone_needs_no_sideways_scrolling(browser: Any, file: Path) -> None:
    for page in opened(browser, file, viewport={"width": 360, "height": 700}, has_touch=True):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#play").is_visible()
        assert page.locator(".board .cell").first.bounding_box()["width"] > 30


def test_a_thousand_problems_are_listed_and_drawn(browser: Any, tmp_path: Path) -> None:
    small = trajectories()
    many = small.model_copy(
        update={
            "problems": small.problems * 125,
            "runs": [run.model_copy(update={"decodes": run.decodes * 125}) for run in small.runs],
        }
    )
    file = tmp_path / "many.html"
    file.write_text(build_page(many), encoding="utf-8")
    for page in opened(browser, file):
        assert page.locator("#problems button").count() == 1000
        page.locator("#problems button").nth(997).click()
        page.keyboard.press("ArrowRight")
        assert page.locator("#where").inner_text().startswith("step 1 of")


def test_a_page_of_results_alone_has_nothing_to_watch(browser: Any, tmp_path: Path) -> None:
    from anyorder.evaluation.saved import report_of

    file = tmp_path / "results.html"
    file.write_text(build_page(None, report_of(trajectories())), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector(".plot circle")
    assert not page.locator("#watch").is_visible()
    assert page.locator("#results table").first.is_visible()
    page.close()


def test_the_seeds_of_this_file_are_not_empty() -> None:
    found = trajectories()
    assert any(step.remasked for decoded in found.runs[1].decodes for step in decoded.steps)
    assert len({decoded.correct for decoded in found.runs[0].decodes}) == 2
    assert torch.tensor(found.problems[0].tokens).eq(0).sum() == 7


CHOSEN_MEANWHILE = """
const fs = require("fs");
const nothing = () => {};
const element = () => ({
  style: { setProperty: nothing }, classList: { toggle: nothing, contains: () => false },
  append: nothing, replaceChildren: nothing, setAttribute: nothing, addEventListener: nothing, lastChild: {}, firstChild: {},
});
const document = { createElement: element, createElementNS: element, getElementById: element };
const source = process.argv.slice(1).map((file) => fs.readFileSync(file, "utf8")).join("\\n");
const unpacked = {};
const Column = new Function("document", "unpacked", `${source}
  unpack = (id) => new Promise((done) => { unpacked[id] = done; });
  return Column;`)(document, unpacked);
const decode = (token) => ({ tokens: [token], commit_step: [0], nfe: 1, correct: token === 1, dead_ends: null, steps: [{
  positions: [0], tokens: [token], remasked: [], predicted: null, scores: [1], candidates: [[token]], probabilities: [[900]],
}] });
const page = {
  mask: 0, hidden: [], texts: { 0: ".", 1: "1", 2: "2" }, drawing: { kind: "sequence", cells: null, symbols: "" },
  runs: [{ order: "slow", budget: "4 steps" }, { order: "fast", budget: "4 steps" }],
  words: { right: "solved", wrong: "not solved", first: "First", none: "None" },
  problems: [{ tokens: [0], solution: [1], notes: [] }],
};
(async () => {
  const column = new Column(page, "A", 0, {});
  const before = column.load(0);
  column.run = 1;
  const after = column.load(0);
  unpacked["run-1"]([decode(1)]);
  await after;
  unpacked["run-0"]([decode(2)]);
  await before;
  console.log(`${page.runs[column.run].order}: ${column.replay.decode.tokens}, ${column.verdict.textContent}`);
})();
"""


def test_an_order_that_is_unpacked_late_does_not_replace_the_one_chosen_meanwhile() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("this test runs the page's script in Node.js: none was found")
    scripts = [Path(page_module.__file__).parent / "page" / name for name in ("dom.js", "data.js", "board.js", "column.js")]
    done = subprocess.run([node, "-e", CHOSEN_MEANWHILE, *map(str, scripts)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fast: 1, ✓ solved", done.stderr
