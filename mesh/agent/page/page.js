"use strict";
// Draws what topology.json says, again and again. Everything is made of text nodes: names come from elsewhere.

const SVG = "http://www.w3.org/2000/svg";
const TIMEOUT_MS = 10_000;
const LABELS_MAX = 24; // links with a label of their own; the table has all
const STALE_ROUNDS = 3; // an agent's part is silent when it is older than so many rounds

const $ = (id) => document.getElementById(id);
const shown = new Map(); // node -> its <g>
let before = new Map(); // node -> what its links had counted, for rates
let chosen = "";

function make(tag, attributes = {}, ...children) {
  const element = tag === "g" || tag === "circle" || tag === "line" || tag === "text" || tag === "title"
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const isStale = (node, fleet) => node.age_s !== null && node.age_s > STALE_ROUNDS * fleet.view_s + 1;
const several = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const seconds = (s) => s < 90 ? `${s.toFixed(s < 10 ? 1 : 0)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
const label = (namespace, topic) => namespace ? `${namespace}|${topic}` : topic;

/** What is to be said of an agent: a class for its colour, and words. */
function condition(node, doubts, fleet) {
  const stale = isStale(node, fleet);
  if (stale && !node.listed) return ["bad", `gone: silent for ${seconds(node.age_s)}`];
  if (stale) return ["bad", `silent for ${seconds(node.age_s)}`];
  if (doubts.has(node.node)) return ["warn", `suspect: ${doubts.get(node.node).join(", ")} hears nothing of it`];
  if (node.view === null) return ["unknown", node.listed ? "not heard of yet" : "linked, not heard of yet"];
  if (node.view.state !== "serving") return ["warn", node.view.state];
  if (node.view.matchmaker === false) return ["warn", "its matchmaker does not answer"];
  return ["good", "serving"];
}

/** Who is suspect, and to whom. Only what is fresh counts. */
function doubtsOf(fleet) {
  const doubts = new Map();
  const doubt = (who, whom) => doubts.set(whom, [...(doubts.get(whom) ?? []), who]);
  for (const node of fleet.nodes) {
    if (node.condition !== "alive") doubt(fleet.node, node.node);
    if (!node.view || isStale(node, fleet) || node.node === fleet.node) continue;
    for (const link of node.view.links) if (link.condition !== "alive") doubt(node.node, link.peer);
  }
  return doubts;
}

/** Every link once, of what both ends say; its rate is the difference to the last look. */
function linksOf(fleet) {
  const links = new Map();
  const now = new Map();
  for (const node of fleet.nodes) {
    if (!node.view || isStale(node, fleet)) continue;
    const last = before.get(node.node);
    const counts = new Map();
    for (const end of node.view.links) {
      const records = end.records_in + end.records_out;
      counts.set(end.peer, records);
      let rate = null;
      if (last && last.incarnation === node.view.incarnation && last.counts.has(end.peer)) {
        const dt = node.view.clock_s - last.clock_s;
        rate = dt > 0 ? Math.max(0, records - last.counts.get(end.peer)) / dt : last.rates.get(end.peer) ?? null;
      }
      counts.set(end.peer, records);
      const [a, b] = [node.node, end.peer].sort();
      const key = JSON.stringify([a, b]);
      const link = links.get(key) ?? { a, b, persistent: false, doubt: "", rtt: null, rate: null, flying: 0 };
      link.persistent ||= end.persistent;
      if (end.condition !== "alive") link.doubt = `${end.peer} is ${end.condition}`;
      if (end.rtt_ms !== null) link.rtt = link.rtt === null ? end.rtt_ms : Math.min(link.rtt, end.rtt_ms);
      if (rate !== null) link.rate = Math.max(link.rate ?? 0, rate);
      link.flying = Math.max(link.flying, end.in_flight);
      links.set(key, link);
    }
    const same = last && last.clock_s === node.view.clock_s;
    now.set(node.node, {
      incarnation: node.view.incarnation, clock_s: node.view.clock_s, counts,
      rates: same ? last.rates : new Map([...links.values()].flatMap((l) =>
        l.a === node.node ? [[l.b, l.rate]] : l.b === node.node ? [[l.a, l.rate]] : [])),
    });
  }
  before = now;
  return [...links.values()].sort((x, y) => (y.rate ?? 0) - (x.rate ?? 0));
}

/** Who serves and who calls each topic. */
function topicsOf(fleet) {
  const topics = new Map();
  const of = (namespace, topic) => {
    const key = label(namespace, topic);
    if (!topics.has(key)) topics.set(key, { name: key, hot: false, rate: 0, callers: new Set(), servers: new Set() });
    return topics.get(key);
  };
  for (const node of fleet.nodes) {
    for (const row of node.view?.topics ?? []) {
      const topic = of(row.namespace, row.topic);
      topic.hot ||= row.hot;
      topic.rate += row.rate;
    }
    for (const app of node.view?.apps ?? []) {
      const at = node.node + (isStale(node, fleet) ? " (silent)" : "");
      for (const one of app.serves) of(app.namespace, one.topic).servers.add(`${one.server}@${at}`);
      for (const one of app.calls) of(app.namespace, one.topic).callers.add(`${app.name}@${at}`);
    }
  }
  return [...topics.values()].sort((x, y) => y.rate - x.rate || x.name.localeCompare(y.name));
}

function draw(fleet) {
  const nodes = fleet.nodes;
  const radius = nodes.length === 1 ? 0 : Math.max(120, nodes.length * 18);
  const [w, h] = [2 * radius + 180, 2 * radius + 120];
  const graph = $("graph");
  graph.setAttribute("viewBox", `${-w / 2} ${-h / 2} ${w} ${h}`);
  const places = new Map(nodes.map((node, n) => {
    const angle = 2 * Math.PI * n / nodes.length - Math.PI / 2;
    return [node.node, [radius * Math.cos(angle), radius * Math.sin(angle)]];
  }));
  const links = linksOf(fleet);
  for (const old of [...graph.querySelectorAll("line, text.small")]) old.remove();
  const lines = links.filter((link) => places.has(link.a) && places.has(link.b));
  for (const [n, link] of lines.entries()) {
    const [[x1, y1], [x2, y2]] = [places.get(link.a), places.get(link.b)];
    const width = 1.5 + Math.min(6, Math.log2(1 + (link.rate ?? 0)) / 1.5);
    const kind = link.doubt ? "doubt" : link.persistent ? "hot" : "";
    graph.prepend(make("line", { x1, y1, x2, y2, class: kind, "stroke-width": width }, make("title", {}, linkText(link))));
    if (n < LABELS_MAX && link.rtt !== null) {
      const words = `${link.rtt.toFixed(1)} ms` + (link.rate === null ? "" : `, ${link.rate.toFixed(0)}/s`);
      graph.append(make("text", { class: "small", x: (x1 + x2) / 2, y: (y1 + y2) / 2 }, words));
    }
  }
  const doubts = doubtsOf(fleet);
  for (const node of nodes) drawNode(graph, node, places.get(node.node), condition(node, doubts, fleet));
  for (const [name, group] of shown) if (!places.has(name)) { group.remove(); shown.delete(name); }
  return [links, doubts];
}

function drawNode(graph, node, [x, y], [kind, words]) {
  let group = shown.get(node.node);
  if (!group) {
    group = make("g", { tabindex: 0, role: "button" }, make("circle", { r: 26 }), make("text", { dy: 5 }), make("text", { dy: 45 }));
    group.addEventListener("click", () => choose(node.node));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(node.node); }
    });
    shown.set(node.node, group);
  }
  const is = node.node === chosen;
  group.setAttribute("class", `node ${kind}${is ? " chosen" : ""}`);
  group.setAttribute("aria-pressed", is);
  group.setAttribute("aria-label", `agent ${node.node}: ${words}`);
  group.setAttribute("transform", `translate(${x} ${y})`);
  const [, inside, below] = group.children;
  const apps = node.view?.apps.length ?? 0;
  inside.textContent = node.view ? several(apps, "app") : "?";
  below.textContent = kind === "good" ? node.node : `${node.node}: ${words.split(":")[0]}`;
  if (group.parentNode !== graph) graph.append(group);
}

const linkText = (link) => [`${link.a} – ${link.b}`, link.persistent ? "persistent" : "ephemeral",
  link.rtt === null ? "" : `${link.rtt.toFixed(2)} ms`, link.rate === null ? "" : `${link.rate.toFixed(1)} records/s`,
  link.doubt].filter(Boolean).join(", ");

function fill(id, rows, none) {
  const width = $(id).closest("table").querySelectorAll("th").length;
  const lines = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))));
  $(id).replaceChildren(...(lines.length ? lines : [make("tr", {}, make("td", { colspan: width, class: "unknown" }, none))]));
}

const coloured = (kind, text) => make("span", { class: kind }, text);

function tell(fleet, links, doubts) {
  const node = fleet.nodes.find((one) => one.node === chosen) ?? fleet.nodes.find((one) => one.node === fleet.node);
  const [kind, words] = condition(node, doubts, fleet);
  $("chosen").textContent = node.node;
  const view = node.view;
  const facts = [["state", coloured(kind, words)], ["reached at", node.endpoint || "unknown"], ["zone", node.zone],
    ["this is", node.age_s === null ? "" : `${seconds(node.age_s)} old`],
    ["up", view ? seconds(view.clock_s) : ""], ["loop lag", view ? `${view.lag_ms} ms` : ""],
    ["not shown", view?.left_out ? `${view.left_out} rows of many` : ""]];
  $("facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) =>
    [make("dt", {}, name), make("dd", {}, value)]));
  fill("apps", (view?.apps ?? []).map((app) => [
    label(app.namespace, app.name) + (app.attached ? "" : " (away)"),
    app.serves.map((one) => `${one.topic}@${one.server}`).join(", "),
    app.calls.map((one) => one.topic).join(", "), String(app.outstanding)]), view ? "none" : "not known");
  fill("topics", topicsOf(fleet).map((topic) => [topic.name,
    topic.hot ? coloured("hot", "hot") : coloured("cold", "cold"), topic.rate.toFixed(1),
    [...topic.callers].join(", "), [...topic.servers].join(", ")]), "none that is known");
  fill("links", links.map((link) => [`${link.a} – ${link.b}`,
    link.persistent ? coloured("hot", "persistent") : coloured("cold", "ephemeral"),
    link.rtt === null ? "–" : `${link.rtt.toFixed(2)} ms`, link.rate === null ? "–" : link.rate.toFixed(1),
    String(link.flying), link.doubt ? coloured("bad", link.doubt) : "alive"]), "none: nobody talks to another agent now");
}

let last = null;

function show(fleet) {
  last = fleet;
  chosen ||= fleet.node;
  const [links, doubts] = draw(fleet);
  tell(fleet, links, doubts);
  $("fleet").textContent = `fleet ${fleet.fleet}, as ${fleet.node} sees it`;
  const kinds = fleet.nodes.map((node) => condition(node, doubts, fleet)[0]);
  const count = (kind) => kinds.filter((one) => one === kind).length;
  const more = fleet.unlisted || fleet.next ? ", and more that have no room here" : "";
  const words = [several(fleet.nodes.length, "agent") + more, several(links.length, "link")];
  for (const [kind, text] of [["bad", "silent"], ["warn", "in doubt"], ["unknown", "not heard of"]]) {
    if (count(kind)) words.push(`${count(kind)} ${text}`);
  }
  const text = words.join(", ");
  if ($("summary").textContent !== text) $("summary").textContent = text; // a reader says only what changed
  $("summary").className = "";
}

function choose(name) {
  chosen = name;
  if (last) { tell(last, linksOf(last), doubtsOf(last)); for (const [n, g] of shown) mark(g, n === name); }
}

function mark(group, is) {
  group.classList.toggle("chosen", is);
  group.setAttribute("aria-pressed", is);
}

async function turn() {
  let pause_s = 2;
  try {
    const answer = await fetch("topology.json", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    const fleet = await answer.json();
    pause_s = Math.max(0.5, Math.min(fleet.view_s, 5));
    show(fleet);
  } catch (error) {
    $("summary").textContent = `the agent does not answer (${error.message}); what is shown is old`;
    $("summary").className = "lost";
  }
  setTimeout(turn, pause_s * 1000);
}

turn();
