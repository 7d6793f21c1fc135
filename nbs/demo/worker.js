// What computes lives here, so that the page answers while it does.

import { load, D } from "./icons.js";
import { energies, Patterns, recall } from "./memory.js";
import { chart } from "./landscape.js";

const icons = load();
icons.catch(() => {}); // the first recall says so
let stored = { key: null, patterns: null };

/** The patterns of these pictures and, if there is one, of a drawing; kept until others are asked for. */
async function patternsOf(rows, drawing) {
  const key = `${rows.join()}|${drawing?.join() ?? ""}`;
  if (stored.key !== key) {
    const { row } = await icons;
    const patterns = new Patterns(rows.length + (drawing ? 1 : 0), D);
    rows.forEach((k, at) => patterns.set(at, row(k)));
    if (drawing) patterns.set(rows.length, drawing);
    stored = { key, patterns };
  }
  return stored.patterns;
}

const answers = {
  async recall({ rows, drawing, energy, x, seed, clamp }) {
    const patterns = await patternsOf(rows, drawing);
    const began = performance.now();
    const made = recall(patterns, energies[energy.kind](energy.parameter), x, { seed, clamp });
    const nearest = made.overlaps.reduce((best, h, k, all) => (h > all[best] ? k : best), 0);
    return { ...made, nearest, overlap: made.overlaps[nearest], ms: performance.now() - began };
  },
  chart: ({ points, beta, cells, view }) => chart(points, beta, cells, view),
};

self.onmessage = async ({ data: { id, task, ...given } }) => {
  try {
    self.postMessage({ id, value: await answers[task](given) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
