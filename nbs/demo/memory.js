// Recall by flips in a dense associative memory: E(x) = -g(sum over patterns of f(overlap)).
//
// Overlaps of spins are whole numbers, so f is a table that is read at h + offset. A visit to a bit
// compares the sum before and after its flip, in one pass over the patterns.

import { generator, permutation } from "./random.js";

/** Patterns of -1 and +1, one column per bit: what a visit reads lies side by side. */
export class Patterns {
  constructor(K, D) {
    this.K = K;
    this.D = D;
    this.columns = new Int8Array(K * D);
  }

  /** From rows of -1 and +1. */
  static of(rows) {
    const made = new Patterns(rows.length, rows[0].length);
    rows.forEach((row, k) => made.set(k, row));
    return made;
  }

  set(k, row) {
    for (let i = 0; i < this.D; i++) this.columns[i * this.K + k] = row[i];
  }

  /** xi . x of every pattern. */
  overlaps(x) {
    const { K, D, columns } = this;
    const h = new Int32Array(K);
    for (let i = 0; i < D; i++) {
      const start = i * K;
      if (x[i] > 0) for (let k = 0; k < K; k++) h[k] += columns[start + k];
      else for (let k = 0; k < K; k++) h[k] -= columns[start + k];
    }
    return h;
  }
}

// Each energy gives its table for overlaps from -D - 2 to D + 2, and the energy of a sum. Only the
// exponential has a reference: exp(beta h) overflows, so the table is of exp(beta (h - reference)).

const spread = (D, f) => Float64Array.from({ length: 2 * D + 5 }, (_, at) => f(at - D - 2));

/** E = -1/2 sum h^2. */
export const classical = () => ({
  table: (D) => spread(D, (h) => (h * h) / 2),
  energy: (sum) => -sum,
  far: () => false,
});

/** E = -sum max(h, 0)^n. */
export const polynomial = (n) => ({
  table: (D) => spread(D, (h) => Math.max(h, 0) ** n),
  energy: (sum) => -sum,
  far: () => false,
});

/** E = -1/beta log sum exp(beta h). */
export const exponential = (beta) => ({
  table: (D, reference) => spread(D, (h) => Math.exp(beta * (h - reference))),
  energy: (sum, reference) => -(reference + Math.log(sum) / beta),
  far: (largest, reference) => beta * Math.abs(largest - reference) > 100,
});

export const energies = { classical, polynomial, exponential };

class Flips {
  constructor(patterns, energy, x0) {
    this.patterns = patterns;
    this.law = energy;
    this.x = Int8Array.from(x0);
    this.h = patterns.overlaps(this.x);
    this.refer();
  }

  /** Make the table anew around the largest overlap, and add up. */
  refer() {
    this.reference = this.h.reduce((a, b) => Math.max(a, b), -Infinity);
    this.table = this.law.table(this.patterns.D, this.reference);
    const offset = this.patterns.D + 2;
    this.sum = this.h.reduce((sum, h) => sum + this.table[h + offset], 0);
  }

  get energy() {
    return this.law.energy(this.sum, this.reference);
  }

  /** Visit a bit: flip it if that lowers the energy. */
  visit(i) {
    const { h, table, x } = this;
    const { K, D, columns } = this.patterns;
    const start = i * K;
    const up = D + 2 + 2 * -x[i]; // where a flip leads the overlap of a pattern that has +1 here
    const down = D + 2 + 2 * x[i];
    let after = 0;
    for (let k = 0; k < K; k++) after += table[h[k] + (columns[start + k] > 0 ? up : down)];
    if (!(after > this.sum)) return false;
    const twice = -2 * x[i];
    let largest = -Infinity;
    for (let k = 0; k < K; k++) {
      h[k] += twice * columns[start + k];
      if (h[k] > largest) largest = h[k];
    }
    x[i] = -x[i];
    this.sum = after;
    if (this.law.far(largest, this.reference)) this.refer();
    return true;
  }
}

/** Visit bits in a given order: which flips were kept, the energy after each visit, the end. */
export function visit(patterns, energy, x0, order) {
  const flips = new Flips(patterns, energy, x0);
  const accepted = new Uint8Array(order.length);
  const after = new Float64Array(order.length);
  order.forEach((i, t) => {
    accepted[t] = flips.visit(i);
    after[t] = flips.energy;
  });
  return { x: flips.x, accepted, energies: after };
}

/**
 * Sweep over the free bits, each time in a fresh random order, until a sweep keeps no flip.
 *
 * `clamp` is true where bits are known and stay. Returns the kept flips (bit, energy after it and
 * number of its visit), the energy of the start, and the overlaps at the end.
 */
export function recall(patterns, energy, x0, { seed = 0, clamp = null, maxSweeps = 100 } = {}) {
  const flips = new Flips(patterns, energy, x0);
  const free = [];
  for (let i = 0; i < patterns.D; i++) if (!clamp?.[i]) free.push(i);
  const random = generator(seed);
  const start = flips.energy;
  const [bits, after, visits] = [[], [], []];
  let [sweeps, quiet, at] = [0, false, 0];
  while (sweeps < maxSweeps && !quiet) {
    quiet = true;
    for (const k of permutation(free.length, random)) {
      at += 1;
      if (!flips.visit(free[k])) continue;
      quiet = false;
      bits.push(free[k]);
      after.push(flips.energy);
      visits.push(at);
    }
    sweeps += 1;
  }
  return {
    x: flips.x,
    start,
    bits: Uint16Array.from(bits),
    energies: Float64Array.from(after),
    visits: Uint32Array.from(visits),
    total: at,
    sweeps,
    converged: quiet,
    overlaps: flips.h,
  };
}
