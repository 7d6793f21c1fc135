"""What a compiled program sends between devices, and how often: read from its text.

for op in collectives(jax.jit(f).lower(*args).compile().as_text()):
    print(op.kind, op.dtype, op.shape, op.bytes, op.loops)
"""

import math
import re
from typing import NamedTuple

_SIZES = {"pred": 1, "bf16": 2, "f16": 2}
_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


class Collective(NamedTuple):
    """One collective operation.

    - `kind`: `all-reduce` and so on.
    - `dtype`, `shape`: of its result on one device.
    - `loops`: how many turns each loop around it takes, the outermost first; `None` where that is
      only known when it runs.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    loops: tuple[int | None, ...]

    @property
    def bytes(self) -> int:
        """The size of the result of one turn."""
        digits = re.search(r"\d+", self.dtype)
        size = _SIZES.get(self.dtype) or int(digits[0]) // 8 if digits else 1
        return math.prod(self.shape) * size


def collectives(text: str) -> list[Collective]:
    """The collective operations of a compiled program."""
    bodies: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            bodies[name].append(line)
    found: list[Collective] = []
    _walk(bodies, entry, (), found)
    return found


def _walk(
    bodies: dict[str, list[str]], name: str, loops: tuple[int | None, ...], found: list[Collective]
) -> None:
    for line in bodies.get(name, ()):
        if made := re.search(rf"= (.*?) ({_KINDS})(?:-start)?\(", line):
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", made[1])
            for dtype, sizes in shapes:
                shape = tuple(int(n) for n in sizes.split(",") if n)
                found.append(Collective(made[2], dtype, shape, loops))
        if " while(" in line:
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            inner = (*loops, int(count[1]) if count else None)
            for part in re.findall(r"(?:body|condition)=%?([\w.\-]+)", line):
                _walk(bodies, part, inner, found)
            continue
        called = re.findall(
            r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line
        )
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            called += [part.strip().lstrip("%") for part in group.split(",")]
        for part in called:
            _walk(bodies, part, loops, found)
