"""The data card says what the build counted, shows text as text, and is one file that needs nothing else."""

import json
import re
import shutil
import tracemalloc
from html.parser import HTMLParser

import pytest

from configs import base
from lmjax import config
from lmjax.data import card, open_dataset
from lmjax.data.card import Section
from lmjax.data.cleaning import languages, scripts

HOSTILE = '<script>alert("1")</script> | **bold** [link](http://x.example) `code` & <b>'


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared folder of 60 documents, 10 of them copies, 5 short, one hostile; and its manifest."""
    root = tmp_path_factory.mktemp("card")
    lines = [f"Document {n} says that {n * n} sheep went up the hill and {n} came down again." for n in range(44)]
    lines += [HOSTILE + " " + "word " * 20] + lines[:10] + ["tiny"] * 5
    (root / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    leaves = {"source": str(root / "text.jsonl"), "length": 16, "valid_fraction": 0.2}
    leaves |= {"clean.exact_duplicates": True, "clean.min_words": 3}
    chosen = config.update(config.config(data=base.data()), {f"data.{name}": value for name, value in leaves.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMJAX_CACHE", str(root / "cache"))
        dataset = open_dataset(chosen.data, 0)
        (folder,) = [path.parent for path in (root / "cache" / "data").glob("*/manifest.json")]
    return folder, dataset.stats


@pytest.fixture
def written(prepared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(prepared[0], folder)
    page = card.write_card(folder, prepared[1])
    return page.read_text("utf-8"), (folder / card.MARKDOWN).read_text("utf-8")


class Tags(HTMLParser):
    VOID = {"meta", "rect"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_needs_no_other_file(written):
    tags = Tags()
    tags.feed(written[0])
    assert tags.open == [] and {tag for tag, _ in tags.seen} >= {"svg", "rect", "table", "blockquote", "style"}
    assert not {tag for tag, _ in tags.seen} & {"script", "img", "link", "iframe", "b", "a"}
    assert not [attrs for _, attrs in tags.seen if {"src", "href", "onload"} & attrs.keys()]
    assert "url(" not in written[0] and "@import" not in written[0]


def test_both_forms_say_what_was_counted(written, prepared):
    stats = prepared[1]
    assert stats["cleaning"]["removed"] == {"exact_duplicates": 10, "min_words": 5}
    for text in written:
        assert stats["fingerprint"] in text
        for split in ("train", "valid"):
            assert f"{stats[split]['documents']} documents, {stats[split]['tokens']:,} tokens" in text
        for rule, count in (("min_words", 5), ("exact_duplicates", 10), ("kept", 45)):
            plain = re.sub(r"<[^>]*>|\\", " ", text).replace(" _", "_")
            assert re.search(rf"{rule}[\s|]+{count}[\s|]+{count / 60:.1%}", plain), rule
        assert "60 records were read" in text and "latin" in text


SAID = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Italian": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "Portuguese": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos, dotados de razão.",
    "Dutch": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren, met verstand en geweten.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Ukrainian": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق وعليهم أن يعامل بعضهم بعضًا على هذا.",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。",
    "Japanese": "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "unclear": "x = [print(y), f(z) + 12, g(k)]",
}


@pytest.mark.parametrize("name", SAID)
def test_the_language_of_a_sentence_is_told(name):
    """The first article of the Universal Declaration of Human Rights, and no language."""
    assert languages.counts(f"{SAID[name]}\n1234\n") == {name: sum(scripts.counts(SAID[name]).values())}


def test_the_languages_of_pairs_are_both_counted(prepared, written):
    assert "English" in written[1]
    both = languages.counts(f"{SAID['English']}\n{SAID['German']}")
    assert both.keys() == {"English", "German"}


def test_text_of_the_data_stays_text(written):
    tags = Tags()
    tags.feed(written[0])
    assert "Document" in "".join(tags.text)
    section = Section("Samples", samples=[("document", HOSTILE)], facts=[(HOSTILE, "a | b\nc")], bars=[(HOSTILE, 0)])
    page, text = card.page(HOSTILE, [section]), card.markdown(HOSTILE, [section])
    tags = Tags()
    tags.feed(page)
    assert not {tag for tag, _ in tags.seen} & {"script", "b"}
    assert "".join(tags.text).count(HOSTILE) == 5  # title, heading, fact, bar, sample
    assert "<script>" not in text and "[link](" not in text and r"\*\*bold\*\*" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}


def test_the_same_build_gives_the_same_card(written, prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "again")
    page = card.write_card(tmp_path / "again", prepared[1])
    assert page.read_text("utf-8") == written[0]


def test_a_build_that_cleans_nothing_has_a_card(prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "plain")
    (tmp_path / "plain" / "cleaning.json").unlink()
    text = card.write_card(tmp_path / "plain", prepared[1]).with_name(card.MARKDOWN).read_text("utf-8")
    assert "Scripts" in text and "became of them" not in text


def test_a_card_holds_a_few_documents_and_not_the_whole_split(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    for n in range(4):
        (tmp_path / f"{n}.txt").write_text(f"line {n} of many words\n" * 50_000)
    chosen = config.update(config.config(data=base.data()), {"data.source": str(tmp_path), "data.tokenizer": "bytes"})
    stats = open_dataset(chosen.data, 0).stats
    (folder,) = [path.parent for path in (tmp_path / "cache" / "data").glob("*/manifest.json")]
    tracemalloc.start()
    try:
        card.write_card(folder, stats)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stats["train"]["tokens"] > 3_000_000 and peak < stats["train"]["tokens"]  # of two bytes each
