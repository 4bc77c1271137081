"use strict";
(() => {
  document.documentElement.classList.add("js");

  // Tables: a button in every heading sorts; numbers by value, missing ones last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const key = (row, column) => {
      const cell = row.cells[column];
      if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
      const text = cell.textContent.trim();
      const number = /^[<>]?\s*-?[\d.,]+(e-?\d+)?$/.test(text) ? Number(text.replace(/[<>,\s]/g, "")) : NaN;
      return Number.isNaN(number) ? text : number;
    };
    const missing = (value) => value === "\u2013" || value === "" || Number.isNaN(value);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => ({ row, value: key(row, column) }));
        rows.sort((a, b) => {
          if (missing(a.value) || missing(b.value)) return missing(a.value) - missing(b.value);
          const order =
            typeof a.value === "number" && typeof b.value === "number"
              ? a.value - b.value
              : String(a.value).localeCompare(String(b.value), "en", { numeric: true });
          return ascending ? order : -order;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }

  // Before and after: the part right of the slider shows the restored face.
  for (const frame of document.querySelectorAll(".before-after")) {
    const slider = frame.querySelector("input");
    const move = () => {
      frame.style.setProperty("--at", slider.value + "%");
      slider.setAttribute("aria-valuetext", `blurry ${slider.value}%, restored ${100 - slider.value}%`);
    };
    slider.addEventListener("input", move);
    move();
  }

  // Which verifier, which restorer, worst or best.
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
  const show = () => {
    const verifier = chosen("verifier");
    for (const part of document.querySelectorAll(".verifier"))
      part.hidden = verifier !== undefined && part.dataset.verifier !== verifier;
    const restorer = chosen("restorer");
    const kind = chosen("kind");
    let count = 0;
    for (const pair of document.querySelectorAll(".pair")) {
      pair.hidden = (restorer !== undefined && pair.dataset.restorer !== restorer) || pair.dataset.kind !== kind;
      count += !pair.hidden;
    }
    const none = document.getElementById("no-pairs");
    if (none) none.hidden = count > 0;
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches('input[type="radio"]')) show();
  });
  show();

  const copy = document.querySelector(".command button");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.querySelector(".command pre").textContent);
      copy.textContent = "Copied";
    });
  }

  // Paper shows what is folded away.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) {
      part.dataset.folded = "";
      part.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("details[data-folded]")) {
      part.open = false;
      delete part.dataset.folded;
    }
  });
})();
