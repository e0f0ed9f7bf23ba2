"""The languages of a text, guessed line by line: by the script where one language has it almost alone, else by the most
frequent function words. Enough to say what a corpus is made of, not to decide about one line of it.
"""

from __future__ import annotations

import functools
import re

from lmjax.data.cleaning import scripts

UNCLEAR = "unclear"
FEWEST = 0.12  # of a line's different words that must be those of its language, and no fewer than two
OWN = {"kana": "Japanese", "hangul": "Korean", "greek": "Greek", "hebrew": "Hebrew", "thai": "Thai", "lao": "Lao",
       "armenian": "Armenian", "georgian": "Georgian", "khmer": "Khmer", "burmese": "Burmese", "tamil": "Tamil",
       "telugu": "Telugu", "kannada": "Kannada", "malayalam": "Malayalam", "gujarati": "Gujarati", "sinhala": "Sinhala",
       "gurmukhi": "Punjabi", "tibetan": "Tibetan", "mongolian": "Mongolian", "bengali": "Bengali"}  # fmt: skip
# The most frequent words of each that say nothing by themselves. Some are words of several: the most hits win.
WORDS = {
    "English": "the of and to a in is that for it with as was on be this are by not you or from at have if can an but",
    "German": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus",
    "French": "de la le et les des en un du une est que dans qui pour au pas sur ne par plus ce avec il sont ou aux",
    "Spanish": "de la que el en y los del se las por un para con una no es su al lo como más o este pero sus",
    "Italian": "di e il la che in un del per non sono una con della da si le dei gli è al nel alla più lo anche",
    "Portuguese": "de a o que e do da em um para com não uma os no se na por mais as dos como ao é das foi ou",
    "Dutch": "de van het een en in is dat op te zijn met voor niet aan er om ook als bij door worden naar wordt",
    "Swedish": "och i att det som en på är av för med den till inte om ett har de kan eller från vid",
    "Danish": "og i at det en er til som på de med af for ikke der den har kan et eller fra ved blev",
    "Norwegian": "og i det er på som til en for av at med ikke de har den et kan eller fra ved ble også",
    "Polish": "i w na z do się że nie to jest o jak po za od przez oraz dla lub są ma które",
    "Czech": "a se v na je že s o z do i to jako by pro ve nebo jsou které ale při",
    "Romanian": "și în de la cu pe a că din o este nu se un pentru care sau mai sunt ale",
    "Hungarian": "a az és hogy nem is egy meg de ez van csak ha volt vagy mint el",
    "Finnish": "ja on ei että se oli hän mutta myös kun ovat joka tai sekä niin ole",
    "Turkish": "ve bir bu da de için ile çok daha olarak gibi ne ama olan veya her",
    "Indonesian": "yang dan di dengan untuk dari ini itu pada tidak dalam adalah akan ke oleh atau",
    "Vietnamese": "của và là có được trong cho các không một người những với này đã",
    "Russian": "и в не на что с он как это по но к у из за от для а или так его",
    "Ukrainian": "і в не на що з у до як та це для його від є а або за й",
    "Bulgarian": "на и да в за се от не с че по си са е като или до това",
    "Arabic": "في من على أن إلى عن مع هذا التي هذه ما لا كان الذي أو ذلك بين و",
    "Persian": "و در به از که این را با است برای آن یک تا می بر شده هم",
    "Urdu": "کے میں کی ہے اور سے کا کو پر یہ نے کہ ہیں ایک بھی",
    "Hindi": "के में की है और से का को पर यह ने कि हैं एक भी नहीं",
}
WORD = re.compile(r"[^\W\d_]+(?:[\u0900-\u097f]+)?")


def counts(text: str) -> dict[str, int]:
    """Letters of the lines in each language, and of those that are UNCLEAR."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        if letters := sum(scripts.counts(line).values()):
            name = of_line(line)
            found[name] = found.get(name, 0) + letters
    return found


def of_line(line: str) -> str:
    """A key of WORDS, a value of OWN, Chinese, or UNCLEAR."""
    seen = scripts.counts(line)
    script = max(seen, key=seen.get, default="other")
    if script in ("han", "kana"):
        return "Japanese" if seen.get("kana", 0) * 10 > seen.get("han", 0) else "Chinese"
    if script in OWN:
        return OWN[script]
    words, hits = dict.fromkeys(WORD.findall(line.lower())), {}  # in their order: ties must not be chance
    for word in words:
        for name in _languages().get(word, ()):
            hits[name] = hits.get(name, 0) + 1
    best = max(hits, key=hits.get, default=UNCLEAR)
    return best if hits and hits[best] >= max(2, FEWEST * len(words)) else UNCLEAR


@functools.cache
def _languages() -> dict[str, list[str]]:
    """Word -> the languages that have it."""
    found: dict[str, list[str]] = {}
    for name, words in WORDS.items():
        for word in words.split():
            found.setdefault(word, []).append(name)
    return found
