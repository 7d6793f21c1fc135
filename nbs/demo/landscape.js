// The log-sum-exp energy of points in the plane, E(x) = -1/beta log sum exp(-beta/2 |x - xi|^2), its
// minima, and which of them each place rolls to.

/** Weights of the points at (x, y), and the energy there. */
function look(points, beta, x, y) {
  let least = Infinity;
  for (const [a, b] of points) least = Math.min(least, ((x - a) ** 2 + (y - b) ** 2) / 2);
  let [total, meanX, meanY] = [0, 0, 0];
  for (const [a, b] of points) {
    const weight = Math.exp(beta * (least - ((x - a) ** 2 + (y - b) ** 2) / 2));
    total += weight;
    meanX += weight * a;
    meanY += weight * b;
  }
  return { energy: least - Math.log(total) / beta, mean: [meanX / total, meanY / total] };
}

export const energy = (points, beta, [x, y]) => look(points, beta, x, y).energy;

/** The gradient: x minus the weighted mean of the points. */
export function gradient(points, beta, [x, y]) {
  const { mean } = look(points, beta, x, y);
  return [x - mean[0], y - mean[1]];
}

/** Where mean shift from (x, y) ends: each step goes to the weighted mean of the points. */
export function settle(points, beta, [x, y], steps = 2000, tolerance = 1e-7) {
  for (let t = 0; t < steps; t++) {
    const { mean } = look(points, beta, x, y);
    const moved = Math.abs(mean[0] - x) + Math.abs(mean[1] - y);
    [x, y] = mean;
    if (moved < tolerance) break;
  }
  return [x, y];
}

/** Whether the Hessian at a rest point has no falling direction. */
function isMinimum(points, beta, [x, y], small = 1e-4) {
  const here = energy(points, beta, [x, y]);
  for (let k = 0; k < 16; k++) {
    const [dx, dy] = [Math.cos((k * Math.PI) / 8), Math.sin((k * Math.PI) / 8)];
    const there = energy(points, beta, [x + 30 * small * dx, y + 30 * small * dy]);
    if (there < here - 1e-12) return false;
  }
  return true;
}

/** The minima, from mean shift started at every point, at every midpoint and at their centre. */
export function minima(points, beta) {
  const starts = [...points];
  for (let i = 0; i < points.length; i++)
    for (let j = 0; j < i; j++)
      starts.push([(points[i][0] + points[j][0]) / 2, (points[i][1] + points[j][1]) / 2]);
  const sum = points.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);
  starts.push([sum[0] / points.length, sum[1] / points.length]);
  const found = [];
  for (const start of starts) {
    const end = settle(points, beta, start, 20000, 1e-10);
    const known = found.some(([a, b]) => Math.hypot(a - end[0], b - end[1]) < 1e-3);
    if (!known && isMinimum(points, beta, end)) found.push(end);
  }
  return found;
}

/** Energies of `cells` x `cells` places of the square -view to view, the minima, and each place's one. */
export function chart(points, beta, cells, view) {
  const bottoms = minima(points, beta);
  const heights = new Float32Array(cells * cells);
  const basins = new Int16Array(cells * cells);
  const at = (k) => -view + (2 * view * (k + 0.5)) / cells;
  for (let row = 0; row < cells; row++) {
    for (let column = 0; column < cells; column++) {
      const place = [at(column), -at(row)]; // up is up
      heights[row * cells + column] = energy(points, beta, place);
      const end = settle(points, beta, place, 400, 1e-5);
      let [best, least] = [-1, Infinity];
      bottoms.forEach(([a, b], k) => {
        const distance = Math.hypot(a - end[0], b - end[1]);
        if (distance < least) [best, least] = [k, distance];
      });
      basins[row * cells + column] = best;
    }
  }
  return { heights, basins, minima: bottoms };
}
