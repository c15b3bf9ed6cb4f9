/*
 * The script of the report page.
 *
 * Tables and text of the page are plain HTML; this file adds what needs a script: the theme,
 * sorting, plots, the browser of latents, downloads. It asks no server for anything: data are
 * in the page as JSON ("facts") and as gzip + base64 (plotly, results, latents), or come from
 * files next to the page that call saeregLatents(). Text from results may hold anything, so it
 * only ever becomes a text node.
 */
"use strict";

(() => {
  // ---------------------------------------------------------------- elements, numbers, data

  /** Make an element; attributes that are null are left out, `on...` are listeners. */
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    setAttributes(made, attributes);
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  function setAttributes(made, attributes) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
  }

  /** Make an SVG element. */
  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    setAttributes(made, attributes);
    made.append(...children);
    return made;
  }

  const byId = (id) => document.getElementById(id);

  /** Write a number in few digits, as the tables of the command line do. */
  function digits(value) {
    if (typeof value !== "number" || !Number.isFinite(value)) return "-";
    const size = Math.abs(value);
    if (Number.isInteger(value) || size >= 1000) return (value + 0).toFixed(0);
    if (size >= 1) return value.toPrecision(3);
    if (size < 5e-4) return value.toExponential(1).replace(/e-(\d)$/, "e-0$1");
    return value.toFixed(3).replace("0.", ".");
  }

  /** Write a whole number with commas. */
  const whole = (value) => value.toLocaleString("en-US");

  const plural = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;

  /** Unpack base64 of gzip to text. */
  function unpack(base64) {
    const binary = atob(base64.trim());
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const canUnpack = "DecompressionStream" in window;
  const facts = JSON.parse(byId("facts")?.textContent || "{}");

  /** Latents from files next to the page, packed, by SAE; the files that did not load. */
  const shards = new Map();
  const lostFiles = [];
  window.saeregLatents = (sae, packed) => shards.set(sae, packed);
  // such an error does not bubble; other scripts of the page are in the page
  const noteLost = ({ target }) => {
    const file = target.getAttribute?.("src") ?? "blob:";
    if (!file.startsWith("blob:")) lostFiles.push(decodeURIComponent(file));
  };
  addEventListener("error", noteLost, true);

  // ---------------------------------------------------------------- theme

  const THEME = "saereg-theme";
  const root = document.documentElement;
  const onTheme = [];

  /** Read the theme of an earlier visit; a browser may forbid storage to files. */
  function storedTheme() {
    try {
      return localStorage.getItem(THEME);
    } catch {
      return null;
    }
  }

  function storeTheme(theme) {
    try {
      localStorage.setItem(THEME, theme);
    } catch {
      // the choice holds for this visit
    }
  }

  function isDark() {
    const set = root.dataset.theme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function startTheme() {
    const stored = storedTheme();
    if (stored === "dark" || stored === "light") root.dataset.theme = stored;
    const button = byId("theme");
    if (!button) return;
    const show = () => (button.textContent = isDark() ? "Light theme" : "Dark theme");
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      storeTheme(root.dataset.theme);
      onTheme.forEach((act) => act());
    });
    onTheme.push(show);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      onTheme.forEach((act) => act()),
    );
    show();
    button.hidden = false;
  }

  // ---------------------------------------------------------------- navigation between sections

  /** Mark the link of the section that is being read. */
  function startNavigation() {
    const links = new Map(
      [...document.querySelectorAll("nav a[href^='#']")].map((link) => [link.hash.slice(1), link]),
    );
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          links.forEach((link) => link.removeAttribute("aria-current"));
          const link = links.get(entry.target.id);
          link?.setAttribute("aria-current", "true");
          // on a phone the links are wider than the screen
          link?.parentElement.scrollTo({ left: link.offsetLeft - link.parentElement.offsetLeft });
        }
      },
      { rootMargin: "-20% 0px -75% 0px" },
    );
    for (const id of links.keys()) if (byId(id)) seen.observe(byId(id));
  }

  // ---------------------------------------------------------------- sortable tables

  function startTables() {
    document.querySelectorAll("table.sortable").forEach(makeSortable);
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = el("button", { type: "button", onclick: () => sortBy(table, column) });
      button.append(...head.childNodes);
      head.append(button);
    });
  }

  /** Sort rows by a column; a second time the other way round. Missing values stay last. */
  function sortBy(table, column) {
    const heads = [...table.tHead.rows[0].cells];
    const head = heads[column];
    const before = head.getAttribute("aria-sort");
    const first = head.classList.contains("n") ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    const order = before ? other[before] : first;
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, row.cells[column].dataset.v ?? ""]);
    rows.sort(([, a], [, b]) => compareCells(a, b, order === "ascending" ? 1 : -1));
    body.append(...rows.map(([row]) => row));
  }

  function compareCells(a, b, sign) {
    const missing = (value) => value === "" || value === "-";
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const [x, y] = [Number(a), Number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * a.localeCompare(b, "en", { numeric: true });
  }

  // ---------------------------------------------------------------- downloads

  function startDownloads() {
    const controls = byId("download-controls");
    if (!controls) return;
    for (const link of controls.querySelectorAll("a[data-download]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        download(link.dataset.download, byId(link.dataset.from));
      });
    }
    controls.hidden = false;
  }

  /** Save the text of an element, unpacked if need be, as a file. */
  async function download(name, source) {
    const packed = source.getAttribute("type") === "application/gzip+base64";
    const content = packed ? await unpack(source.textContent) : source.textContent;
    const kind = name.endsWith(".csv") ? "text/csv" : "application/json";
    const url = URL.createObjectURL(new Blob([content], { type: kind }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // ---------------------------------------------------------------- plots

  let plotlyLoading = null;

  /** Unpack plotly and run it from a blob; the same promise for every plot. */
  function loadPlotly() {
    plotlyLoading ??= unpack(byId("plotly").textContent).then(
      (source) =>
        new Promise((resolve, reject) => {
          const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
          const script = el("script", { src: url, onload: resolve, onerror: reject });
          document.head.append(script);
        }),
    );
    return plotlyLoading;
  }

  /** Read a colour of the style sheet as it is in the theme; a variable alone has both. */
  function themeColour(name) {
    const probe = el("i", { style: `color: var(${name})`, hidden: true });
    root.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }

  /** Colours and lines that all plots share, by the theme. */
  function baseLayout() {
    const family = getComputedStyle(root).getPropertyValue("--sans").trim();
    const axis = {
      gridcolor: themeColour("--line"),
      linecolor: themeColour("--muted"),
      zerolinecolor: themeColour("--line"),
      automargin: true,
      title: { font: { size: 13 }, standoff: 12 },
    };
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 13, color: themeColour("--fg") },
      margin: { l: 56, r: 16, t: 36, b: 48 },
      xaxis: { ...axis },
      yaxis: { ...axis },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
      hoverlabel: { font: { family, size: 12 }, namelength: -1 },
      hovermode: "closest",
      dragmode: false,
    };
  }

  /** Draw into a figure when it comes near the screen, and again when the theme changes. */
  function drawn(figure, draw) {
    let isDrawn = false;
    const again = async () => {
      await loadPlotly();
      isDrawn = true;
      const { traces, layout } = draw();
      await Plotly.react(figure, traces, layout, { displayModeBar: false, responsive: true });
    };
    figure.hidden = false;
    const near = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        near.disconnect();
        again();
      },
      { rootMargin: "400px" },
    );
    near.observe(figure);
    onTheme.push(() => isDrawn && again());
    return () => (isDrawn ? again() : undefined);
  }

  function startPlots() {
    if (!canUnpack || !byId("plotly")) return;
    startPareto();
    for (const plot of facts.distributions?.plots ?? []) {
      const figure = byId(`plot-${plot.id}`);
      if (!figure) continue;
      drawn(figure, () => plotOf(plot));
      // plotly adds the method when it draws
      if (plot.kind === "points") onFirstDraw(figure, openClicked);
    }
  }

  /** Listen to clicks on dots once plotly has made the figure a plot. */
  function onFirstDraw(figure, act) {
    const made = new MutationObserver(() => {
      if (!figure.on) return;
      made.disconnect();
      figure.on("plotly_click", (event) => act(event.points[0]));
    });
    made.observe(figure, { childList: true });
  }

  function openClicked(point) {
    const [, sae, latent] = /^(.*)\/(\d+)$/s.exec(point.customdata ?? "") ?? [];
    if (sae !== undefined) location.hash = hashOf(sae, latent);
  }

  /** Traces of a distribution or of training curves: bars, lines or dots. */
  function plotOf(plot) {
    const layout = baseLayout();
    layout.xaxis.title = { ...layout.xaxis.title, text: plain(plot.x_title) };
    layout.yaxis.title = { ...layout.yaxis.title, text: plain(plot.y_title) };
    if (plot.y_log) Object.assign(layout.yaxis, { type: "log", ...logTicks(plot) });
    if (plot.kind === "bar") Object.assign(layout.xaxis, { dtick: 1 });
    const names = [...new Set(plot.series.map((one) => one.name))];
    const traces = plot.series.map((one, i) => {
      const place = names.indexOf(one.name) - (names.length - 1) / 2;
      const isFirst = plot.series.findIndex((other) => other.name === one.name) === i;
      return { ...traceOf(plot.kind, one, place), showlegend: isFirst };
    });
    return { traces, layout };
  }

  /** Ticks at 1, 2 and 5 of each power of ten, or at the powers where there are many. */
  function logTicks(plot) {
    const values = plot.series.flatMap((one) => one.y).filter((value) => value > 0);
    const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
    const steps = high - low > 3 ? [1] : [1, 2, 5];
    const tickvals = [];
    for (let power = Math.floor(low); power <= high; power++) {
      tickvals.push(...steps.map((step) => Number(`${step}e${power}`)));
    }
    return { tickvals, ticktext: tickvals.map((value) => String(value)) };
  }

  /** One series; that of a single seed is faint. `place` counts names from the middle one. */
  function traceOf(kind, one, place) {
    const common = { name: plain(one.name), legendgroup: one.name, x: one.x, y: one.y };
    const isSeed = one.seed !== undefined && one.seed !== null;
    const opacity = isSeed ? 0.5 : 1;
    if (kind === "bar") return { ...common, type: "bar", marker: { color: one.colour } };
    if (kind === "line") {
      const line = { color: one.colour, width: isSeed ? 1 : 2, dash: one.dash ? "dot" : "solid" };
      return { ...common, type: "scatter", mode: "lines", line, opacity };
    }
    return {
      ...common,
      type: "scatter",
      mode: "markers",
      // latents of the same stability next to each other, one group beside the other
      x: one.x.map((x, i) => x + 0.06 * place + 0.05 * (((i * 0.618) % 1) - 0.5)),
      customdata: one.text,
      text: one.text.map(plain),
      hovertemplate: "%{text}<br>%{y:.3g}<extra></extra>",
      marker: { color: one.colour, size: 7, opacity: 0.55 },
    };
  }

  /** Return text that plotly, which reads tags and entities, shows as it is. */
  const plain = (text) =>
    String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // ---------------------------------------------------------------- Pareto

  /** Id of the SAE that was chosen in the plot or the list of SAEs; "" for all. */
  let chosenSae = "";
  const onChosen = [];

  function chooseSae(id) {
    chosenSae = id;
    for (const row of document.querySelectorAll("tbody tr")) {
      const isChosen = id !== "" && row.cells[0]?.dataset.v === id;
      row.classList.toggle("chosen", isChosen);
    }
    onChosen.forEach((act) => act(id));
  }

  function startPareto() {
    const figure = byId("pareto-plot");
    const controls = byId("pareto-controls");
    const { metrics = [], points = [] } = facts.pareto ?? {};
    if (!figure || !controls || !metrics.length || !points.length) return;
    const meaning = el("p", { class: "footnote" });
    const metric = select("Metric", metrics.map((one) => [one.key, one.title]));
    const sae = select("SAE", [["", "all"], ...points.map((one) => [one.sae, one.sae])]);
    const link = el("a", { href: "#latents", hidden: true }, "its latents");
    controls.append(metric.label, sae.label, link);
    controls.hidden = false;
    figure.after(meaning);
    const find = () => metrics.find((one) => one.key === metric.input.value);
    const redraw = drawn(figure, () => paretoOf(find()));
    const say = () => (meaning.textContent = find().meaning ?? "");
    metric.input.addEventListener("change", () => (say(), redraw()));
    sae.input.addEventListener("change", () => chooseSae(sae.input.value));
    onChosen.push((id) => {
      sae.input.value = points.some((one) => one.sae === id) ? id : "";
      link.hidden = id === "" || !byId("latent-browser");
      redraw();
    });
    onFirstDraw(figure, (point) => {
      const id = point.customdata;
      if (id) chooseSae(id === chosenSae ? "" : id);
    });
    say();
  }

  /** A labelled list to choose from; options are pairs of value and text. */
  function select(name, options) {
    const input = el("select", {}, options.map(([value, text]) => el("option", { value }, text)));
    return { input, label: el("label", { class: "field" }, name, input) };
  }

  /** Traces of a metric against L0; side by side where all SAEs have nearly one L0. */
  function paretoOf(metric) {
    const points = facts.pareto.points.filter(
      (one) => one.values[metric.key] && one.l0 !== null,
    );
    const l0 = points.map((one) => one.l0);
    const isNarrow = Boolean(facts.pareto.one_l0);
    const groups = [...new Set(points.map((one) => groupOf(one.sae)))];
    const place = isNarrow ? sideBySide(points, groups) : (one) => one.l0;
    const layout = baseLayout();
    const better = metric.higher_is_better ? "higher" : "lower";
    const title = `${plain(metric.title)} (${better} is better)`;
    layout.yaxis.title = { ...layout.yaxis.title, text: title };
    layout.xaxis.title = { ...layout.xaxis.title, text: "L0" };
    if (isNarrow) {
      const range = [...new Set([Math.min(...l0), Math.max(...l0)].map(digits))].join(" to ");
      Object.assign(layout.xaxis, {
        title: { ...layout.xaxis.title, text: `groups, their seeds next to each other; L0 ${range}` },
        tickvals: groups.map((_, i) => i),
        ticktext: groups.map(plain),
        range: [-0.6, groups.length - 0.4],
        showgrid: false,
        zeroline: false,
      });
    }
    const fronts = isNarrow ? [] : frontTraces(metric, points);
    const seeds = groups.flatMap((group) => {
      const mine = points.filter((one) => groupOf(one.sae) === group);
      const left = Math.min(...mine.map(place)) - 0.12;
      const mean = meanTrace(metric, group, mine, isNarrow ? () => left : place);
      return [seedTrace(metric, group, mine, place), mean];
    });
    return { traces: [...fronts, ...seeds], layout };
  }

  /** Whether SAEs of a group are seeds of one configuration, which have a mean. */
  function areSeeds(points) {
    const seeds = new Set(points.map((one) => infoOf(one.sae)?.seed ?? null));
    return points.length > 1 && seeds.size === points.length && !seeds.has(null);
  }

  const infoOf = (sae) => facts.saes?.find((one) => one.id === sae);
  const groupOf = (sae) => infoOf(sae)?.group ?? sae;
  const colourOf = (sae) => infoOf(sae)?.colour ?? "#777777";

  /** Positions of SAEs by group, seeds a little apart. */
  function sideBySide(points, groups) {
    const at = new Map();
    groups.forEach((group, index) => {
      const mine = points.filter((one) => groupOf(one.sae) === group);
      const step = Math.min(0.12, 0.7 / mine.length);
      mine.forEach((one, i) => at.set(one.sae, index + step * (i - (mine.length - 1) / 2)));
    });
    return (one) => at.get(one.sae);
  }

  /** The SAEs of a group, faint, with their intervals. */
  function seedTrace(metric, group, points, place) {
    const values = points.map((one) => one.values[metric.key]);
    const error = (end, sign) =>
      values.map((value) => (value[end] === null ? 0 : sign * (value[end] - value[0])));
    const isChosen = points.map((one) => one.sae === chosenSae);
    const colour = colourOf(points[0].sae);
    return {
      type: "scatter",
      mode: "markers",
      name: plain(group),
      legendgroup: group,
      showlegend: !areSeeds(points),
      x: points.map(place),
      y: values.map((value) => value[0]),
      customdata: points.map((one) => one.sae),
      text: points.map((one, i) => plain(`${one.sae}: ${withEnds(values[i])}, L0 ${digits(one.l0)}`)),
      hovertemplate: "%{text}<extra></extra>",
      error_y: {
        type: "data",
        symmetric: false,
        array: error(2, 1),
        arrayminus: error(1, -1),
        color: colour,
        thickness: 1,
        width: 3,
      },
      marker: {
        color: colour,
        size: isChosen.map((chosen) => (chosen ? 13 : 8)),
        opacity: isChosen.map((chosen) => (chosen || !areSeeds(points) ? 1 : isDark() ? 0.75 : 0.5)),
        line: { color: baseLayout().font.color, width: isChosen.map((chosen) => (chosen ? 2 : 0)) },
      },
    };
  }

  /** The mean over a group's seeds. */
  function meanTrace(metric, group, points, place) {
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const y = mean(points.map((one) => one.values[metric.key][0]));
    return {
      type: "scatter",
      mode: "markers",
      name: plain(group),
      legendgroup: group,
      visible: areSeeds(points),
      x: [mean(points.map((one) => place(one)))],
      y: [y],
      // the pointer is for the seeds below it
      hoverinfo: "skip",
      marker: { color: colourOf(points[0].sae), size: 11, symbol: "diamond" },
    };
  }

  function withEnds([value, low, high]) {
    return low === null ? digits(value) : `${digits(value)} [${digits(low)}, ${digits(high)}]`;
  }

  /** The front of each kind of SAE as a line. */
  function frontTraces(metric, points) {
    const muted = themeColour("--muted");
    const known = new Map(points.map((one) => [one.sae, one]));
    return (facts.pareto.fronts?.[metric.key] ?? []).map((front) => {
      const along = front.saes.map((sae) => known.get(sae)).filter(Boolean);
      along.sort((a, b) => a.l0 - b.l0);
      return {
        type: "scatter",
        mode: "lines",
        name: plain(`front: ${front.kind}`),
        hoverinfo: "skip",
        showlegend: along.length > 1,
        x: along.map((one) => one.l0),
        y: along.map((one) => one.values[metric.key][0]),
        line: { color: front.colour ?? muted, width: 1.5 },
      };
    });
  }

  // ---------------------------------------------------------------- text from models and tokens

  /** Characters that cannot be seen, and the sign that stands for each. */
  const SIGNS = { "\n": "↵", "\r": "\\r", "\t": "⇥", "\u00a0": "⍽" };
  const UNSEEN =
    /[\u0000-\u001f\u007f\u00a0]|[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/;
  /** Joiners belong to emoji and letters; alone they are not seen. */
  const JOINERS = /^[\u200c\u200d]+$/;
  const PIECES = new RegExp(`(${UNSEEN.source}| {2,}|^ +$)`);

  function signOf(character) {
    if (SIGNS[character]) return SIGNS[character];
    // few fonts have the pictures of controls
    return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  }

  /** Return a token as nodes in which white space, controls and an empty token are seen. */
  function visible(token, { allSpaces = false } = {}) {
    if (token === "") return [el("span", { class: "ws", title: "empty token" }, "∅")];
    if (JOINERS.test(token)) return [el("span", { class: "ws" }, [...token].map(signOf))];
    const pieces = token.split(allSpaces ? new RegExp(`(${UNSEEN.source}| +)`) : PIECES);
    return pieces
      .filter((piece) => piece !== "")
      .map((piece) => {
        if (/^ +$/.test(piece) && (allSpaces || piece.length > 1 || piece === token)) {
          return el("span", { class: "ws" }, "·".repeat(piece.length));
        }
        const isSign = piece.length === 1 && UNSEEN.test(piece);
        return isSign ? el("span", { class: "ws" }, signOf(piece)) : piece;
      });
  }

  /** A paragraph of text that someone or some model wrote; a long one scrolls, by keys as well. */
  function written(text, name) {
    if (text === "") return el("p", { class: "lat-written" }, visible(""));
    const scrolls = text.length > 400 && { tabindex: 0, role: "group", "aria-label": name };
    return el("p", { class: "lat-written", dir: "auto", ...scrolls }, text);
  }

  const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/g;
  const LETTERS = /\p{L}/gu;

  /** Direction of tokens: that of most of their letters. */
  function directionOf(tokens) {
    const text = tokens.join("");
    const count = (pattern) => text.match(pattern)?.length ?? 0;
    return count(RIGHT_TO_LEFT) * 2 > count(LETTERS) ? "rtl" : "ltr";
  }

  /** A small note at a token that has the pointer or the focus. */
  const tip = el("div", { id: "lat-tip", class: "lat-tip", role: "tooltip", hidden: true });

  function showTip(token) {
    tip.textContent = token.dataset.tip;
    tip.hidden = false;
    const at = token.getClientRects()[0] ?? token.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - tip.offsetWidth - 8);
    const above = at.top - tip.offsetHeight - 4;
    tip.style.left = `${Math.max(4, left) + scrollX}px`;
    tip.style.top = `${(above > 50 ? above : at.bottom + 4) + scrollY}px`;
    token.setAttribute("aria-describedby", tip.id);
  }

  function hideTip() {
    tip.hidden = true;
    document.querySelector("[aria-describedby='lat-tip']")?.removeAttribute("aria-describedby");
  }

  /** Let a pointer, and arrow keys between the tokens of an example, show activations. */
  function watchTokens(box) {
    const tokenOf = (event) => event.target.closest?.(".lat-tok");
    box.addEventListener("pointerover", (event) => tokenOf(event) && showTip(tokenOf(event)));
    box.addEventListener("pointerout", hideTip);
    box.addEventListener("focusin", (event) => tokenOf(event) && showTip(tokenOf(event)));
    box.addEventListener("focusout", hideTip);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hideTip();
      const token = tokenOf(event);
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!token || !step) return;
      const isReversed = token.parentElement.dir === "rtl";
      const next = step * (isReversed ? -1 : 1) > 0 ? "nextElementSibling" : "previousElementSibling";
      event.preventDefault();
      if (!token[next]) return;
      token.tabIndex = -1;
      token[next].tabIndex = 0;
      token[next].focus();
    });
  }

  // ---------------------------------------------------------------- latents: data

  /** Scalars of latents: key, short head of the list, name, what it is. */
  const SCALARS = [
    ["stability", "stab", "Stability", "other seeds that share the latent"],
    ["score", "interp", "Interp score", "how well the explanation predicts where it fires"],
    ["steering", "steer", "Steering", "share of steered texts with the explained concept"],
    ["density", "dens", "Density", "share of tokens on which it fires"],
    ["mean", "mean", "Mean activation", "over the tokens on which it fires"],
    ["cosine", "cos", "Enc-dec cosine", "of the latent's encoder and decoder vector"],
    ["bits", "bits", "Code length", "bits per token of the latent's code"],
    ["net", "net", "Net worth", "bits per token that the latent is worth, minus its code"],
    ["attribution", "attribution", "Attribution", "quantile over tokens of |loss gradient along the decoder row| times activation"],
    ["effect", "effect", "Effect", "rise of the loss per token without the latent, to first order"],
    ["encoder", "enc", "Encoder norm", "over the norm that it had before training"],
    ["firing", "fires", "Firing rate", "share of the tokens of cross_seed on which it fires"],
    ["form", "form", "Surface form", "share of its activation on the token id on which it fires most often"],
    ["tenth", "tenth", "Tenth by stability", "of the alive latents: 1 is the least stable, 10 the most"],
  ];

  /** Scalars that the list has no room for; cards and ranges have them. */
  const UNLISTED = ["mean", "firing", "form", "tenth"];

  /** All latents in columns: row i is latent `latent[i]` of SAE `saes[sae[i]]`. */
  const store = { saes: [], index: new Map(), sae: null, latent: null, values: {}, size: 0 };

  const hashOf = (sae, latent) => `#${encodeURIComponent(sae)}/${latent}`;

  /** Read SAE and latent from the address; null if it names none. */
  function fromHash() {
    const [, name, latent] = /^#(.*)\/(\d{1,9})$/s.exec(location.hash) ?? [];
    if (name === undefined) return null;
    try {
      return { sae: decodeURIComponent(name), latent: Number(latent) };
    } catch {
      return { sae: name, latent: Number(latent) };
    }
  }

  /** Packed latents by SAE, from the page or from files next to it. */
  function packedLatents() {
    const found = new Map(shards);
    for (const script of document.querySelectorAll("script.latents")) {
      found.set(script.dataset.sae, script.textContent);
    }
    return found;
  }

  /** Unpack all SAEs, one after the other so that the page stays usable. */
  async function readLatents(say) {
    const packed = packedLatents();
    for (const [id, content] of packed) {
      say(`Reading latents: ${store.saes.length} of ${plural(packed.size, "SAE")} …`);
      const data = JSON.parse(await unpack(content));
      const info = infoOf(id) ?? { group: null, seed: null, colour: "#777777" };
      store.index.set(id, store.saes.length);
      store.saes.push({ ...data, id, group: info.group, seed: info.seed, colour: info.colour });
    }
    fillStore();
  }

  function fillStore() {
    store.size = store.saes.reduce((sum, sae) => sum + sae.latents, 0);
    store.sae = new Uint16Array(store.size);
    store.latent = new Uint32Array(store.size);
    for (const [key] of SCALARS) store.values[key] = new Float32Array(store.size).fill(NaN);
    store.alive = new Array(store.size);
    store.death = new Array(store.size);
    let row = 0;
    store.saes.forEach((sae, index) => {
      sae.start = row;
      for (let latent = 0; latent < sae.latents; latent++, row++) {
        store.sae[row] = index;
        store.latent[row] = latent;
        store.alive[row] = sae.columns.alive[latent];
        store.death[row] = sae.columns.death[latent];
        for (const [key] of SCALARS) store.values[key][row] = sae.columns[key][latent] ?? NaN;
      }
    });
  }

  const saeOf = (row) => store.saes[store.sae[row]];
  const cardOf = (row) => saeOf(row).cards[store.latent[row]];

  /** Row of a latent; -1 if the page has no such SAE or latent. */
  function rowOf(id, latent) {
    const sae = store.saes[store.index.get(id)];
    return sae && latent < sae.latents ? sae.start + latent : -1;
  }

  /** Value of a scalar as text: stability as "2 of 4". */
  function scalarText(row, key) {
    const value = store.values[key][row];
    if (Number.isNaN(value)) return "-";
    return key === "stability" ? `${value} of ${saeOf(row).others.length}` : digits3(value);
  }

  /** Digits of a number that was kept in 32 bits. */
  const digits3 = (value) => digits(Number(value.toPrecision(3)));

  /** Text in which a search looks: explanation, tokens of examples, logits. */
  function haystack(card) {
    card.haystack ??= [
      card.explanation ?? "",
      ...(card.examples ?? []).map(
        (example) => example.tokens?.join("") ?? [example.title, example.label ?? ""].join(" "),
      ),
      ...[...(card.top ?? []), ...(card.bottom ?? [])].map(([token]) => token),
    ]
      .join("\n")
      .toLowerCase();
    return card.haystack;
  }

  // ---------------------------------------------------------------- latents: filter and order

  const KINDS = [
    ["full", "shown in full", (row) => cardOf(row) !== undefined],
    ["explained", "explained", (row) => Boolean(cardOf(row)?.explanation)],
    ["steered", "steered with", (row) => !Number.isNaN(store.values.steering[row])],
    ["alive", "alive", (row) => store.alive[row] === true],
    ["dead", "not alive", (row) => store.alive[row] === false],
    ["silent", "never firing", (row) => store.death[row] !== null],
    ["all", "all", () => true],
  ];

  function fresh() {
    const hasCards = store.saes.some((sae) => Object.keys(sae.cards).length > 0);
    const kind = hasCards ? "full" : "all";
    return { kind, group: "", seed: "", sae: "", text: "", ranges: {} };
  }

  let filter = fresh();
  let order = { key: "stability", down: true };
  /** Rows that pass the filter, in order. */
  let listed = [];
  /** Row of the latent whose card is shown; -1 for none. */
  let current = -1;

  function passes(row, kind, query) {
    const sae = saeOf(row);
    if (filter.sae && sae.id !== filter.sae) return false;
    if (filter.group && sae.group !== filter.group) return false;
    if (filter.seed && String(sae.seed) !== filter.seed) return false;
    for (const [key, [low, high]] of Object.entries(filter.ranges)) {
      const value = store.values[key][row];
      // a missing value is in no range
      if (!(value >= low - 1e-6 && value <= high + 1e-6)) return false;
    }
    if (!kind(row)) return false;
    if (query === "") return true;
    const card = cardOf(row);
    return String(store.latent[row]) === query || (card ? haystack(card).includes(query) : false);
  }

  function refilter() {
    const kind = KINDS.find(([key]) => key === filter.kind)[2];
    const query = filter.text.toLowerCase();
    const found = [];
    for (let row = 0; row < store.size; row++) if (passes(row, kind, query)) found.push(row);
    listed = Uint32Array.from(found).sort(comparison());
  }

  /** Order by a scalar, missing values last; equal ones by score, then by density. */
  function comparison() {
    const sign = order.down ? -1 : 1;
    if (order.key === "latent") {
      return (a, b) => sign * (store.latent[a] - store.latent[b]) || a - b;
    }
    const { score, density } = store.values;
    const columns = [
      [store.values[order.key], sign],
      [score, -1],
      [density, -1],
    ];
    return (a, b) => {
      for (const [values, way] of columns) {
        const [x, y] = [values[a], values[b]];
        if (x === y) continue;
        const missing = Number.isNaN(x) - Number.isNaN(y);
        if (missing) return missing;
        if (x !== y && !Number.isNaN(x)) return way * (x - y);
      }
      return a - b;
    };
  }

  // ---------------------------------------------------------------- latents: list

  const ROW = 26;
  /** Elements of the browser, by name. */
  const ui = {};

  const anyHas = (key) => store.values[key].some((v) => !Number.isNaN(v));

  /** Columns of the list: scalars that any latent has. */
  const listColumns = () =>
    SCALARS.filter(([key]) => !UNLISTED.includes(key) && anyHas(key));

  function makeList() {
    ui.rows = el("div", { class: "lat-rows", role: "presentation" });
    ui.list = el(
      "div",
      {
        class: "lat-list",
        role: "listbox",
        tabindex: 0,
        "aria-label": "Latents",
        onscroll: drawRows,
        onkeydown: moveInList,
      },
      ui.rows,
    );
    const group = { role: "group", "aria-label": "Order of the list" };
    ui.head = el("div", { class: "lat-head lat-row", ...group });
    const columns = listColumns();
    ui.columns = columns;
    ui.list.style.setProperty("--columns", columns.length);
    ui.head.style.setProperty("--columns", columns.length);
    new ResizeObserver(drawRows).observe(ui.list);
    return el("div", { class: "lat-table" }, ui.head, ui.list);
  }

  function drawHead() {
    const column = (key, head, title) => {
      const isOn = order.key === key;
      const arrow = isOn ? (order.down ? "↓" : "↑") : "";
      return el(
        "button",
        {
          type: "button",
          title,
          "aria-pressed": String(isOn),
          "aria-label": `Order by ${title}${isOn ? (order.down ? ", descending" : ", ascending") : ""}`,
          onclick: () => reorder(key),
        },
        arrow + head,
      );
    };
    const focused = [...ui.head.children].indexOf(document.activeElement);
    ui.head.replaceChildren(
      column("latent", "latent", "number of the latent"),
      ...ui.columns.map(([key, head, name, what]) => column(key, head, `${name}: ${what}`)),
    );
    if (focused >= 0) ui.head.children[focused].focus();
  }

  function reorder(key) {
    order = { key, down: order.key === key ? !order.down : key !== "latent" };
    showList();
  }

  /** Draw the rows that are on the screen; the others are room to scroll through. */
  function drawRows() {
    const first = Math.max(0, Math.floor(ui.list.scrollTop / ROW) - 8);
    const last = Math.min(listed.length, first + Math.ceil(ui.list.clientHeight / ROW) + 16);
    ui.rows.style.height = `${listed.length * ROW}px`;
    const rows = [];
    for (let at = first; at < last; at++) rows.push(rowElement(at));
    ui.rows.replaceChildren(...rows);
    // the head stays above its columns, next to a scroll bar as well
    ui.head.style.paddingRight = `calc(.5rem + ${ui.list.offsetWidth - ui.list.clientWidth}px)`;
    const shown = byId(`lat-row-${current}`);
    if (shown) ui.list.setAttribute("aria-activedescendant", shown.id);
    else ui.list.removeAttribute("aria-activedescendant");
  }

  function rowElement(at) {
    const row = listed[at];
    const sae = saeOf(row);
    const said = ui.columns.map(([key, , name]) => `${name} ${scalarText(row, key)}`).join(", ");
    const made = el(
      "div",
      {
        class: `lat-row${cardOf(row) ? "" : " lat-bare"}`,
        id: `lat-row-${row}`,
        role: "option",
        "aria-selected": String(row === current),
        "aria-posinset": at + 1,
        "aria-setsize": listed.length,
        "aria-label": `${sae.id}, latent ${store.latent[row]}: ${said}`,
        onclick: () => open(row, { push: true }),
      },
      el(
        "span",
        { class: "lat-name" },
        swatch(sae),
        el("b", {}, String(store.latent[row])),
        el("bdi", { class: "lat-sae", title: sae.id }, sae.id),
      ),
      ui.columns.map(([key]) => el("span", { class: "lat-n" }, scalarCell(row, key))),
    );
    made.style.top = `${at * ROW}px`;
    return made;
  }

  /**
   * Value of a scalar as the list shows it: stability as "2/4", numbers aligned on the decimal
   * point by spaces as wide as a point and a digit.
   */
  function scalarCell(row, key) {
    const text = scalarText(row, key);
    if (key === "stability") return text.replace(" of ", "/");
    return /^\d+$|^-$/.test(text) ? `${text}\u2008\u2007\u2007\u2007` : text;
  }

  function swatch(sae) {
    const made = el("i", { class: "swatch", "aria-hidden": "true" });
    made.style.background = sae.colour;
    return made;
  }

  /** Filter, order and draw again. */
  function showList() {
    refilter();
    drawHead();
    ui.count.textContent = `${plural(listed.length, "latent")} of ${whole(store.size)}`;
    scrollToCurrent();
    drawRows();
    showPlace();
  }

  function scrollToCurrent() {
    const at = listed.indexOf(current);
    if (at < 0) {
      ui.list.scrollTop = 0;
      return;
    }
    const [top, bottom] = [at * ROW, (at + 1) * ROW];
    ui.rows.style.height = `${listed.length * ROW}px`;
    if (top < ui.list.scrollTop) ui.list.scrollTop = top;
    else if (bottom > ui.list.scrollTop + ui.list.clientHeight) {
      ui.list.scrollTop = bottom - ui.list.clientHeight;
    }
  }

  function moveInList(event) {
    const page = Math.max(1, Math.floor(ui.list.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    const ends = { Home: 0, End: listed.length - 1 };
    if (event.key === "Enter" && current >= 0) {
      event.preventDefault();
      ui.card.querySelector("h3")?.focus();
    } else if (event.key in steps || event.key in ends) {
      event.preventDefault();
      const at = listed.indexOf(current);
      moveTo(event.key in ends ? ends[event.key] : at + steps[event.key]);
    }
  }

  /** Open the latent at a place of the list, or the nearest one. */
  function moveTo(at) {
    if (!listed.length) return;
    open(listed[Math.min(Math.max(at, 0), listed.length - 1)], { push: false });
  }

  /** Show where in the list the card is, and whether there is one before and after it. */
  function showPlace() {
    if (!ui.place) return;
    const at = listed.indexOf(current);
    ui.place.textContent = at < 0 ? "not in the list" : `${whole(at + 1)} of ${whole(listed.length)}`;
    ui.previous.disabled = at === 0 || !listed.length;
    ui.next.disabled = at === listed.length - 1 || !listed.length;
  }

  // ---------------------------------------------------------------- latents: controls

  function makeControls() {
    const groups = [...new Set(store.saes.map((sae) => sae.group))].filter((one) => one !== null);
    const seeds = [...new Set(store.saes.map((sae) => sae.seed))].filter((one) => one !== null);
    const names = (values) => [["", "all"], ...values.map((one) => [String(one), String(one)])];
    const fields = [
      ["kind", select("Show", KINDS)],
      ["group", select("Group", names(groups))],
      ["seed", select("Seed", names(seeds.sort((a, b) => a - b)))],
      ["sae", select("SAE", names(store.saes.map((sae) => sae.id)))],
    ];
    ui.fields = Object.fromEntries(fields);
    ui.fields.kind.input.value = filter.kind;
    for (const [key, { input }] of fields) {
      input.addEventListener("change", () => {
        filter[key] = input.value;
        if (key === "sae") chooseSae(input.value);
        else showList();
      });
    }
    ui.search = el("input", {
      type: "search",
      placeholder: "explanation, token, logit, number",
      autocomplete: "off",
      spellcheck: "false",
    });
    let wait = 0;
    ui.search.addEventListener("input", () => {
      clearTimeout(wait);
      wait = setTimeout(() => {
        filter.text = ui.search.value;
        showList();
      }, 120);
    });
    ui.count = el("span", { class: "lat-count", role: "status" });
    return el(
      "div",
      { class: "lat-controls" },
      el("label", { class: "field lat-search" }, "Search", ui.search),
      fields.map(([, { label }]) => label),
      makeRanges(),
      el(
        "div",
        { class: "lat-bar" },
        ui.count,
        el("button", { type: "button", onclick: openRandom }, "Random"),
        el("button", { type: "button", onclick: reset }, "Reset"),
      ),
    );
  }

  /** Least and largest value of each scalar, for latents to be listed. */
  function makeRanges() {
    ui.ranges = [];
    const lines = SCALARS.filter(([key]) => anyHas(key)).map(
      ([key, , name]) => {
        const ends = ["least", "most"].map((end) =>
          el("input", {
            type: "number",
            step: "any",
            placeholder: end,
            "aria-label": `${name}, ${end}`,
          }),
        );
        const read = () => {
          const [low, high] = ends.map((end) => end.valueAsNumber);
          const or = (value, otherwise) => (Number.isNaN(value) ? otherwise : value);
          filter.ranges[key] = [or(low, -Infinity), or(high, Infinity)];
          if (Number.isNaN(low) && Number.isNaN(high)) delete filter.ranges[key];
          showList();
        };
        ends.forEach((end) => end.addEventListener("input", read));
        ui.ranges.push(...ends);
        return el("div", { class: "lat-range" }, el("span", {}, name), ends);
      },
    );
    return el("details", { class: "lat-ranges" }, el("summary", {}, "Ranges"), lines);
  }

  function reset() {
    filter = fresh();
    ui.search.value = "";
    ui.ranges.forEach((end) => (end.value = ""));
    for (const [key, { input }] of Object.entries(ui.fields)) input.value = filter[key];
    chooseSae("");
  }

  function openRandom() {
    if (listed.length) open(listed[Math.floor(Math.random() * listed.length)], { push: true });
  }

  // ---------------------------------------------------------------- latents: card

  function showCard(row) {
    const sae = saeOf(row);
    const card = cardOf(row);
    hideTip();
    ui.card.replaceChildren(
      cardHead(row, sae),
      cardFacts(row, sae, card),
      ...(card
        ? [
            explanationPart(row, sae, card),
            examplesPart(sae, card),
            firingPart(sae, card),
            matchesPart(row, sae, card),
            steeringPart(sae, card),
          ].filter(Boolean)
        : [barePart(row, sae)]),
    );
  }

  function cardHead(row, sae) {
    const latent = store.latent[row];
    ui.place = el("span", { class: "lat-place" });
    const step = (by) => () => moveTo(listed.indexOf(current) + by);
    ui.previous = el("button", { type: "button", title: "Left arrow", onclick: step(-1) }, "Previous");
    ui.next = el("button", { type: "button", title: "Right arrow", onclick: step(1) }, "Next");
    const title = el(
      "h3",
      { tabindex: -1 },
      swatch(sae),
      el("bdi", {}, sae.id),
      " / ",
      el("a", { href: hashOf(sae.id, latent), title: "Link to this latent" }, String(latent)),
    );
    return el("div", { class: "lat-card-head" }, title, ui.place, ui.previous, ui.next);
  }

  function cardFacts(row, sae, card) {
    const facts = SCALARS.map(([key, , name, what]) => [name, scalarText(row, key), what]);
    if (store.death[row] !== null) {
      facts.push(["Death", store.death[row], "cause by its training, and pathway on held-out inputs"]);
    }
    if (store.alive[row] !== null) {
      facts.push(["Alive", store.alive[row] ? "yes" : "no", "by its weights, or else if it fires"]);
    }
    if (card?.active !== undefined) {
      const read = whole(sae.about.examples.tokens ?? 0);
      const name = isText(sae) ? "Tokens" : "Rows";
      facts.push([name, whole(card.active), `of ${read} on which it fires`]);
    }
    if (card?.form_chance !== undefined) {
      const what = "surface form with the token ids in random order";
      facts.push(["Form by chance", digits(card.form_chance), what]);
    }
    if (card?.max) facts.push(["Largest", digits(card.max), "largest activation"]);
    const shown = facts.filter(([, text]) => text !== "-");
    return el(
      "dl",
      { class: "lat-facts" },
      shown.map(([name, text, what]) =>
        el("div", { title: what }, el("dt", {}, name), el("dd", {}, text)),
      ),
    );
  }

  /** Say that a latent was not sampled, and what prints it. */
  function barePart(row, sae) {
    const shown = Object.keys(sae.cards).length;
    return el(
      "p",
      { class: "lat-missing" },
      `This latent is not among the ${whole(shown)} of ${whole(sae.latents)} of its SAE that the `,
      "page shows in full. ",
      el("code", {}, "saereg-bench show latent"),
      " prints one, and ",
      el("code", {}, "saereg-bench report --latents"),
      " sets how many the page shows.",
    );
  }

  /** A part of the card with its head; without content, why there is none. */
  function part(name, content, missing) {
    if (!content && !missing) return null;
    return el(
      "section",
      { class: "lat-part", "aria-label": name },
      el("h4", {}, name),
      content ?? el("p", { class: "lat-missing" }, missing),
    );
  }

  function explanationPart(row, sae, card) {
    if (!card.explanation && !isText(sae)) return null;
    if (!card.explanation) {
      const missing = sae.missing.autointerp ?? "Autointerp did not choose this latent.";
      return part("Explanation", null, missing);
    }
    const score = scalarText(row, "score");
    const offline = card.n2g
      ? "token sequences (N2G), without a language model"
      : "lists of tokens, without a language model";
    const judge = sae.about.judge ?? offline;
    const isChecked = sae.about.judge && card.checked !== null && card.checked !== undefined;
    const checked = isChecked ? `, ${digits(card.checked)} with checked negatives` : "";
    const [precision, recall] = (card.n2g ?? []).map((value) =>
      value === null ? "not known" : digits(value),
    );
    const tokens = card.n2g ? `, precision ${precision} and recall ${recall} on tokens` : "";
    const said = score === "-" ? `not scored${tokens}` : `score ${score}${checked}${tokens}`;
    return part("Explanation", [
      written(card.explanation, "Explanation"),
      el("p", { class: "lat-note" }, `${said}; explained by ${judge}`),
    ]);
  }

  function examplesPart(sae, card) {
    if (!card.examples?.length) {
      const read = isText(sae) ? "text" : "data";
      const none = card.active === 0 ? `It fires nowhere in the ${read}.` : sae.missing.examples;
      return part("Fires on", null, none);
    }
    const bands = new Map();
    for (const example of card.examples) {
      bands.set(example.band, [...(bands.get(example.band) ?? []), example]);
    }
    const about = sae.about.examples;
    const kind = isText(sae) ? "text" : about.kind;
    const text = about.corpus ? `held-out ${kind} (${about.corpus})` : `held-out ${kind}`;
    const of = about.tokens ? `; ${whole(about.tokens)} ${rowWord(sae)}s of ${text}` : "";
    const hasHeat = sae.pictures !== undefined && about.grid;
    return part("Fires on", [
      el("p", { class: "lat-note" }, `by interval of the activation at its peak${of}`),
      hasHeat ? heatButton() : null,
      ...[...bands].map(([band, examples]) =>
        el(
          "div",
          { class: "lat-band" },
          el("h5", {}, band === "top" ? "largest" : band),
          exampleElements(sae, examples, card.max),
        ),
      ),
    ]);
  }

  const isText = (sae) => (sae.about.examples.kind ?? "text") === "text";
  const rowWord = (sae) => (isText(sae) ? "token" : "row");

  /** Examples of one SAE, all of one band: texts, images next to each other, or strips. */
  function exampleElements(sae, examples, max) {
    if (isText(sae)) return examples.map((example) => exampleElement(example, max));
    const made = examples.map((example) => inputElement(sae, example, max));
    return sae.pictures ? el("div", { class: "lat-images" }, made) : made;
  }

  /** One example: activation at the peak, and tokens shaded by their activation. */
  function exampleElement(example, max) {
    const most = max || Math.max(...example.values) || 1;
    const peak = example.values[example.peak] ?? 0;
    const where = `context ${example.context}, token ${example.position}`;
    const tokens = example.tokens.map((token, i) => {
      const value = example.values[i] ?? 0;
      const level = value > 0 ? Math.min(9, Math.ceil((9 * value) / most)) : 0;
      const isPeak = i === example.peak;
      return el(
        "bdi",
        {
          class: `lat-tok a${level}${isPeak ? " lat-peak" : ""}`,
          tabindex: isPeak ? 0 : -1,
          "data-tip": value > 0 ? digits(value) : "0",
        },
        visible(token),
      );
    });
    return el(
      "div",
      { class: "lat-ex" },
      el("span", { class: "lat-value", title: where }, digits(peak)),
      el(
        "div",
        {
          class: "lat-text",
          role: "group",
          "aria-label": `Example, ${digits(peak)} at its peak`,
          dir: directionOf(example.tokens),
        },
        tokens,
      ),
    );
  }

  // ---------------------------------------------------------------- latents: images and clips

  /** A button that takes the heatmaps off the images, and puts them back. */
  function heatButton() {
    const button = el("button", { type: "button", class: "lat-heat-button" });
    const show = () => {
      const isOff = ui.card.classList.contains("lat-cold");
      button.textContent = isOff ? "Show heatmaps" : "Hide heatmaps";
    };
    button.addEventListener("click", () => {
      ui.card.classList.toggle("lat-cold");
      show();
    });
    show();
    return button;
  }

  /** One image, clip or other input: where and how strongly a latent fires on it. */
  function inputElement(sae, example, max) {
    const most = max || Math.max(...example.values) || 1;
    const picture = sae.pictures?.[example.context];
    return picture ? imageElement(sae, example, picture, most) : stripElement(example, most);
  }

  /** Title and class of an input, and its activation at the peak. */
  function caption(tag, example) {
    const label = example.label ? [" ", el("small", {}, el("bdi", {}, example.label))] : [];
    const value = el("b", {}, digits(example.values[example.peak] ?? 0));
    return el(tag, { class: "lat-caption" }, value, " ", el("bdi", {}, example.title), ...label);
  }

  function imageElement(sae, example, picture, most) {
    const [down, across] = sae.about.examples.grid ?? [1, 1];
    const hasPatches = down * across > 1 && example.values.length === down * across;
    const placeOf = (i) => `row ${Math.floor(i / across) + 1}, column ${(i % across) + 1}`;
    const value = digits(example.values[example.peak] ?? 0);
    const at = hasPatches ? ` at ${placeOf(example.peak)} of ${down} by ${across} patches` : "";
    const heat = hasPatches ? heatmap(example, most, across, down, placeOf) : null;
    const frame = el(
      "div",
      { class: "lat-frame" },
      el("img", { src: picture, alt: `${example.title}: ${value}${at}` }),
      heat,
    );
    return el("figure", { class: "lat-image" }, frame, caption("figcaption", example));
  }

  /** Patches on which a latent fires, over an image; the peak has a border. */
  function heatmap(example, most, across, down, placeOf) {
    const patches = [];
    example.values.forEach((value, i) => {
      if (value <= 0) return;
      const level = Math.min(9, Math.ceil((9 * value) / most));
      const peak = i === example.peak ? " lat-hottest" : "";
      const place = { x: i % across, y: Math.floor(i / across), width: 1, height: 1 };
      const text = `${placeOf(i)}: ${digits(value)}`;
      patches.push(svg("rect", { ...place, class: `h${level}${peak}` }, svg("title", {}, text)));
    });
    const size = { viewBox: `0 0 ${across} ${down}`, preserveAspectRatio: "none" };
    return svg("svg", { class: "lat-heat", "aria-hidden": "true", ...size }, ...patches);
  }

  /** A clip or another input without a picture: its activations as bars over time. */
  function stripElement(example, most) {
    const { values, peak, seconds } = example;
    const value = digits(values[peak] ?? 0);
    const place = (i) => (seconds ? `${digits(i * seconds)} s` : `row ${i}`);
    const bars = values.flatMap((height, i) =>
      height > 0 ? [svg("rect", { x: i, y: 1 - height / most, width: 1, height: height / most })] : [],
    );
    const strip = svg(
      "svg",
      {
        viewBox: `0 0 ${values.length} 1`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Activation along ${example.title}: ${value} at ${place(peak)}`,
      },
      ...bars,
    );
    const axis = el(
      "div",
      { class: "lat-axis" },
      el("span", {}, place(0)),
      el("span", {}, place(seconds ? values.length : values.length - 1)),
    );
    const lines = values.length > 1 ? [strip, axis] : [];
    return el("div", { class: "lat-strip" }, caption("p", example), ...lines);
  }

  function firingPart(sae, card) {
    const blocks = [histogram(sae, card), logits("Raises", card.top), logits("Lowers", card.bottom)];
    return blocks.some(Boolean) ? el("div", { class: "lat-blocks" }, blocks) : null;
  }

  function histogram(sae, { edges = [], counts = [] }) {
    if (!counts.length) return null;
    const [width, height] = [240, 96];
    const most = Math.max(...counts);
    const step = width / counts.length;
    const bars = counts.map((count, i) => {
      // many latents fire weakly most of the time: the root leaves the tail to be seen
      const tall = Math.sqrt(count / most) * height;
      const bar = { x: i * step + 0.5, y: height - tall, width: Math.max(step - 1, 0.5), height: tall };
      const text = `${digits(edges[i])} to ${digits(edges[i + 1])}: ${plural(count, rowWord(sae))}`;
      return svg("rect", bar, svg("title", {}, text));
    });
    const [low, high] = [digits(edges[0]), digits(edges.at(-1))];
    const picture = {
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${isText(sae) ? "Tokens" : "Rows"} by activation, in bins from ${low} to ${high}: ${counts.join(", ")}`,
    };
    return el(
      "div",
      { class: "lat-block" },
      el("h5", {}, "Activations ", el("small", {}, "height is the root of the count")),
      svg("svg", picture, ...bars),
      el("div", { class: "lat-axis" }, el("span", {}, low), el("span", {}, high)),
    );
  }

  /** Tokens whose logits a latent raises or lowers. */
  function logits(name, tokens) {
    if (!tokens?.length) return null;
    return el(
      "div",
      { class: "lat-block" },
      el("h5", {}, `${name} logits`),
      el(
        "ol",
        { class: "lat-logits" },
        tokens.map(([token, value]) =>
          el(
            "li",
            {},
            el("bdi", { class: "lat-token" }, visible(token, { allSpaces: true })),
            el("span", {}, digits(value)),
          ),
        ),
      ),
    );
  }

  // ---------------------------------------------------------------- latents: other seeds

  function matchesPart(row, sae, card) {
    if (!card.matches?.length) return part("In other seeds", null, sae.missing.cross_seed);
    const of = `${store.values.stability[row]} of ${plural(sae.others.length, "other seed")}`;
    const means = "decoder and encoder match the same latent, above the threshold";
    return part("In other seeds", [
      el("p", { class: "lat-note" }, `shared by ${of}: ${means}`),
      ...card.matches.map((match, i) => matchElement(card, match, sae.others[i])),
      spansTable(card),
    ]);
  }

  /** Shares of an unstable latent's decoder row in spans of other seeds' unstable latents. */
  function spansTable({ spans = [] }) {
    if (!spans.length) return null;
    const caption =
      "Share of its decoder row in the span of m unstable latents of another seed, mean over seeds; " +
      "by chance: of the nearest Gaussian rows, and of m random latents";
    const heads = ["m", "nearest", "Gaussian rows", "random"];
    const number = (value) => (value === null ? "-" : digits(value));
    return el(
      "div",
      { class: "box", tabindex: 0, role: "region", "aria-label": "Spans in other seeds" },
      el(
        "table",
        { class: "lat-spans" },
        el("caption", {}, el("span", {}, caption)),
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
        el(
          "tbody",
          {},
          spans.map(([m, ...shares]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, String(m)),
              shares.map((share) => el("td", {}, number(share))),
            ),
          ),
        ),
      ),
    );
  }

  function matchElement(card, match, other) {
    const name = other.sae ?? other.id;
    const cosine = (side) => `, ${side} |cosine| ${digits(match[side][1])}`;
    const found = ["decoder", "encoder"].filter((side) => match[side]);
    const isOne = new Set(found.map((side) => match[side][0])).size === 1;
    const said = isOne
      ? [matchLink(other, match[found[0]][0]), ...found.map(cosine)]
      : found.flatMap((side, i) => [i ? "; " : "", matchLink(other, match[side][0]), cosine(side)]);
    const isShared = { class: match.shared ? "lat-yes" : "lat-no" };
    const head = el(
      "p",
      { class: "lat-match-head" },
      el("span", isShared, match.shared ? "shared" : "not shared"),
      ` seed ${other.seed}: `,
      found.length ? said : `no match in ${name}`,
    );
    const examples = match.decoder ? sideBySideExamples(card, other, match.decoder[0]) : null;
    return el("div", { class: "lat-match" }, head, examples);
  }

  function matchLink(other, latent) {
    const name = el("bdi", {}, `${other.sae ?? other.id} / ${latent}`);
    const isHere = other.sae !== null && rowOf(other.sae, latent) >= 0;
    return isHere ? el("a", { href: hashOf(other.sae, latent) }, name) : name;
  }

  /** The tokens around the peak: as many as a narrow column has room for. */
  function nearPeak(example) {
    if (!example.tokens) return example;
    const first = Math.max(0, example.peak - 8);
    const cut = (values) => values.slice(first, example.peak + 4);
    const [tokens, values] = [cut(example.tokens), cut(example.values)];
    return { ...example, tokens, values, peak: example.peak - first };
  }

  /** A latent's examples, and those of its match, in two columns. */
  function sideBySideExamples(card, other, latent) {
    const row = other.sae === null ? -1 : rowOf(other.sae, latent);
    if (row < 0) return null;
    const match = cardOf(row) ?? saeOf(row).briefs?.[latent];
    if (!match) {
      return el("p", { class: "lat-missing" }, "It is not among the latents shown in full.");
    }
    if (!card.examples?.length && !match.examples?.length && !match.explanation) return null;
    const column = (head, shown, { explanation, examples = [], max }) =>
      el(
        "div",
        { class: "lat-side" },
        el("h5", {}, el("bdi", {}, head)),
        explanation ? written(explanation, "Explanation") : null,
        exampleElements(shown, examples.slice(0, 3).map(nearPeak), max),
        explanation || examples.length ? null : el("p", { class: "lat-missing" }, "No examples."),
      );
    // its explanation is said above; here it is set against the other one
    const own = match.explanation ? card : { ...card, explanation: null };
    const name = `${other.sae} / ${latent}`;
    const sides = [column("this latent", saeOf(current), own), column(name, saeOf(row), match)];
    return el("div", { class: "lat-sides" }, sides);
  }

  // ---------------------------------------------------------------- latents: steered texts

  const ARMS = [
    ["steered", "Steered"],
    ["random", "Random direction"],
    ["unsteered", "Unsteered, drawn again"],
  ];

  function steeringPart(sae, card) {
    if (!card.texts?.length && !isText(sae)) return null;
    if (!card.texts?.length) {
      return part("Steering", null, sae.missing.steering ?? "This latent was not steered with.");
    }
    const { judge, amounts = [], mode } = sae.about.steering;
    const how = [
      amounts.length ? `strength ${digits(amounts[0])}${mode ? ` (${mode})` : ""}` : "",
      judge ? `scores by ${judge}, of each text against the original` : "",
    ];
    return part("Steering", [
      el("p", { class: "lat-note" }, how.filter(Boolean).join("; ")),
      ...card.texts.map(promptElement),
    ]);
  }

  function promptElement(texts) {
    const [original, perplexity] = texts.original;
    const fluency = (value) => (value === null ? "" : `perplexity\u00a0${digits(value)}`);
    return el(
      "div",
      { class: "lat-prompt" },
      el("h5", { dir: "auto" }, texts.prompt),
      el(
        "div",
        { class: "lat-arms" },
        ARMS.filter(([arm]) => texts[arm]).map(([arm, name]) => {
          const { text, score, success, perplexity: own } = texts[arm];
          return textElement(name, text, [
            score === undefined || score === null ? "" : `score\u00a0${digits(score)}`,
            success === true ? "success" : success === false ? "no\u00a0success" : "",
            fluency(own),
          ]);
        }),
      ),
      textElement("Original, unsteered", original, [fluency(perplexity)]),
    );
  }

  function textElement(name, text, notes) {
    return el(
      "div",
      { class: "lat-arm" },
      el("h6", {}, name),
      written(text, name),
      el("p", { class: "lat-note" }, notes.filter(Boolean).join(", ")),
    );
  }

  // ---------------------------------------------------------------- latents: moving about

  let waitingHash = 0;

  /**
   * Show a latent. With `push` the browser's history gets an entry; otherwise its last one
   * changes, a little later: browsers limit how often that may happen.
   */
  function open(row, { push }) {
    const hash = hashOf(saeOf(row).id, store.latent[row]);
    clearTimeout(waitingHash);
    if (push && location.hash !== hash) {
      location.hash = hash;
      return;
    }
    show(row);
    waitingHash = setTimeout(() => history.replaceState(null, "", hash), 150);
  }

  function show(row) {
    current = row;
    showCard(row);
    scrollToCurrent();
    drawRows();
    showPlace();
  }

  /** Show the latent that the address names; false if it names none. */
  function showFromHash({ focus }) {
    // an address that is still to be written is older than this one
    clearTimeout(waitingHash);
    const wanted = fromHash();
    if (!wanted) return false;
    const row = rowOf(wanted.sae, wanted.latent);
    if (row < 0) {
      const none = `This page has no latent ${wanted.latent} of an SAE "${wanted.sae}".`;
      ui.card.replaceChildren(el("p", { class: "lat-missing" }, none));
      current = -1;
      drawRows();
    } else show(row);
    if (focus) reveal();
    return true;
  }

  /** Bring the card to the screen if its head is not on it. */
  function reveal() {
    const { top } = ui.card.getBoundingClientRect();
    if (top < 60 || top > innerHeight * 0.6) ui.card.scrollIntoView({ block: "start" });
    if (ui.list.contains(document.activeElement)) return;
    ui.card.querySelector("h3")?.focus({ preventScroll: true });
  }

  /** Left and right arrows go through the list, wherever in the card the focus is. */
  function moveByKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    // there the arrows go from token to token
    if (event.target.closest(".lat-tok")) return;
    event.preventDefault();
    moveTo(listed.indexOf(current) + step);
    ui.card.querySelector("h3")?.focus({ preventScroll: true });
  }

  async function startLatents() {
    const box = byId("latent-browser");
    if (!box) return;
    const say = (text) => box.replaceChildren(el("p", { class: "lat-missing", role: "status" }, text));
    if (!canUnpack) {
      say("This browser cannot unpack the latents of this page; any browser of 2023 or later can.");
      return;
    }
    noteLostLatents(box);
    if (!packedLatents().size) {
      box.dataset.ready = "true";
      return;
    }
    await readLatents(say);
    filter = fresh();
    ui.card = el("div", { class: "lat-card", onkeydown: moveByKey });
    const controls = makeControls();
    const list = makeList();
    box.replaceChildren(el("div", { class: "lat-pane" }, controls, list), ui.card);
    document.body.append(tip);
    watchTokens(ui.card);
    noteLeftOut(box);
    onChosen.push((id) => {
      filter.sae = store.index.has(id) ? id : "";
      ui.fields.sae.input.value = filter.sae;
      showList();
    });
    addEventListener("hashchange", () => showFromHash({ focus: true }));
    showList();
    if (!showFromHash({ focus: true }) && listed.length) show(listed[0]);
    if (chosenSae) chooseSae(chosenSae);
    box.dataset.ready = "true";
  }

  /** Say of which SAEs the latents did not arrive, and in which files they should be. */
  function noteLostLatents(box) {
    const packed = packedLatents();
    const lost = (facts.latents ?? []).filter((id) => !packed.has(id));
    if (!lost.length && !lostFiles.length && packed.size) return;
    const whose = lost.length ? `The latents of ${lost.join(", ")} are` : "Latents are";
    const files = lostFiles.length ? `: no file ${lostFiles.join(", ")} next to the page` : "";
    const text = `${whose} missing${files}. Move the page with its files, or write it again.`;
    const said = [el("strong", {}, "Error"), el("span", {}, text)];
    box.before(el("p", { class: "alert error", id: "latents-lost", role: "status" }, said));
  }

  /** Say which described latents the page has no room for. */
  function noteLeftOut(box) {
    const left = store.saes.filter((sae) => sae.left_out > 0);
    if (!left.length) return;
    const total = left.reduce((sum, sae) => sum + sae.left_out, 0);
    const which = "with an interp score or a steered text are not shown in full";
    const text = `${plural(total, "latent")} ${which}; --latents sets how many are.`;
    box.before(el("p", { class: "footnote" }, text));
  }

  // ---------------------------------------------------------------- start

  /** The script stands before the files next to the page, so it waits for them. */
  function start() {
    startTheme();
    startNavigation();
    startTables();
    startDownloads();
    startPlots();
    startLatents();
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
