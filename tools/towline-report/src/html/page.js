"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip");
  window.addEventListener("error", (event) => { root.dataset.errors = (root.dataset.errors || "") + event.message + ";"; });
  const show = (mark) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), root.clientWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = (above > 4 ? above : box.bottom + 8) + window.scrollY + "px";
  };
  const hide = () => { tip.hidden = true; };
  for (const mark of document.querySelectorAll(".hit")) {
    // The title is there for pages without a script; with one it would show a second box.
    const title = mark.querySelector("title");
    mark.dataset.tip = title.textContent;
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
    mark.addEventListener("mouseenter", () => show(mark));
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", hide);
  }
  window.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // Paper cannot be opened.
  window.addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
  // How many marks a reader really sees: of no use to a reader, but a test can ask for it.
  for (const chart of document.querySelectorAll(".chart")) {
    const frame = chart.getBoundingClientRect();
    const inside = (box) => box.width > 0 && box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;
    const place = (circle) => circle.getAttribute("cx") + "," + circle.getAttribute("cy");
    let seen = 0;
    for (const svg of chart.querySelectorAll("svg")) {
      const drawn = new Set([...svg.querySelectorAll("circle:not(.hit)")].filter((circle) => inside(circle.getBoundingClientRect())).map(place));
      seen += [...svg.querySelectorAll(".hit")].filter((hit) => drawn.has(place(hit))).length;
    }
    chart.dataset.marks = String(seen);
  }
  root.dataset.ready = "yes";
})();
