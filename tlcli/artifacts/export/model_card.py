"""MODEL_CARD.md: what a model is, what it was measured on, and what it is not for."""

from tlcli.artifacts.bundle import BundleMeta
from tlcli.artifacts.render import render
from tlcli.artifacts.run_folder import TrainingData
from tlcli.backbones.weights import weights_license

CARD = "MODEL_CARD.md"


def model_card(meta: BundleMeta, data: TrainingData | None) -> str:
    """Return the page as Markdown; facts that are missing are said to be unknown.

    Args:
        data: the folder that the model was trained on; None if run.json is gone.
    """
    trained = meta.plan.get("trained")
    return render(
        "model_card.md",
        meta=meta,
        dataset=data.root.name if data else "",
        counts=data.counts if data else None,
        plan={
            "case": meta.plan.get("case"),
            "trained": trained if isinstance(trained, list) else [],
            "why": meta.plan.get("why"),
        },
        license=weights_license(meta.backbone, meta.weights),
    )
