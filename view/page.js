// Follows the events of runs (docs/events.md) and shows them. What it keeps of a
// run does not grow with the number of answers, only with its seconds.
"use strict";

const squaresKept = 2000, latencyBins = 240;
const $ = (id) => document.getElementById(id);
const runs = new Map(); // folder of evidence -> run
let shown = null, picked = false, child = {}, moment = {};

function make(tag, text, attributes = {}) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

// --- what is kept of a run

function newRun(folder) {
  return {
    folder, title: folder, story: {steps: []}, began: 0, last: 0, step: null, steps: [], result: null, paused: false, reason: "",
    legs: new Map(), versions: [], parts: new Map(), samples: [], watched: 0, lost: [], lostCount: 0, answers: 0,
    squares: new Int8Array(squaresKept), squareCount: 0,
  };
}

// A leg is a version, or a pod where a claim is about pods, of the model that was
// asked. Versions of one name have one color, whatever their model.
function legOf(run, of, name) {
  const title = of ? `${of}: ${name}` : name;
  if (!run.legs.has(title)) {
    if (!run.versions.includes(name)) run.versions.push(name);
    run.legs.set(title, {of, name, title, color: run.versions.indexOf(name) % colors, count: 0, bins: new Uint32Array(latencyBins)});
  }
  return run.legs.get(title);
}

// partOf is what a run has of one model: a run that asks one only has one part.
function partOf(run, of) {
  if (!run.parts.has(of)) run.parts.set(of, {of, watch: new Map(), lost: []});
  return run.parts.get(of);
}

const seconds = (run, at) => Math.max(0, (Date.parse(at) - run.began) / 1000);

function add(run, e) {
  if (!run.began) run.began = Date.parse(e.at);
  run.last = seconds(run, e.at);
  run.title = e.run;
  const step = run.step;
  switch (e.type) {
  case "run": run.story = e.story; break;
  case "begin":
    run.step = {name: e.step, at: run.last, changes: [], samples: [], about: run.story.steps.find((s) => s.name === e.step)};
    run.steps.push(run.step);
    run.reason = "";
    break;
  case "change": if (step) step.changes.push(e.text); break;
  case "pause": run.paused = true; break;
  case "resume": run.paused = false; break;
  case "wait": run.reason = e.text || ""; break;
  case "active": if (step) step.active = e.seconds || 0; run.reason = ""; break;
  case "claim": newSample(run, e.claim); break;
  case "sample":
    if (!last(run) || last(run).step !== step || last(run).done) newSample(run, null);
    last(run).n = e.n;
    break;
  case "answer": count(run, e); return;
  case "end":
    if (step) Object.assign(step, {ended: true, text: e.text, error: e.error, checked: e.checked});
    if (e.checked && e.checked.evidence && e.checked.evidence.watch) run.watched = run.lostCount = 0, run.judged = e.checked.evidence.watch;
    break;
  case "result": run.result = e.result; run.paused = false; break;
  }
  if (!["sample", "claim", "wait"].includes(e.type)) { run.stale = true; redraw(soon); }
}

const last = (run) => run.samples[run.samples.length - 1];

function newSample(run, claim) {
  const sample = {step: run.step, of: claim && claim.of || "", claim, n: claim ? claim.n : 0, done: 0, bad: 0, counts: new Map(), points: [], every: 1};
  for (const region of (claim ? claim.regions : [])) { legOf(run, sample.of, region.leg); sample.counts.set(region.leg, 0); }
  run.samples.push(sample);
  if (run.step) run.step.samples.push(sample);
}

