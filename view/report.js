// Shows the plots of a report, whose data are next to each of them.
const plots = [...document.querySelectorAll("[data-plot]")].map((box) => {
  const data = JSON.parse(box.previousElementSibling.textContent);
  const show = {shares: sharesPlotter, latency: latencyPlotter}[box.dataset.plot](box);
  return {box, show: (...how) => show(data, ...how)};
});

function showPlots() {
  const p = palette(), zoom = zoomed(), widths = plots.map(({box}) => box.clientWidth); // all before the first is drawn
  plots.forEach(({show}, i) => show(p, zoom, widths[i]));
}

new ResizeObserver(showPlots).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").onchange = showPlots;
matchMedia("print").onchange = showPlots; // in the colors of paper, and as wide
