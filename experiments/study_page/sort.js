// A click on a column's head sorts its table: numbers by the cell's data-value, texts as a person counts.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => {
        const { dataset, textContent } = row.cells[column];
        return "value" in dataset ? Number(dataset.value) : textContent;
      };
      const compare = (a, b) =>
        typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      const keyed = [...body.rows].map((row) => [key(row), row]);
      keyed.sort(([a], [b]) => (descending ? compare(b, a) : compare(a, b)));
      body.replaceChildren(...keyed.map(([, row]) => row));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
