"""A notebook in JupyterLab, driven as a learner drives it: by menu, by keyboard, by looking."""

import contextlib
import json
import re
import time

LOAD = 180_000  # milliseconds; generous, since two test workers may share two cores
RUN = 600  # seconds
ACTIVE = "document.activeElement"


class LessonPage:
    """One open notebook.

    Attributes:
        page: Playwright's page.
        file: the notebook on the server's disk.
    """

    def __init__(self, page, file, screenshots):
        self.page, self.file = page, file
        self._screenshots = screenshots
        self._cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        self._kernel_is("Idle")

    # ------------------------------------------------------------------ cells

    def index(self, text, after=-1):
        """The place of the first code cell behind `after` whose source holds `text`."""
        for place, cell in enumerate(self._cells):
            if place > after and cell["cell_type"] == "code" and text in "".join(cell["source"]):
                return place
        raise AssertionError(f"{self.file.name} has no code cell with {text!r}")

    def source(self, place):
        return "".join(self._cells[place]["source"])

    def cell(self, place):
        """A cell, scrolled into view."""
        found = self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{place}"]')
        found.scroll_into_view_if_needed()
        return found

    def output(self, place):
        """What a cell shows below its source, as text."""
        return [text.strip() for text in self.cell(place).locator(".jp-OutputArea-output").all_text_contents()]

    def picture(self, name):
        """Store what the window shows."""
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=self._screenshots / f"{self.file.parent.name}-{self.file.stem}-{name}.png")

    # ------------------------------------------------------------------ running

    def run_all(self):
        """Run > Run All Cells, until the last code cell has its number. A cell that raises ends it early."""
        last = max(place for place, cell in enumerate(self._cells) if cell["cell_type"] == "code")
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self._has_run(last)
        self._kernel_is("Idle")

    def run(self, place):
        """Shift+Enter in one cell; waits until it is done."""
        number = self._number(place)
        self.cell(place).locator(".jp-InputArea-prompt, .jp-InputPrompt").first.click()
        self.page.keyboard.press("Shift+Enter")
        self._has_run(place, number)

    def write(self, place, source):
        """Put `source` in the place of a cell's text, as from the clipboard."""
        self.cell(place).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Escape")

    def stored_errors(self):
        """Save by Ctrl+S; what the file then holds of errors."""
        before = self.file.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        end = time.monotonic() + 60
        cells = []
        while not any(cell.get("outputs") for cell in cells):
            assert time.monotonic() < end, f"{self.file.name} was not saved"
            self.page.wait_for_timeout(200)
            with contextlib.suppress(ValueError):  # half written
                if self.file.stat().st_mtime_ns != before:
                    cells = json.loads(self.file.read_text(encoding="utf-8"))["cells"]
        outputs = [(cell["id"], output) for cell in cells for output in cell.get("outputs", [])]
        return [
            (place, output.get("evalue") or output.get("text"))
            for place, output in outputs
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]

    def _number(self, place):
        prompt = self.cell(place).locator(".jp-InputPrompt").first.text_content()
        return int(found[1]) if (found := re.search(r"\[(\d+)\]", prompt)) else 0

    def _has_run(self, place, than=0):
        end = time.monotonic() + RUN
        while self._number(place) <= than:
            assert self.page.locator(".jp-Notebook [data-mime-type$='.error']").count() == 0, "a cell raised"
            assert time.monotonic() < end, f"cell {place + 1} of {self.file.name} was not reached in {RUN} s"
            self.page.wait_for_timeout(250)

    def _kernel_is(self, state):
        self.page.locator("#jp-main-statusbar", has_text=f"| {state}").wait_for()

    # ------------------------------------------------------------------ the keyboard alone

    def tab_to(self, place, selector, number=0):
        """Press Tab from a cell on until its `number`-th element of `selector` has the focus."""
        cell = self.cell(place)
        cell.evaluate("cell => cell.focus()")
        wanted = cell.locator(selector).nth(number)
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if wanted.evaluate(f"element => element === {ACTIVE}"):
                return wanted
        raise AssertionError(f"Tab does not reach {selector} {number} of cell {place + 1}")
