"use strict";
const body = document.querySelector("#rows tbody");
const rows = Array.from(body.rows);
const search = document.getElementById("search");
const ofClass = document.getElementById("class");
const ofView = document.getElementById("view");

function filter() {
  const words = search.value.toLowerCase();
  let shown = 0;
  for (const row of rows) {
    const fits = (!ofClass.value || row.dataset.class === ofClass.value)
      && (!ofView.value || row.dataset.views.includes("|" + ofView.value + "|"))
      && (!words || row.textContent.toLowerCase().includes(words));
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("count").textContent = shown + " of " + rows.length + " rows";
}

function value(row, key) {
  return key === "question" ? row.querySelector(".question").textContent : Number(row.dataset[key]);
}

let sorted = "rank";
let direction = 1;
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const key = button.dataset.sort;
    direction = key === sorted ? -direction : 1;
    sorted = key;
    rows.sort((one, other) => {
      const a = value(one, key), b = value(other, key);
      return direction * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
    body.append(...rows);
  });
}
for (const control of [search, ofClass, ofView]) control.addEventListener("input", filter);
filter();
