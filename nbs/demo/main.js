// The page: two panels, and one worker that computes for both.

import { start as startRepair } from "./repair.js";
import { start as startValley } from "./valley.js";

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

export function complain(error) {
  const box = document.getElementById("wrong");
  box.textContent = error?.message ?? String(error);
  box.hidden = false;
}

worker.onmessage = ({ data: { id, value, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(value);
};
worker.onerror = (event) => complain(event.message ?? "The worker of this page could not be started.");

/** Have the worker do a task; a promise of its answer. */
function compute(task, given) {
  const id = asked++;
  worker.postMessage({ id, task, ...given });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

startRepair(compute).catch(complain);
startValley(compute).catch(complain);
