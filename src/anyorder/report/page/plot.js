// Accuracy against forward passes as a drawing that follows the page's theme. The tables below say the same in numbers.

const PLOT = { width: 620, height: 340, left: 44, right: 12, top: 10, bottom: 40 };

function drawPlots(page) {
  const noises = [...new Set(page.results.map((result) => result.noise))];
  const orders = [...new Set(page.results.map((result) => result.order))];
  find("plots").replaceChildren(...noises.map((noise) => onePlot(page, orders, page.results.filter((r) => r.noise === noise), noise)));
}

function niceTicks(high, count) {
  const raw = high / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5, 10].find((factor) => factor * unit >= raw) ?? 10);
  return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, n) => n * step);
}

function onePlot(page, orders, results, noise) {
  const most = Math.max(...results.map((result) => result.nfe)) * 1.06;
  const x = (nfe) => PLOT.left + (nfe / most) * (PLOT.width - PLOT.left - PLOT.right);
  const y = (share) => PLOT.height - PLOT.bottom - share * (PLOT.height - PLOT.top - PLOT.bottom);
  const text = (at, down, anchor, words) => make("svg:text", { x: at, y: down, "text-anchor": anchor, text: words });
  const svg = make("svg:svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": `${page.words.accuracy} against forward passes` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(make("svg:line", { class: "axis", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y(share), y2: y(share) }));
    svg.append(text(PLOT.left - 6, y(share) + 4, "end", percent(share)));
  }
  for (const tick of niceTicks(most, 6)) svg.append(text(x(tick), PLOT.height - PLOT.bottom + 18, "middle", String(tick)));
  svg.append(text((PLOT.left + PLOT.width) / 2, PLOT.height - 4, "middle", "NFE: forward passes per problem"));
  const legend = make("ul");
  orders.forEach((order, n) => {
    const rows = results.filter((result) => result.order === order).sort((a, b) => a.nfe - b.nfe);
    if (!rows.length) return;
    const { kind } = rows[0];
    const color = kind === "oracle" ? "var(--muted)" : `var(--c${n % 8})`;
    const aside = 3 * (n - (orders.length - 1) / 2); // intervals at the same NFE stand side by side
    const points = rows.map((result) => `${x(result.nfe) + aside},${y(result.accuracy)}`).join(" ");
    svg.append(make("svg:polyline", { class: `curve ${kind}`, points, style: { stroke: color } }));
    for (const result of rows) {
      const [low, high] = result.ci95;
      const at = x(result.nfe) + aside;
      const title = `${order}: ${percent(result.accuracy, 1)} (${percent(low, 1)} to ${percent(high, 1)}), ${result.nfe.toFixed(1)} forward passes`;
      svg.append(make("svg:line", { class: "interval", x1: at, x2: at, y1: y(low), y2: y(high), style: { stroke: color } }));
      svg.append(make("svg:circle", { class: "point", cx: at, cy: y(result.accuracy), r: 5, style: { fill: color } },
        make("svg:title", { text: title })));
    }
    legend.append(make("li", {}, make("i", { style: { "border-color": color } }), order));
  });
  const caption = `${page.words.accuracy} against forward passes${noise ? `, order ${noise}` : ""}, with 95 % intervals`;
  return make("figure", { class: "plot" }, make("figcaption", { text: caption }), svg, legend);
}
