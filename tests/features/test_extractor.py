"""The feature extractor: the same features whoever computes them, in fp32 and in bf16."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.fakes import RecordingReporter
from tlcli.backbones import build
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import scan
from tlcli.errors import UsageError
from tlcli.features import fast_stages, precision_check
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import bytes_per_view, extract_features
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import CachedFeatures
from tlcli.features.views import Views
from tlcli.inference import load as predict
from tlcli.metrics.metrics import Agreement
from tlcli.runtime import device, mapped_tensor
from tlcli.runtime.device import Compute, choose_device, has_native_bf16
from tlcli.runtime.workers import compute_in_parallel


@pytest.fixture(scope="module")
def backbone():
    return build.load_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (16, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return nn.functional.interpolate(small.float(), size=224, mode="bilinear").to(torch.uint8)


def make_extractor(backbone, compute, reporter=None):
    stages = nn.Sequential(*backbone.stages[:-1])
    return FeatureExtractor(
        stages, backbone.preprocessing, compute, reporter or RecordingReporter()
    )


def test_auto_is_bf16_where_the_cpu_has_it_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "has_native_bf16", lambda: True)
    assert choose_device("cpu").name == "cpu bf16"
    assert choose_device("cpu").feature_dtype is torch.bfloat16
    monkeypatch.setattr(device, "has_native_bf16", lambda: False)
    assert choose_device("cpu").name == "cpu fp32"
    assert choose_device("cpu", "bf16").name == "cpu bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_position_in_a_batch_and_the_number_of_workers_change_no_bit(
    backbone, images, precision
):
    compute, reporter = choose_device("cpu", precision), RecordingReporter()
    extractor = make_extractor(backbone, compute, reporter)
    first = extractor(images)
    assert first.dtype is compute.feature_dtype
    assert not first.is_inference()
    assert torch.equal(extractor(images.flip(0)).flip(0), first)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert (compute.workers, compute.threads) == (3, 1)
        for out in compute_in_parallel(extractor, [images] * 5, compute):
            assert torch.equal(out, first)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert not reporter.warnings


def test_fp16_is_not_for_a_cpu():
    with pytest.raises(UsageError, match="is for CUDA"):
        choose_device("cpu", "fp16")


def test_bf16_stays_near_fp32_and_its_reference_is_fp32(backbone, images):
    extractor = make_extractor(backbone, choose_device("cpu", "bf16"))
    assert bytes_per_view(extractor) == 1280 * 2
    assert extractor.forward.pending  # not checked on a black image
    exact = extractor.reference()
    assert exact.compute.dtype is None
    assert exact.reference() is exact
    a, b = exact(images), extractor(images).float()
    assert 0 < (a - b).norm() / a.norm() < 0.1


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1.01), ("bf16", 2.0)])
def test_a_forward_pass_that_differs_too_much_gives_way_to_the_plain_stages(
    backbone, images, precision, scale, monkeypatch
):
    fast = fast_stages.build_fast_stage
    monkeypatch.setattr(
        fast_stages,
        "build_fast_stage",
        lambda stage, compute: nn.Sequential(fast(stage, compute), Scaled(scale)),
    )
    reporter = RecordingReporter()
    extractor = make_extractor(backbone, choose_device("cpu", precision), reporter)
    out = extractor(images)
    assert len(reporter.warnings) == (1 if precision == "fp32" else 2)
    assert "the forward pass in cpu fp32 differs from plain fp32 by" in reporter.warnings[-1]
    plain = FeatureExtractor(
        extractor.stages, backbone.preprocessing, choose_device("cpu", "fp32"), optimize=False
    )
    assert torch.equal(out, plain(images).to(out.dtype))


def test_bf16_that_differs_too_much_gives_way_to_fp32(backbone, images, monkeypatch):
    monkeypatch.setitem(precision_check.MAX_RELATIVE_ERROR, torch.bfloat16, 1e-4)
    reporter = RecordingReporter()
    extractor = make_extractor(backbone, choose_device("cpu", "bf16"), reporter)
    out = extractor(images)
    assert len(reporter.warnings) == 1
    assert out.dtype is torch.bfloat16  # cached features have one type
    assert torch.equal(
        out, make_extractor(backbone, choose_device("cpu", "fp32"))(images).bfloat16()
    )


def test_features_of_a_fallback_have_a_table_of_their_own(
    two_classes, backbone, monkeypatch, tmp_path
):
    """The data decides whether bf16 is close enough; rows of two precisions are never mixed."""
    samples = scan(two_classes).train
    checks = []

    def run(limit, folder=tmp_path / "cache"):
        monkeypatch.setitem(precision_check.MAX_RELATIVE_ERROR, torch.bfloat16, limit)
        extractor = FeatureExtractor(
            nn.Sequential(*backbone.stages[:2]),
            backbone.preprocessing,
            choose_device("cpu", "bf16"),
            RecordingReporter(),
            origin={"backbone": "b", "weights": "w"},
            reference_samples=choose_reference_samples(samples),
        )
        compare = extractor.forward._compare
        monkeypatch.setattr(
            extractor.forward, "_compare", lambda x: (checks.append(len(x)), compare(x))
        )
        features, *_ = extract_features(
            samples, extractor, task="x", cache=FeatureCache(folder), reporter=RecordingReporter()
        )
        return features, extractor.key()

    near, key = run(1.0)
    assert "fallen" not in key
    assert checks == [4]
    again, _ = run(1.0)
    assert checks == [4]  # the choice is read from the cache
    assert torch.equal(near, again)
    FeatureCache(tmp_path / "cache").clear()
    run(1.0)
    (tmp_path / "cache" / "verdicts.json").unlink()
    far, key = run(1e-9)  # as if other images were compared
    assert key["fallen"] == "cpu fp32"
    assert not torch.equal(near, far)
    assert torch.equal(far, run(1e-9, tmp_path / "other")[0])


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


def test_what_cannot_be_compiled_runs_uncompiled(backbone, images, monkeypatch):
    def refuse(*_, **__):
        def call(_):
            raise RuntimeError("no compiler here\nand more")

        class Refusing(nn.Module):
            forward = staticmethod(call)

        return Refusing()

    monkeypatch.setattr(torch, "compile", refuse)
    reporter = RecordingReporter()
    extractor = make_extractor(backbone, choose_device("cpu", "fp32", compiled=True), reporter)
    assert extractor(images).shape == (16, 1280)
    assert "cannot be compiled (no compiler here)" in reporter.warnings[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_activations_are_mapped_and_cached_runs_give_the_same_bytes(
    backbone, flowers, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr(mapped_tensor, "MIN_MAPPED_BYTES", 1)
    dataset = scan(flowers)
    samples = dataset.train[:10]
    stages = nn.Sequential(*backbone.stages[:2])
    more = {"views": Views(2, make_augmentation(parse_augment("light"))), "task": "x"}

    def get(cache):
        extractor = FeatureExtractor(
            stages, backbone.preprocessing, choose_device("cpu", precision), origin=backbone.origin
        )
        return extract_features(
            samples, extractor, cache=cache, reporter=RecordingReporter(), **more
        )[0]

    cache = FeatureCache(tmp_path, reporter=RecordingReporter())
    computed, cached, plain = get(cache), get(cache), get(None)
    assert torch.equal(computed, plain)
    assert torch.equal(cached, plain)
    assert plain.dtype is choose_device("cpu", precision).feature_dtype
    rows = [path.stat().st_size for path in tmp_path.glob("*/*.npy")]
    assert sum(rows) < plain.nbytes * 1.01
    assert not [path for path in tmp_path.iterdir() if path.is_file()]  # the mapped one is gone
    (size,) = [int(line.split()[1]) for line in smaps() if line.startswith("Size")][:1]
    assert size * 1024 >= plain.nbytes


def smaps():
    """Return what the kernel reports of this process's largest mapping of a deleted file."""
    from pathlib import Path

    path = Path("/proc/self/smaps")
    if not path.exists():
        pytest.skip("needs /proc")
    parts, lines = [], path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.endswith("(deleted)"):
            parts.append(lines[number + 1 : number + 3])
    return max(parts, key=lambda part: int(part[0].split()[1]), default=[])


