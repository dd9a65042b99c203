"""Calibration and OOD detection: learned from held-out images, and kept in bundles."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tlcli import finetune, load
from tlcli.artifacts import bundle
from tlcli.artifacts.atomic import write_tensors
from tlcli.backbones.build import build
from tlcli.backbones.network import build_network
from tlcli.data.dataset import scan
from tlcli.errors import UserError
from tlcli.features.sources import CachedFeatures, FeatureSources, RecomputedFeatures
from tlcli.metrics.calibration_error import calibration_error
from tlcli.metrics.ood import MIN_IMAGES, OodDetector, fit_ood_detector, sample_indices
from tlcli.reporter import Reporter
from tlcli.runtime import device
from tlcli.training.calibration import calibrate, fit_temperature, hold_out, is_significant
from tlcli.training.logistic_regression import held_out_logits, solve


def draw(*shape, seed=0):
    """Draw standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_logits_too_sure_is_found(wanted):
    logits = draw(20_000, 4) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[
        :, 0
    ]
    assert fit_temperature(logits * wanted, labels) == pytest.approx(wanted, rel=0.05)


def test_few_images_without_a_mistake_do_not_ask_for_certainty():
    logits = torch.eye(5) * 3
    few = fit_temperature(logits, torch.arange(5))
    many = fit_temperature(logits.repeat(200, 1), torch.arange(5).repeat(200))
    assert 0.1 < many < few < 3


def test_a_temperature_that_chance_explains_is_not_used():
    logits = draw(100, 4) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))
    labels = labels[:, 0]
    assert not is_significant(fit_temperature(logits, labels), logits, labels)
    assert is_significant(fit_temperature(logits * 3, labels), logits * 3, labels)
    assert not is_significant(0.5, logits[:1], labels[:1])


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_final_layer_is_divided_by_the_temperature(scale):
    network = build_network(build("lenet5"), cut="classifier.2", dropped=False, n_classes=3)
    features = draw(600, 1, 84)
    with torch.no_grad():
        network.final_layer.weight.copy_(draw(3, 84, seed=1) / 3)
        network.final_layer.bias.zero_()
        logits = features[:, 0] @ network.final_layer.weight.T
        labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(2))
        network.final_layer.weight.mul_(scale)
    was = network.final_layer.weight.clone()
    source = CachedFeatures(features, labels[:, 0])
    found = calibrate(
        network, source, source, None, device.choose_device("cpu"), seed=0, reporter=Reporter()
    )
    assert found.temperature == (1 if scale == 1 else pytest.approx(scale, rel=0.15))
    assert torch.equal(network.final_layer.weight, was / found.temperature)
    assert (found.method, found.n) == ("held-out", 600)
    assert found.ood_detector.score(features[:, 0]).median() < 1


def test_held_out_logits_are_less_sure_than_fitted_ones_and_do_not_see_their_image():
    features, labels = draw(60, 2, 200), torch.arange(60) % 3  # noise: nothing can be learned
    solution = solve(features, labels, 3, bias=True, seed=0)
    fitted = features[:, 0] @ solution.weight.T + solution.bias
    held_out = held_out_logits(features, labels, 3, solution.l2_penalty, bias=True, seed=0)
    held_out, images = held_out
    assert torch.equal(images, torch.arange(60))
    assert (held_out.argmax(1) == labels).float().mean() < 0.6
    assert (fitted.argmax(1) == labels).float().mean() > 0.9
    assert held_out_logits(features[:1], labels[:1], 3, 1.0, bias=True, seed=0) is None


def test_calibration_error_by_hand():
    # sure to 80%, right in 60%: off by 0.2
    logits = torch.tensor([0.8, 0.2]).log().repeat(10, 1)
    labels = torch.tensor([0] * 6 + [1] * 4)
    found = calibration_error(logits, labels, 2.0)
    assert found.ece == pytest.approx(0.2, abs=1e-6)
    raw = 0.8**2 / (0.8**2 + 0.2**2)
    assert found.raw_ece == pytest.approx(raw - 0.6, abs=1e-6)
    assert found.difference == pytest.approx(0.8 - raw, abs=1e-6)
    assert found.ece_low <= found.ece <= found.ece_high
    assert calibration_error(logits[:0], labels[:0], 1.0).ece is None


def test_the_ood_detector_knows_its_own_images_and_comes_back_from_json():
    usual = draw(400, 64) * torch.linspace(3, 0.1, 64) + 2
    found = fit_ood_detector(usual)
    again = OodDetector.from_dict(json.loads(json.dumps(found.to_dict())))
    fresh = draw(400, 64, seed=1) * torch.linspace(3, 0.1, 64) + 2
    strange = draw(400, 64, seed=2).flip(1) * torch.linspace(0.1, 3, 64) + 2
    assert 0.88 < (again.score(fresh) <= 1).float().mean() < 0.99
    assert (again.score(strange) > 1).float().mean() > 0.9
    assert torch.equal(again.score(fresh), found.score(fresh))
    # the length of features says nothing, and maps count by their mean
    assert torch.allclose(found.score(fresh * 7), found.score(fresh), atol=1e-3)
    maps = fresh[:, :, None, None].expand(-1, -1, 3, 3)
    assert torch.allclose(found.score(maps), found.score(fresh), atol=1e-3)
    held_out = fit_ood_detector(usual, fresh)
    assert held_out.threshold == pytest.approx(found.threshold, rel=0.1)