function count(run, e) {
  const a = e.answer, watcher = a.from === "watcher";
  let sample = last(run);
  if (!watcher && (!sample || sample.step !== run.step)) { newSample(run, null); sample = last(run); }
  const part = partOf(run, a.of || "");
  if (!watcher) sample.of = part.of;
  const name = !watcher && sample.claim && sample.claim.by === "pod" ? a.pod : a.target;
  let color = -1;
  run.answers++;
  if (a.problem) {
    part.lost.push(run.last);
    if (part.lost.length > squaresKept) part.lost.shift();
  } else {
    const leg = legOf(run, part.of, name);
    leg.count++;
    leg.bins[bin(a.ms)]++;
    color = leg.color;
  }
  run.squares[run.squareCount++ % squaresKept] = color;
  if (watcher) {
    run.watched++;
    if (a.problem) run.lostCount++;
    const second = Math.floor(run.last);
    if (!part.watch.has(second)) part.watch.set(second, new Map());
    const bucket = part.watch.get(second);
    bucket.set("", (bucket.get("") || 0) + 1);
    if (!a.problem) bucket.set(name, (bucket.get(name) || 0) + 1);
    return;
  }
  sample.done++;
  if (a.problem) sample.bad++;
  else sample.counts.set(name, (sample.counts.get(name) || 0) + 1);
  if (sample.done % sample.every === 0) sample.points.push([run.last, new Map(sample.counts), sample.done]);
  if (sample.points.length > 200) { sample.points = sample.points.filter((_, i) => i % 2); sample.every *= 2; }
}

// Latencies are kept in bins of 5 %, from 0.1 ms on.
const bin = (ms) => Math.min(latencyBins - 1, Math.max(0, Math.round(Math.log(ms / 0.1) / Math.log(1.05))));

function percentile(leg, p) {
  let left = Math.ceil(p * leg.count / 100);
  for (let i = 0; i < latencyBins; i++) if ((left -= leg.bins[i]) <= 0) return 0.1 * 1.05 ** i;
  return 0;
}

function verdict(run) {
  const r = run.result;
  if (!r) return run.paused ? "waits for you" : "runs";
  return r.skipped ? "SKIPPED" : r.error ? "ERROR" : r.pass ? "PASS" : "FAIL";
}

// --- what is drawn

const milliseconds = (ms) => ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3);
const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
const percent = (share) => (100 * share).toFixed(1) + " %";

function drawRuns() {
  const rows = [...runs.values()].filter((r) => r.began).sort((a, b) => b.began - a.began);
  const list = $("runs");
  if (same(list, rows.map((run) => [run.folder, run.title, verdict(run), run === shown]))) return;
  const had = document.activeElement && document.activeElement.dataset.folder;
  list.replaceChildren(...rows.map((run) => {
    const button = make("button", "", {type: "button", "data-folder": run.folder, "aria-pressed": run === shown});
    button.append(make("span", verdict(run), {class: verdict(run).toLowerCase()}), " " + run.title);
    button.onclick = () => { picked = true; show(run); };
    const item = make("li");
    item.append(button);
    return item;
  }));
  if (had) { const again = list.querySelector(`[data-folder="${CSS.escape(had)}"]`); if (again) again.focus(); }
}

function show(run) {
  if (shown !== run) { $("evidence").hidden = true; $("steps").replaceChildren(); }
  shown = run;
  run.stale = true;
  redraw(soon);
}

// same says whether an element shows this already, and notes that it will.
function same(element, what) {
  const key = JSON.stringify(what), is = element.dataset.key === key;
  element.dataset.key = key;
  return is;
}

// text sets a text only when it changed, so that a screen reader says it once.
function text(element, value) { if (element.textContent !== value) element.textContent = value; }

function drawHead(run) {
  const s = run.story;
  const title = $("title");
  text(title, verdict(run) + " " + run.title);
  title.className = verdict(run).toLowerCase();
  text($("about"), s.control ? `Negative control: ${s.breaks}. Claim “${s.catches}” must then fail.` : s.summary || "");
  const r = run.result;
  let news = "";
  if (r) news = r.skipped || r.error || (r.refuted ? `claim “${r.refuted}” ${r.control && r.pass ? "failed as it must" : "does not hold"}: ${(r.reasons || []).join("; ")}` : "every claim holds");
  else if (run.paused && run.step) news = `“${run.step.name}” waits for you. ${run.step.about ? run.step.about.why || "" : ""}`;
  else if (run.step) news = run.step.error ? run.step.error : `${run.step.name}${run.reason ? ": " + run.reason : ""}`;
  text($("news"), news);
}

