"""chain.jsonl: the same for the same run, however interrupted; and a changed line is found."""

import json

import numpy as np
import pytest

from lmjax import chain
from lmjax.errors import UserError


@pytest.fixture
def found():
    """The lines of a chain of four steps."""
    lines, before = [], chain.FIRST
    for step in range(1, 5):
        line = {"step": step, "batch": f"{step:064x}", "loss": chain.bits(step, 3.0)}
        line |= {"params": "a" * 64} if step % 2 else {}
        before = chain.head(before, line)
        lines.append({**line, "head": before})
    return lines


@pytest.mark.parametrize("change", [{"loss": "3f000000"}, {"batch": "0" * 64}, {"step": 9}, {"params": "1" * 64}])
def test_a_changed_line_is_found(found, change):
    assert not chain.damage(found)
    found[2] |= change
    assert f"step {found[2]['step']} " in chain.damage(found)


def test_a_removed_line_is_found(found):
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


def write(found, folder):
    (folder / "chain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))


def test_an_altered_chain_is_not_gone_on_with(found, tmp_path):
    found[1]["step"] = 1
    write(found, tmp_path)
    with pytest.raises(UserError, match="altered"):
        chain.Chain(tmp_path, 3)


def test_it_goes_on_behind_the_step_that_was_saved(found, tmp_path):
    write(found, tmp_path)
    one = chain.Chain(tmp_path, 2)
    for line in found[2:]:
        one.step(line["step"], line["batch"], line["loss"])
        if "params" in line:
            one.params(line["params"])
    one.close()
    assert chain.read(tmp_path) == found and chain.sealed(tmp_path) == found[-1]["head"]


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
