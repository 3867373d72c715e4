// Shows the plots of a report, whose data are next to each of them.
const plots = [...document.querySelectorAll("[data-plot]")].map((box) => {
  const data = JSON.parse(box.previousElementSibling.textContent);
  const show = {shares: sharesPlotter, latency: latencyPlotter}[box.dataset.plot](box);
  return (p) => show(data, p);
});

function showPlots() {
  const p = palette();
  for (const show of plots) show(p);
}

new ResizeObserver(showPlots).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").onchange = showPlots;
matchMedia("print").onchange = showPlots; // in the colors of paper, and as wide