function drawSteps(run) {
  const list = $("steps");
  const plan = run.story.steps.map((about) => run.steps.find((s) => s.name === about.name) || {name: about.name, about, changes: [], samples: []});
  const all = plan.concat(run.steps.filter((s) => s.checked && !s.about));
  all.forEach((step, i) => {
    const state = step.checked ? (step.checked.pass ? "ok" : "FAIL") : step.error ? "FAIL" : step === run.step && !run.result ? "now" : "";
    const key = JSON.stringify([run.folder, step.name, state, step.changes.length, step.text, step.error]);
    let item = list.children[i];
    if (item && item.dataset.key === key) return;
    const open = item && item.querySelector("details") && item.querySelector("details").open;
    const next = make("li", undefined, {"data-key": key, "data-step": step.name});
    if (state === "now") next.setAttribute("aria-current", "step");
    next.append(make("span", state || "–", {class: state}), " ", make("strong", step.name));
    if (step.checked) next.append(make("span", ` active after ${(step.checked.barrierSeconds || 0).toFixed(1)} s, checked in ${(step.checked.seconds || 0).toFixed(1)} s`, {class: "soft"}));
    if (step.text) next.append(make("p", step.text));
    if (step.error) next.append(make("p", step.error, {class: "fail"}));
    const file = step.checked && step.checked.evidence && step.checked.evidence.file;
    if (file) {
      const button = make("button", "Show its requests", {type: "button", "aria-label": "Show its requests: " + step.name});
      button.onclick = () => evidence(run, step, file);
      next.append(button);
    }
    const about = step.about || {};
    if (about.why || step.changes.length) {
      const details = make("details");
      if (open || state === "now" && run.paused) details.open = true;
      details.append(make("summary", "What it is about, and what it changes"));
      if (about.why) details.append(make("p", about.why));
      if (about.watchFor) details.append(make("p", "Look at: " + about.watchFor));
      for (const change of step.changes) {
        const pre = make("pre", undefined, {tabindex: 0, "aria-label": "change of YAML"});
        for (const line of change.split("\n")) pre.append(make("span", line + "\n", {class: /^(\+\+\+|---)/.test(line) ? "file" : line[0] === "+" ? "more" : line[0] === "-" ? "less" : ""}));
        details.append(pre);
      }
      next.append(details);
    }
    if (item) item.replaceWith(next); else list.append(next);
  });
  while (list.children.length > all.length) list.lastChild.remove();
}

function drawCounts(run) {
  const sample = last(run), body = $("counts").tBodies[0], legs = [...run.legs.values()];
  const accepted = new Map((sample && sample.claim ? sample.claim.regions : []).map((r) => [r.leg, `${r.lo} to ${r.hi} of ${sample.n}`]));
  if (!same(body, [run.folder, legs.map((leg) => leg.title)])) {
    const key = (leg) => make("span", "", {class: `key c${leg.color}`});
    body.replaceChildren(...legs.map((leg) => {
      const row = make("tr"), name = make("td");
      name.append(key(leg), leg.title);
      row.append(name, ...Array.from({length: 7}, () => make("td", "", {class: "n"})));
      return row;
    }));
    $("legend").replaceChildren(...run.versions.flatMap((name, i) => [key({color: i % colors}), name + "  "]));
  }
  legs.forEach((leg, i) => {
    const own = sample && sample.of === leg.of, k = own ? sample.counts.get(leg.name) || 0 : 0, n = own ? sample.done : 0;
    const [low, high] = n ? interval(k, n) : [0, 0];
    [own || !sample ? k : "", n ? percent(k / n) : "", n ? `${percent(low)} to ${percent(high)}` : "", own && accepted.get(leg.name) || "", leg.count,
      leg.count ? milliseconds(percentile(leg, 50)) : "", leg.count ? milliseconds(percentile(leg, 95)) : ""].forEach((v, c) => text(body.rows[i].cells[c + 1], String(v)));
  });
  const w = run.judged;
  text($("watcher"), run.watched ? `Watcher: ${run.watched} sent, ${run.lostCount} lost so far.` : w ? `Watcher: ${w.sent} sent, ${w.lost} lost.` : "");
  $("watcher").dataset.sent = run.watched || (w ? w.sent : 0);
}

// drawRoutes draws the way of requests as the lab has it now: from the gateway by
// each route to its backends, in the color of the version that a backend has.
function drawRoutes() {
  const box = $("routes"), legs = shown ? shown.versions.map((name, i) => ({name, color: i % colors})) : [];
  if (same(box, [moment.says, legs.map((l) => l.name)])) return;
  box.replaceChildren(...(moment.routes || []).map((route) => {
    const figure = make("figure"), host = (route.hosts || []).join(", ") || "every host";
    const caption = make("figcaption", host + " ");
    caption.append(make("small", route.object));
    figure.append(caption, drawRoute(route, host, legs));
    return figure;
  }), ...(moment.why ? [make("p", moment.why, {class: "soft"})] : []));
}

