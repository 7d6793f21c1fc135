// What both panels draw with.

export const $ = (id) => document.getElementById(id);

/** The page's colours, which differ in dark mode. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "soft", "line", "room", "accent", "picture", "ground", "known"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Call `draw` when the page turns dark or light. */
export function onTheme(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Where an event lies on a canvas, 0 to 1 in both directions. */
export function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** Red, green and blue, 0 to 255, of a colour "#rrggbb". */
export const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
