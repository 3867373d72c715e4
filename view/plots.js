// Draws the plots of the page and of the report with uPlot.
// https://github.com/leeoniya/uPlot/tree/master/docs
"use strict";

const colors = 6; // a version's color is by its place, --c0 to --c5 of style.css
const dashes = [[], [7, 3], [2, 3], [10, 3, 2, 3], [5, 5], [1, 2]]; // lines differ without their colors, too

function palette() {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
  return {legs: Array.from({length: colors}, (_, i) => of("--c" + i)), soft: of("--soft"), rule: of("--rule"), bad: of("--bad"), paper: of("--paper")};
}

// bound is the share that is too high, with 97.5 %, where k of n were seen: then at
// most k are seen with 2.5 %. Chances are in relation to that of just k.
function bound(k, n) {
  let low = k / n, high = 1;
  for (let i = 0; i < 24 && k < n; i++) {
    const p = (low + high) / 2, odds = p / (1 - p), nothing = 1e-9;
    let atMost = 0, more = 0;
    for (let j = k, chance = 1; chance > nothing * atMost; j--) { atMost += chance; chance *= j / (n - j + 1) / odds; }
    for (let j = k, chance = 1; chance > nothing * more; j++) { chance *= (n - j) / (j + 1) * odds; more += chance; }
    if (atMost / (atMost + more) > .025) low = p; else high = p;
  }
  return high;
}

const intervals = new Map(); // of what is drawn again and again

// interval is the exact one of a share at 95 %, as split.Interval has it.
// Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
function interval(k, n) {
  const key = k + n * 2 ** 26;
  if (!intervals.has(key)) {
    if (intervals.size > 50000) intervals.clear();
    intervals.set(key, [1 - bound(n - k, n), bound(k, n)]);
  }
  return intervals.get(key);
}

// zoomed is how large text is: 1 is a text of 16 pixels.
const zoomed = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;

// plotter returns a function that shows what it is given in a box of a width, in
// pixels; one with a title has others next to it, and is lower. A plot is made
// again only when its legs, its colors or its size are others.
function plotter(box, columns, options) {
  let plot = null, made = "", given;
  return (what, p, zoom, width) => {
    const key = JSON.stringify([what.legs, what.title, p, zoom, width]);
    given = what;
    if (plot && key === made) { plot.setData(columns(what)); return; }
    made = key;
    if (plot) plot.destroy();
    const font = `${12 * zoom}px system-ui, sans-serif`, more = options(p, zoom, what, () => given);
    const axis = (a) => ({stroke: p.soft, font, ticks: {show: false}, size: 24 * zoom, gap: 4 * zoom, ...a, grid: {stroke: p.rule, width: zoom, ...a.grid}});
    plot = new uPlot({
      width, height: (what.title ? 180 : 260) * zoom, legend: {show: false}, cursor: {show: false}, padding: [8 * zoom, 12 * zoom, 0, 0], ...more,
      series: [{}, ...more.series.map((s) => ({width: 0, points: {show: false}, ...s}))],
      axes: [axis({...more.x, space: 60 * zoom}), axis({size: 50 * zoom, splits: () => [0, .25, .5, .75, 1], values: (_, all) => all.map((v) => 100 * v + " %")}), ...(more.axes || []).map(axis)],
    }, undefined, box);
    // When Chromium prints, it draws a canvas again on the paper, where clearRect takes away what is above the plot.
    plot.ctx.clearRect = (...part) => { plot.ctx.save(); plot.ctx.fillStyle = p.paper; plot.ctx.fillRect(...part); plot.ctx.restore(); };
    plot.setData(columns(what));
  };
}

// sharesPlotter shows the share of each leg over time: {title, legs, end, steps,
// samples, watched, lost}. Legs are their colors, times are seconds. A sample has the places of its legs, for each
// of them the accepted region or null, and points [time, answers, count of each
// leg]; the watcher's have all legs. A step is [time, its number].
// In the columns come first the edges of each leg's two bands, then its two lines.
const edge = (leg) => 1 + 4 * leg, line = (legs, leg) => 1 + 4 * legs.length + 2 * leg;

