"use strict";
// Asks the server and shows the trajectory as it arrives. Model text reaches the page through text nodes only.
(() => {
  const $ = (id) => document.getElementById(id);
  const NAMES = { attempt: "Attempt", revision: "Revision", "self-evaluation": "Self-evaluation" };
  const ENDED = {
    verdict: "judged correct", horizon: "the last attempt that was allowed", length: "the token budget is spent",
    "no-verdict": "no verdict was given", "no-revision": "no revision was written", end: "the end",
    "prompt-too-long": "the context is full", refused: "the engine refused to go on",
  };
  const KEPT = ["horizon", "threshold", "temperature", "votes", "budget", "seed"];
  let messages = [], running = null, model = null;

  function el(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // What is obeyed and not seen, such as a turned reading direction, is written out: selfcorrect.printing has the list.
  const OBEYED = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
  const clean = (text) => text.replace(OBEYED, (found) => {
    const code = found.codePointAt(0).toString(16);
    return code.length < 3 ? "\\x" + code.padStart(2, "0") : code.length < 5 ? "\\u" + code.padStart(4, "0") : "\\U" + code.padStart(8, "0");
  });

  function typeset(node, text) { // the text, its mathematics set
    node.replaceChildren();
    for (const piece of mathematics.pieces(text)) {
      const set = $("math").checked && piece.source !== undefined ? mathematics.set(piece) : undefined;
      node.append(set || piece.text);
    }
  }

  // --- settings: all but the key are kept for the next visit, the key for this tab
  function remembered() {
    for (const name of KEPT) $(name).value = localStorage.getItem("selfcorrect." + name) || "";
    $("key").value = sessionStorage.getItem("selfcorrect.key") || "";
  }
  $("settings").addEventListener("change", () => {
    for (const name of KEPT) localStorage.setItem("selfcorrect." + name, $(name).value);
    sessionStorage.setItem("selfcorrect.key", $("key").value);
    if (!model) greet();
  });
  const headers = () => {
    const found = { "content-type": "application/json" };
    if ($("key").value) found.authorization = "Bearer " + $("key").value;
    return found;
  };
  function request() {
    const number = (name) => $(name).value === "" ? undefined : Number($(name).value);
    const own = { horizon: number("horizon"), threshold: number("threshold"), budget: number("budget"), votes: number("votes") };
    return { model, messages, stream: true, temperature: number("temperature"), seed: number("seed"), selfcorrect: own };
  }

  // --- one question
  class Asked {
    constructor(question) {
      this.node = el("article", "asked");
      this.turns = el("div", "turns");
      this.node.append(el("p", "question", question), this.turns);
      $("conversation").append(this.node);
      this.part = null;
      this.path = null;
      this.content = "";
    }

    take(event) {
      if (event.error) throw new Failure(event.error.message, event.error.request_id);
      const choice = event.choices[0], own = event.selfcorrect;
      if (!choice) return;
      const { content, reasoning } = choice.delta;
      if (own && own.event === "part" && NAMES[own.part]) this.begin(own.part, own.turn);
      if (own && own.event === "part" && own.part === "answer") this.end();
      if (own && own.event === "verdict") this.verdict(own);
      if (own && own.event === "superseded") this.attempt?.node.classList.add("superseded");
      this.content += content || "";
      if (this.part) this.part.append(clean(reasoning || content || ""));
      if (choice.finish_reason) { this.end(); this.path = own; this.outcome(choice.finish_reason); }
    }

    begin(kind, turn) {
      this.end();
      const node = el("div", "turn live " + (kind === "self-evaluation" ? "evaluation" : kind)), head = el("header");
      const title = NAMES[kind] + (kind === "revision" && turn > 2 ? " " + (turn - 1) : "");
      const pre = el("pre"), text = document.createTextNode("");
      head.append(title);
      pre.append(text);
      node.append(head, pre);
      this.turns.append(node);
      this.part = { node, head, pre, kind, append: (piece) => text.appendData(text.data ? piece : piece.trimStart()), text };
      if (kind !== "self-evaluation") this.attempt = this.part;
      say(title + " …");
    }

    end() { // the part is whole: its mathematics can be set
      if (!this.part) return;
      this.part.node.classList.remove("live");
      typeset(this.part.pre, this.part.text.data);
      this.part = null;
    }

    verdict({ verdict, p_correct: p }) {
      const judged = this.part;
      this.end();
      if (!judged) return;
      judged.head.append(el("span", "verdict is-" + (verdict || "missing"), verdict ? "judged " + verdict : "no verdict"));
      if (p !== null && p !== undefined) judged.head.append(gauge(p), el("span", "dim", "P(correct) " + p.toFixed(p > 0.0005 && p < 0.9995 ? 3 : 4)));
      say(verdict ? "judged " + verdict : "no verdict");
    }

    outcome(reason) {
      const { attempts, tokens, stop, seed, votes } = this.path, outcome = el("div", "outcome");
      const box = (title, kind, one) => {
        const node = el("div", kind), text = el("p"), answer = one.answer === null ? null : clean(one.answer);
        typeset(text, answer === null ? "none stated" : "$" + answer + "$");
        if (answer !== null && !text.querySelector(".formula")) text.textContent = answer;
        node.append(el("h4", "", title), text);
        return node;
      };
      const last = attempts[attempts.length - 1];
      if (attempts.length > 1) outcome.append(box("First answer", "first", attempts[0]));
      outcome.append(box(attempts.length > 1 ? "Final answer" : "Answer", attempts.length > 1 ? "then" : "only", last));
      const facts = [`${tokens.completion.toLocaleString("en")} tokens, ${tokens.reasoning.toLocaleString("en")} of them before the final answer or to judge it`];
      facts.push("ended: " + (ENDED[stop] || stop) + (reason === "length" && stop !== "length" ? ", cut" : ""), "seed " + seed);
      if (votes) facts.push("votes: " + votes.map((vote) => `${clean(vote.answer)} ${vote.votes}`).join(", "));
      this.node.append(outcome, el("p", "facts", facts.join(" · ")));
      say("answer: " + clean(last.answer ?? "none stated"));
    }

    close(kind, text, again) { // stopped or failed: what is there stays
      this.end();
      const note = el("p", kind, text), button = el("button", "quiet", "Ask again");
      button.type = "button";
      button.addEventListener("click", () => { this.node.remove(); ask(again); });
      note.append(button);
      this.node.append(note);
      say(text);
    }
  }

  function gauge(p) {
    const make = (tag, values) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
      return node;
    };
    const node = make("svg", { class: "gauge", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    node.append(make("rect", { width: 100 * p, height: 10 }));
    return node;
  }

  class Failure extends Error {
    constructor(message, id) { super(message + (id ? ` (${id})` : "")); }
  }

  const say = (text) => { $("status").textContent = text; };

  async function* events(answer) { // the values of a stream of server-sent events
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read().catch((error) => { // stopped by the reader of the page, or cut
        if (error.name === "AbortError") throw error;
        return { done: true };
      });
      if (done) throw new Failure("The connection was lost before the answer was whole.");
      const found = (rest + value).split("\n\n");
      rest = found.pop();
      for (const event of found) {
        if (event === "data: [DONE]") return;
        if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
      }
    }
  }

  async function ask(question) {
    const before = messages;
    messages = [...messages, { role: "user", content: question }];
    const asked = new Asked(question), abort = new AbortController();
    running = abort;
    busy(true);
    say("asking …");
    follow(true);
    try {
      if (!model) await greet();
      const answer = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(request()), signal: abort.signal });
      if (!answer.ok) {
        const { error } = await answer.json().catch(() => ({ error: { message: `HTTP ${answer.status}` } }));
        if (answer.status === 401) $("settings").open = true;
        throw new Failure(error.message, error.request_id);
      }
      for await (const event of events(answer)) {
        const there = atEnd();
        asked.take(event);
        follow(there);
      }
      if (!asked.path) throw new Failure("The answer ended before it was whole.");
      messages = [...messages, { role: "assistant", content: asked.content }];
    } catch (error) {
      messages = before;
      if (abort.signal.aborted) asked.close("stopped", "Stopped.", question);
      else asked.close("failed", error instanceof Failure ? error.message : "The server cannot be reached.", question);
      follow(true);
    } finally {
      running = null;
      busy(false);
    }
  }

  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
  function follow(wanted) {
    if (wanted) scrollTo(0, document.documentElement.scrollHeight);
  }

  function busy(is) {
    $("ask").disabled = is;
    $("stop").hidden = !is;
    $("anew").disabled = is;
  }

  async function greet() { // learn the model's name
    const answer = await fetch("/v1/models", { headers: headers() });
    if (answer.ok) {
      model = (await answer.json()).data[0].id;
      $("model").textContent = clean(model);
      document.title = clean(model) + " · selfcorrect";
    } else if (answer.status === 401) {
      $("settings").open = true;
      say("This server asks for an API key: set it in the settings.");
    }
    if (!model) model = null;
  }

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question || running || !$("form").reportValidity()) return;
    $("question").value = "";
    ask(question);
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("form").requestSubmit();
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && running) running.abort(); });
  $("stop").addEventListener("click", () => running?.abort());
  $("anew").addEventListener("click", () => {
    messages = [];
    $("conversation").replaceChildren();
    say("");
    $("question").focus();
  });
  remembered();
  greet().catch(() => say("The server cannot be reached."));
})();
