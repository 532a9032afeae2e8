"""How the pictures of the examples are drawn: legible on a white page and on a dark one."""

from typing import Any

INK = "#7a828c"  # between the two pages: at least 3.9 to 1 against either
LINES = ("#3b8fd4", "#e0792f", "#2ea27a", "#c95f97", "#9a8328", "#8a6fd1")


def draw_for_light_and_dark(_settings: dict[str, Any], _script: str) -> None:
    """Before each example: no background, and axes and letters in a grey that both pages show."""
    from cycler import cycler
    from matplotlib import pyplot as plt

    drawn = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color")
    drawn += ("xtick.color", "ytick.color", "legend.labelcolor", "grid.color")
    plt.rcParams.update(dict.fromkeys(drawn, INK))
    plt.rcParams.update({"savefig.transparent": True, "legend.framealpha": 0, "savefig.dpi": 150})
    plt.rcParams["axes.prop_cycle"] = cycler(color=LINES)
