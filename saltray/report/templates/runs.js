"use strict";
// Sorts the rows of a table by a column. It reads what the page holds, and writes nothing but the order of the rows.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown comes last
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = button.dataset.first ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one, column), key(two, column)];
        const unknown = a === "" || b === "";
        return (order === "descending" && !unknown ? -1 : 1) * compare(a, b);
      });
      body.append(...rows);
    });
  });
}
