// Draws every figure of the page from the numbers in #charts: responsive SVG with a read-out under the pointer.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const { count, escape, formats, ticks, tickText } = numbers;
  const colorClass = (index) => (index < 0 ? "cink" : "c" + (index % 8));

  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
  };

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.data = charts[figure.dataset.chart];
      this.hidden = new Set();
      this.plot = figure.querySelector(".plot");
      this.tip = document.createElement("div");
      this.tip.className = "tip";
      this.tip.hidden = true;
      figure.append(this.tip);
      this.legend();
      new ResizeObserver(() => this.resize()).observe(this.plot);
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.leave());
      this.plot.addEventListener("focusout", () => this.leave());
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.resize();
    }

    get series() {
      return this.data.series.filter((s) => !this.hidden.has(s.name));
    }

    legend() {
      if (this.data.series.length < 2) return;
      const box = this.figure.querySelector(".legend");
      for (const s of this.data.series.filter((s) => s.style !== "dashed")) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = `${s.style} ${colorClass(s.color)}`;
        button.setAttribute("aria-pressed", "true");
        const last = s.style === "line" && s.points.length ? `<em>${formats[this.data.format](s.points.at(-1)[1])}</em>` : "";
        button.innerHTML = `<i></i>${escape(s.name)} ${last}`;
        button.addEventListener("click", () => this.toggle(s.name, button));
        box.append(button);
      }
    }

    toggle(name, button) {
      const twins = this.data.series.filter((s) => s.name === name || s.name.startsWith(name + ", ")).map((s) => s.name);
      const hide = !this.hidden.has(name);
      for (const twin of twins) hide ? this.hidden.add(twin) : this.hidden.delete(twin);
      button.setAttribute("aria-pressed", String(!hide));
      this.draw();
    }

    resize() {
      const width = Math.round(this.plot.clientWidth);
      if (width && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }

    draw() {
      const shown = this.series;
      const points = shown.flatMap((s) => s.points);
      const width = this.width;
      const height = Math.round(Math.min(340, Math.max(210, width * 0.42)));
      if (!points.length) {
        this.plot.innerHTML = `<svg viewBox="0 0 ${width} ${height}"></svg>`;
        return;
      }
      const xs = points.map((p) => p[0]);
      const ys = [...points.map((p) => p[1]), ...shown.map((s) => s.baseline).filter((b) => b !== null)];
      const xLow = Math.min(0, ...xs), xHigh = Math.max(...xs);
      let yLow = this.data.zero ? Math.min(0, ...ys) : Math.min(...ys), yHigh = Math.max(...ys);
      const room = (yHigh - yLow || Math.abs(yHigh) || 1) * 0.05;
      if (!this.data.zero) yLow -= room;
      yHigh += room;
      const yTicks = ticks(yLow, yHigh, Math.round(height / 52));
      const yTexts = tickText(yTicks, this.data.format);
      const box = { left: 10 + 7 * Math.max(...yTexts.map((t) => t.length)), right: width - 10, top: 8, bottom: height - 42 };
      this.x = (v) => box.left + ((v - xLow) / (xHigh - xLow || 1)) * (box.right - box.left);
      this.y = (v) => box.bottom - ((v - yLow) / (yHigh - yLow)) * (box.bottom - box.top);
      this.inverse = (px) => xLow + ((px - box.left) / (box.right - box.left)) * (xHigh - xLow);
      this.box = box;
      const xTicks = ticks(xLow, xHigh, Math.max(2, Math.round(width / 84)));
      const xTexts = tickText(xTicks, "count");
      const f = (n) => n.toFixed(1);
      const line = (x1, y1, x2, y2, name) => `<line class="${name}" x1="${f(x1)}" y1="${f(y1)}" x2="${f(x2)}" y2="${f(y2)}"/>`;
      const parts = [];
      yTicks.forEach((v, i) => {
        parts.push(line(box.left, this.y(v), box.right, this.y(v), "grid"));
        parts.push(`<text x="${box.left - 8}" y="${f(this.y(v) + 4)}" text-anchor="end">${yTexts[i]}</text>`);
      });
      parts.push(line(box.left, box.bottom, box.right, box.bottom, "axis"));
      xTicks.forEach((v, i) => {
        const anchor = this.x(v) > box.right - 16 ? "end" : "middle";
        parts.push(line(this.x(v), box.bottom, this.x(v), box.bottom + 4, "axis"));
        parts.push(`<text x="${f(this.x(v))}" y="${box.bottom + 18}" text-anchor="${anchor}">${xTexts[i]}</text>`);
      });
      parts.push(`<text x="${f((box.left + box.right) / 2)}" y="${height - 6}" text-anchor="middle">${escape(this.data.x)}</text>`);
      for (const s of shown) {
        if (s.baseline !== null) parts.push(`<g class="${colorClass(s.color)}">${line(box.left, this.y(s.baseline), box.right, this.y(s.baseline), "baseline")}</g>`);
      }
      for (const s of shown) {
        const path = s.points.map((p, i) => `${i ? "L" : "M"}${f(this.x(p[0]))} ${f(this.y(p[1]))}`).join("");
        parts.push(`<path class="${s.style} ${colorClass(s.color)}" d="${path}"/>`);
        if (s.points.length < 20 && s.style === "line") {
          for (const p of s.points) parts.push(`<circle class="${colorClass(s.color)}" cx="${f(this.x(p[0]))}" cy="${f(this.y(p[1]))}" r="3"/>`);
        }
      }
      this.plot.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" tabindex="0" aria-label="${escape(this.spoken())}">${parts.join("")}<g class="hover"></g></svg>`;
      this.leave();
    }

    spoken() {
      const format = formats[this.data.format];
      const curves = this.series.filter((s) => s.points.length).map((s) => `${s.name} from ${format(s.points[0][1])} to ${format(s.points.at(-1)[1])}`);
      return `${this.data.title}, ${this.data.y}, over ${this.data.x}: ${curves.join("; ")}. Arrow keys read values.`;
    }

    point(event) {
      const frame = this.plot.getBoundingClientRect();
      this.show(this.inverse(((event.clientX - frame.left) * this.width) / frame.width));
    }

    key(event) {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const main = this.series.find((s) => s.style === "line") || this.series[0];
      if (!move || !main) return;
      event.preventDefault();
      const at = this.at === undefined ? (move > 0 ? -1 : main.points.length) : main.points.indexOf(nearest(main.points, this.at));
      this.show(main.points[Math.min(main.points.length - 1, Math.max(0, at + move))][0]);
    }

    show(x) {
      const shown = this.series.filter((s) => s.points.length);
      if (!shown.length || !this.box) return;
      const main = shown.find((s) => s.style === "line") || shown[0];
      this.at = nearest(main.points, x)[0];
      const px = this.x(this.at);
      const rows = shown.map((s) => [s, nearest(s.points, this.at)]);
      const dots = rows.map(([s, p]) => `<circle class="${colorClass(s.color)}" cx="${this.x(p[0])}" cy="${this.y(p[1])}" r="4"/>`);
      this.plot.querySelector(".hover").innerHTML = `<line class="cursor" x1="${px}" x2="${px}" y1="${this.box.top}" y2="${this.box.bottom}"/>${dots.join("")}`;
      const format = formats[this.data.format];
      const lines = rows.map(([s, p]) => `<span class="${colorClass(s.color)}"><i></i>${escape(s.name)} <em style="font-style:normal">${format(p[1])}</em></span>`);
      this.tip.innerHTML = `<b>${count(this.at)} ${escape(this.data.x)}</b>${lines.join("")}`;
      this.tip.hidden = false;
      const scale = this.plot.clientWidth / this.width;
      const left = px * scale + 14;
      const flipped = px * scale - 14 - this.tip.offsetWidth;
      const fits = left + this.tip.offsetWidth <= this.plot.clientWidth;
      this.tip.style.left = `${fits ? left : Math.max(0, flipped)}px`;
      this.tip.style.top = `${this.plot.offsetTop + 8}px`;
    }

    leave() {
      this.tip.hidden = true;
      this.at = undefined;
      const hover = this.plot.querySelector(".hover");
      if (hover) hover.innerHTML = "";
    }
  }

  document.querySelectorAll("figure[data-chart]").forEach((figure) => new Chart(figure));
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
})();
