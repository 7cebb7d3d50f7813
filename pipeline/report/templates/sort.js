// Sorts a table by the column whose head is pressed. Without it every table reads as it was written.
"use strict";
{
  const SECONDS = { h: 3600, min: 60, s: 1 };
  const collator = new Intl.Collator(undefined, { numeric: true });
  const toNumber = (digits) => Number(digits.replaceAll(",", ""));

  // The first number of a cell such as "1,234", "50.1% ± 4%" or "sw 12%"; of "2 h 13 min" the seconds; NaN if none.
  const numberIn = (text) => {
    const times = [...text.matchAll(/(\d[\d,.]*) (h|min|s)\b/g)];
    if (times.length) return times.reduce((sum, [, digits, unit]) => sum + SECONDS[unit] * toNumber(digits), 0);
    const found = /(?:^|\s)([-+]?\d[\d,]*(?:\.\d+)?)/.exec(text);
    return found ? toNumber(found[1]) : NaN;
  };

  // Orders the rows, those of one value as they were. A cell with nothing to sort by comes last in both directions.
  const sortRows = (table, column, isNumber, sign) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const text = row.cells[column].textContent.trim();
      const key = isNumber ? numberIn(text) : text;
      return { row, key, isMissing: text === "" || text === "–" || Number.isNaN(key) };
    });
    keyed.sort((a, b) => {
      if (a.isMissing || b.isMissing) return Number(a.isMissing) - Number(b.isMissing);
      return sign * (isNumber ? a.key - b.key : collator.compare(a.key, b.key));
    });
    body.append(...keyed.map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button"); // Enter and Space press it, too
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const isAscending = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
        sortRows(table, column, head.classList.contains("number"), isAscending ? 1 : -1);
      });
    });
  }
}