def test_an_unreadable_image_leaves_no_row(backbone, flowers, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_tensor, "MIN_MAPPED_BYTES", 1)
    samples = list(scan(flowers).train[:5])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    samples[2] = type(samples[2])(bad, samples[2].label, "0" * 64)
    stages = nn.Sequential(*backbone.stages[:2])
    extractor = FeatureExtractor(
        stages, backbone.preprocessing, choose_device("cpu"), origin=backbone.origin
    )
    cache = FeatureCache(tmp_path / "cache", reporter=RecordingReporter())
    more = {"task": "x", "reporter": RecordingReporter()}
    features, labels, why = extract_features(samples, extractor, cache=cache, **more)
    rest = [s for s in samples if s.path != bad]
    good, *_ = extract_features(rest, extractor, **more)
    assert list(why) == [bad]
    assert torch.equal(features, good)
    assert labels.tolist() == [s.label for s in rest]


def test_a_subset_of_cached_features_copies_none():
    features = torch.arange(24.0).view(6, 2, 2).bfloat16()
    part = (
        CachedFeatures(features, torch.arange(6))
        .subset(torch.tensor([4, 1, 3]))
        .subset(torch.tensor([2, 0]))
    )
    assert part.features is features
    [(x, y)] = part.plain_subset(torch.arange(2)).batches(torch.arange(2), 8)
    assert y.tolist() == [3, 4]
    assert torch.equal(x, features[[3, 4], 0].float())


def test_training_in_bf16_records_its_agreement_with_fp32_and_predict_uses_it(trained, monkeypatch):
    bundle = str(trained.bundle)
    if has_native_bf16():
        agreement = trained.metrics["agreement"]
        assert agreement["numbers"] == "cpu bf16"
        assert agreement["same"] <= agreement["n"] == trained.metrics["n"]
    member = predict.load(bundle, precision="fp32").members[0]
    bf16 = Compute(torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr(device, "choose_device", lambda *_: bf16)

    def chosen(**agreement):
        reporter = RecordingReporter()
        one = replace(member, agreement=Agreement("cpu bf16", **agreement))
        return predict._choose_compute("cpu", "auto", [one], reporter).name, reporter.notes

    assert chosen(n=200, same=199)[0] == "cpu bf16"
    assert "99.5%" in chosen(n=200, same=199)[1][0]
    assert chosen(n=200, same=197) == ("cpu fp32", [])
    assert chosen(n=50, same=50) == ("cpu fp32", [])
    assert chosen(n=200, same=201) == ("cpu fp32", [])


def test_memory_is_kept_from_batch_to_batch():
    """A page that the system has to provide again counts as a fault."""
    code = (
        "import resource, torch\n"
        "from tlcli.runtime.device import choose_device\n"
        "from tlcli.runtime.allocator import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10):\n"
        "        torch.ones(16_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "fresh = faults()\n"
        "choose_device('cpu')\n"
        "faults()\n"
        "print(fresh, faults(), keep_freed_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fresh, kept, has_mallopt = done.stdout.split()
    if has_mallopt != "True":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < int(fresh) / 5
