"""Augmentation of texts: what each change may touch, how much it does, and that four numbers decide it."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.augment.chance import Chance
from lmjax.augment.text import MARK, STOP, TEXT, back_translation, pieces
from lmjax.data import corpora
from lmjax.data.corpora import wordnet
from lmjax.errors import UserError

# WordNet 3.0's own.
THESAURUS = {"quick": ("speedy",), "car": ("auto", "automobile", "machine", "motorcar"), "big": ("large",),
             "buy": ("purchase",), "happily": ("merrily", "blithely"), "profit": ("net income", "lucre")}  # fmt: skip
NEEDS = {"synonyms": {"thesaurus": THESAURUS}, "insertion": {"thesaurus": THESAURUS}}
TEXTS = (
    "Quick, buy the big car; the profit is yours, and live happily!\n",
    "  We'll buy 3 cars for the PROFIT of well-known people...\n\n\tBig ones.",
    "我们今天去买一辆大车。 すぐに car を買う",
    "سيارة كبيرة جداً, हिन्दी में लिखा, cafe\u0301 👩\u200d🚀 ок",
    "one", "", " \n", "?!",
)  # fmt: skip
LONG = pieces(" ".join(f"the big quick car number{i} happily runs" for i in range(100)))  # 700 words


def change(name, words, seed=0, index=0, rate=0.2):
    return TEXT[name](words, seed, index, rate, **NEEDS.get(name, {}))


def bare(words):
    return [word.strip() for word in words]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_pieces_joined_are_the_text(text):
    assert "".join(pieces(text)) == text


def test_pieces_are_words_signs_and_marks_each_with_the_space_before_it():
    assert pieces("We'll  buy well-known cars, (3)!\n") == ["We'll", "  buy", " well-known", " cars", ",", " (", "3",
                                                            ")", "!", "\n"]  # fmt: skip
    assert pieces("买大车 car を") == ["买", "大", "车", " car", " を"]
    assert pieces("हिन्दी cafe\u0301!") == ["हिन्दी", " cafe\u0301", "!"]


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("text", TEXTS)
def test_a_change_is_decided_by_its_seed_index_and_rate_and_leaves_its_argument_alone(name, text):
    words = pieces(text)
    for index in range(20):
        made = change(name, words, 3, index, 0.5)
        assert made == change(name, words, 3, index, 0.5) and words == pieces(text)
        assert change(name, words, 3, index, 0.0) == words
        change(name, words, 3, index, 1.0)  # ends, whatever the text


@pytest.mark.parametrize("name", TEXT)
def test_another_seed_or_index_is_another_change(name):
    made = [tuple(change(name, LONG, seed, index)) for seed in (0, 1) for index in (0, 1)]
    assert len({tuple(LONG), *made}) == 5


def test_the_changes_of_one_text_are_these_on_every_machine():
    words = pieces(TEXTS[0])
    made = {name: "".join(change(name, words, 7, 1, 0.3)) for name in TEXT}
    assert made == GOLDEN


GOLDEN = {
    "synonyms": "Quick, purchase the large car; the lucre is yours, and live merrily!\n",
    "insertion": "Quick, buy speedy the big car blithely; the profit is yours, and live motorcar speedy happily!\n",
    "deletion": ", buy big car; the profit is, and happily!\n",
    "swap": "Quick, buy the yours is; live profit car big, and the happily!\n",
    "noise": "uQick, buvy ieh bi ar; thee porfit ii yorus, and lge hpbpily!\n",
    "mask": "<mask>, <mask> <mask> big car; the profit is yours, and live happily!\n",
}


def test_a_synonym_stands_in_the_case_of_its_word_and_other_words_stay():
    words = pieces(TEXTS[0] + "BIG Car")
    for index in range(50):
        made = change("synonyms", words, index=index, rate=1.0)
        assert len(made) == len(words)
        for before, after in zip(bare(words), bare(made), strict=True):
            legal = THESAURUS.get(before.lower(), ())
            assert after.lower() in legal if legal else after == before
        assert bare(made)[0] == "Speedy" and bare(made)[-2] == "LARGE" and bare(made)[-1].istitle()
    assert not {word for word in STOP if word in THESAURUS}


def test_as_many_words_are_replaced_as_the_rate_says_while_there_are_some_with_synonyms():
    counts = [
        sum(a != b for a, b in zip(LONG, change("synonyms", LONG, index=i, rate=0.1), strict=True)) for i in range(5)
    ]
    assert counts == [70] * 5
    short = pieces("big car is big car")  # 5 words at a rate of 0.1: one in half of the texts
    counts = [
        sum(a != b for a, b in zip(short, change("synonyms", short, index=i, rate=0.1), strict=True))
        for i in range(400)
    ]
    assert set(counts) == {0, 1} and 0.4 < np.mean(counts) < 0.6


def test_inserted_words_are_synonyms_of_the_text_and_what_was_there_stays_in_order():
    words = pieces(TEXTS[0])
    known = {"speedy", "purchase", "large", "auto", "automobile", "machine", "motorcar", "net income", "lucre", "merrily",
             "blithely"}  # fmt: skip
    for index in range(30):
        made = change("insertion", words, index=index, rate=0.4)
        rest = iter(made)
        assert all(word in rest for word in words)
        new = Counter(made) - Counter(words)
        assert {word.strip() for word in new} <= known and 4 <= new.total() <= 5  # 12 words
    assert change("insertion", pieces("none of these"), rate=1.0) == pieces("none of these")


def test_deletion_leaves_words_out_at_the_rate_and_one_always_stays():
    lengths = []
    for index in range(40):
        made = change("deletion", LONG, index=index, rate=0.1)
        rest = iter(LONG)
        assert all(word in rest for word in [" " + made[0] if made[0] != LONG[0] else made[0], *made[1:]])
        assert not made[0].startswith(" ")
        lengths.append(len(made))
    assert 0.895 < np.mean(lengths) / len(LONG) < 0.905 and len(set(lengths)) > 5
    assert bare(change("deletion", pieces("a b c."), rate=1.0)) in (["a", "."], ["b", "."], ["c", "."])


def test_swapping_keeps_every_word_and_all_space_where_it_is():
    for text in TEXTS:
        words = pieces(text)
        for index in range(10):
            made = change("swap", words, index=index, rate=0.5)
            assert Counter(bare(made)) == Counter(bare(words))
            assert [re.match(r"\s*", word)[0] for word in made] == [re.match(r"\s*", word)[0] for word in words]
    assert bare(change("swap", pieces("left right"), rate=0.5)) == ["right", "left"]


def test_noise_stays_in_words_and_uses_the_text_s_own_letters():
    for text in TEXTS:
        words = pieces(text)
        letters = set("".join(word for word in bare(words) if word and word[0].isalnum()))
        for index in range(10):
            made = change("noise", words, index=index, rate=0.4)
            assert len(made) == len(words)
            for before, after in zip(bare(words), bare(made), strict=True):
                assert set(after) <= letters and after if before[:1].isalnum() else after == before
    letters = sum(map(len, bare(LONG)))
    touched = [
        sum(a != b for a, b in zip(LONG, change("noise", LONG, index=i, rate=0.01), strict=True)) for i in range(10)
    ]
    assert 0.7 * letters * 0.01 < np.mean(touched) < 1.1 * letters * 0.01


def test_masked_words_come_in_spans_and_are_the_share_that_the_rate_says():
    runs = []
    for index in range(30):
        made = change("mask", LONG, index=index, rate=0.15)
        hidden = "".join("x" if word.strip() == MARK else "-" for word in made)
        assert all(a == b or a.strip() == MARK for a, b in zip(made, LONG, strict=True))
        assert hidden.count("x") == 105
        runs += [len(run) for run in re.findall("x+", hidden)]
    assert 3 < np.mean(runs) < 5.5  # 3.8 is the geometric mean's; spans that touch are longer
    assert bare(change("mask", pieces("all of it!"), rate=1.0)) == [MARK] * 3 + ["!"]


def test_chance_is_the_same_with_every_numpy():
    chance = Chance("a", 1)
    assert [chance.below(1000) for _ in range(4)] == [655, 280, 680, 127]
    units = Chance("u").units(10000)
    assert 0 <= units.min() and units.max() < 1 and abs(units.mean() - 0.5) < 0.01
    assert sorted(Chance("s").some(9, 20)) == list(range(9)) and len(set(Chance("s").some(9, 4))) == 4


def test_back_translation_pairs_what_was_made_with_the_text_in_order():
    words = {"a": "ein", "big": "grosses", "car": "Auto", "quick": "schnelles"}

    def english(texts):
        assert 0 < len(texts) <= 2
        back = {german: word for word, german in words.items()}
        return [" ".join(back.get(word, "") for word in text.split()) for text in texts]

    german = ["ein Auto", "ein grosses Auto", "xyz", "schnelles Auto", "Auto"]
    made = list(back_translation(iter(german), english, batch=2))
    assert made == [{"source": "a car", "target": "ein Auto"}, {"source": "a big car", "target": "ein grosses Auto"},
                    {"source": "quick car", "target": "schnelles Auto"}, {"source": "car", "target": "Auto"}]  # fmt: skip
    with pytest.raises(ValueError, match="1 texts of 2"):
        list(back_translation(german, lambda texts: texts[:1], batch=2))


def test_wordnet_s_synonyms_are_of_a_word_s_commonest_meaning():
    try:
        found = wordnet.thesaurus(corpora.files("wordnet"))
    except UserError as error:
        pytest.skip(str(error))
    assert {word: found[word] for word in ("quick", "big", "buy")} == {
        "quick": ("speedy",), "big": ("large",), "buy": ("purchase",)
    }  # fmt: skip
    assert set(found["car"]) == set(THESAURUS["car"]) and "oil" not in found
    assert all(others and word not in map(str.lower, others) for word, others in found.items())
    assert all("_" not in word and word == word.lower() for word in found) and len(found) == 55283
