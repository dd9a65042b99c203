"""Measuring a folder: the sample, the sweep of probes, and the decisions on real folders."""

import pytest
import torch

from tlcli.data.dataset import Sample
from tlcli.planning import similarity
from tlcli.planning.measure import choose_sample
from tlcli.planning.stage_probes import probe_stages
from tlcli.recipes.plan import plan


def make_samples(per_class):
    """Make samples without files, from the number of images by label."""
    return [
        Sample(f"{label}-{i}", label, f"{label:03}{i:05}")
        for label, n in per_class.items()
        for i in range(n)
    ]


def test_every_beginning_of_the_sample_is_balanced():
    chosen = choose_sample(make_samples({0: 500, 1: 30, 2: 30}), 60, seed=0)
    labels = [s.label for s in chosen]
    assert sorted(labels[:3]) == [0, 1, 2]
    assert labels.count(0) == labels.count(1) == labels.count(2) == 20
    everything = choose_sample(make_samples({0: 500, 1: 30, 2: 30}), 1000, seed=0)
    assert len(everything) == 560
    assert len({s.digest for s in everything}) == 560


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    samples = make_samples({0: 100, 1: 100})
    one, two, other = (
        choose_sample(samples, 40, 0),
        choose_sample(samples[::-1], 40, 0),
        choose_sample(samples, 40, 1),
    )
    assert [s.digest for s in one] == [s.digest for s in two]
    assert {s.digest for s in one} != {s.digest for s in other}


def test_of_very_many_classes_some_are_drawn():
    chosen = choose_sample(make_samples(dict.fromkeys(range(1000), 20)), 1000, seed=0)
    counts = torch.bincount(torch.tensor([s.label for s in chosen]))
    assert len(chosen) == 1000
    assert (counts > 0).sum() == 100
    assert counts.max() == 10


def test_a_class_with_one_image_is_left_out_of_the_sweep():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    features = {"a": torch.randn(21, 4, generator=torch.Generator().manual_seed(0))}
    scores, best, notes = probe_stages(features, labels, 0)
    assert len(best.labels) == 20
    assert "one image" in notes[0]
    assert scores[0].gap == 0.0
    for few in (torch.tensor([0, 1]), torch.tensor([0] * 30), torch.zeros(0, dtype=torch.int64)):
        scores, best, notes = probe_stages({"a": torch.zeros(len(few), 4)}, few, 0)
        assert (scores, best) == ((), None)
        assert "too few" in notes[-1]


@pytest.mark.parametrize("missing", [1, 3])
def test_a_class_without_images_in_the_sample_is_never_predicted(missing):
    """Of many classes some are drawn, and classes with one image are left out."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    labels[labels >= missing % 3] += 1  # there is no class of that number
    features = torch.randn(4, 8, generator=g)[labels] + 0.2 * torch.randn(90, 8, generator=g)
    scores, best, notes = probe_stages({"a": features}, labels, 0)
    assert scores[0].accuracy > 0.95
    assert best.classes.tolist() == labels.unique().tolist()
    assert notes == []


def test_one_image_beside_many_does_not_spoil_the_sweep():
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] + [2] * 10)
    features = torch.randn(3, 8, generator=g)[labels] + 0.2 * torch.randn(71, 8, generator=g)
    scores, _, notes = probe_stages({"a": features}, labels, 0)
    assert scores[0].accuracy > 0.95
    assert "one image" in notes[0]


def test_a_folder_that_fits_the_sample_is_measured_in_full():
    chosen = choose_sample(make_samples(dict.fromkeys(range(300), 2)), 1000, seed=0)
    assert len(chosen) == 600


def test_a_stage_with_features_that_are_not_finite_is_left_out_and_noted():
    labels = torch.arange(30) % 2
    features = {"a": torch.randn(30, 4), "b": torch.full((30, 4), torch.nan)}
    scores, _, notes = probe_stages(features, labels, 0)
    assert [s.name for s in scores] == ["a"]
    assert "b is not probed, since its features are not finite" in notes[0]


@pytest.mark.usefixtures("small_batches")
def test_a_backbone_without_its_classifier_still_has_a_similarity_score(shared, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_ROTATED", 8)
    weights = shared / "weights" / "vgg16_features-keras-imagenet.pth"
    found = plan(
        shared / "data" / "caltech", model="vgg16", weights=weights, sample=20, cache=False
    )
    score = found.evidence.similarity
    assert score.method == "self"
    assert score.confidence is None
    assert score.feature_win_rate is not None
    assert found.evidence.sweep[-1].name == "block5"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("flowers", "similar"),
        ("caltech", "similar"),
        ("digits", "different"),
        ("eurosat", "different"),
    ],
)
def test_real_folders_are_judged_correctly(shared, data, kind):
    found = plan(shared / "data" / data, sample=120)
    assert found.plan.similarity == kind
    assert found.evidence.similarity.method == "level"


WEIGHTS = {
    "efficientnet_lite0": None,
    "mobilenet_v2": "mobilenet_v2-tf-imagenet.pth",
    "squeezenet1_1": "squeezenet1_1-caffe-imagenet.pth",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", WEIGHTS)
def test_decisions_are_right_and_stable(shared, model, seed):
    file = WEIGHTS[model]
    weights = shared / "weights" / file if file else "auto"
    kinds = {
        data: plan(
            shared / "data" / data, model=model, weights=weights, seed=seed, sample=300
        ).plan.similarity
        for data in ("flowers", "caltech", "digits", "eurosat")
    }
    assert kinds == {
        "flowers": "similar",
        "caltech": "similar",
        "digits": "different",
        "eurosat": "different",
    }