function svg(tag, attributes, content) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  if (content) e.textContent = content;
  return e;
}

function drawRoute(route, host, legs) {
  const row = 22, shares = (b) => `${+b.percent.toFixed(1)} %`, says = [], parts = [], middles = [];
  let y = 0;
  for (const rule of route.rules) {
    says.push((rule.when ? `with ${rule.when} to ` : "to ") + rule.to.map((b) => b.mirror ? `copies of ${shares(b)} to ${b.name}` : `${b.name} ${shares(b)}`).join(", "));
    if (rule.when) {
      y += row;
      const when = svg("text", {class: "soft", x: 66, y: y - 4}, rule.when.length > 36 ? rule.when.slice(0, 35) + "…" : rule.when);
      when.append(svg("title", {}, rule.when));
      parts.push(when);
    }
    const middle = y + row * rule.to.length / 2;
    for (const b of rule.to) {
      const leg = legs.find((l) => b.name === l.name || /[ -]/.test(b.name.at(-l.name.length - 1) || "") && b.name.endsWith(l.name)), at = y + row / 2;
      parts.push(svg("path", {class: "way" + (leg ? ` c${leg.color}` : ""), d: `M70 ${middle} C95 ${middle} 95 ${at} 120 ${at}`,
        "stroke-width": 1 + b.percent / 20, "stroke-dasharray": b.mirror ? "5 4" : "none", opacity: b.percent ? 1 : .4}));
      parts.push(svg("text", {x: 126, y: at + 4}, `${b.name} ${shares(b)}${b.mirror ? " mirrored" : ""}`));
      y += row;
    }
    parts.push(svg("circle", {class: "node", cx: 70, cy: middle, r: 4}));
    middles.push(middle);
  }
  const root = svg("svg", {viewBox: `0 0 300 ${y}`, role: "img", "aria-label": `gateway, ${host}: ${says.join("; ")}`});
  root.append(svg("text", {x: 0, y: y / 2 + 4}, "gateway"), ...middles.map((m) => svg("path", {class: "way", d: `M52 ${y / 2} L70 ${m}`})), ...parts);
  return root;
}

// drawAlerts lists what Prometheus says. Where the lab has none, nothing is shown.
function drawAlerts() {
  const all = moment.alerts, box = $("alerts");
  if (same(box, all || null)) return;
  box.hidden = !all;
  text(box.querySelector("p"), !all || !all.length ? "No alert is pending or firing." : [...new Set(all.map((a) => `${a.name} is ${a.state}`))].join(", ") + ".");
  box.querySelector("div").hidden = !all || !all.length;
  box.querySelector("tbody").replaceChildren(...(all || []).map((a) => {
    const row = make("tr", undefined, {"data-alert": a.name});
    row.append(make("td", a.name), make("td", a.state, {class: a.state === "firing" ? "fail" : "skipped"}), make("td", new Date(a.since).toLocaleTimeString("en-GB")),
      make("td", [a.namespace, a.app].filter(Boolean).join(" / ")), make("td", a.summary), make("td", a.taken ? "Alertmanager has it" : "not yet"));
    return row;
  }));
}

// The squares' width is in pixels of a text of 16 pixels: on a large screen text is
// larger. All are asked for when they change, not for each picture.
let zoom = 1, squaresWidth = 0, sharesWidth = 0;

function measure() {
  const before = [squaresWidth, sharesWidth];
  zoom = zoomed();
  squaresWidth = $("squares").clientWidth / zoom;
  if (window.uPlot) sharesWidth = $("shares").clientWidth;
  if (squaresWidth !== before[0] || sharesWidth !== before[1]) redraw(soon);
}

// prepared is a canvas at the screen's resolution, and whether it is empty.
function prepared(canvas, width, height) {
  const scale = (window.devicePixelRatio || 1) * zoom;
  const empty = canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale);
  if (empty) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = height * zoom + "px";
  }
  const c = canvas.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  return [c, empty];
}

let paint = null; // the colors, until they may be others

