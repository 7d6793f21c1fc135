// The second panel: points in the plane, their landscape, and a ball that rolls down.

import { energy, gradient } from "./landscape.js";
import { $, colours, isDark, isStill, onTheme, place, rgb } from "./screen.js";

const [VIEW, CELLS, MOST] = [1.6, 112, 9];
const FIRST = [[-0.75, 0.6], [0.8, 0.75], [0.15, -0.85], [-0.9, -0.5]];
// Colours of basins that most colour-blind people can tell apart (Wong 2011, and two more).
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c6bb1", "#7f7f7f"];

export async function start(compute) {
  const canvas = $("valley");
  const pen = canvas.getContext("2d");
  const size = canvas.width;
  let points = FIRST.map((p) => [...p]);
  let [selected, dragged, chart, ball, frame, busy, stale] = [0, null, null, null, 0, false, false];

  const beta = () => 10 ** ($("sharp").value / 100);
  const across = (x) => ((x + VIEW) / (2 * VIEW)) * size;
  const down = (y) => ((VIEW - y) / (2 * VIEW)) * size;
  const where = (event) => {
    const [u, v] = place(canvas, event);
    return [VIEW * (2 * u - 1), VIEW * (1 - 2 * v)];
  };
  const inside = (at) => at.map((v) => Math.max(-VIEW + 0.05, Math.min(VIEW - 0.05, v)));

  // -- drawing

  /** The point whose colour a minimum has: the nearest. */
  const owner = ([a, b]) =>
    points.reduce((best, p, k) => (distance(p, [a, b]) < distance(points[best], [a, b]) ? k : best), 0);
  const distance = ([a, b], [c, d]) => Math.hypot(a - c, b - d);

  /** A picture of the basins, lighter where the energy is high, in fourteen steps like a map. */
  function map() {
    const { heights, basins, minima } = chart;
    const hues = minima.map((m) => rgb(HUES[owner(m)]));
    const ground = rgb(colours().paper);
    const low = heights.reduce((a, b) => Math.min(a, b), Infinity);
    const high = heights.reduce((a, b) => Math.max(a, b), -Infinity);
    const made = new ImageData(CELLS, CELLS);
    heights.forEach((height, k) => {
      const level = Math.sqrt((height - low) / (high - low || 1)); // valleys are narrow: spread them
      const strength = (isDark() ? 0.75 : 0.8) - 0.62 * (Math.floor(14 * level) / 14);
      const hue = hues[basins[k]] ?? ground;
      made.data.set([...hue.map((c, j) => strength * c + (1 - strength) * ground[j]), 255], 4 * k);
    });
    const small = new OffscreenCanvas(CELLS, CELLS);
    small.getContext("2d").putImageData(made, 0, 0);
    return small;
  }

  function ring([x, y], radius, fill, line, width) {
    pen.beginPath();
    pen.arc(across(x), down(y), radius, 0, 2 * Math.PI);
    pen.fillStyle = fill;
    pen.strokeStyle = line;
    pen.lineWidth = width;
    pen.fill();
    pen.stroke();
  }

  function paint() {
    const { paper, ink, accent } = colours();
    pen.fillStyle = paper;
    pen.fillRect(0, 0, size, size);
    if (chart) {
      pen.imageSmoothingEnabled = true;
      pen.drawImage(chart.map, 0, 0, size, size);
      pen.strokeStyle = ink;
      pen.lineWidth = 3;
      for (const [x, y] of chart.minima) {
        pen.beginPath();
        for (const s of [-1, 1]) {
          pen.moveTo(across(x) - 9, down(y) - 9 * s);
          pen.lineTo(across(x) + 9, down(y) + 9 * s);
        }
        pen.stroke();
      }
    }
    points.forEach((p, k) => {
      const isChosen = k === selected && document.activeElement === canvas;
      ring(p, 8, HUES[k], isChosen ? accent : ink, isChosen ? 5 : 2);
    });
    if (ball) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.beginPath();
      ball.path.forEach(([x, y], t) => pen[t ? "lineTo" : "moveTo"](across(x), down(y)));
      pen.stroke();
      ring(ball.at, 11, paper, ink, 3);
    }
  }

  /** Have the landscape computed anew; what changes meanwhile is computed after. */
  async function changed() {
    $("sharpShown").value = beta().toPrecision(3);
    paint();
    if (busy) {
      stale = true;
      return;
    }
    busy = true;
    do {
      stale = false;
      chart = await compute("chart", { points, beta: beta(), cells: CELLS, view: VIEW });
      chart.map = map();
      const [n, m] = [points.length, chart.minima.length];
      $("valleyStatus").textContent =
        `${n} point${n > 1 ? "s" : ""}, ${m} ${m > 1 ? "minima" : "minimum"}` +
        (m < n ? ": some points share one." : ".");
      paint();
    } while (stale);
    busy = false;
  }

  // -- the ball

  /** Let a ball roll from a place, without inertia: down the gradient. */
  function roll(from) {
    cancelAnimationFrame(frame);
    ball = { at: from, path: [from], from: energy(points, beta(), from) };
    const move = () => {
      for (let k = 0; k < (isStill() ? 4000 : 6); k++) {
        const [gx, gy] = gradient(points, beta(), ball.at);
        const rate = 0.02 / Math.max(1, beta() / 20);
        ball.at = [ball.at[0] - rate * gx, ball.at[1] - rate * gy];
        if (Math.hypot(gx, gy) < 1e-3) return rest();
      }
      ball.path.push(ball.at);
      paint();
      frame = requestAnimationFrame(move);
    };
    const rest = () => {
      frame = 0;
      ball.path.push(ball.at);
      paint();
      const now = energy(points, beta(), ball.at);
      $("valleyStatus").textContent = `The ball rolled from energy ${ball.from.toFixed(3)} to ${now.toFixed(3)}.`;
    };
    move();
  }

  const anywhere = () => [0, 0].map(() => (Math.random() - 0.5) * 1.9 * VIEW);

  // -- the controls

  const moved = (k, at) => {
    points[k] = inside(at);
    ball = null;
    cancelAnimationFrame(frame);
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    const at = where(event);
    const reach = (event.pointerType === "touch" ? 0.14 : 0.08) * VIEW;
    const near = points.findIndex((p) => distance(p, at) < reach);
    if (near < 0) return roll(at);
    canvas.setPointerCapture(event.pointerId);
    selected = dragged = near;
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged !== null) moved(dragged, where(event));
  });
  for (const ends of ["pointerup", "pointercancel"]) canvas.addEventListener(ends, () => (dragged = null));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (step) {
      event.preventDefault();
      moved(selected, points[selected].map((v, k) => v + 0.04 * step[k]));
    } else if (event.key.toLowerCase() === "n") {
      selected = (selected + 1) % points.length;
      paint();
    } else if (event.key.toLowerCase() === "b") roll(anywhere());
  });
  for (const happens of ["focus", "blur"]) canvas.addEventListener(happens, paint);

  const count = (wanted) => {
    points = wanted;
    selected = Math.min(selected, points.length - 1);
    ball = null;
    cancelAnimationFrame(frame);
    $("more").disabled = points.length >= MOST;
    $("fewer").disabled = points.length <= 1;
    changed();
  };
  $("more").addEventListener("click", () => count([...points, anywhere().map((v) => 0.7 * v)]));
  $("fewer").addEventListener("click", () => count(points.slice(0, -1)));
  $("reset").addEventListener("click", () => {
    $("sharp").value = 90;
    count(FIRST.map((p) => [...p]));
  });
  $("sharp").addEventListener("input", changed);
  $("ball").addEventListener("click", () => roll(anywhere()));
  onTheme(() => {
    if (chart) chart.map = map();
    paint();
  });

  count(points);
}
