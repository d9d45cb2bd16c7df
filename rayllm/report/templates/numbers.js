// Numbers and names as text, and round ticks: what the figures of all pages share.
const numbers = (() => {
  "use strict";
  const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => escapes[c]);

  // Numbers as text
  const units = [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e4, " k", 1e3]];
  const unitOf = (value) => {
    const [limit, word, factor] = units.find(([limit]) => Math.abs(value) >= limit) || [1, ""];
    return [factor || limit, word];
  };
  const trim = (value, digits) => (value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits))));
  const count = (value) => trim(value / unitOf(value)[0], 3) + unitOf(value)[1];
  const formats = {
    number: (value) => (Math.abs(value) >= 1e4 ? count(value) : Math.abs(value) >= 0.01 ? value.toFixed(3) : trim(value, 3)),
    count,
    percent: (value) => (value * 100).toFixed(1) + " %",
  };

  // Round steps of 1, 2, 2.5 or 5 times a power of ten that cover a range
  const ticks = (low, high, wanted) => {
    const raw = (high - low) / Math.max(1, wanted) || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };
  // The labels of an axis share one unit and one number of decimals
  const tickText = (values, format) => {
    const [factor, word] = format === "percent" ? [0.01, " %"] : unitOf(Math.max(...values.map(Math.abs)));
    const step = values.length > 1 ? (values[1] - values[0]) / factor : 1;
    if (step < 1e-5) return values.map((v) => trim(v, 3));
    let decimals = 0;
    while (decimals < 6 && Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6 * 10 ** decimals * step) decimals++;
    return values.map((v) => (v === 0 ? "0" : (v / factor).toFixed(decimals) + word));
  };
  return { count, escape, formats, ticks, tickText };
})();
