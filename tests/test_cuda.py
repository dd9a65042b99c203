"""The same job on a CUDA device; run wherever one can be had."""

import pytest
import torch

from tlcli import finetune, load
from tlcli.inference.predict import open_bundle

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    "options",
    [
        {"case": "small-similar"},
        {"case": "small-different"},
        {"case": "large-similar", "epochs": 2},
        {"freeze": "features.5", "optimizer": "sgd", "epochs": 3, "accumulate": 2},
        {"case": "large-different", "epochs": 2, "precision": "fp16"},
        {"case": "large-different", "epochs": 2, "precision": "fp32"},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_a_run_trains_and_its_bundle_predicts_on_the_cpu_with_the_same_answers(
    flowers, tmp_path, options
):
    run = finetune(flowers, output=tmp_path / "run", device="cuda", **options)
    assert run.status == "finished"
    images = sorted(flowers.glob("*/*.jpg"))
    cpu, cuda = (load(run.folder, device_name=d).predict(images) for d in ("cpu", "cuda"))
    assert [a.label for a in cpu] == [a.label for a in cuda]
    assert max(abs(a.probability - b.probability) for a, b in zip(cpu, cuda, strict=True)) < 0.02


def test_frozen_tensors_stay_to_the_bit_on_cuda(flowers, tmp_path):
    run = finetune(flowers, output=tmp_path / "run", device="cuda", freeze="features.5", epochs=1)
    from tlcli.backbones import build

    start = build.load("efficientnet_lite0").model.state_dict()
    network, _ = open_bundle(run.bundle)
    for name, tensor in network.tensors(network.stages[: network.cut]).items():
        assert torch.equal(tensor, start[name]), name
