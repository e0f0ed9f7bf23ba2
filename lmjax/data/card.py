"""A data card for a build: what the data is, where it is from, what was removed, what it looks like.

DATA_CARD.md and data_card.html say the same; the page needs no other file and no network. What goes into a card
follows Gebru et al. 2021, "Datasheets for Datasets" (arXiv:1803.09010), as far as it can be counted.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax.data import examples, shards, tokenizers
from lmjax.data.cleaning import LOCAL, TOGETHER, languages, scripts
from lmjax.data.records import KINDS

MARKDOWN, PAGE = "DATA_CARD.md", "data_card.html"
LOOKED_AT = 512  # documents, evenly spread over training, by which the scripts are estimated
BEGINNING = 2000  # characters of each by which its language is guessed
SHOWN = 6  # of these that are samples
PICTURES = 24  # likewise, of kinds with images
THUMBNAIL = 64  # pixels a side
LABELS = 30  # that are listed
PICTURE = """.picture { display: inline-block; width: 7.5rem; margin: 0 .5rem .5rem 0; vertical-align: top; text-align: center; }
.picture img { width: 4rem; height: 4rem; }
"""  # the style of a page that has them
EXCERPT = 300  # characters
WORST = 20  # documents found in training that are named
REMOVED_SHOWN = 3  # samples of each rule
PARTS = {"pii email": "e-mail addresses", "pii phone": "telephone numbers", "pii ip": "IP addresses"} | {
    "pii card": "card numbers",
    "pii iban": "IBANs",
    "unicode": "texts with other Unicode forms",
    "html": "texts with markup",
    "boilerplate": "lines of page frames",
}


class Looked(NamedTuple):
    """A training record that is looked at: its label or kind, its text, its image (s, s, 3)."""

    kind: str
    text: str
    image: np.ndarray | None


class Section(NamedTuple):
    """A heading with some of: facts, (name, text); bars, (name, count); samples, (kind, text); pictures, (what, PNG).

    note: what to know.
    """

    title: str
    facts: list[tuple[str, str]] = []
    bars: list[tuple[str, int]] = []
    samples: list[tuple[str, str]] = []
    pictures: list[tuple[str, bytes]] = []
    note: str = ""
    shares: bool = True  # whether the bars are parts of one whole


def write_card(folder: Path, manifest: dict, report: dict | None = None) -> Path:
    """Writes both files into a prepared folder and returns the page's path.

    manifest: what the build says of the folder; report: of cleaning, as JSON, else the folder's cleaning.json if there
    is one. The same folder and manifest give the same bytes.
    """
    if report is None and (folder / "cleaning.json").exists():
        report = json.loads((folder / "cleaning.json").read_text("utf-8"))
    found = sections(folder, manifest, report)
    name = str(manifest["source"]["name"])
    (folder / MARKDOWN).write_text(markdown(name, found), "utf-8")
    (folder / PAGE).write_text(page(name, found), "utf-8")
    return folder / PAGE


def sections(folder: Path, manifest: dict, report: dict | None) -> list[Section]:
    """What the card says, in its order."""
    form = examples.of_manifest(manifest)
    tokenizer = tokenizers.load(folder / "tokenizer") if form.texts else None
    lengths = [np.load(folder / f"{name}.lengths.npy") for name in shards.SPLITS]
    looked = _looked_at(folder, manifest, form, tokenizer)
    texts = [one.text for one in looked if form.texts]
    letters, spoken = Counter(), Counter()
    for text in texts:
        letters.update(scripts.counts(text))
        spoken.update(languages.counts(text[:BEGINNING]))
    seen = f"Of {len(texts)} training documents, evenly spread."
    found = [Section("Source", facts=_source(manifest, tokenizer)), Section("Sizes", facts=_sizes(manifest, form))]
    if form.texts:
        spoken, letters = (sorted(seen.items(), key=lambda pair: (-pair[1], pair[0])) for seen in (spoken, letters))
        found += [
            Section("Tokens a document", bars=_powers(np.concatenate(lengths)), note="Documents by the power of two."),
            Section("Languages", bars=spoken, note=f"Letters of lines, by their most frequent words: a guess. {seen}"),
            Section("Scripts", bars=letters, note=f"Letters. {seen}"),
        ]
    if form.labelled:
        found += _labels(manifest)
    if report:
        found += _cleaning(report)
    if "contamination" in manifest and manifest["contamination"]:
        found.append(Section("Validation documents in training", facts=_contamination(manifest["contamination"])))
    return found + [_samples(looked, form)]


def _samples(looked: list[Looked], form: examples.Form) -> Section:
    """Some of the records that were looked at, evenly spread."""
    most = PICTURES if form.image_size else SHOWN
    some = looked[:: max(1, len(looked) // most)][:most]
    if form.image_size:
        return Section("Samples", pictures=[(_short(one.text) or one.kind, _png(one.image)) for one in some])
    return Section("Samples", samples=[(one.kind, _short(one.text)) for one in some])


def _source(manifest: dict, tokenizer: Any) -> list[tuple[str, str]]:
    source = manifest["source"]
    kept = [
        (name, source[name]) for name in ("name", "kind", "package", "version", "licence", "citation") if name in source
    ]
    kept += [("records", manifest["kind"])] if "kind" in manifest else []
    kept += [("files", f"{source['files']:,}")] if isinstance(source.get("files"), int) else []
    kept += [(f"left out: {name}", f"{count:,}") for name, count in sorted(source.get("other_files", {}).items())]
    if tokenizer:
        kept += [("tokenizer", f"{tokenizer.vocab_size:,} ids, {manifest.get('tokenizer', tokenizer.fingerprint)}")]
    return [(name, str(value)) for name, value in kept] + [("fingerprint", manifest["fingerprint"])]


def _sizes(manifest: dict, form: examples.Form) -> list[tuple[str, str]]:
    facts = [("images", f"{form.image_size} x {form.image_size} pixels, RGB")] if form.image_size else []
    for name in shards.SPLITS:
        split = manifest[name]
        if not form.texts:
            facts.append((name, f"{split['documents']:,} images"))
            continue
        facts.append((name, f"{split['documents']:,} documents, {split['tokens']:,} tokens, {split['bytes']:,} bytes"))
    size, tokens, documents = (
        sum(manifest[name][key] for name in shards.SPLITS) for key in ("bytes", "tokens", "documents")
    )
    share = manifest["valid"]["documents"] / max(1, documents)
    if form.texts:  # each text has one token before it: <doc>, or <sep> within a pair
        facts.append(("bytes a token", f"{size / max(1, tokens - form.marks * documents):.3f}"))
    what = {"text": "text", "spans": "context"}.get(form.kind, KINDS[form.kind][0])
    return facts + [("validation", f"{share:.2%} of the documents, chosen by the SHA-256 of their {what}")]


def _labels(manifest: dict) -> list[Section]:
    """How often each label is in each split."""
    found, names = [], manifest["labels"]
    for split, counts in manifest["label_counts"].items():
        bars = sorted(zip(names, counts, strict=True), key=lambda pair: (-pair[1], pair[0]))
        note = f"{len(names)} labels; the {LABELS} most frequent." if len(names) > LABELS else ""
        found.append(Section(f"Labels, {split}", bars=bars[:LABELS], note=note))
    unseen = [(f"label {label}", f"{count:,} records left out") for label, count in manifest["unseen_labels"].items()]
    return found + ([Section("Labels that training has not", facts=unseen)] if unseen else [])


def _cleaning(report: dict) -> list[Section]:
    removed = {name: report["removed"].get(name, 0) for name in (*LOCAL, *TOGETHER)}
    bars = [("kept", report["kept"])] + [(name, count) for name, count in removed.items() if count]
    bars += [(f"unreadable: {name}", count) for name, count in sorted(report["bad"].items())]
    found = [Section("Records by what became of them", bars=bars, note=f"{report['read']:,} records were read.")]
    if report["changed"]:
        changed = [(PARTS.get(name, name), count) for name, count in sorted(report["changed"].items())]
        found.append(Section("Changed in what was kept", bars=changed, shares=False))
    gone = [(rule, text) for rule, some in report["samples"].items() if rule != "kept" for text in _few(some)]
    return found + ([Section("Samples of what was removed", samples=gone)] if gone else [])


def _few(samples: dict[str, str]) -> list[str]:
    return [_short(samples[key]) for key in sorted(samples)[:REMOVED_SHOWN]]


def _contamination(found: dict) -> list[tuple[str, str]]:
    facts = [("n-gram", f"{found['n']} words"), ("tested", f"{found['documents']:,} documents")]
    facts += [("too short to test", f"{found['short']:,} documents"), ("found", f"{found['contaminated']:,} documents")]
    return facts + [("worst", ", ".join(found["worst"][:WORST]))] if found["worst"] else facts


def _looked_at(folder: Path, manifest: dict, form: examples.Form, tokenizer: Any) -> list[Looked]:
    size = tokenizer.vocab_size if tokenizer else 0
    documents = shards.load(folder, manifest["train"], "train", size, form.head, form.tail, most=0)
    count = len(documents.lengths)
    most = 4 * EXCERPT  # tokens: enough for the excerpt and for counting
    found = []
    for i in range(0, count, -(-count // LOOKED_AT)) if count else ():
        head = documents.head(i) if documents.head else None
        named = form.labelled and "label" in form.head.names
        kind = str(manifest["labels"][head["label"]]) if named else form.kind if form.key else "document"
        text = ""
        if form.texts:
            ids = documents.read(i, 1, min(most, int(documents.lengths[i])))
            marks = np.flatnonzero(ids == tokenizer.special(examples.SEP)) if len(form.texts) > 1 else []
            text = " → ".join(tokenizer.decode(part) for part in np.split(ids, marks))
        found.append(Looked(kind, text, head["image"] if form.image_size else None))
    return found


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


def _powers(lengths: np.ndarray) -> list[tuple[str, int]]:
    powers = np.log2(np.maximum(lengths, 1)).astype(np.int64)
    counts = np.bincount(powers) if len(powers) else np.zeros(0, np.int64)
    first = int(np.flatnonzero(counts)[0]) if counts.any() else 0
    return [(f"{2**i:,} to {2 ** (i + 1) - 1:,}", int(counts[i])) for i in range(first, len(counts))]


def _short(text: str) -> str:
    text = " ".join(text.replace("\ufffd", " ").split())
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} …"


def markdown(name: str, found: list[Section], what: str = "Data card") -> str:
    """The card as Markdown."""
    lines = [f"# {what}: {_plain(name)}", ""]
    for section in found:
        lines += [f"## {section.title}", ""] + ([section.note, ""] if section.note else [])
        if section.facts:
            lines += [
                "| | |",
                "|---|---|",
                *(f"| {_plain(key)} | {_plain(value)} |" for key, value in section.facts),
                "",
            ]
        if section.bars:
            total = sum(count for _, count in section.bars) or 1
            rows = (
                f"| {_plain(key)} | {count:,} |{_share(section, count, total, ' {} |')}" for key, count in section.bars
            )
            head = ["| | count | share |", "|---|--:|--:|"] if section.shares else ["| | count |", "|---|--:|"]
            lines += [*head, *rows, ""]
        lines += [line for kind, text in section.samples for line in (f"- *{_plain(kind)}*: {_plain(text)}", "")]
        lines += [line for what, _ in section.pictures for line in (f"- {_plain(what)}", "")]
    return "\n".join(lines)


def _share(section: Section, count: int, total: int, cell: str) -> str:
    return cell.format(f"{count / total:.1%}") if section.shares else ""


def _plain(text: str) -> str:
    """Text of the data as text of Markdown: none of its signs may become markup."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()#|~<>!&" else sign for sign in " ".join(str(text).split()))


