// Draws the figures of a sweep from the numbers in #sweep. A trial has one colour everywhere, and pointing at it in any
// figure or in the table shows it in all.
(() => {
  "use strict";
  const { count, escape, formats, ticks, tickText } = numbers;
  const data = JSON.parse(document.getElementById("sweep").textContent);
  const trials = new Map(data.trials.map((trial) => [trial.id, trial]));
  const f = (n) => n.toFixed(1);
  const value = (v) => (v === null ? "–" : v.toFixed(4));

  // A trial's class and colour: --p is the share of the best colour
  const paint = (trial, more = "") => {
    const kinds = [trial.status === "stopped" && "stopped", trial.baseline && "base", trial.best && "lead", more];
    return `class="trace ${kinds.filter(Boolean).join(" ")}" data-trial="${trial.id}" style="--p:${trial.tone === null ? 0 : Math.round(100 * (1 - trial.tone))}%"`;
  };
  const touch = (trial, d) => `<path class="touch" data-trial="${trial.id}" d="${d}"/>`;
  const line = (x1, y1, x2, y2, name) => `<line class="${name}" x1="${f(x1)}" y1="${f(y1)}" x2="${f(x2)}" y2="${f(y2)}"/>`;
  const label = (x, y, anchor, text, name = "") => `<text class="${name}" x="${f(x)}" y="${f(y)}" text-anchor="${anchor}">${escape(text)}</text>`;
  const svg = (width, height, spoken, parts) =>
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(spoken)}">${parts.join("")}</svg>`;
  const widest = (texts, size) => size * Math.max(...texts.map((t) => t.length));

  // Learning curves by tokens
  const curves = (width) => {
    const { tokens, low, high, band } = data.curves;
    const height = Math.round(Math.min(440, Math.max(260, width * 0.46)));
    const room = (high - low || 1) * 0.06;
    const bottom = Math.min(low, band ? band[0] : low) - room, top = Math.max(high, band ? band[1] : high) + room;
    const yTicks = ticks(bottom, top, Math.round(height / 56)), yTexts = tickText(yTicks, "number");
    const box = { left: 10 + widest(yTexts, 7), right: width - 10, top: 8, bottom: height - 42 };
    const x = (v) => box.left + (v / tokens) * (box.right - box.left);
    const y = (v) => box.bottom - ((v - bottom) / (top - bottom)) * (box.bottom - box.top);
    const parts = [`<clipPath id="frame"><rect x="${box.left}" y="${box.top}" width="${box.right - box.left + 8}" height="${box.bottom - box.top}"/></clipPath>`];
    if (band) parts.push(`<rect class="band" x="${f(box.left)}" y="${f(y(band[1]))}" width="${f(box.right - box.left)}" height="${f(Math.max(1.5, y(band[0]) - y(band[1])))}"/>`);
    yTicks.forEach((v, i) => parts.push(line(box.left, y(v), box.right, y(v), "grid"), label(box.left - 8, y(v) + 4, "end", yTexts[i])));
    parts.push(line(box.left, box.bottom, box.right, box.bottom, "axis"));
    const xTicks = ticks(0, tokens, Math.max(2, Math.round(width / 96))), xTexts = tickText(xTicks, "count");
    xTicks.forEach((v, i) => parts.push(line(x(v), box.bottom, x(v), box.bottom + 4, "axis"), label(x(v), box.bottom + 18, x(v) > box.right - 16 ? "end" : "middle", xTexts[i])));
    parts.push(label((box.left + box.right) / 2, height - 6, "middle", "training tokens"), '<g clip-path="url(#frame)">');
    const drawn = data.trials.filter((t) => t.curve.length);
    // A trial that was judged only at its end is a dot: it gets a length, so that the pointer finds it.
    const path = (points) => points.map((p, i) => `${i ? "L" : "M"}${f(x(p[0]))} ${f(y(p[1]))}`).join("") + (points.length > 1 ? "" : "h.01");
    for (const trial of drawn) {
      const [endX, endY] = trial.curve.at(-1);
      parts.push(`<path ${paint(trial)} d="${path(trial.curve)}"/><circle ${paint(trial, "mark")} cx="${f(x(endX))}" cy="${f(y(endY))}" r="${trial.status === "stopped" ? 2.5 : 3.5}"/>`);
    }
    for (const trial of drawn) parts.push(touch(trial, path(trial.curve)));
    parts.push("</g>");
    return svg(width, height, `Learning curves of ${drawn.length} trials, ${data.objective} over training tokens`, parts);
  };

  // Contenders with their intervals, best first
  const intervals = (width) => {
    const rows = data.intervals, band = data.curves.band, row = 34;
    const ends = rows.flatMap((r) => [r.low ?? r.mean, r.high ?? r.mean]).concat(band || []);
    const low = Math.min(...ends), high = Math.max(...ends), room = (high - low || 1) * 0.05;
    const left = Math.min(width * 0.42, 16 + widest(rows.map((r) => r.name), 7.2));
    const box = { left, right: width - 58, top: 6, bottom: 6 + row * rows.length };
    const x = (v) => box.left + ((v - low + room) / (high - low + 2 * room)) * (box.right - box.left);
    const parts = [];
    if (band) parts.push(`<rect class="band" x="${f(x(band[0]))}" y="${box.top}" width="${f(x(band[1]) - x(band[0]))}" height="${box.bottom - box.top}"/>`);
    const marks = ticks(low - room, high + room, Math.max(3, Math.round((box.right - box.left) / 110))), texts = tickText(marks, "number");
    marks.forEach((v, i) => parts.push(line(x(v), box.top, x(v), box.bottom, "grid"), label(x(v), box.bottom + 18, "middle", texts[i])));
    rows.forEach((r, i) => {
      const y = box.top + row * (i + 0.5), trial = trials.get(r.id);
      const name = r.name.length * 7.2 > left ? `${r.name.slice(0, Math.floor(left / 7.2) - 2)}…` : r.name;
      parts.push(label(0, y + 4, "start", name, "row"), label(width, y + 4, "end", r.text));
      if (r.low !== null) parts.push(`<g ${paint(trial)}>${line(x(r.low), y, x(r.high), y, "whisker")}</g>`);
      parts.push(`<circle ${paint(trial, "mark")} cx="${f(x(r.mean))}" cy="${f(y)}" r="6"/>`);
    });
    const spoken = rows.map((r) => `${r.name} ${r.text}`).join("; ");
    return svg(width, box.bottom + 26, `Contenders, ${data.objective}: ${spoken}`, parts);
  };

  // Parallel coordinates: axes side by side, or one below the other where there is no room
  const parallel = (width) => {
    const [best, worst] = data.range;
    const objective = { label: data.objective, ticks: [[0, value(best)], [1, `${value(worst)} or more`]] };
    const axes = [...data.axes, objective], upright = width >= 92 * axes.length;
    const step = upright ? 0 : 66;
    const height = upright ? 340 : 30 + step * axes.length;
    const box = upright ? { left: 46, right: width - 64, top: 46, bottom: height - 24 } : { left: 12, right: width - 12, top: 30, bottom: height - 30 };
    const across = (i) => (upright ? box.left + (i / Math.max(1, axes.length - 1)) * (box.right - box.left) : box.top + step * i);
    const along = (p) => (upright ? box.bottom - p * (box.bottom - box.top) : box.left + p * (box.right - box.left));
    const at = (i, p) => (upright ? [across(i), along(p)] : [along(p), across(i)]);
    const parts = [];
    const gap = upright ? (box.right - box.left) / Math.max(1, axes.length - 1) : width;
    const short = (text, room) => (text.length > room / 6.8 ? `${text.slice(0, Math.max(3, Math.floor(room / 6.8) - 1))}…` : text);
    const paths = new Map();
    for (const trial of data.trials) {
      if (trial.tone === null) continue;
      const points = [...trial.places, trial.tone].map((p, i) => (p === null ? null : at(i, p))).filter(Boolean);
      if (points.length < 2) continue;
      const bend = ([x0, y0], [x1, y1]) => (upright ? `C${f((x0 + x1) / 2)} ${f(y0)} ${f((x0 + x1) / 2)} ${f(y1)} ${f(x1)} ${f(y1)}` : `C${f(x0)} ${f((y0 + y1) / 2)} ${f(x1)} ${f((y0 + y1) / 2)} ${f(x1)} ${f(y1)}`);
      paths.set(trial.id, `M${f(points[0][0])} ${f(points[0][1])}` + points.slice(1).map((p, i) => bend(points[i], p)).join(""));
    }
    for (const [id, d] of paths) parts.push(`<path ${paint(trials.get(id))} d="${d}"/>`);
    axes.forEach((axis, i) => {
      const [[x0, y0], [x1, y1]] = [at(i, 0), at(i, 1)];
      parts.push(line(x0, y0, x1, y1, "axis"));
      parts.push(upright ? label(x0, 16, i === 0 ? "start" : i === axes.length - 1 ? "end" : "middle", short(axis.label, gap * 0.95), "axisname").replace('x="' + f(x0), 'x="' + f(i === 0 ? 0 : i === axes.length - 1 ? width : x0)) : label(0, y0 - 12, "start", axis.label, "axisname"));
      axis.ticks.forEach(([place, text], n) => {
        const [x, y] = at(i, place), shown = short(text, upright ? gap * 0.8 : width / axis.ticks.length);
        if (upright) {
          const end = place === 0 ? 16 : place === 1 ? -10 : 4;
          parts.push(label(x, y + end, "middle", place === 1 && axis === objective ? `≥ ${value(worst)}` : shown));
          if (axis.ticks.length > 2) parts.push(line(x - 3, y, x + 3, y, "axis"));
        } else {
          parts.push(label(x, y + 15, place === 0 ? "start" : place === 1 ? "end" : "middle", shown), line(x, y - 3, x, y + 3, "axis"));
        }
      });
    });
    for (const [id, d] of paths) parts.push(touch(trials.get(id), d));
    return svg(width, height, `Settings of ${paths.size} trials over ${axes.map((a) => a.label).join(", ")}`, parts);
  };

  // Three domains: a corner is a domain alone
  const ternary = (width) => {
    const { domains, points, surface, optimum } = data.ternary;
    const side = Math.min(width - 24, 520), height = Math.round(side * Math.sqrt(0.75)) + 62, left = (width - side) / 2;
    const at = ([a, b, c]) => [left + side * (b + c / 2), 30 + side * Math.sqrt(0.75) * (1 - c)];
    const parts = [];
    const radius = surface.length ? Math.max(3, (side / Math.sqrt(surface.length)) * 0.62) : 0;
    const corners = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map(at);
    if (surface.length) parts.push(`<clipPath id="triangle"><path d="M${corners.map(([x, y]) => `${f(x)} ${f(y)}`).join("L")}Z"/></clipPath><g class="surfaces" clip-path="url(#triangle)">`);
    for (const [a, b, c, tone] of surface) {
      const [x, y] = at([a, b, c]);
      parts.push(`<circle class="trace surface on" style="--p:${Math.round(100 * (1 - tone))}%" cx="${f(x)}" cy="${f(y)}" r="${f(radius)}"/>`);
    }
    if (surface.length) parts.push("</g>");
    for (const share of [0.2, 0.4, 0.6, 0.8]) {
      for (let corner = 0; corner < 3; corner++) {
        const end = (other) => at([0, 1, 2].map((i) => (i === corner ? share : i === (corner + other) % 3 ? 1 - share : 0)));
        const [[x0, y0], [x1, y1]] = [end(1), end(2)];
        parts.push(line(x0, y0, x1, y1, "grid"));
      }
    }
    corners.forEach(([x, y], i) => parts.push(line(x, y, ...corners[(i + 1) % 3], "axis")));
    parts.push(label(corners[0][0], corners[0][1] + 22, "start", domains[0], "axisname"), label(corners[1][0], corners[1][1] + 22, "end", domains[1], "axisname"), label(corners[2][0], 18, "middle", domains[2], "axisname"));
    for (const trial of data.trials) {
      if (!points[trial.id]) continue;
      const [x, y] = at(points[trial.id]);
      parts.push(trial.baseline ? `<path ${paint(trial, "mark")} d="M${f(x)} ${f(y - 7)}L${f(x + 7)} ${f(y)}L${f(x)} ${f(y + 7)}L${f(x - 7)} ${f(y)}Z" style="fill:var(--ink)"/>` : `<circle ${paint(trial, "mark")} cx="${f(x)}" cy="${f(y)}" r="6"/>`);
      if (trial.best) parts.push(`<circle class="ring" cx="${f(x)}" cy="${f(y)}" r="10"/>`);
    }
    if (optimum) {
      const [x, y] = at(optimum);
      parts.push(`<path class="proposal" d="M${f(x - 8)} ${f(y)}H${f(x + 8)}M${f(x)} ${f(y - 8)}V${f(y + 8)}"/>`);
    }
    return svg(width, height, `Mixtures of ${domains.join(", ")}, coloured by ${data.objective}`, parts);
  };

  const draw = { curves, intervals, parallel, ternary };

  // One trial in the light, in every figure and in the table
  const focus = (id) => {
    document.querySelectorAll(".plot svg").forEach((one) => one.classList.toggle("focused", id !== null));
    document.querySelectorAll("[data-trial]").forEach((one) => one.classList.toggle("on", id !== null && one.dataset.trial === id));
  };

  class Figure {
    constructor(figure) {
      this.figure = figure;
      this.plot = figure.querySelector(".plot");
      this.tip = document.createElement("div");
      this.tip.className = "tip";
      this.tip.hidden = true;
      figure.append(this.tip);
      if (["curves", "parallel", "ternary"].includes(figure.dataset.figure)) this.scale();
      new ResizeObserver(() => this.resize()).observe(this.plot);
      for (const kind of ["pointermove", "pointerdown"]) this.plot.addEventListener(kind, (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.leave());
      this.resize();
    }

    scale() {
      const [best, worst] = data.range;
      const scale = document.createElement("div");
      scale.className = "scale";
      scale.innerHTML = `<span>${value(best)}</span><i></i><span>${value(worst)} or more</span>`;
      this.plot.before(scale);
    }

    resize() {
      const width = Math.round(this.plot.clientWidth);
      if (width && width !== this.width) {
        this.width = width;
        this.plot.innerHTML = draw[this.figure.dataset.figure](width);
      }
    }

    point(event) {
      const target = event.target.closest("[data-trial]");
      if (!target) return this.leave();
      const trial = trials.get(Number(target.dataset.trial));
      focus(target.dataset.trial);
      const what = [trial.name, trial.baseline && `baseline ${trial.baseline}`, trial.status !== "finished" && trial.status].filter(Boolean).join(", ");
      this.tip.innerHTML = `<b>${escape(what)}</b><em>${value(trial.value)}</em> ${escape(data.objective)}<br>${escape(trial.settings)}`;
      this.tip.hidden = false;
      const frame = this.figure.getBoundingClientRect();
      const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
      const room = frame.width - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, Math.min(room, x > frame.width / 2 ? x - 14 - this.tip.offsetWidth : x + 14))}px`;
      this.tip.style.top = `${y + 16}px`;
    }

    leave() {
      this.tip.hidden = true;
      focus(null);
    }
  }

  // Sorting: numbers by their value, missing ones last; a second click turns the order
  const sortable = (table) => {
    const heads = [...table.querySelectorAll("thead tr:last-child th")], body = table.tBodies[0];
    const key = (row, i) => (row.cells[i].dataset.order === undefined ? null : Number(row.cells[i].dataset.order));
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending", sign = falling ? -1 : 1;
      const rows = [...body.rows], byNumber = rows.some((row) => key(row, i) !== null);
      rows.sort((a, b) => {
        const [x, y] = [key(a, i), key(b, i)];
        if (!byNumber) return sign * a.cells[i].textContent.localeCompare(b.cells[i].textContent);
        return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      body.append(...rows);
    }));
    body.addEventListener("pointerover", (event) => focus(event.target.closest("tr")?.dataset.trial ?? null));
    body.addEventListener("pointerleave", () => focus(null));
  };

  document.querySelectorAll("figure[data-figure]").forEach((figure) => new Figure(figure));
  document.querySelectorAll("table[data-sortable]").forEach(sortable);
})();