function sharesPlotter(box) {
  return plotter(box, shareColumns, (p, zoom, {legs, title}, now) => ({
    title, scales: {x: {time: false, range: () => [0, now().end]}, y: {range: [-.01, 1.1]}},
    x: {values: (_, all) => all.map((v) => v + " s")},
    axes: [{side: 0, scale: "x", size: 16 * zoom, gap: 0, grid: {stroke: p.soft, dash: [2 * zoom, 4 * zoom]}, splits: () => now().steps.map(([at]) => at), values: () => now().steps.map(([, n]) => n)}],
    series: [...legs.flatMap(() => [{}, {}, {}, {}]), ...legs.flatMap((color) => {
      const look = {stroke: p.legs[color], dash: dashes[color].map((d) => d * zoom)};
      return [{...look, width: 2 * zoom, paths: lines}, {...look, width: zoom}];
    }), {stroke: p.bad, width: 2 * zoom, paths: (...of) => crosses(3 * zoom * devicePixelRatio, ...of)}],
    bands: legs.flatMap((color, i) => [{series: [edge(i), edge(i) + 1], fill: p.legs[color] + "40"}, {series: [edge(i) + 2, edge(i) + 3], fill: p.legs[color] + "2e"}]),
  }));
}

function shareColumns({legs, end, samples, watched, lost}) {
  const rows = [], width = 2 + 6 * legs.length;
  const row = (at) => { const r = new Array(width); r[0] = at; rows.push(r); return r; };
  samples = samples.filter((s) => s.points.length);
  samples.forEach((s, place) => {
    const first = s.points[0][0], next = place + 1 < samples.length ? samples[place + 1].points[0][0] : end;
    const past = Math.max(s.points.at(-1)[0], Math.min(first + end / 200, next)); // a short one is seen, too
    const accept = (r) => s.legs.forEach((leg, i) => {
      if (!s.accepted[i]) return;
      const [low, high] = s.accepted[i], thin = Math.max(0, .02 - (high - low)) / 2; // what is exact is seen, too
      r[edge(leg)] = high + thin;
      r[edge(leg) + 1] = low - thin;
    });
    accept(row(first));
    for (const [at, n, ...counts] of [...s.points, [past, ...s.points.at(-1).slice(1)]]) {
      const r = row(at);
      s.legs.forEach((leg, i) => {
        [r[edge(leg) + 3], r[edge(leg) + 2]] = interval(counts[i], n);
        r[line(legs, leg)] = counts[i] / n;
      });
    }
    accept(row(past));
    const gap = row(past); // up to the next sample
    legs.forEach((_, leg) => gap.fill(null, edge(leg), edge(leg + 1))[line(legs, leg)] = null);
  });
  for (const [at, n, ...counts] of watched) {
    const r = row(Math.min(at, end));
    legs.forEach((_, leg) => { r[line(legs, leg) + 1] = counts[leg] / n; });
  }
  for (const at of lost) row(at)[width - 1] = 1.05;
  rows.sort((a, b) => a[0] - b[0]);
  return Array.from({length: width}, (_, column) => {
    let before; // a gap lasts until the next value
    return rows.map((r) => before = before === null && r[column] === undefined ? null : r[column]);
  });
}

// drawn are paths of a series: what mark adds for each value, and for null.
function drawn(u, series, from, to, mark) {
  const stroke = new Path2D();
  for (let i = from; i <= to; i++) {
    const value = u.data[series][i];
    if (value !== undefined) mark(stroke, value, u.valToPos(u.data[0][i], "x", true), u.valToPos(value, "y", true));
  }
  return {stroke, fill: null, clip: null, band: null, gaps: null, flags: 0};
}

// lines end at null. uPlot's own go on where a gap is narrower than a pixel.
function lines(...of) {
  let on = false;
  return drawn(...of, (path, value, x, y) => {
    if (value !== null) path[on ? "lineTo" : "moveTo"](x, y);
    on = value !== null;
  });
}

function crosses(r, ...of) {
  return drawn(...of, (path, value, x, y) => {
    path.moveTo(x - r, y - r);
    path.lineTo(x + r, y + r);
    path.moveTo(x - r, y + r);
    path.lineTo(x + r, y - r);
  });
}

// latencyPlotter shows which part of each leg's answers came within a time: {legs,
// ms, parts}, with a part for each leg and time.
function latencyPlotter(box) {
  const round = (v) => { const unit = 10 ** Math.floor(Math.log10(v)); return Math.floor(v / unit) * unit; };
  return plotter(box, ({ms, parts}) => [ms, ...parts], (p, zoom, {legs, ms}) => ({
    scales: {x: {time: false, distr: 3, range: () => [round(ms[0]), ms.at(-1)]}, y: {range: [-.01, 1.02]}},
    x: {values: (_, all) => all.map((v) => v === null ? "" : +v.toPrecision(3) + " ms")},
    series: legs.map((color) => ({stroke: p.legs[color], dash: dashes[color].map((d) => d * zoom), width: 2 * zoom})),
  }));
}