// blank fills a part of a canvas. When Chromium prints, it draws a canvas again on the paper, and clearRect then
// takes away all that is printed above it.
function blank(c, p, ...part) { c.fillStyle = p.paper; c.fillRect(...part); }

function cross(c, x, y, r) { c.beginPath(); c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x - r, y + r); c.lineTo(x + r, y - r); c.stroke(); }

let squared = {}; // what the squares show

// drawSquares adds the squares that are new.
function drawSquares(run, p) {
  const width = squaresWidth, cell = Math.max(6, Math.round(width / 90)), perRow = Math.max(1, Math.floor(width / cell));
  const [c, empty] = prepared($("squares"), width, Math.ceil(squaresKept / perRow) * cell);
  if (empty || squared.run !== run || squared.paint !== p) {
    blank(c, p, 0, 0, width, c.canvas.height);
    squared = {run, paint: p, count: 0};
  }
  c.strokeStyle = p.bad;
  c.lineWidth = 2;
  for (let n = Math.max(squared.count, run.squareCount - squaresKept); n < run.squareCount; n++) {
    const i = n % squaresKept, color = run.squares[i], x = (i % perRow) * cell, y = Math.floor(i / perRow) * cell;
    if (n >= squaresKept) blank(c, p, x, y, cell, cell);
    if (color < 0) { cross(c, x + cell / 2, y + cell / 2, cell / 2 - 2); continue; }
    c.fillStyle = p.legs[color];
    c.fillRect(x, y, cell - 1, cell - 1);
    if (color % 2) { c.fillStyle = "rgba(255,255,255,.55)"; c.fillRect(x + cell / 3, y + cell / 3, cell / 3, cell / 3); } // seen without color, too
  }
  squared.count = run.squareCount;
}

const showShares = []; // for each part that a run has had
if (!window.uPlot) $("shares").replaceWith(make("p", "This mllab was built without its plotting library, so this plot is missing. Build it with make build.", {class: "fail"}));

// drawShares draws the parts of a run below each other.
function drawShares(run, p) {
  const parts = run.parts.size ? [...run.parts.values()] : [{of: "", watch: new Map(), lost: []}], box = $("shares");
  while (box.children.length < parts.length) showShares.push(sharesPlotter(box.appendChild(make("div"))));
  [...box.children].forEach((own, i) => { own.hidden = i >= parts.length; });
  parts.forEach((part, i) => {
    const legs = [...run.legs.values()].filter((leg) => leg.of === part.of);
    const region = (sample, leg) => sample.claim && sample.claim.regions.find((r) => r.leg === leg.name);
    showShares[i]({
      title: part.of, legs: legs.map((leg) => leg.color), end: Math.max(run.last, 1), lost: part.lost,
      steps: run.steps.filter((s) => s.about).map((s) => [s.at, run.story.steps.indexOf(s.about) + 1]),
      samples: run.samples.filter((sample) => sample.of === part.of).map((sample) => {
        const own = legs.filter((leg) => sample.counts.has(leg.name));
        return {
          legs: own.map((leg) => legs.indexOf(leg)),
          accepted: own.map((leg) => region(sample, leg)).map((r) => r ? [r.lo / sample.n, r.hi / sample.n] : null),
          points: sample.points.map(([at, by, n]) => [at, n, ...own.map((leg) => by.get(leg.name) || 0)]),
        };
      }),
      watched: [...part.watch].map(([second, by]) => [second + .5, by.get(""), ...legs.map((leg) => by.get(leg.name) || 0)]),
    }, p, zoom, sharesWidth);
  });
}

// redraw has the page drawn within so many ms: soon after what a person waits for,
// and else seldom enough to leave the machine to the run.
const soon = 50, seldom = 500;
let timer = 0, due = 0;

function redraw(within) {
  if (document.hidden || timer && due <= Date.now() + within) return;
  clearTimeout(timer);
  due = Date.now() + within;
  timer = setTimeout(draw, within);
}

function draw() {
  clearTimeout(timer);
  timer = 0;
  if (document.hidden) return;
  drawRuns();
  drawRoutes();
  drawAlerts();
  if (!shown) return;
  const p = paint ||= palette();
  drawHead(shown);
  if (shown.stale) { drawSteps(shown); shown.stale = false; }
  drawCounts(shown);
  if (window.uPlot) drawShares(shown, p);
  drawSquares(shown, p);
}

