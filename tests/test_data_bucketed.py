"""data.buckets: batches of few widths hold every record once, lose no token, and are the same for any hosts."""

import numpy as np
import pytest
import runs

from configs import labels, pairs
from lmjax import trained
from lmjax.config import update
from lmjax.data import open_dataset
from lmjax.errors import UserError

WORDS = "in the beginning god created the heavens and the earth and the earth was without form and void".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs and labelled texts of very different lengths."""
    folder = tmp_path_factory.mktemp("bucketed")
    texts = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 11]) + f" {i}" for i in range(120)]
    for name, header, field in (
        ("pairs", "source\ttarget", lambda i: str(i * i)),
        ("labels", "text\tlabel", lambda i: "ab"[i % 2]),
    ):
        (folder / name).mkdir()
        lines = [header, *(f"{text}\t{field(i)}" for i, text in enumerate(texts))]
        (folder / name / "x.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path_factory.getbasetemp() / "bucketed-cache"))


def config(folder, kind, **changes):
    base = {"pairs": pairs.small, "labels": labels.small}[kind]()
    leaves = {
        "source": str(folder / kind),
        "tokenizer": "bytes",
        "vocab": None,
        "packing": "none",
        "length": 96,
        "buckets": 3,
    }
    return update(base, {f"data.{name}": value for name, value in (leaves | changes).items()})


def dataset(folder, kind, **changes):
    return open_dataset(config(folder, kind, **changes).data, seed=7)


def records(batches):
    """Every record that weighs something, without padding and neighbours, as text that can be compared."""
    found = []
    for batch in batches:
        for k, segments in enumerate(batch["segments"]):
            for segment in range(1, segments.max(initial=0) + 1):
                row = {name: x[k][segments == segment] if x[k].ndim else x[k] for name, x in batch.items()}
                row["segments"] = len(row["segments"])
                found.append(repr(sorted((name, np.asarray(x).tolist()) for name, x in row.items())))
    return sorted(found)


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_an_epoch_in_buckets_holds_the_rows_of_an_epoch_without_once_each(folder, kind):
    cut, whole = dataset(folder, kind), dataset(folder, kind, buckets=None)
    batches = [cut.train_batch(i, 8) for i in range(cut.buckets[0].batches(8))]
    assert {batch["tokens"].shape[1] for batch in batches} == set(cut.widths) and len(cut.widths) == 3
    assert records(batches) == records(whole.train_batch(i, 1) for i in range(int(whole.train.epoch_rows)))
    valid = [cut.valid_batch(i, 8) for i in range(cut.valid_batches(8))]
    assert records(valid) == records([whole.valid_batch(0, 64)])
    again = [cut.train_batch(i, 8) for i in range(len(batches), 2 * len(batches))]
    assert records(again) == records(batches)
    assert [batch["tokens"].tolist() for batch in again] != [batch["tokens"].tolist() for batch in batches]


def test_hosts_make_their_rows_of_the_same_batches(folder):
    whole = dataset(folder, "pairs")
    for i in (0, 3, 40):
        batch = whole.train_batch(i, 8)
        parts = [dataset(folder, "pairs").train_batch(i, 8, np.arange(8)[host::2]) for host in range(2)]
        for name, x in batch.items():
            assert np.array_equal(x[0::2], parts[0][name]) and np.array_equal(x[1::2], parts[1][name])


@pytest.mark.slow
def test_a_run_in_buckets_goes_on_bit_for_bit_and_its_evaluation_does_not_depend_on_the_batch(folder, tmp_path):
    changes = {
        "data.kind": "pairs", "data.packing": "none", "data.buckets": 2, "data.length": 96, "model.depth": 1,
        "steps": 6, "every.save": 2, "every.eval": 3, "eval.sample_length": 0,
    }  # fmt: skip
    source = folder / "pairs"
    assert runs.train(source, tmp_path / "whole", changes) == 0
    assert runs.train(source, tmp_path / "cut", changes | {"steps": 2}) == 0
    assert runs.train(source, tmp_path / "cut", changes, "--allow-config-change") == 0
    assert runs.losses(tmp_path / "cut") == runs.losses(tmp_path / "whole")
    evaluated = [line["valid/nll"] for line in runs.history(tmp_path / "whole") if "valid/nll" in line]
    again = trained.evaluate(trained.load(tmp_path / "whole"), batch=3)
    assert len(evaluated) == 2 and np.isclose(evaluated[-1], again["nll"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"buckets": 0}, "data.buckets=0: at least 1"),
        ({"packing": "best_fit"}, "data.packing=none"),
        ({"augment.text": ("swap",)}, "data.augment.text both decide"),
    ],
)
def test_what_does_not_go_with_buckets_is_told(folder, changes, words):
    with pytest.raises(UserError, match=words):
        dataset(folder, "pairs", **changes)
