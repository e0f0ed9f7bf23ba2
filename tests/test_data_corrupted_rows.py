"""Corrupted rows and rows of source and target, from a folder: whole, anew in every epoch, the same when read again."""

import json
import re

import numpy as np
import pytest

from configs.base import language_model
from lmjax.config import update
from lmjax.data import kinds, open_dataset
from lmjax.data.corruptions import infill, spans
from lmjax.errors import UserError

NOUNS = "house tree river stone bird cloud road lamp ship glass".split()
KINDS = {
    "masked": {},
    "sentences": {"packing": "none"},
    "spans": {"source_length": 80},
    "denoise": {"source_length": 64, "corruption.permute": True, "corruption.delete": 0.1, "corruption.rate": 0.3},
    "prefix": {},
    "infill": {"corruption.rate": 0.9, "corruption.pieces": 2},
}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch, open(place / "all.jsonl", "w") as file:
        patch.setenv("LMJAX_CACHE", str(place / "cache"))
        for i in range(60):
            text = f"The {NOUNS[i % 10]} is number {i}. It is naïve " + "so " * (i % 40) + "and new! Yes."
            record = {"text": text, "source": text, "target": f"Das {'ja ' * (i * 7 % 30)}{i}."}
            file.write(json.dumps(record) + "\n")
        file.flush()
        yield place


def config(folder, **leaves):
    leaves = {"source": str(folder / "all.jsonl"), "length": 64, "valid_fraction": 0.2, **leaves}
    return update(language_model(), {f"data.{name}": value for name, value in leaves.items()}).data


def opened(folder, seed=0, **leaves):
    return open_dataset(config(folder, **leaves), seed, lambda line: None, workers=1)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def text(row, doc):
    ids = row["tokens"][row["segments"] > 0]
    return ids[ids != doc]