// evidence shows the answers of a step, from its file.
async function evidence(run, step, file) {
  const name = file.slice(file.lastIndexOf("/") + 1), box = $("evidence");
  const answer = await fetch(`evidence/${encodeURIComponent(run.folder)}/${encodeURIComponent(name)}`);
  const lines = answer.ok ? (await answer.text()).trim().split("\n").filter(Boolean) : [];
  box.hidden = false;
  box.dataset.lines = lines.length;
  box.dataset.step = step.name;
  box.querySelector("h3").textContent = answer.ok ? `${step.name}: ${lines.length} answers in ${name}` + (lines.length > 200 ? ", the first 200" : "") : await answer.text();
  box.querySelector("tbody").replaceChildren(...lines.slice(0, 200).map((line) => {
    let a = {};
    try { a = JSON.parse(line); } catch { a = {id: line}; } // evidence of another kind
    const row = make("tr");
    row.append(make("td", a.id || ""), make("td", a.target || a.err || ""), make("td", a.status || "", {class: "n"}), make("td", a.latency ? (a.latency / 1e6).toFixed(1) : "", {class: "n"}));
    return row;
  }));
  box.focus();
}

// closeEvidence leads back to the button that showed it, for those who have no mouse.
function closeEvidence() {
  const box = $("evidence"), within = box.contains(document.activeElement);
  if (box.hidden) return;
  box.hidden = true;
  const button = $("steps").querySelector(`[data-step="${CSS.escape(box.dataset.step)}"] > button`);
  if (within && button) button.focus();
}

// --- the lab

let unseen = true; // the lab has not been looked at since the last run

// A look at the whole lab takes seconds of CPU, so it waits for the end of runs. One
// without a result that says nothing for half a minute waits for somebody, or was killed.
function lookWhenIdle() {
  const goes = (run) => run.began && !run.result && Date.now() - run.began - 1000 * run.last < 30000;
  if (unseen && !document.hidden && ![...runs.values()].some(goes)) look();
}

async function look() {
  unseen = false;
  const box = $("lab").querySelector("div"), answer = await fetch("lab");
  if (!answer.ok) { box.replaceChildren(make("p", await answer.text())); return; }
  const lab = await answer.json(), table = make("table");
  const row = (name, value, state) => {
    const r = make("tr");
    r.append(make("th", name, {scope: "row"}), make("td", value, state ? {class: state} : {}));
    table.append(r);
  };
  row(lab.cluster, lab.ready ? "ready" : "not ready: " + (lab.why || ""), lab.ready ? "ok" : "fail");
  for (const addon of lab.addons || []) row(addon.name, addon.ready ? "ready" : (addon.gone ? "gone: " : "not ready: ") + (addon.why || ""), addon.ready ? "ok" : "fail");
  const q = lab.requests || {};
  if (q.cpuCapacityMillis) row("CPUs requested", `${(q.cpuMillis / 1000).toFixed(2)} of ${(q.cpuCapacityMillis / 1000).toFixed(0)}`);
  if (q.memoryCapacityBytes) row("Memory requested", `${gib(q.memoryBytes)} of ${gib(q.memoryCapacityBytes)} GiB`);
  for (const check of lab.checks || []) row(check.asked, check.answer, check.ok ? "" : "fail");
  for (const f of lab.fluxNotReady || []) row("flux", JSON.stringify(f), "fail");
  if (lab.url) row("gateway", lab.url);
  box.replaceChildren(table);
  if ((lab.addons || []).some((a) => a.name === "git")) audit();
}

