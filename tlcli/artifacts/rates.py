"""The learning rate range test as a drawing in the report."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT = 560, 200, 60


def rate_curve(curve: Sequence[tuple[float, float]], found: float) -> str:
    """The smoothed loss by learning rate (its axis logarithmic), and what was picked, as HTML.

    Args:
        curve: learning rates, growing, and the loss at each; at least two.
    """
    logs = [math.log10(lr) for lr, _ in curve]
    losses = [loss for _, loss in curve]
    low, high = min(losses), max(losses)

    def x(lr: float) -> float:
        share = (math.log10(lr) - logs[0]) / (logs[-1] - logs[0])
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - 20)

    def y(loss: float) -> float:
        return 10 + (HEIGHT - 40) * (1 - (loss - low) / (high - low + 1e-12))

    path = " ".join(f"{x(lr):.1f},{y(loss):.1f}" for lr, loss in curve)
    ticks = "".join(
        f"<text x={x(10.0**power):.0f} y={HEIGHT - 5} text-anchor=middle>1e{power}</text>"
        for power in range(math.ceil(logs[0]), math.floor(logs[-1]) + 1)
    )
    sides = "".join(f"<text x=0 y={y(loss) + 4:.0f}>{loss:.3g}</text>" for loss in (low, high))
    return (
        f"<h2>Learning rate range test</h2><p class=dim>The smoothed loss while the rate grows; "
        f"picked: {found:.1e} (red).</p><svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} role=img "
        f"aria-label='loss by learning rate'>{sides}{ticks}"
        f"<line x1={x(found):.1f} x2={x(found):.1f} y1=10 y2={HEIGHT - 30} stroke='#c8402c' />"
        f"<polyline points='{path}' fill=none stroke='#2a6f97' stroke-width=2 /></svg>"
    )
