// The first panel: draw, damage, recall.

import { curve } from "./curve.js";
import { D, load, SIZE } from "./icons.js";
import { generator, permutation } from "./random.js";
import { $, colours, isStill, onTheme, place, rgb } from "./screen.js";

const COUNTS = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4134];
const SECONDS = 2.5; // that a recall is shown for
const HALF = D / 2;
const cell = 10;

const formulas = {
  classical: () => "E(x) = −½ Σ (ξ·x)²",
  polynomial: (n) => `E(x) = −Σ max(ξ·x, 0)${String(n).replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])}`,
  exponential: () => "E(x) = −(1/β) log Σ exp(β ξ·x)",
};

export async function start(compute) {
  const icons = await load();
  const order = permutation(icons.names.length, generator(1)); // a varied subset: they are sorted by name
  const x = new Int8Array(D).fill(-1);
  const view = { chosen: 0, hidden: false, cursor: null, run: null, done: 0, before: null, frame: 0, turn: 0 };
  let seed = 7;

  // -- what is asked for

  const kind = () => $("energy").value;
  const beta = () => 10 ** ($("beta").value / 10);
  const energy = () => ({ kind: kind(), parameter: { polynomial: +$("power").value, exponential: beta() }[kind()] });
  const count = () => COUNTS[$("count").value];
  /** The rows that are stored: the chosen icon first, then others, always in the same order. */
  const rows = () => [view.chosen, ...order.filter((k) => k !== view.chosen)].slice(0, count());

  function describe() {
    const { kind: name, parameter } = energy();
    $("powerBox").hidden = name !== "polynomial";
    $("betaBox").hidden = name !== "exponential";
    $("powerShown").value = $("power").value;
    $("betaShown").value = beta().toPrecision(2);
    $("countShown").value = count().toLocaleString("en");
    $("flipped").value = `${$("share").value} %`;
    $("formula").textContent = formulas[name](parameter);
    $("hide").setAttribute("aria-pressed", view.hidden);
    $("hide").textContent = view.hidden ? "Show the lower half" : "Hide the lower half";
  }

  // -- drawing

  function paint() {
    const pen = $("state").getContext("2d");
    const { picture, ground, known, accent } = colours();
    for (let i = 0; i < D; i++) {
      pen.fillStyle = x[i] > 0 ? picture : view.hidden && i < HALF ? known : ground;
      pen.fillRect((i % SIZE) * cell, Math.floor(i / SIZE) * cell, cell, cell);
    }
    if (view.cursor !== null && document.activeElement === $("state")) {
      pen.strokeStyle = accent;
      pen.lineWidth = 3;
      pen.strokeRect((view.cursor % SIZE) * cell, Math.floor(view.cursor / SIZE) * cell, cell, cell);
    }
    curve($("curve"), view.run, view.done);
  }

  /** Draw `row` small, as the stored picture nearest to the end, or nothing. */
  function thumbnail(row, name) {
    const pen = $("nearest").getContext("2d");
    const [on, off] = [rgb(colours().picture), rgb(colours().ground)];
    const pixels = pen.createImageData(144, 144);
    for (let at = 0; at < 144 * 144; at++) {
      const i = Math.floor(at / 144 / 3) * SIZE + Math.floor((at % 144) / 3);
      pixels.data.set([...(row?.[i] > 0 ? on : off), 255], 4 * at);
    }
    pen.putImageData(pixels, 0, 0);
    $("nearestName").textContent = name;
  }

  const say = (text) => ($("status").textContent = text);
  const buttons = () => {
    const moving = view.frame !== 0;
    $("recall").disabled = false;
    $("end").disabled = !moving;
    $("back").disabled = view.before === null;
  };

  /** Forget the last recall: the picture, or what is asked for, is another now. */
  function changed() {
    cancelAnimationFrame(view.frame);
    Object.assign(view, { run: null, done: 0, before: null, frame: 0, turn: view.turn + 1 });
    thumbnail(null, "The stored picture nearest to the end.");
    describe();
    paint();
    buttons();
  }

  // -- recall

  async function recall() {
    changed();
    const { turn } = view;
    say("Recalling…");
    $("recall").disabled = true;
    const asked = rows();
    const drawing = $("own").checked ? Int8Array.from(x) : null;
    const clamp = view.hidden ? Uint8Array.from({ length: D }, (_, i) => +(i < HALF)) : null;
    const run = await compute("recall", { rows: asked, drawing, energy: energy(), x, seed: seed++, clamp });
    if (turn !== view.turn) return; // something else is on the canvas by now
    const isOwn = run.nearest === asked.length;
    const name = isOwn ? "your drawing" : icons.names[asked[run.nearest]];
    Object.assign(view, { run, before: Int8Array.from(x), nearest: isOwn ? drawing : icons.row(asked[run.nearest]), name });
    const began = performance.now();
    const move = (now) => {
      const share = isStill() ? 1 : Math.min(1, (now - began) / (1000 * SECONDS));
      show(Math.round(share * run.bits.length));
      view.frame = share < 1 ? requestAnimationFrame(move) : 0;
      if (share === 1) finish();
      buttons();
    };
    view.frame = requestAnimationFrame(move);
  }

  function show(done) {
    for (; view.done < done; view.done++) x[view.run.bits[view.done]] *= -1;
    say(`${view.done.toLocaleString("en")} of ${view.run.bits.length.toLocaleString("en")} flips`);
    paint();
  }

  function finish() {
    const { run, name } = view;
    const apart = (D - run.overlap) / 2;
    const found = apart === 0 ? `This is ${name}, to the last pixel` : `The nearest is ${name}, ${apart} pixels apart`;
    say(
      `${found}. ${run.bits.length.toLocaleString("en")} flips in ${run.sweeps} sweeps ` +
        `${run.converged ? "" : "(it had not come to rest) "}and ${Math.round(run.ms)} ms.`,
    );
    thumbnail(view.nearest, name);
    buttons();
  }

  // -- the controls

  function choose(k) {
    view.chosen = k;
    view.hidden = false;
    x.set(icons.row(k));
    $("icon").value = icons.names[k];
    changed();
    say(`${icons.names[k]}: damage it, then press Recall.`);
  }

  function damage() {
    const random = generator(seed++);
    const among = permutation(D, random).slice(0, Math.round((D * $("share").value) / 100));
    for (const i of among) if (!(view.hidden && i < HALF)) x[i] *= -1;
    changed();
    say(`${among.length.toLocaleString("en")} pixels were flipped. Press Recall.`);
  }

  function hide() {
    view.hidden = !view.hidden;
    if (view.hidden) x.fill(-1, HALF);
    else x.set(icons.row(view.chosen).subarray(HALF), HALF);
    changed();
    say(view.hidden ? "The upper half is known and stays. Press Recall." : "All pixels may flip.");
  }

  $("icon").addEventListener("change", () => {
    const k = icons.names.indexOf($("icon").value.trim().toLowerCase().replaceAll(" ", "-"));
    if (k < 0) say(`There is no icon ${$("icon").value}.`);
    else choose(k);
  });
  $("icon").addEventListener("focus", () => $("icon").select());
  $("any").addEventListener("click", () => choose(Math.floor(Math.random() * icons.names.length)));
  $("blank").addEventListener("click", () => {
    x.fill(-1, view.hidden ? HALF : 0);
    changed();
    say("Draw with the mouse, a finger, or the arrow keys and the space bar.");
  });
  $("flip").addEventListener("click", damage);
  $("hide").addEventListener("click", hide);
  $("recall").addEventListener("click", () => recall().catch((error) => say(`${error.message}`)));
  $("end").addEventListener("click", () => {
    cancelAnimationFrame(view.frame);
    view.frame = 0;
    show(view.run.bits.length);
    finish();
  });
  $("back").addEventListener("click", () => {
    x.set(view.before);
    changed();
    say("As it was before.");
  });
  $("share").addEventListener("input", describe);
  for (const id of ["energy", "power", "beta", "count", "own"]) $(id).addEventListener("input", changed);

  const state = $("state");
  const set = (i, value) => {
    if (view.frame || view.run) changed();
    if (!(view.hidden && i < HALF)) x[i] = value;
  };
  const mark = (event) => {
    const [column, row] = place(state, event).map((at) => Math.floor(at * SIZE));
    const value = +document.querySelector("input[name=pen]:checked").value;
    for (const [down, right] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const [r, c] = [row + down, column + right];
      if (r >= 0 && r < SIZE && c >= 0 && c < SIZE) set(r * SIZE + c, value);
    }
    paint();
  };
  state.addEventListener("pointerdown", (event) => {
    state.setPointerCapture(event.pointerId);
    mark(event);
  });
  state.addEventListener("pointermove", (event) => {
    if (state.hasPointerCapture(event.pointerId)) for (const e of event.getCoalescedEvents?.() ?? [event]) mark(e);
  });
  state.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -SIZE, ArrowDown: SIZE }[event.key];
    if (step === undefined && event.key !== " ") return;
    event.preventDefault();
    const at = view.cursor ?? (D + SIZE) / 2;
    if (step === undefined) set(at, -x[at]);
    else view.cursor = (at + step + D) % D;
    paint();
  });
  for (const happens of ["focus", "blur"])
    state.addEventListener(happens, () => {
      view.cursor ??= (D + SIZE) / 2;
      paint();
    });
  onTheme(() => {
    thumbnail(view.run && !view.frame ? view.nearest : null, $("nearestName").textContent);
    paint();
  });

  $("names").replaceChildren(
    ...icons.names.map((name) => Object.assign(document.createElement("option"), { value: name })),
  );
  choose(Math.max(0, icons.names.indexOf("dragon-head")));
  damage();
}