def end(row, name="targets", segments="segments"):
    return row[name][row[segments] > 0][:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_their_fields_are_anew_each_epoch_and_the_same_for_any_hosts(folder, kind):
    leaves = {"corruption.kind": kind, **KINDS[kind]}
    dataset, again, other = opened(folder, **leaves), opened(folder, **leaves), opened(folder, 1, **leaves)
    expected = {
        name: (field.shape, np.dtype(field.dtype)) for name, field in kinds.fields(config(folder, **leaves)).items()
    }
    many, differ = int(dataset.train.epoch_rows), 0
    for k in [*range(12), many + 3]:
        row = dataset.train.row(k)
        assert {name: (np.shape(x), np.asarray(x).dtype) for name, x in row.items()} == expected
        assert same(row, again.train.row(k))
        differ += not same(row, dataset.train.row(k + many))
        assert row["weights"].any() and not row["weights"][row["segments"] == 0].any()
    assert differ > 8
    batch = dataset.train_batch(3, 4)
    for name, x in batch.items():
        np.testing.assert_array_equal(
            x, np.concatenate([again.train_batch(3, 4, slice(i, i + 2))[name] for i in (0, 2)])
        )
    assert len(dataset.valid) and dataset.valid.length == 64
    assert all(same(dataset.valid.row(k), other.valid.row(k)) for k in range(len(dataset.valid)))
    padding = dataset.valid.row(len(dataset.valid))
    assert {name: np.shape(x) for name, x in padding.items()} == {name: shape for name, (shape, _) in expected.items()}
    assert not any(np.asarray(x).any() for x in padding.values())


def test_what_was_masked_is_the_original_and_its_bytes_are_counted(folder):
    dataset = opened(folder, **{"corruption.kind": "masked", "corruption.whole_word": True})
    tokenizer, chosen = dataset.tokenizer, []
    for k in range(40):
        row, before = dataset.train.row(k), dataset.train.stream.row(k)
        np.testing.assert_array_equal(row["originals"], before["tokens"])
        np.testing.assert_array_equal(row["tokens"][row["weights"] == 0], before["tokens"][row["weights"] == 0])
        np.testing.assert_array_equal(row["bytes"], tokenizer.token_bytes[row["originals"]] * (row["weights"] > 0))
        assert "targets" not in row and not row["weights"][row["originals"] == tokenizer.doc].any()
        chosen.append(row["weights"].mean())
    patterns = {dataset.train.row(k)["weights"].tobytes() for k in range(40)}
    assert (
        len(patterns) == 40 and 0.1 < np.mean(chosen) < 0.2 and 256 < tokenizer.special("mask") < tokenizer.vocab_size
    )


def test_the_text_of_a_row_can_be_put_together_from_source_and_target(folder):
    dataset = opened(folder, **{"corruption.kind": "spans", **KINDS["spans"]})
    marks = np.array([i for name, i in dataset.tokenizer.specials.items() if name.startswith("sentinel")])
    for k in range(40):
        row = dataset.train.row(k)
        found = spans.restored(end(row, "source", "source_segments"), end(row), marks)
        np.testing.assert_array_equal(found, text(dataset.train.stream.row(k), dataset.tokenizer.doc))
    assert dataset.train.stream.length == spans.raw_length(80, 64, 0.15, 3.0)
    assert max((dataset.train.row(k)["source_segments"] > 0).sum() for k in range(40)) == 80


def test_the_target_of_denoising_is_the_text_and_the_source_some_of_it(folder):
    dataset = opened(folder, **{"corruption.kind": "denoise", **KINDS["denoise"]})
    mask, shares = dataset.tokenizer.special("mask"), []
    for k in range(40):
        row = dataset.train.row(k)
        ids, source = text(dataset.train.stream.row(k), dataset.tokenizer.doc), end(row, "source", "source_segments")
        np.testing.assert_array_equal(end(row), ids)
        kept = source[source != mask]
        assert not (np.bincount(kept, minlength=300) > np.bincount(ids, minlength=300)).any()
        shares.append(len(kept) / len(ids))
    assert 0.58 < np.mean(shares) < 0.68  # 0.7 less a tenth


def test_only_what_follows_the_prefix_is_predicted(folder):
    dataset = opened(folder, **{"corruption.kind": "prefix"})
    for k in range(30):
        row, before = dataset.train.row(k), dataset.train.stream.row(k)
        assert all(np.array_equal(row[name], before[name]) for name in ("tokens", "targets", "segments", "positions"))
        inside = (row["prefix"][1:] == 1) & (row["segments"][1:] == row["segments"][:-1])
        assert not row["weights"][:-1][inside].any() and row["weights"][-1] == 1
        assert row["weights"].sum() == 64 - inside.sum() and not row["bytes"][row["weights"] == 0].any()


def test_documents_that_are_rearranged_are_all_there_and_end(folder):
    dataset = opened(folder, **{"corruption.kind": "infill", **KINDS["infill"], "corruption.suffix_first": 0.0})
    marks, doc, moved = np.array([dataset.tokenizer.special(name) for name in infill.MARKS]), dataset.tokenizer.doc, 0
    for k in range(40):
        row, before = dataset.train.row(k), dataset.train.stream.row(k)
        assert (
            row["segments"].max() == before["segments"].max()
            and (row["weights"] > 0).sum() == (row["segments"] > 0).sum()
        )
        for segment in range(1, row["segments"].max() + 1):
            here, was = row["segments"] == segment, before["segments"] == segment
            ids = row["tokens"][here]
            if (ids == marks[2]).any():
                moved += 1
                assert row["targets"][here][-1] == doc
                begun = int(ids[0] == doc)
                ids = np.concatenate([ids[:begun], infill.restored(ids[begun:], marks)])
            np.testing.assert_array_equal(ids, before["tokens"][was])
    assert moved > 40


@pytest.mark.parametrize("pair", ["next", "order"])
def test_two_parts_of_a_text_are_marked_and_told_apart(folder, pair):
    dataset = opened(folder, **{"corruption.kind": "sentences", "packing": "none", "corruption.pair": pair})
    special, labels = dataset.tokenizer.special, []
    for k in range(60):
        row, before = dataset.train.row(k), text(dataset.train.stream.row(k), dataset.tokenizer.doc)
        original, n = row["originals"], int(row["segments"].sum())
        at = np.flatnonzero(original == special("sep")).tolist()
        assert original[0] == special("cls") and at[1] == n - 1 and len(at) == 2
        first, second = original[1 : at[0]], original[at[0] + 1 : at[1]]
        np.testing.assert_array_equal(row["types"][:n], np.arange(n) > at[0])
        if row["label"] == 0 or pair == "order":
            parts = [second, first] if row["label"] else [first, second]
            np.testing.assert_array_equal(np.concatenate(parts), before)
        assert not row["weights"][[0, *at]].any() and row["label_weights"] == 1
        labels.append(int(row["label"]))
    assert 15 < sum(labels) < 45 and len(dataset.classes) == 2
    read = np.concatenate([text(dataset.valid.stream.row(k), dataset.tokenizer.doc) for k in range(len(dataset.valid))])
    assert len(read) == dataset.stats["valid"]["token_bytes"]  # each byte of the validation split once


@pytest.mark.parametrize("augmented", [False, True])
def test_a_pair_has_a_row_of_the_source_and_one_of_the_target_or_is_left_out(folder, augmented):
    leaves = {"kind": "pairs", "source_length": 110, "length": 70, "packing": "none"}
    leaves |= {"augment.text": ("noise",), "augment.rate": 0.5} if augmented else {}
    dataset, said = opened(folder, **leaves), []
    records = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    sizes = [(len(record["source"].encode()), len(record["target"].encode())) for record in records]
    kept = [record for record, (source, target) in zip(records, sizes, strict=True) if source < 110 and target < 70]
    fit = {record["target"]: record["source"] for record in kept}
    assert 20 < len(fit) < 50
    found, decode = {}, dataset.tokenizer.decode
    rows = [dataset.train.row(k) for k in range(dataset.train.epoch_rows)]
    for row in [*rows, *(dataset.valid.row(k) for k in range(len(dataset.valid)))]:
        n, source = int(row["segments"].sum()), end(row, "source", "source_segments")
        assert row["tokens"][0] == row["targets"][n - 1] == row["source"][len(source)] == dataset.tokenizer.doc
        np.testing.assert_array_equal(row["tokens"][1:n], row["targets"][: n - 1])
        np.testing.assert_array_equal(row["weights"], row["segments"])
        np.testing.assert_array_equal(row["source_positions"][: len(source) + 1], np.arange(len(source) + 1))
        assert row["bytes"].sum() == n - 1 == row["weights"].sum() - 1
        found[decode(end(row))] = decode(source)
    assert set(found) == set(fit) and (found == fit) != augmented
    assert sum(dataset.stats["left_out"]["longer than a row"].values()) == 60 - len(fit)
    with pytest.raises(UserError, match="data.source_length=3 and data.length=70"):
        open_dataset(config(folder, **{**leaves, "source_length": 3}), 0, said.append, workers=1)


@pytest.mark.parametrize("leaves, message", [
    ({"source_length": 32}, "data.kind=text has none"),
    ({"kind": "pairs", "source_length": 32}, "--config.data.packing=none"),
    ({"kind": "pairs", "source_length": 32, "packing": "none", "buckets": 2}, "data.buckets=2 cuts rows of one text"),
    ({"kind": "pairs", "source_length": 1}, "data.source_length=1: at least 2"),
    ({"corruption.kind": "denoise", "source_length": 32}, "at least data.length=64"),
    ({"corruption.kind": "masked", "augment.text": ("mask",), "packing": "none"}, "leave one out"),
    ({"corruption.kind": "spans", "source_length": 64, "curriculum.start_length": 8, "curriculum.grow_rows": 9},
     "data.curriculum.start_length=8 cuts texts"),
])  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_is_read(folder, leaves, message):
    with pytest.raises(UserError, match=message):
        opened(folder, **leaves)


def test_a_tokenizer_of_berts_keeps_its_own_marks(folder, tmp_path):
    """[SEP] stands between documents there as well as between texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = sorted(
        {word for line in (folder / "all.jsonl").read_text().lower().split() for word in re.findall(r"\w+|\W", line)}
    )
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.save(str(tmp_path / "tokenizer.json"))
    leaves = {
        "tokenizer": str(tmp_path),
        "corruption.kind": "sentences",
        "packing": "none",
        "corruption.whole_word": True,
    }
    dataset = opened(folder, **leaves)
    assert dataset.tokenizer.vocab_size == len(vocabulary) and dataset.tokenizer.doc == vocabulary["[SEP]"]
    row = dataset.train.row(0)
    n = int(row["segments"].sum())
    assert row["originals"][0] == vocabulary["[CLS]"] and row["originals"][n - 1] == vocabulary["[SEP]"]
    assert (row["tokens"] == vocabulary["[MASK]"]).any() and not row["weights"][row["originals"] < 5].any()
    lines = [
        json.dumps({"question": f"the house {i}", "choices": ["yes", f"number {i}"], "label": 1}) for i in range(40)
    ]
    (tmp_path / "choices.jsonl").write_text("\n".join(lines))
    leaves = {"kind": "choices", "choices": 2, "source": str(tmp_path / "choices.jsonl"), "tokenizer": str(tmp_path)}
    with pytest.raises(UserError, match="--config.data.marks=cls"):
        opened(folder, packing="none", **leaves)
    row = opened(folder, packing="none", marks="cls", **leaves).train.row(0)
    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    for tokens, types in zip(row["tokens"], row["types"], strict=True):
        n = int((tokens > 0).sum())
        assert tokens[0] == cls and (tokens[:n] == sep).sum() == 2 and tokens[n - 1] == sep and types.sum() in (2, 3)


def test_corrupted_rows_may_be_of_a_mixture_and_grow(folder, tmp_path):
    with open(tmp_path / "more.jsonl", "w") as file:
        file.writelines(json.dumps({"text": f"more of {i} " * 5}) + "\n" for i in range(40))
    for kind, more in KINDS.items():
        leaves = {"corruption.kind": kind, "mixture.sources": (str(tmp_path / "more.jsonl"),), **more}
        dataset, plain = opened(folder, **leaves), opened(folder, **{**leaves, "mixture.weights": (1, 9)})
        assert sum(dataset.train.counts(20).values()) == 20 and dataset.train.row(5)["weights"].any()
        assert dataset.fingerprint == plain.fingerprint
    grown = opened(folder, **{"corruption.kind": "masked", "curriculum.start_length": 8, "curriculum.grow_rows": 10})
    row = grown.train.row(0)
    assert row["segments"].max() >= 8 and "originals" in row
    pairs = opened(folder, kind="pairs", source_length=300, length=100, packing="none",
                   **{"mixture.sources": (str(folder),)})  # fmt: skip
    assert pairs.train.row(3)["source_segments"].any()