// audit shows what the newest commits of the lab's Git did.
async function audit() {
  const box = $("audit").querySelector("div"), answer = await fetch("audit");
  $("audit").hidden = false;
  if (!answer.ok) { box.replaceChildren(make("p", await answer.text())); return; }
  const report = await answer.json(), table = make("table"), head = make("tr");
  for (const name of ["Commit", "What", "By", "Changes", "Flux", "In traffic after", "Proof"]) head.append(make("th", name, {scope: "col"}));
  table.append(head);
  for (const c of report.commits || []) {
    const objects = (c.changes || []).flatMap((f) => f.error ? ["cannot be built: " + f.error] : (f.objects || []).map((o) => `${o.action} ${o.object}`));
    const p = c.proof, row = make("tr", undefined, {"data-commit": c.commit});
    row.append(make("td", c.commit.slice(0, 10)), make("td", c.message.split("\n")[0]), make("td", c.pushed ? c.pushed.user : c.author), make("td", objects.join(", ")),
      make("td", (c.applied || []).map((a) => a.reason).at(-1) || "nothing is known"), make("td", p && p.secondsToTraffic ? p.secondsToTraffic.toFixed(1) + " s" : ""),
      make("td", p ? `${p.pass ? "PASS" : "FAIL"} ${p.scenario}${p.control ? ", control " + p.control : ""}: ${p.step}` : "", p ? {class: p.pass ? "ok" : "fail"} : {}));
    table.append(row);
  }
  const drift = (report.drift || []).flatMap((d) => d.error ? [`${d.kustomization} is not compared: ${d.error}`] : (d.objects || []).map((o) => `${o.object} differs from Git (${d.kustomization})`));
  box.replaceChildren(table, ...(drift.length ? drift : [`no drift: ${report.compared} objects are as Git says`]).map((text) => make("p", text, {class: drift.length ? "fail" : "soft"})));
}

// now asks what the lab has at this moment: after a change by a run, and every few
// seconds, because others may change it, too. Nobody looks at a hidden page.
async function now() {
  try {
    if (!document.hidden) {
      const answer = await fetch("now"), says = await answer.text();
      if (says !== moment.says) {
        moment = {...(answer.ok ? JSON.parse(says) : {why: says}), says};
        redraw(soon);
      }
    }
  } catch { /* the stream says that the connection is lost */ }
  askWithin(5000);
}

let asking = 0;

function askWithin(ms) {
  clearTimeout(asking);
  asking = setTimeout(now, ms);
}

// --- what a person does

async function post(path, fields = {}) {
  const answer = await fetch(path, {method: "POST", body: new URLSearchParams(fields)});
  if (!answer.ok) text($("child"), await answer.text());
}

function drawChild() {
  $("go").disabled = child.running;
  $("stop").disabled = !child.running || child.stopping;
  $("next").disabled = !(child.running && child.steps);
  text($("child"), child.running ? child.scenario + (child.stopping ? " stops and cleans up" : " was started here") : child.error || "");
}

$("start").onsubmit = (e) => {
  e.preventDefault();
  picked = false;
  post("start", {scenario: $("scenario").value, controls: $("controls").checked, step: $("stepwise").checked});
};
$("next").onclick = () => post("next");
$("stop").onclick = () => post("stop");
$("refresh").onclick = look;
$("evidence").querySelector("button").onclick = closeEvidence;
document.addEventListener("keydown", (e) => { if (e.key === "Escape") closeEvidence(); });
new ResizeObserver(measure).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").onchange = () => { paint = null; redraw(soon); };
matchMedia("print").onchange = () => { paint = null; measure(); draw(); }; // in the colors of paper
document.addEventListener("visibilitychange", () => { redraw(soon); askWithin(0); });

// --- the stream

const stream = new EventSource("events");
stream.onopen = () => { runs.clear(); shown = null; text($("connection"), "follows the lab"); };
stream.onerror = () => text($("connection"), "lost the connection: is mllab view still running?");
stream.addEventListener("reset", (m) => {
  const folder = JSON.parse(m.data), old = runs.get(folder);
  runs.set(folder, newRun(folder));
  if (shown && shown === old) show(runs.get(folder));
});
stream.addEventListener("events", (m) => {
  const {folder, events} = JSON.parse(m.data);
  const run = runs.get(folder), ended = !!run.result;
  for (const e of events) add(run, e);
  const newer = !shown || run.began > shown.began;
  if (!picked && newer && (!shown || run !== shown)) show(run);
  if (!ended && run.result) unseen = true;
  if (events.some((e) => ["active", "end", "result"].includes(e.type))) askWithin(soon);
  redraw(seldom);
});
stream.addEventListener("child", (m) => { child = JSON.parse(m.data); drawChild(); });

fetch("choices").then((a) => a.json()).then((all) => {
  $("scenario").replaceChildren(...all.map((s) => make("option", `${s.name}: ${s.summary}`, {value: s.name})));
  $("scenario").value = "canary";
});
setInterval(lookWhenIdle, 2000);
measure();
now();
