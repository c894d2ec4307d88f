// The table sorts and filters through DataTables, plots are drawn by Vega-Lite when they come into view.
"use strict";

const specs = JSON.parse(document.getElementById("plots").textContent);
const options = {actions: false, renderer: "svg", tooltip: {theme: "custom"}, logLevel: 1};  // errors only

function draw(place) {
  if (place.dataset.drawn) return Promise.resolve();
  place.dataset.drawn = "yes";
  place.replaceChildren();
  return vegaEmbed(place, specs[place.dataset.plot], options).catch((error) => console.error(error));
}

const places = [...document.querySelectorAll("[data-plot]")];
const watch = new IntersectionObserver((seen) => {
  for (const one of seen) if (one.isIntersecting) { watch.unobserve(one.target); draw(one.target); }
}, {rootMargin: "600px"});
places.forEach((place) => watch.observe(place));
// A printed page has all of them. Whoever prints at once, before they are drawn, gets what is there.
const drawAll = () => Promise.all(places.map(draw));
addEventListener("beforeprint", drawAll);
addEventListener("load", () => (window.requestIdleCallback || setTimeout)(drawAll));

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const around = target && target.closest("details");
  if (around) { around.open = true; around.scrollIntoView(); }
}
addEventListener("hashchange", openTarget);
addEventListener("click", (event) => { if (event.target.closest("a[href^='#']")) setTimeout(openTarget); });
openTarget();

async function makeTable(element) {
  const code = new Blob([atob(document.getElementById("tables").textContent)], {type: "text/javascript"});
  const {jQuery: $, set_or_remove_dark_class: followScheme} = await import(URL.createObjectURL(code));
  followScheme();
  const heads = [...element.tHead.rows[0].cells].map((cell) => cell.textContent);
  const hidden = ["dataset", "era", "epochs"].map((name) => heads.indexOf(name));  // the button `Columns` shows them
  const table = $(element).DataTable({
    columnDefs: [{targets: hidden, visible: false}],
    paging: false,
    order: [],
    autoWidth: false,
    layout: {
      topStart: {buttons: [{extend: "colvis", text: "Columns"}, {extend: "csv", text: "CSV", title: "results"}]},
      topEnd: {search: {text: "Search "}},
      bottomStart: "info",
    },
  });
  const form = document.getElementById("filters");
  const apply = () => {
    for (const menu of form.querySelectorAll("select")) {
      const wanted = menu.value;
      table.column(Number(menu.dataset.column)).search.fixed("menu", wanted && ((text) => text.trim() === wanted));
    }
    table.draw();
  };
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(() => { table.search(""); apply(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
  const around = element.closest(".dt-layout-table");
  around.tabIndex = 0;  // so that the keyboard can scroll it
  around.setAttribute("role", "region");
  around.setAttribute("aria-label", "Table of results, scrolls sideways");
  element.dataset.ready = "yes";
}
const results = document.getElementById("results-table");
if (results) makeTable(results);
