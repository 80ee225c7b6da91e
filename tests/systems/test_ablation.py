"""The rows of the ablation: what each changes, what is shown of them, and a run of some through the command."""

import json

import pytest
import torch
from systems.test_whole_comparison import run

from intraformer_fast import nn
from intraformer_fast.bench.systems import ablation, catalog, published
from intraformer_fast.presets import preset
from intraformer_fast.training import TrainingConfig


def made(name, size="small"):
    """The model and the settings of training of a row."""
    system = ablation.select_rows([name], size)[name].system
    with torch.device("meta"):  # the published size of 16 streams takes gigabytes
        model = nn.Intraformer(**{**preset(system.preset).model, **system.model, "input_dim": 128})
    return model, TrainingConfig.from_preset(system.preset, **system.training)


def test_the_whole_is_the_papers_form_of_the_catalogue():
    whole = ablation.select_rows([], "small")[ablation.WHOLE]
    assert whole.system == catalog.select(["intraformer-paper"], "small")["intraformer-paper"].system
    model, config = made(ablation.WHOLE)
    assert model.num_subclusters == 4
    assert (model.config["tokens"], model.config["similarity_input"], model.config["cross_attention"]) == (
        "features",
        False,
        True,
    )
    assert (config.accuracy_loss, config.bce_warmup) == ("fmi", "ramp")
    assert config.fairness_weight > 0


def test_rows_change_what_they_say():
    for k in (1, 2, 5, 8, 10, 16):
        assert made(f"k-{k}")[0].num_subclusters == k
    model, config = made("no-catt-fair-fmi")
    assert not any("cross" in name for name in model.state_dict())
    assert (config.accuracy_loss, config.fairness_weight) == ("bce", 0)
    model, config = made("no-fmi")
    assert any("cross" in name for name in model.state_dict())
    assert config.accuracy_loss == "bce"
    assert config.fairness_weight > 0
    for warmup in ("step", "sum", "none"):
        assert made(f"warmup-{warmup}")[1].bce_warmup == warmup
    assert made("anchor")[0].cross_query == "anchor"
    assert made("no-position")[0].position == "none"
    assert made("sinusoidal")[0].position == "sinusoidal"
    assert made("cosine")[0].similarity_projection is not None
    assert made("similarities-k-1")[0].tokens == "similarities"


def test_rows_can_all_be_made_and_each_answers_a_question():
    for size in catalog.SIZES:
        for name in ablation.rows():
            made(name, size)
    asked = {name for section in ablation.subject().sections for name in section.names}
    assert asked == set(ablation.rows())


def test_printed_rows_stand_beside_ours():
    printed = published.read()
    assert published.beside("k-16", printed)[2:4] == ["92.52", "3.09"]
    assert published.beside("no-catt-fair-fmi", printed)[2:4] == ["91.21", "3.89"]
    assert published.beside("paper", printed)[2:4] == ["93.28", "2.47"]
    assert not any(published.beside("k-1", printed))


def test_unknown_rows_are_told_what_there_is():
    with pytest.raises(ValueError, match=r"no row 'k-3' in the ablation: expected some of paper, rule-intimacy"):
        ablation.select_rows(["k-3"], "small")


def test_rows_run_through_the_command_and_linkings_share_a_training(monkeypatch, capsys, tmp_path):
    options = ["--ablation", "--quick", "--classes", 24, "--seeds", 1, "--output", tmp_path, "--threads", 1]
    names = ["paper", "rule-intimacy", "rule-mutual", "k-1", "no-catt", "warmup-none"]
    trained = []
    fit = nn.IntraformerLoss.__init__
    monkeypatch.setattr(
        nn.IntraformerLoss, "__init__", lambda self, **options: trained.append(0) or fit(self, **options)
    )
    code, out, _ = run(monkeypatch, capsys, *names, *options, "--json")
    found = {one["name"]: one for one in json.loads(out)["outcomes"]}
    assert code == 0
    assert sorted(found) == sorted(names)
    assert found["rule-mutual"]["chosen"].startswith("mutual (")
    edges = [found[name]["figures"]["edge AUC"] for name in names]
    assert edges[0] == edges[1] == edges[2]
    assert len(set(edges)) == 4
    # A configuration makes its objective once to be checked and once to be trained with: four trainings, six rows.
    assert len(trained) == 6 + 4
    code, out, _ = run(monkeypatch, capsys, *names, *options)
    assert len(trained) == 6 + 4
    assert "## k, the number of sub-clusters" in out
    assert f"{100 * edges[0]:.1f}" in out
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "intraformer-fast bench systems paper" in text
    assert "--ablation" in text
    assert "93.28" in text
    assert "What the paper leaves open" not in text  # of it only the whole was run
    for heading in ("Parts", "The linking rule", "How cross-entropy leads into L_FMI"):
        assert f"## {heading}" in text
        assert f"<h2>{heading}</h2>" in (tmp_path / "ablation.html").read_text(encoding="utf-8")
    assert (tmp_path / "ablation.png").stat().st_size > 5000