def test_too_few_or_equal_images_have_no_ood_detector():
    assert fit_ood_detector(draw(MIN_IMAGES - 1, 8)) is None
    assert fit_ood_detector(torch.ones(50, 8)) is None
    assert fit_ood_detector(draw(50, 8), draw(3, 8)) is None


def test_of_many_images_an_even_selection_is_used():
    assert sample_indices(5).tolist() == [0, 1, 2, 3, 4]
    chosen = sample_indices(100_000)
    assert len(chosen) == len(chosen.unique()) == 2000
    assert chosen[-1] == 99_999


def save_description(path, of, description):
    """Write the tensors of a bundle with another description."""
    write_tensors(path, bundle.read_tensors(of), {bundle.BUNDLE_KEY: json.dumps(description)})


@pytest.mark.parametrize(
    "damage",
    [{"rest": -1.0}, {"threshold": math.inf}, {"mean": "AAAA"}, {"variances": []}, {"width": "x"}],
)
def test_a_damaged_ood_detector_is_refused(trained, tmp_path, damage):
    description = json.loads(bundle.read_meta(trained.bundle).to_json())
    description["novelty"] |= damage
    save_description(tmp_path / "x.safetensors", trained.bundle, description)
    with pytest.raises(UserError, match="novelty is damaged"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("temperature", [0, -1.0, "hot", None])
def test_a_damaged_temperature_is_refused(trained, tmp_path, temperature):
    description = json.loads(bundle.read_meta(trained.bundle).to_json())
    description["calibration"] = {"temperature": temperature}
    save_description(tmp_path / "x.safetensors", trained.bundle, description)
    with pytest.raises(UserError, match="temperature"):
        load(tmp_path / "x.safetensors")


def test_a_bundle_of_the_first_format_still_loads(trained, flowers, tmp_path):
    description = json.loads(bundle.read_meta(trained.bundle).to_json())
    del description["novelty"]
    old = tmp_path / "old.safetensors"
    save_description(old, trained.bundle, {**description, "format": 1, "calibration": None})
    image = next(flowers.glob("*/*.jpg"))
    (was,), (now,) = load(old).predict(image), load(trained.bundle).predict(image)
    assert (was.label, was.probability, was.ood) == (now.label, now.probability, None)
    assert now.ood is not None


def test_a_plan_that_trains_in_steps_holds_images_out(tmp_path, shared):
    data = shared / "data" / "digits"
    options = {"model": "lenet5", "epochs": 2, "augment": "none"}
    run = finetune(data, output=tmp_path / "a", **options)
    kept = bundle.read_meta(run.bundle).calibration
    assert (kept.method, kept.n) == ("held-out", 100)
    assert run.metrics["calibration"]["temperature"] == kept.temperature
    assert load(run.folder).has_ood
    again = finetune(data, output=tmp_path / "b", **options)
    assert again.bundle.read_bytes() == run.bundle.read_bytes()
    without = finetune(data, output=tmp_path / "c", calibrate=False, **options)
    meta = bundle.read_meta(without.bundle)
    assert (meta.calibration, meta.ood_detector) == (None, None)


def test_held_out_images_are_not_trained_on(two_classes, shared):
    dataset = scan(shared / "data" / "digits")
    n = len(dataset.train)
    features = torch.arange(n, dtype=torch.float32)[:, None, None].repeat(1, 2, 1)
    labels = torch.tensor([s.label for s in dataset.train])
    val = CachedFeatures(features[:0], labels[:0])
    left, held_out = hold_out(FeatureSources(CachedFeatures(features, labels), val, dataset, True))
    assert (len(left.train), len(held_out), held_out.features.shape[1]) == (n - n // 10, n // 10, 1)
    kept, unused = (
        features[source.rows, 0].flatten().tolist() for source in (left.train, held_out)
    )
    assert len({*kept, *unused}) == n
    again, same = hold_out(
        FeatureSources(RecomputedFeatures(dataset.train, None), val, dataset, False)
    )
    chosen = {dataset.train[int(i)].path for i in unused}
    assert {s.path for s in same.samples} == chosen
    assert len(again.train) == n - len(chosen)
    lone = min(dataset.train, key=lambda sample: sample.digest)
    samples = tuple(replace(s, label=99) if s is lone else s for s in dataset.train)
    odd = replace(dataset, train=samples)
    rest, _ = hold_out(FeatureSources(RecomputedFeatures(samples, None), val, odd, False))
    assert 99 in {s.label for s in rest.train.samples}
    few = scan(two_classes)
    sources = FeatureSources(RecomputedFeatures(few.train, None), val, few, False)
    assert hold_out(sources) == (sources, None)
