// The energy against visits, drawn as far as the recall has come.

import { colours } from "./screen.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [104, 16, 16, 46];

/** A number of few characters, with a true minus sign. */
const shown = (value) =>
  (Math.abs(value) >= 1e5
    ? value.toExponential(1).replace("e+", "e")
    : value.toLocaleString("en", { maximumFractionDigits: value > -100 ? 2 : 0 })
  ).replace("-", "−");

/** `run` as `memory.recall` returns it; `done` of its kept flips are shown. */
export function curve(canvas, run, done) {
  const pen = canvas.getContext("2d");
  const { ink, soft, line, paper, accent } = colours();
  const { width, height } = canvas;
  pen.fillStyle = paper;
  pen.fillRect(0, 0, width, height);
  pen.font = "26px system-ui, sans-serif";
  pen.strokeStyle = line;
  pen.lineWidth = 1;
  pen.strokeRect(LEFT, TOP, width - LEFT - RIGHT, height - TOP - BOTTOM);
  if (!run) return;
  const top = run.start;
  const low = run.energies.length ? run.energies.at(-1) : run.start - 1;
  const across = (t) => LEFT + ((width - LEFT - RIGHT) * t) / Math.max(1, run.total);
  const down = (e) => TOP + 8 + ((height - TOP - BOTTOM - 16) * (top - e)) / (top - low || 1);
  pen.fillStyle = soft;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillText(shown(top), LEFT - 8, down(top));
  pen.fillText(shown(low), LEFT - 8, down(low));
  pen.textBaseline = "top";
  pen.fillText(`${run.total.toLocaleString("en")} visits`, width - RIGHT, height - BOTTOM + 8);
  pen.textAlign = "left";
  pen.fillText("0", LEFT, height - BOTTOM + 8);
  pen.strokeStyle = accent;
  pen.lineWidth = 3;
  pen.beginPath();
  pen.moveTo(across(0), down(run.start));
  let before = run.start;
  for (let k = 0; k < done; k++) {
    pen.lineTo(across(run.visits[k]), down(before));
    before = run.energies[k];
    pen.lineTo(across(run.visits[k]), down(before));
  }
  const whole = done === run.bits.length;
  const at = whole ? run.total : (run.visits[done - 1] ?? 0);
  pen.lineTo(across(at), down(before));
  pen.stroke();
  pen.fillStyle = ink;
  pen.beginPath();
  pen.arc(across(at), down(before), 5, 0, 2 * Math.PI);
  pen.fill();
}
