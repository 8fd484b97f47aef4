"use strict";

// A click on a column's head sorts its table; a second one the other way round. Cells without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const column = [...head.parentElement.children].indexOf(head);
    const numeric = head.classList.contains("number");
    const descending = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b);
      return descending ? -order : order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  });
}

// Which cell of the confusion matrix the pointer is on, or a finger was put on.
const svg = document.querySelector(".matrix svg");
if (svg) {
  const { cell, margin, names, totals, cells } = JSON.parse(document.getElementById("matrix").textContent);
  const counts = new Map(cells.map(([row, column, count]) => [row * names.length + column, count]));
  const told = document.querySelector(".told");
  const tell = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const column = Math.floor((at.x - margin) / cell);
    const row = Math.floor((at.y - margin) / cell);
    if (column < 0 || row < 0 || column >= names.length || row >= names.length) return;
    const count = counts.get(row * names.length + column) ?? 0;
    const share = totals[row] ? ` (${((100 * count) / totals[row]).toFixed(1)} %)` : "";
    const what = row === column ? "recognized" : `taken for ${names[column]}`;
    told.textContent = `${names[row]}: ${count} of ${totals[row]}${share} ${what}`;
  };
  svg.addEventListener("pointermove", tell);
  svg.addEventListener("pointerdown", tell);
}

// What is folded can't be read on paper.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
