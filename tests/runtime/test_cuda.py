"""The same job on a CUDA device, where there is one."""

import pytest
import torch

from tlcli import finetune, load
from tlcli.inference.load import open_bundle

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
        {"case": "large-similar", "epochs": 2, "lr": "find", "batchnorm": "frozen"},
        {"case": "large-different", "epochs": 2, "average": "ema", "balance": "weights"},
        {"freeze": "features.5", "epochs": 2, "compile": True, "batch_size": 8},
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

    start = build.load_backbone("efficientnet_lite0").model.state_dict()
    network, _ = open_bundle(run.bundle)
    for name, tensor in network.tensors(network.stages[: network.cut]).items():
        assert torch.equal(tensor, start[name]), name


def test_a_batch_that_does_not_fit_is_computed_in_parts(flowers, tmp_path):
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated() + 600 * 2**20  # too little for 32 images of all stages
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held / total)
    try:
        with pytest.warns(UserWarning, match="not enough memory"):
            run = finetune(
                flowers,
                output=tmp_path / "run",
                device="cuda",
                precision="fp32",
                case="large-different",
                epochs=1,
                batch_size=32,
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert run.status == "finished"
