"use strict";
// The mathematics in a model's text, set by KaTeX. Used by the report and by the page of `selfcorrect serve`.
globalThis.mathematics = (() => {
  const LONGEST = 1500; // characters; longer formulas stay text
  // $$ $$, \\[ \\], \\( \\), $ $ (not "$5 and $7"), and a bare \\boxed{} with up to three levels of braces
  const MATH = /\$\$([^$]+)\$\$|\\\[([^]+?)\\\]|\\\(([^]+?)\\\)|\$(?=\S)((?:[^$\\\n]|\\.)*[^$\\\s]|[^$\\\s])\$(?!\d)|(\\boxed\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;

  function pieces(text) { // the text in pieces; a formula has a `source`, and is `shown` apart or in the line
    const found = [];
    let from = 0;
    for (const match of text.matchAll(MATH)) {
      const [whole, display, displayed, inline, dollars, boxed] = match;
      if (match.index > from) found.push({ text: text.slice(from, match.index) });
      const source = display ?? displayed ?? inline ?? dollars ?? boxed;
      found.push({ text: whole, source, apart: display !== undefined || displayed !== undefined });
      from = match.index + whole.length;
    }
    if (from < text.length) found.push({ text: text.slice(from) });
    return found;
  }

  const refuse = () => { throw new Error("links, pictures and styles of model text are not followed"); };

  function set({ source, apart }) { // KaTeX builds nodes, not markup; commands that need trust stay text
    if (source.length > LONGEST) return undefined;
    const node = document.createElement("span");
    node.className = "formula";
    node.title = source;
    try {
      katex.render(source, node, { displayMode: apart, output: "html", throwOnError: true, trust: refuse, strict: "ignore", maxSize: 20, maxExpand: 100 });
      return node;
    } catch { return undefined; } // what KaTeX cannot read is shown as it was written
  }

  return { pieces, set };
})();
