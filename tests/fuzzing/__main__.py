"""The long form: `make fuzz MINUTES=30`, or `python -m tests.fuzzing --seed 17` for one case.

Each core draws cases in processes that are renewed every few dozen, so that neither memory nor
memory maps run out and a crash of the process is a finding like any other. Failing cases are
written as programs to `fuzz-failures/`; the exit status is 1 if there are any.
"""

import argparse
import collections
import json
import os
import queue
import random
import re
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

PER_PROCESS = 40  # cases, then a new process
PATIENCE = 300  # seconds for one case
FOLDER = Path("fuzz-failures")


def run_one(seed: int) -> dict[str, Any]:
    """Draw and check one case; everything that may go wrong is a finding.

    Even seeds are energies of spins, and odd ones of units of several values.
    """
    from tests.fuzzing import energies, oracle, potts

    draw = potts.draw if seed % 2 else energies.draw
    case = draw(random.Random(seed))
    try:
        report = oracle.check(case)._asdict()
    except Exception:  # not the library, which `check` guards, but the energy or this program
        report = {"path": "broken", "reason": traceback.format_exc(limit=-3), "checked": 0}
        report |= {"undecided": 0, "failures": []}
    return report | {"source": case.source(), "used": case.used}


def work(first: int, step: int) -> None:
    """Check `PER_PROCESS` cases; one line of JSON before and after each."""
    for k in range(PER_PROCESS):
        seed = first + k * step
        print(json.dumps({"seed": seed, "begins": True}), flush=True)
        print(json.dumps({"seed": seed} | run_one(seed)), flush=True)


class Table:
    """What came of all cases, and where failing ones are kept."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count: collections.Counter[str] = collections.Counter()
        self.paths: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.used: collections.Counter[str] = collections.Counter()
        self.kinds: dict[str, list[int]] = {}

    def add(self, result: dict[str, Any]) -> None:
        self.count["drawn"] += 1
        self.count["checked"] += result["checked"]
        self.count["undecided"] += result["undecided"]
        self.paths[result["path"]] += 1
        self.used.update(set(result["used"]))
        if result["path"] == "generic":
            self.reasons[re.sub(r"[\d,.]+", "N", result["reason"])] += 1
        if result["path"] == "broken":
            self.finding(result["seed"], ["the fuzzer itself failed"], result["reason"], "broken")
        if result["failures"]:
            raised = any(f.startswith("crash") for f in result["failures"])
            self.finding(
                result["seed"], result["failures"], result["source"],
                "raised" if raised else "wrong",
            )  # fmt: skip

    def finding(self, seed: int, failures: list[str], text: str, kind: str) -> None:
        self.count[kind] += 1
        for f in failures[:1]:
            self.kinds.setdefault(re.sub(r"-?\d[\d.e+-]*|inf|nan", "N", f)[:150], []).append(seed)
        self.folder.mkdir(exist_ok=True)
        head = "".join(f"# {line}\n" for f in failures for line in f.splitlines())
        (self.folder / f"{seed}.py").write_text(
            f"# python -m tests.fuzzing --seed {seed}\n{head}{text}"
        )
        print(f"seed {seed}: {'; '.join(failures)[:400]}", flush=True)

    def __str__(self) -> str:
        c, total = self.count, max(1, sum(self.paths.values()))
        lines = [
            f"energies drawn        {c['drawn']:,}",
            f"values and decisions  {c['checked']:,}",
            f"  of these undecided  {c['undecided']:,} (nothing but rounding)",
            f"wrong                 {c['wrong']:,}",
            f"exceptions            {c['raised']:,}",
            f"processes that died   {c['died']:,}",
            f"fuzzer failed         {c['broken']:,}",
        ]
        lines += [f"path {p:16} {n:,} ({n / total:.0%})" for p, n in self.paths.most_common()]
        lines += [f"  {n:6,}  {reason[:110]}" for reason, n in self.reasons.most_common()]
        lines += [f"FAILED {len(s)}x  {kind}  seeds {s[:5]}" for kind, s in self.kinds.items()]
        return "\n".join(lines)


def _serve(seed: int, step: int, end: float, results: Any) -> None:
    """Keep one core busy until `end`, with every so manieth seed."""
    while time.time() < end:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing", "--worker", str(seed), str(step)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines: queue.Queue[str] = queue.Queue()
        errors: list[str] = []
        assert process.stdout is not None

        def pump(stream=process.stdout, lines=lines):
            for line in stream:
                lines.put(line)
            lines.put("")

        def drain(stream=process.stderr, errors=errors):
            errors.extend(stream)

        threading.Thread(target=pump, daemon=True).start()
        threading.Thread(target=drain, daemon=True).start()
        done = 0
        while done < PER_PROCESS and time.time() < end:
            try:
                line = lines.get(timeout=min(PATIENCE, max(1.0, end - time.time() + 30)))
            except queue.Empty:
                if time.time() < end:
                    results.put((seed, f"no answer in {PATIENCE} s", ""))
                    seed += step
                break
            if not line:
                process.wait()
                results.put(
                    (seed, f"the process died ({process.returncode})", "".join(errors[-30:]))
                )
                seed += step
                break
            message = json.loads(line)
            if "begins" in message:
                seed = message["seed"]
                continue
            results.put(message)
            seed, done = seed + step, done + 1
        process.kill()
        process.wait()
    results.put(None)


def fuzz(minutes: float, jobs: int, first: int, step: int, folder: Path) -> int:
    """Draw cases for some minutes, print the table; the exit status."""
    results: queue.Queue[Any] = queue.Queue()
    end = time.time() + 60 * minutes
    print(f"seeds from {first}, {jobs} processes, {minutes:g} minutes", flush=True)
    for k in range(jobs):
        seeds = (first + k * step, jobs * step)
        threading.Thread(target=_serve, args=(*seeds, end, results), daemon=True).start()
    table, open_jobs, said = Table(folder), jobs, time.time()
    while open_jobs:
        result = results.get()
        if result is None:
            open_jobs -= 1
        elif isinstance(result, tuple):
            seed, what, text = result
            table.finding(seed, [what], "\n".join(f"# {t}" for t in text.splitlines()), "died")
        else:
            table.add(result)
        if time.time() - said > 300:
            said = time.time()
            print(f"{(end - said) / 60:.0f} minutes left\n{table}", flush=True)
    print(table)
    return int(any(table.count[k] for k in ("wrong", "raised", "died", "broken")))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=int(time.time()) % 10**6 * 1000)
    parser.add_argument("--step", type=int, default=1, help="2: with an odd --first no spins")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, help="check this one case and print its program")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        work(*a.worker)
        return 0
    if a.seed is not None:
        result = run_one(a.seed)
        print(result.pop("source"))
        print("\n".join(f"{k:10} {v}" for k, v in result.items()))
        return int(bool(result["failures"]) or result["path"] == "broken")
    return fuzz(a.minutes, a.jobs, a.first, a.step, a.folder)


if __name__ == "__main__":
    sys.exit(main())
