"""HTML to plain text, and lines that belong to a page's frame and not to what it says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

MARKUP = re.compile(r"<[a-zA-Z/!?]|&(#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
HIDDEN = {"script", "style", "template", "noscript", "svg", "iframe", "head"}
BLOCKS = set(
    "address article aside blockquote br caption center dd details dialog div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hr legend li main menu nav note ol optgroup option p pre section select summary "
    "table tbody tfoot thead title tr ul body html".split()
)
CELLS = {"td", "th"}
SPACES = re.compile(r"[ \t\r\f\v]+")
GAPS = re.compile(r" *\n *")
PARAGRAPHS = re.compile(r"\n{3,}")

# A line of the frame is short and says one of these things. English, for these are the pages that C4 names as noise
# (Raffel et al. 2020, arXiv:1910.10683, section 2.2), and the notices that European pages must show.
FRAME_LINE = 200  # characters
FRAME = re.compile(
    r"(we|this (web)?site|our (web)?site|by (using|continuing)).{0,60}\bcookies?\b|\b(accept|reject|manage) (all )?cookies\b"
    r"|\bcookie (policy|settings|preferences)\b|\bprivacy policy\b|\bterms (of (use|service)|and conditions)\b"
    r"|\ball rights reserved\b|^(©|\(c\)|copyright\b).{0,80}\d{4}|\b(enable|requires?|turn on) javascript\b"
    r"|^(skip|jump) to (main )?(content|navigation|search)\b|^(click|tap) here\b|^(back to top|(read|load) more|share this)\W*$"
    r"|^(sign|log) (in|up|out)\W*$|^subscribe (to|now)\b|^(follow|like) us on\b|^share on (facebook|twitter|linkedin|x)\b"
    r"|^(home|menu|about( us)?|contact( us)?|search|login|sitemap|faq)(\s*[|»›>•·/]\s*\w([\w ]{0,23}\w)?)+$|\blorem ipsum\b",
    re.IGNORECASE,
)

# Every line that FRAME finds holds one of these in lower case: most texts have none, and that is seen at once.
MARKS = (
    *(
        "cookie",
        "privacy policy",
        "terms ",
        "rights reserved",
        "©",
        "(c)",
        "copyright",
        "javascript",
        "skip to",
        "jump to",
    ),
    *("click here", "tap here", "back to top", "read more", "load more", "share this", "sign ", "log ", "subscribe"),
    *("us on", "share on", "lorem ipsum", "|", "»", "›", ">", "•", "·", "/"),
)


def strip_html(text: str) -> str:
    """The text that a reader of the page would see: tags gone, entities as their characters, blocks on their own
    lines, nothing of scripts and styles. Text without tags or entities comes back as it is.
    """
    if not MARKUP.search(text):
        return text
    page = _Page()
    page.feed(text)
    page.close()
    seen = GAPS.sub("\n", SPACES.sub(" ", "".join(page.parts)))
    return PARAGRAPHS.sub("\n\n", seen).strip()


def strip_frame(text: str) -> tuple[str, int]:
    """The text without lines of cookie notices, navigation, rights and the like; and how many went."""
    lowered = text.lower()
    if not any(mark in lowered for mark in MARKS):
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > FRAME_LINE or not FRAME.search(line.strip())]
    return ("\n".join(kept), len(lines) - len(kept)) if len(kept) < len(lines) else (text, 0)


class _Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden = [], []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in HIDDEN:
            self.hidden.append(tag)
        elif tag in BLOCKS:
            self.hidden.clear() if tag == "body" else None  # <head> may be left open
            self.parts.append("\n\n" if tag == "p" else "\n")
        elif tag in CELLS:
            self.parts.append(" ")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        elif tag in BLOCKS:
            self.parts.append("\n\n" if tag == "p" else "\n")
        elif tag in CELLS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)
