"use strict";
// The trajectory viewer. Model text reaches the page through textContent only, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("paths").textContent);
  const { texts, problems, rows } = data;
  const classes = data.classes.map(([name]) => name), meanings = data.classes.map(([, words]) => words);
  // A path: [problem, seed, class, stop, attempts [text, outcome, answer, reason], evaluations [text, verdict, P(correct)]]
  const PROBLEM = 0, SEED = 1, CLASS = 2, STOP = 3, ATTEMPTS = 4, EVALUATIONS = 5;
  const OUTCOMES = ["correct", "wrong", "ungradable"], VERDICTS = ["correct", "wrong"];
  const ITEM = 52; // height of a list entry in pixels, as in report.css
  if (!rows.length) { $("no-paths").hidden = false; return; }
  $("viewer").hidden = false;

  const state = { a: startRow(), b: -1, kind: -1, flip: -1, query: "", math: true, found: [], at: 0 };

  function startRow() { // the row that fixed most: the one a reader wants to see first
    const fixed = rows.map((row) => row.result * row.paths.filter((path) => path[CLASS] === 0).length / (row.paths.length || 1));
    return fixed.indexOf(Math.max(...fixed));
  }

  function el(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // --- the same problem in another row
  const places = rows.map((row) => {
    const exact = new Map(), any = new Map();
    for (const path of row.paths) {
      exact.set(path[PROBLEM] + "#" + path[SEED], path);
      if (!any.has(path[PROBLEM])) any.set(path[PROBLEM], path);
    }
    return { exact, any };
  });
  const partner = (path) => state.b < 0 ? undefined
    : places[state.b].exact.get(path[PROBLEM] + "#" + path[SEED]) || places[state.b].any.get(path[PROBLEM]);

  // --- filters
  const endsCorrect = (path) => ["fixed", "kept", "left alone"].includes(classes[path[CLASS]]);
  const FLIPS = [
    ["only the first is correct", (p, q) => endsCorrect(p) && !endsCorrect(q)],
    ["only the second is correct", (p, q) => !endsCorrect(p) && endsCorrect(q)],
    ["both correct", (p, q) => endsCorrect(p) && endsCorrect(q)],
    ["both wrong", (p, q) => !endsCorrect(p) && !endsCorrect(q)],
  ];

  function matcher(query) { // each distinct string is searched once, however many paths share it
    if (!query) return () => true;
    const needle = query.toLowerCase();
    const hit = texts.map((text) => text.toLowerCase().includes(needle));
    const asked = problems.map((problem) => problem.some((text) => text.toLowerCase().includes(needle)));
    return (path) => asked[path[PROBLEM]]
      || path[ATTEMPTS].some((attempt) => hit[attempt[0]] || (attempt[2] >= 0 && hit[attempt[2]]))
      || path[EVALUATIONS].some((evaluation) => hit[evaluation[0]]);
  }

  function refresh() {
    const row = rows[state.a];
    const kept = state.found[state.at];
    const searched = row.paths.filter(matcher(state.query));
    const flipped = searched.filter((path) => {
      if (state.flip < 0) return true;
      const other = partner(path);
      return other !== undefined && FLIPS[state.flip][1](path, other);
    });
    const ofKind = (kind) => kind < 0 ? flipped : flipped.filter((path) => path[CLASS] === kind);
    chips($("classes"), [["all", -1], ...classes.map((name, kind) => [name, kind])]
      .map(([name, kind]) => [name, kind, ofKind(kind).length])
      .filter(([, kind, count]) => count || kind < 0 || kind === state.kind || classes[kind] !== "not scored"), "kind");
    $("flips").hidden = state.b < 0;
    if (state.b >= 0) {
      const pairs = searched.map((path) => [path, partner(path)]).filter(([, other]) => other);
      const count = (test) => pairs.filter(([p, q]) => test(p, q)).length;
      chips($("flips"), [["either", -1, pairs.length], ...FLIPS.map(([name, test], flip) => [name, flip, count(test)])], "flip");
    }
    state.found = ofKind(state.kind);
    const same = kept ? state.found.findIndex((p) => p[PROBLEM] === kept[PROBLEM] && p[SEED] === kept[SEED]) : 0;
    const meaning = state.kind < 0 ? "" : `; ${classes[state.kind]}: ${meanings[state.kind]}`;
    const cut = row.paths.length < row.all ? `; the page holds the first ${row.paths.length.toLocaleString("en")} of ${row.all.toLocaleString("en")}` : "";
    $("count").textContent = `${state.found.length.toLocaleString("en")} of ${row.paths.length.toLocaleString("en")} trajectories${meaning}${cut}`;
    $("spacer").style.height = state.found.length * ITEM + "px";
    select(Math.max(0, same));
  }

  function chips(home, choices, key) {
    home.replaceChildren(...choices.map(([name, value, count]) => {
      const button = el("button", "", name);
      button.type = "button";
      if (key === "kind" && value >= 0) button.title = meanings[value];
      button.append(el("span", "", count.toLocaleString("en")));
      button.setAttribute("aria-pressed", String(state[key] === value));
      button.addEventListener("click", () => {
        state[key] = value;
        refresh();
        [...home.children].find((node) => node.getAttribute("aria-pressed") === "true").focus();
      });
      return button;
    }));
  }

  // --- the list: only what is in view exists
  const list = $("list");
  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ITEM) - 4);
    const last = Math.min(state.found.length, first + Math.ceil(list.clientHeight / ITEM) + 9);
    const nodes = [];
    for (let place = first; place < last; place++) nodes.push(item(state.found[place], place));
    $("spacer").replaceChildren(...nodes);
    if (state.found.length) list.setAttribute("aria-activedescendant", "item-" + state.at);
    else list.removeAttribute("aria-activedescendant");
  }

  function item(path, place) {
    const node = el("div", "item"), top = el("div");
    node.id = "item-" + place;
    node.style.top = place * ITEM + "px";
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(place === state.at));
    node.setAttribute("aria-posinset", String(place + 1));
    node.setAttribute("aria-setsize", String(state.found.length));
    const answers = path[ATTEMPTS].map((attempt) => attempt[2] < 0 ? "none" : texts[attempt[2]]);
    top.append(el("span", "what c-" + classes[path[CLASS]].replace(" ", "-"), classes[path[CLASS]]), el("span", "path", answers.join(" → ")));
    node.append(top, el("p", "", problems[path[PROBLEM]][1]));
    node.addEventListener("click", () => select(place));
    return node;
  }

  function select(place) {
    state.at = Math.min(Math.max(0, place), Math.max(0, state.found.length - 1));
    const top = state.at * ITEM;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ITEM > list.scrollTop + list.clientHeight) list.scrollTop = top + ITEM - list.clientHeight;
    draw();
    detail(state.found[state.at]);
  }

  // --- the address of a path: #trajectory/<folder of the row>/<problem>/<seed>
  const address = (path) => "#" + ["trajectory", rows[state.a].name, problems[path[PROBLEM]][0], path[SEED] ?? ""]
    .map((part) => encodeURIComponent(String(part).toWellFormed())).join("/");

  function open(wanted) { // true where an address names a path of this page
    const [kind, ...parts] = wanted.replace(/^#/, "").split("/");
    if (kind !== "trajectory" || parts.length !== 3) return false;
    let row, id, seed;
    try { [row, id, seed] = parts.map(decodeURIComponent); } catch { return false; }
    const a = rows.findIndex((one) => one.name === row);
    const found = a < 0 ? undefined : rows[a].paths.find(
      (path) => String(problems[path[PROBLEM]][0]).toWellFormed() === id && String(path[SEED] ?? "") === seed);
    if (!found) return false;
    Object.assign(state, { a, kind: -1, flip: -1, query: "" });
    $("row-a").value = String(a);
    $("search").value = "";
    refresh();
    select(state.found.indexOf(found));
    $("trajectories").scrollIntoView();
    return true;
  }

  function startPath() { // one that was fixed: what the page is about
    const fixed = state.found.findIndex((path) => classes[path[CLASS]] === "fixed");
    if (fixed > 0) select(fixed);
  }

  // --- one problem, one or two paths
  function detail(path) {
    const home = $("detail");
    home.scrollTop = 0;
    if (!path) { home.replaceChildren(el("p", "empty", "Nothing matches.")); return; }
    const [id, question, gold] = problems[path[PROBLEM]];
    const facts = el("p", "facts", "Reference answer "), columns = el("div", "columns");
    const link = el("a", "", "link to this trajectory");
    link.href = address(path);
    facts.append(marked("b", "", gold), ` · problem ${id}` + (path[SEED] === null ? "" : ` · seed ${path[SEED]}`) + " · ", link);
    columns.append(column(rows[state.a].label, path));
    if (state.b >= 0) columns.append(column(rows[state.b].label, partner(path)));
    home.replaceChildren(marked("p", "question", question), facts, columns);
  }

  function column(label, path) {
    const node = el("div");
    node.append(el("h4", "", label));
    if (!path) { node.append(el("p", "empty", "Not evaluated on this problem.")); return node; }
    path[ATTEMPTS].forEach((attempt, turn) => {
      const [text, outcome, answer, reason] = attempt;
      const head = [el("span", "", answer < 0 ? "no answer" : texts[answer])];
      head.push(outcome < 0 ? el("span", "dim", "not graded") : el("span", outcome ? "not" : "right", OUTCOMES[outcome]));
      if (outcome !== 0 && texts[reason]) head.push(el("span", "dim", texts[reason]));
      node.append(block(turn ? "revision" : "attempt", turn ? "Revision" + (turn > 1 ? " " + turn : "") : "Attempt", head, texts[text]));
      const evaluation = path[EVALUATIONS][turn];
      if (!evaluation) return;
      const [words, verdict, p] = evaluation;
      const judged = [el("span", "", verdict < 0 ? "no verdict" : "“" + VERDICTS[verdict] + "”")];
      if (verdict >= 0 && outcome >= 0 && outcome < 2) judged.push(verdict === outcome ? el("span", "right", "as graded") : el("span", "not", "not as graded"));
      if (p !== null) judged.push(el("span", "dim", "P(correct) " + p.toFixed(p > 0.0005 && p < 0.9995 ? 3 : 4)));
      node.append(block("evaluation", "Self-evaluation", judged, texts[words]));
    });
    node.append(el("p", "caption", `Ended by: ${texts[path[STOP]] || "–"} · ${classes[path[CLASS]]}: ${meanings[path[CLASS]]}`));
    return node;
  }

  function block(kind, title, head, text) {
    const node = el("div", "turn " + kind), top = el("header", "", title);
    top.append(...head);
    node.append(top);
    if (text) node.append(marked("pre", "", text));
    return node;
  }

  function marked(tag, name, text) { // the text, with what was searched for marked, and its mathematics set
    const node = el(tag, name);
    if (!state.math) { mark(node, text); return node; }
    for (const piece of mathematics.pieces(text)) {
      const set = piece.source !== undefined && !hits(piece.text) && mathematics.set(piece);
      if (set) node.append(set);
      else mark(node, piece.text);
    }
    return node;
  }

  const hits = (text) => state.query !== "" && text.toLowerCase().includes(state.query.toLowerCase());

  function mark(node, text) {
    const needle = state.query.toLowerCase(), low = text.toLowerCase();
    if (!needle || low.length !== text.length) { node.append(text); return; }
    let from = 0;
    for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
      node.append(text.slice(from, at), el("mark", "", text.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    node.append(text.slice(from));
  }

  // --- controls
  function options(home, chosen, none) {
    const names = rows.map((row, place) => [row.label, place]);
    home.replaceChildren(...(none ? [[none, -1], ...names] : names).map(([label, value]) => new Option(label, value, false, value === chosen)));
  }
  options($("row-a"), state.a);
  options($("row-b"), state.b, "nothing");
  $("row-a").addEventListener("change", (event) => { state.a = Number(event.target.value); refresh(); });
  $("row-b").addEventListener("change", (event) => {
    state.b = Number(event.target.value);
    if (state.b < 0) state.flip = -1;
    refresh();
  });
  $("math").addEventListener("change", (event) => { state.math = event.target.checked; detail(state.found[state.at]); });
  let waiting = 0;
  $("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = event.target.value.trim(); refresh(); }, 80);
  });
  const page = () => Math.max(1, Math.floor(list.clientHeight / ITEM) - 1);
  const MOVES = {
    ArrowDown: () => state.at + 1, ArrowUp: () => state.at - 1, PageDown: () => state.at + page(), PageUp: () => state.at - page(),
    Home: () => 0, End: () => state.found.length - 1,
  };
  list.addEventListener("keydown", (event) => {
    if (!(event.key in MOVES)) return;
    event.preventDefault();
    select(MOVES[event.key]());
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); list.focus(); }
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  addEventListener("resize", draw);
  addEventListener("hashchange", () => open(location.hash));
  refresh();
  if (!open(location.hash)) startPath();
})();
