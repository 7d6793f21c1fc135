"""Give the pictures that notebooks have saved a palette: a third of the bytes, and nothing to see.

```
python nbs/_sphinx/palettes.py                # all notebooks
python nbs/_sphinx/palettes.py NOTEBOOK ...   # these
```

Jupyter saves figures with 32 bits a pixel. Few have more than 256 colours that an eye can tell
apart; one that has, by a mean error above `ERROR`, stays as it is, and so do films.
"""

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ERROR = 1.0  # of 255, the mean over pixels of what the palette is off in its worst channel


def with_palette(png: bytes) -> bytes:
    """The same picture with at most 256 colours, where that is smaller and as good."""
    with Image.open(io.BytesIO(png)) as image:
        if image.mode not in ("RGB", "RGBA") or getattr(image, "n_frames", 1) > 1:
            return png
        if image.mode == "RGBA" and image.getextrema()[-1] != (255, 255):
            return png  # what is behind it shines through
        colours = image.convert("RGB")
        dpi = image.info.get("dpi", (72, 72))
    few = colours.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    off = np.abs(np.asarray(few.convert("RGB"), np.int16) - np.asarray(colours, np.int16))
    file = io.BytesIO()
    few.save(file, "png", optimize=True, dpi=dpi)
    small = file.getvalue()
    return small if off.max(-1).mean() < ERROR and len(small) < len(png) else png


def saved(notebook: dict) -> Iterator[dict]:
    """The outputs of a notebook that are PNG pictures, by MIME type."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                yield output["data"]


def shrink(path: Path) -> None:
    """Write a notebook anew, if a picture of it became smaller."""
    text = path.read_text()
    notebook = json.loads(text)
    for data in saved(notebook):
        old = "".join(data["image/png"])
        png = base64.b64decode(old)
        small = with_palette(png)
        if small is not png:
            data["image/png"] = base64.b64encode(small).decode() + "\n" * old.endswith("\n")
    new = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if len(new) < len(text):
        path.write_text(new)
        print(f"{path}: {len(text):,} to {len(new):,} bytes")


if __name__ == "__main__":
    given = list(map(Path, sys.argv[1:]))
    for path in given or sorted(Path(__file__).parents[1].rglob("*.ipynb")):
        shrink(path)
