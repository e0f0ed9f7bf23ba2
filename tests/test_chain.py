"""chain.jsonl: the same for the same run, however interrupted; and a changed line is found."""

import json

import numpy as np
import pytest
import runs

from lmjax import chain
from lmjax.errors import UserError


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def unbroken(text, tmp_path_factory, quick_runs):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert runs.train(text, folder, SHORT) == 0
    return folder


SHORT = {"steps": 6, "every.eval": 4, "every.save": 3, "data.length": 16, "model.depth": 1}


def lines(folder):
    return [json.loads(line) for line in (folder / "chain.jsonl").read_text().splitlines()]


def test_every_step_has_a_line_with_its_loss_and_parameters_where_the_config_asks(unbroken):
    found = lines(unbroken)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if "params" in line] == [3, 4, 6]
    assert [chain.loss(line) for line in found] == pytest.approx(runs.losses(unbroken), rel=1e-6)
    assert len({line["batch"] for line in found}) == 6


def test_the_manifest_seals_the_head_of_the_chain_and_the_metrics(unbroken):
    result = runs.manifest(unbroken)["result"]
    assert result["chain"] == lines(unbroken)[-1]["head"]
    assert lines(unbroken)[-1]["params"] == result["params_sha256"]
    assert len(result["metrics_sha256"]) == 64


def test_a_run_that_was_stopped_has_the_chain_of_one_that_was_not(text, unbroken, tmp_path, monkeypatch):
    from lmjax.session import Session

    record = Session.record

    def interrupted(session, done, metrics):  # a SIGTERM that always comes amid the fifth step
        record(session, done, metrics)
        if done == 4:
            session.interrupts.received = "SIGTERM"

    monkeypatch.setattr(Session, "record", interrupted)
    assert runs.train(text, tmp_path / "broken", SHORT) == 75
    monkeypatch.undo()
    assert runs.train(text, tmp_path / "broken", SHORT) == 0
    assert (tmp_path / "broken" / "chain.jsonl").read_bytes() == (unbroken / "chain.jsonl").read_bytes()


@pytest.mark.parametrize("change", [{"loss": "3f800000"}, {"batch": "0" * 64}, {"step": 9}, {"params": "1" * 64}])
def test_a_changed_line_is_found(unbroken, change):
    found = lines(unbroken)
    found[2] |= change
    assert f"step {found[2]['step']} " in chain.damage(found)
    assert not chain.damage(lines(unbroken))


def test_a_removed_line_is_found(unbroken):
    found = lines(unbroken)
    assert "step 4 stands behind step 2" in chain.damage(found[:2] + found[3:])


def test_a_line_made_again_with_its_hash_breaks_the_next_one():
    first = {"step": 1, "batch": "b", "loss": "00000000"}
    first |= {"head": chain.head(chain.FIRST, first)}
    second = {"step": 2, "batch": "c", "loss": "00000000"}
    second |= {"head": chain.head(first["head"], second)}
    other = {"step": 1, "batch": "x", "loss": "00000000"}
    other |= {"head": chain.head(chain.FIRST, other)}
    assert not chain.damage([first, second])
    assert "step 2" in chain.damage([other, second])


def test_an_altered_chain_is_not_gone_on_with(unbroken, tmp_path):
    (tmp_path / "chain.jsonl").write_text((unbroken / "chain.jsonl").read_text().replace('"step": 2', '"step": 1'))
    with pytest.raises(UserError, match="altered"):
        chain.Chain(tmp_path, 3)


def test_the_digest_of_a_batch_knows_names_types_shapes_and_every_byte():
    batch = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.ones((2, 1), np.float32)}
    same = {"b": batch["b"].copy(), "a": np.asfortranarray(batch["a"])}
    others = [
        batch | {"a": batch["a"].astype(np.int64)}, batch | {"a": batch["a"].reshape(3, 2)}, {"a": batch["a"]},
        batch | {"b": np.nextafter(batch["b"], 2, dtype=np.float32)}, {"x": batch["a"], "b": batch["b"]},
    ]  # fmt: skip
    assert chain.digest(same) == chain.digest(batch)
    assert len({chain.digest(other) for other in [batch, *others]}) == 6


@pytest.mark.parametrize(
    "total, weight, expected", [(2.0, 2.0, "3f800000"), (0.0, 0.0, chain.NAN), (1.0, 0.0, "7f800000")]
)
def test_a_loss_is_the_bits_of_its_mean(total, weight, expected):
    assert chain.bits(total, weight) == expected
