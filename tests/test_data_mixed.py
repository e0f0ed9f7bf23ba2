"""Packing, mixtures and curricula by config: the same global stream of tokens whatever the hosts and wherever it resumes."""

import itertools
from collections import Counter

import numpy as np
import pytest

from configs import base
from lmjax.config import config, override
from lmjax.data import Prefetch, open_dataset
from lmjax.data.packing import MODES
from lmjax.errors import UserError

TEXT = "{n} sheep went up the hill number {n} and {m} came down again, wetter than they went. "
BATCH, STEPS = 8, 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three folders of documents of many lengths, and a cache."""
    root = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMJAX_CACHE", str(root / "cache"))
        for i, name in enumerate(["plain", "short", "long"]):
            (root / name).mkdir()
            for n in range(12 + i):
                text = TEXT.format(n=n + 100 * i, m=n * n)
                (root / name / f"{n}.txt").write_text(name + " " + text[: 20 + 9 * n] * (1 + (n % 4) * i))
        yield [str(root / name) for name in ("plain", "short", "long")]


def chosen(folders, *leaves):
    words = [f"data.source={folders[0]}", "data.length=48", "data.valid_fraction=0.2", *leaves]
    return override(config(data=base.data()), words).data


def mixed(folders, *leaves):
    return chosen(folders, f"data.mixture.sources={','.join(folders[1:])}", *leaves)


def drawn(seed):
    """The leaves of a random mixture: weights, a temperature, and epochs that two of its components may have at most."""
    chance = np.random.default_rng(seed)
    weights = ",".join(f"{weight:.3f}" for weight in chance.uniform(0.2, 3, 3))
    repeats = [f"{cap:.2f}" for cap in chance.uniform(0.5, 3, 3)]
    repeats[chance.integers(3)] = "none"
    return (
        f"data.mixture.weights={weights}",
        f"data.mixture.temperature={chance.uniform(0.5, 4):.2f}",
        f"data.mixture.repeats={','.join(repeats)}",
    )


MIXTURES = [drawn(seed) for seed in range(3)]
MATRIX = list(itertools.product(MIXTURES, MODES))


@pytest.mark.parametrize(("leaves", "packing"), MATRIX, ids=[f"{i // 3}-{m}" for i, (_, m) in enumerate(MATRIX)])
def test_mixtures_in_every_packing_are_one_stream_for_any_hosts_and_resumed_anywhere(folders, leaves, packing):
    data = mixed(folders, *leaves, f"data.packing={packing}")
    dataset = open_dataset(data, 5)
    whole = [dataset.train_batch(i, BATCH) for i in range(STEPS)]
    assert STEPS * BATCH > 1.5 * min(stream.epoch_rows for stream in dataset.train.components.values())  # past an epoch
    for hosts, start in itertools.product((1, 2, 4), (0, 1, 4, 7, STEPS - 1)):
        again = open_dataset(data, 5)  # as after a restart: nothing is in memory
        slices = [slice(h * BATCH // hosts, (h + 1) * BATCH // hosts) for h in range(hosts)]
        makers = [lambda i, rows=rows: again.train_batch(i, BATCH, rows) for rows in slices]  # noqa: B023
        streams = [Prefetch(make, start, stop=STEPS) for make in makers]
        for expected, *parts in zip(whole[start:], *streams, strict=True):
            for name in expected:
                np.testing.assert_array_equal(expected[name], np.concatenate([part[name] for part in parts]))
    other = open_dataset(data, 6)
    assert any((other.train_batch(i, BATCH)["tokens"] != whole[i]["tokens"]).any() for i in range(STEPS))


def test_each_row_of_a_mixture_is_of_the_component_that_the_accounting_says(folders):
    dataset = open_dataset(mixed(folders, "data.mixture.weights=1,2,1", "data.packing=best_fit"), 0)
    found = Counter()
    for k in range(200):
        row = dataset.train.row(k)
        text = dataset.tokenizer.decode(row["tokens"][row["segments"] == 1])
        name, _ = dataset.train.place(k)
        starts = {
            name.rpartition("/")[2] for name in dataset.train.components if text.startswith(name.rpartition("/")[2])
        }
        assert starts <= {name.rpartition("/")[2]} or not starts
        found[name] += 1
    assert dataset.train.counts(200) == found and min(found.values()) > 30


def test_what_there_was_before_is_as_it_was(folders):
    """No leaf of packing, mixtures or curricula set: the rows of the documents end to end."""
    from lmjax.data.packing import Rows

    dataset = open_dataset(chosen(folders), 3)
    plain = Rows(dataset.train.documents, 48, 3, dataset.tokenizer.token_bytes)
    for k in (0, 7, 1000):
        for name, values in plain.row(k).items():
            np.testing.assert_array_equal(values, dataset.train.row(k)[name])


def test_validation_and_the_fingerprint_do_not_depend_on_packing_or_weights(folders):
    first, second = (
        open_dataset(mixed(folders, *leaves), 0)
        for leaves in [(), ("data.packing=none", "data.mixture.weights=1,2,3", "data.curriculum.by=length")]
    )
    assert first.fingerprint == second.fingerprint != open_dataset(chosen(folders), 0).fingerprint
    assert first.valid_batches(4) == second.valid_batches(4)
    for i in range(first.valid_batches(4)):
        for name, values in first.valid_batch(i, 4).items():
            np.testing.assert_array_equal(values, second.valid_batch(i, 4)[name])
    alone = [open_dataset(chosen([folder]), 0) for folder in folders]
    assert first.stats["valid"]["tokens"] == sum(dataset.stats["valid"]["tokens"] for dataset in alone)
    assert first.valid.tokens == first.stats["valid"]["tokens"]
    read = lambda found: [found.read(i, 0, int(n)).tolist() for i, n in enumerate(found.lengths)]  # noqa: E731
    assert read(first.valid.documents) == [ids for dataset in alone for ids in read(dataset.valid.documents)]


def test_components_have_the_ids_of_the_tokenizer_trained_on_the_first(folders):
    dataset = open_dataset(mixed(folders, "data.tokenizer=bpe", "data.vocab=300"), 0)
    alone = open_dataset(chosen(folders, "data.tokenizer=bpe", "data.vocab=300"), 0)
    assert dataset.tokenizer.fingerprint == alone.tokenizer.fingerprint
    last = dataset.train.components[folders[2]].documents
    assert dataset.tokenizer.decode(last.read(0, 0, int(last.lengths[0]))).startswith("long ")


def test_efficiency_and_the_end_of_a_component_are_said(folders):
    said = []
    open_dataset(mixed(folders, "data.packing=best_fit", "data.mixture.repeats=none,1,none"), 0, said.append)
    assert any(line.startswith("packing best_fit: ") and "% of positions are tokens" in line for line in said)
    assert any("short: all of its repeats are used up at row" in line for line in said)


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        (["data.mixture.weights=1,2"], "data.mixture.weights=\\(1, 2\\): 2 for 3 components"),
        (["data.mixture.weights=1,2,0"], "long has 0; a number above 0"),
        (["data.mixture.weights=1,2,none"], "long has 'none'"),
        (["data.mixture.repeats=1,2,-1"], "long has -1; a number above 0, or none for no cap"),
        (["data.mixture.weights=1,2000,1"], "less than one row in 1024"),
        (["data.packing=bestfit"], "did you mean 'best_fit'"),
        (["data.curriculum.by=lenght"], "did you mean 'length'"),
        (["data.curriculum.by=length", "data.curriculum.epochs=0"], "data.curriculum.epochs=0"),
        (["data.curriculum.start_length=8"], "go together"),
        (["data.curriculum.start_length=80", "data.curriculum.grow_rows=8"], "from 1 to data.length=48"),
    ],
)
def test_what_cannot_be_meant_is_named(folders, leaves, said):
    with pytest.raises(UserError, match=said):
        open_dataset(mixed(folders, *leaves), 0)


def test_steps_that_a_capped_mixture_cannot_feed_are_an_error_beforehand(folders):
    dataset = open_dataset(mixed(folders, "data.mixture.repeats=1,1,1"), 0)
    end = dataset.train.end
    assert abs(end - sum(stream.epoch_rows for stream in dataset.train.components.values())) < 3
    dataset.check(end // 4, 4)
    with pytest.raises(UserError, match=f"the mixture has {end:,}: every component"):
        dataset.check(end // 4 + 1, 4)
    open_dataset(mixed(folders, "data.curriculum.start_length=8", "data.curriculum.grow_rows=9"), 0).check(10**9, 4)


def test_weights_without_sources_and_a_source_named_twice_are_errors(folders):
    with pytest.raises(UserError, match="set data.mixture.sources"):
        open_dataset(chosen(folders, "data.mixture.weights=1,2"), 0)
    with pytest.raises(UserError, match="twice"):
        open_dataset(chosen(folders, f"data.mixture.sources={folders[0]}"), 0)
