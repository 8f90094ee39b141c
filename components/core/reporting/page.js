for (const table of document.querySelectorAll("table.full")) {
  const body = table.tBodies[0], heads = table.tHead ? [...table.tHead.rows[0].cells] : [];
  if (!body || body.rows.length < 3) continue;
  const value = (row, column) => {
    const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    const number = parseFloat(text.replace(/,/g, ""));
    return [Number.isNaN(number) ? Infinity : number, text];
  };
  heads.forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sums = [...body.rows].filter((row) => row.classList.contains("sum"));
      const rows = [...body.rows].filter((row) => !row.classList.contains("sum"));
      rows.sort((a, b) => {
        const [x, s] = value(a, column), [y, t] = value(b, column);
        return (x === y ? s.localeCompare(t) : x < y ? -1 : 1) * (down ? -1 : 1);
      });
      body.append(...rows, ...sums);
    });
  });
}