def page(name: str, found: list[Section], what: str = "Data card") -> str:
    """The card as one HTML page with inline SVG, light and dark."""
    style = (Path(__file__).parent / "card.css").read_text("utf-8")
    style += PICTURE if any(section.pictures for section in found) else ""
    title = f"{what}: {html.escape(name)}"
    body = "".join(map(_section, found))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n<meta name="viewport" '
        f'content="width=device-width, initial-scale=1">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        f"<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    text = functools.partial(html.escape, quote=True)
    inner = f"<p>{text(section.note)}</p>\n" if section.note else ""
    if section.facts:
        rows = "".join(
            f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>\n' for key, value in section.facts
        )
        inner += f'<table class="facts">\n{rows}</table>\n'
    if section.bars:
        cell = '<td class="count">{}</td>'
        total, most = sum(count for _, count in section.bars) or 1, max(count for _, count in section.bars) or 1
        rows = "".join(
            f'<tr><th scope="row">{text(key)}</th><td class="plot"><svg viewBox="0 0 100 10" preserveAspectRatio="none" '
            f'aria-hidden="true"><rect width="{100 * count / most:.2f}" height="10"/></svg></td><td class="count">{count:,}'
            f"</td>{_share(section, count, total, cell)}</tr>\n"
            for key, count in section.bars
        )
        inner += f'<table class="bars">\n{rows}</table>\n'
    for what, png in section.pictures:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        inner += f'<figure class="picture"><img src="{source}" alt=""><figcaption>{text(what)}</figcaption></figure>\n'
    for kind, sample in section.samples:
        inner += f'<figure><figcaption>{text(kind)}</figcaption><blockquote dir="auto">{text(sample)}</blockquote></figure>\n'
    return f"<section>\n<h2>{text(section.title)}</h2>\n{inner}</section>\n"
