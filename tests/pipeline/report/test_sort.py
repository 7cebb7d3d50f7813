"""The page's script, run by Node on a table that stands in for a browser's."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from pipeline.report.page import TEMPLATES

BROWSER = """
class Element {
  constructor(name, className, text) {
    Object.assign(this, { name, childNodes: text === undefined ? [] : [text], attributes: {}, presses: [] });
    this.classList = { contains: (one) => one === className };
  }
  get textContent() { return this.childNodes.map((one) => one.textContent ?? one).join(""); }
  append(...nodes) {
    for (const node of nodes) this.childNodes = [...this.childNodes.filter((one) => one !== node), node];
    if (nodes.some((node) => node.name === "button")) this.childNodes = nodes;
  }
  getAttribute(key) { return this.attributes[key] ?? null; }
  setAttribute(key, value) { this.attributes[key] = value; }
  removeAttribute(key) { delete this.attributes[key]; }
  addEventListener(kind, act) { this.presses.push([kind, act]); }
}
const given = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const heads = given.heads.map(([text, className]) => new Element("th", className, text));
const body = new Element("tbody");
body.append(...given.rows.map((row) => ({ cells: row.map((text) => ({ textContent: text })) })));
Object.defineProperty(body, "rows", { get: () => body.childNodes });
const table = { tBodies: [body], tHead: { rows: [{ cells: heads }] } };
const document = { querySelectorAll: () => [table], createElement: (name) => new Element(name) };
"""
REPORT = """
for (const column of given.presses) heads[column].childNodes[0].presses.find(([kind]) => kind === "click")[1]();
console.log(JSON.stringify({
  rows: body.rows.map((row) => row.cells.map((cell) => cell.textContent)),
  sort: heads.map((head) => head.getAttribute("aria-sort")),
  heads: heads.map((head) => [head.childNodes[0].name ?? "", head.textContent]),
}));
"""


def press(heads: list[tuple[str, str]], rows: list[list[str]], *presses: int) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    program = BROWSER + (TEMPLATES / "sort.js").read_text(encoding="utf-8") + REPORT
    given = json.dumps({"heads": heads, "rows": rows, "presses": presses})
    done = subprocess.run([node, "-e", program], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


HEADS = [("Language", "text"), ("Score", "number")]


def order(values: list[str], *presses: int) -> list[str]:
    """Return the second column, of numbers, after presses on its head."""
    rows = [[str(number), value] for number, value in enumerate(values)]
    return [row[1] for row in press(HEADS, rows, *presses)["rows"]]


@pytest.mark.parametrize(
    "ordered",
    [
        ["-3", "9", "1,000", "20,000.5"],
        ["9.5% ± 4%*", "10.0% ± 2%", "100.0%"],
        ["l99 9.0%", "l01 50.0%"],
        ["2 of 14", "12 of 14, and 1 more"],
        ["0.42 s", "12.3 s", "4 min 05 s", "2 h 13 min", "1,000 h 00 min"],
        ["0.40 to 0.60", "0.50 to 0.52"],
    ],
)
def test_columns_of_numbers_are_sorted_by_number_with_dashes_last_both_ways(ordered: list[str]):
    assert order(["–", *reversed(ordered)], 1) == [*ordered, "–"]
    assert order(["–", *ordered], 1, 1) == [*reversed(ordered), "–"]


def test_columns_of_text_are_sorted_as_people_do_and_equal_rows_stay_in_order():
    rows = [["b", "1"], ["Ä", "2"], ["a", "3"], ["b", "4"], ["l10", "5"], ["l9", "6"]]
    found = press(HEADS, rows, 0)
    assert [row[0] for row in found["rows"]] == ["a", "Ä", "b", "b", "l9", "l10"]
    assert [row[1] for row in found["rows"] if row[0] == "b"] == ["1", "4"]
    assert [row[1] for row in press(HEADS, rows, 0, 0)["rows"] if row[0] == "b"] == ["1", "4"]


def test_heads_are_buttons_and_say_what_the_rows_are_sorted_by():
    rows = [["a", "1"], ["b", "2"]]
    assert press(HEADS, rows)["heads"] == [["button", "Language"], ["button", "Score"]]
    assert press(HEADS, rows)["sort"] == [None, None]
    assert press(HEADS, rows, 0)["sort"] == ["ascending", None]
    assert press(HEADS, rows, 0, 1, 1)["sort"] == [None, "descending"]


def test_a_table_of_one_row_is_left_as_it_is():
    assert press(HEADS, [["a", "1"]])["heads"] == [["", "Language"], ["", "Score"]]
