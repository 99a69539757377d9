"use strict";
for (const table of document.querySelectorAll(".long table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  table.querySelectorAll("thead button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement, up = head.getAttribute("aria-sort") !== "ascending";
    for (const cell of table.querySelectorAll("thead th")) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = row => row.cells[column].textContent;
    const order = (a, b) => text(a) - text(b) || text(a).localeCompare(text(b), undefined, {numeric: true});
    body.append(...[...rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  }));
  const form = table.closest(".table").querySelector(".filters");
  if (!form) continue;
  const filter = () => {
    const wanted = [...form.querySelectorAll("[data-column]")].filter(one => one.value);
    const matches = (row, one) => {
      const text = row.cells[one.dataset.column].textContent;
      return one.type === "search" ? text.toLowerCase().includes(one.value.toLowerCase()) : text === one.value;
    };
    for (const row of rows) row.hidden = !wanted.every(one => matches(row, one));
    form.querySelector("output").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  filter();
}
