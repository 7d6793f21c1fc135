"""Pictures of patterns, recalls, energies and trainings, and films of a recall.

Every function draws on the axes that it is given, or on a figure of its own, and returns the
axes; `ax.figure.savefig("picture.png")` writes them. Nothing is shown, and no global state of
Matplotlib is read or changed. In a notebook, end a cell with `ax.figure`.

The background is white, whatever the theme of the page around it. Colours are those of Okabe and
Ito, which colour-blind readers tell apart.
"""

from amlib.plots.charts import (
    capacity as capacity,
    landscape as landscape,
    memories as memories,
)
from amlib.plots.curves import history as history
from amlib.plots.film import animate as animate, require_video as require_video
from amlib.plots.hypergraph import ham as ham
from amlib.plots.landscapes import (
    barrier as barrier,
    basin as basin,
    census as census,
)
from amlib.plots.overlaps import overlaps as overlaps
from amlib.plots.pictures import (
    BLUE as BLUE,
    GREEN as GREEN,
    ORANGE as ORANGE,
    PURPLE as PURPLE,
    Picture as Picture,
    energies as energies,
    grid as grid,
    recall as recall,
)
from amlib.plots.trees import (
    bifurcations as bifurcations,
    disconnectivity as disconnectivity,
)
