"""Reports and cards of real runs: every form says what was measured, and the same runs give the same bytes."""

import csv
import html.parser
import io
import json
import os
import re
import shutil
import subprocess

import pytest

from lmjax import atomic, seal
from lmjax.__main__ import main
from lmjax.study import card, cells, costs, drawing, latex, markdown, pages, records, report, statistics
from lmjax.study.checks import KINDS
from lmjax.study.table import table
from tests import runs, sweeps


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    text = runs.write_text(tmp_path_factory.mktemp("report") / "text")
    return sweeps.orders(text, "Do contexts <b>& more_than</b> 50 % help?")


@pytest.fixture(scope="module")
def workspace(study, tmp_path_factory):
    return sweeps.carried_out(study, tmp_path_factory.mktemp("workspace"), runs.ROOT / "configs" / "ngram.py")


def rendered(study, workspace, form, home=None, **options):
    found = records.collect(study, workspace)
    return report.render(study, found, table(study, found, **options), form, home=home or workspace).decode()


class Links(html.parser.HTMLParser):
    """The links of a page, its ids, and everything that it would load."""

    def __init__(self, text):
        super().__init__()
        self.to, self.ids, self.loads, self.tags = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.to += [found["href"]] if tag == "a" else []
        self.loads += [found[name] for name in ("src", "srcset", "data") if name in found]
        self.loads += [found.get("href")] if tag == "link" else []


@pytest.mark.parametrize("form", report.FORMS)
def test_the_same_runs_give_the_same_bytes_wherever_they_are(study, workspace, tmp_path, form):
    moved = shutil.copytree(workspace, tmp_path / "elsewhere")
    first = rendered(study, workspace, form)
    assert first == rendered(study, moved, form)
    assert str(workspace) not in first and str(moved) not in first


def test_a_page_loads_nothing_and_every_link_leads_somewhere(study, workspace):
    text = rendered(study, workspace, "html")
    page = Links(text)
    assert (
        page.loads == []
        and "script" not in page.tags
        and "@import" not in text
        and "url(#" not in text.split("<body>")[0]
    )
    manifests = {link for link in page.to if not link.startswith("#")}
    assert manifests == {f"{variant}/seed{seed}/manifest.json" for variant in ("base", "short") for seed in (0, 1)}
    assert all((workspace / link).is_file() for link in manifests)
    assert {link[1:] for link in page.to if link.startswith("#")} == {"runs-base", "runs-short"} <= page.ids
    assert "b" not in page.tags  # the question is text, not markup


def test_links_lead_to_the_manifests_from_another_folder(study, workspace):
    page = Links(rendered(study, workspace, "html", home=workspace / "short"))
    assert "seed0/manifest.json" in page.to and "../base/seed0/manifest.json" in page.to


def test_csv_has_every_digit_and_no_clock(study, workspace):
    rows = list(csv.DictReader(io.StringIO(rendered(study, workspace, "csv"))))
    assert [row["variant"] for row in rows] == ["base", "short"]
    for row in rows:
        results = [
            json.loads((workspace / row["variant"] / f"seed{seed}" / "manifest.json").read_text())["result"]
            for seed in (0, 1)
        ]
        assert [float(word) for word in row["values"].split()] == [result["metrics"]["valid/nll"] for result in results]
    assert float(rows[1]["difference"]) == float(rows[1]["mean"]) - float(rows[0]["mean"]) != 0
    assert rows[0]["difference"] == ""


def test_every_form_has_the_means_and_what_a_variant_changes(study, workspace):
    made = table(study, records.collect(study, workspace))
    for form in ("html", "md", "tex"):
        text = rendered(study, workspace, form)
        for row in made.rows:
            assert f"{row.cells[0].mean.value:.4f}" in text
        assert "model.order" in text and "energy (estimate)" in text and "not measured" in text


def test_the_command_line_takes_either_test(study, workspace, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cells, "study_named", lambda name: (study, runs.ROOT / "configs" / "ngram.py"))
    out = tmp_path / "report.md"
    words = ["report", "orders", f"--workdir={workspace}", "--format=md", f"--out={out}"]
    for test, name in (("t", "paired t test"), ("wilcoxon", "Wilcoxon signed-rank test")):
        monkeypatch.setattr(
            statistics, "deviation", lambda values_n: values_n.std(-1, ddof=1) + 1e-3
        )  # n-grams have none
        assert main([*words, f"--test={test}"]) == 0 and name in out.read_text()
    assert main([*words[:-1], f"--out={tmp_path}"]) == 2
    assert f"--out={tmp_path} is a folder" in capsys.readouterr().err and os.listdir(tmp_path) == ["report.md"]
    assert main([*words, "--format=dvi"]) == 2
    assert "unknown value of --format 'dvi'" in capsys.readouterr().err


def test_an_insisted_report_is_marked_in_every_form(study, workspace, tmp_path):
    spoilt = shutil.copytree(workspace, tmp_path / "spoilt")
    path = spoilt / "short" / "seed1" / "manifest.json"
    edited = atomic.loads(path.read_text().replace("a" * 40, "b" * 40))
    path.write_text(atomic.dumps(seal.stamped(edited)))
    for form in report.FORMS:
        text = rendered(study, spoilt, form, insist=KINDS)
        assert "mixed commits" in text and "short/seed1" in text and str(spoilt) not in text


def test_text_of_others_is_no_markup(study, workspace):
    assert "<b>" not in rendered(study, workspace, "html")
    assert r"more\_than" in rendered(study, workspace, "tex") and r"50 \%" in rendered(study, workspace, "tex")
    assert latex.plain("a_b & 5 % − ü 漢") == r"a\_b \& 5 \% $-$ ü ?"
    assert markdown.plain("a|b <i>") == r"a\|b \<i\>"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_with_any_text_in_it(study, workspace, tmp_path):
    odd = "".join(map(chr, range(0x180))) + "".join(latex.SIGNS) + "漢 ✓ \u202e"
    found = records.collect(study, workspace)
    made = table(study, found)._replace(question=odd, marks=(odd,), notes=(odd, *table(study, found).notes))
    text = latex.text(made, report.facts(made, found, workspace))
    assert "漢" not in text
    (tmp_path / "report.tex").write_text(text)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0 and "Output written on report.pdf" in done.stdout, done.stdout[-2000:]


def test_a_curve_is_the_mean_and_the_range_of_the_seeds_at_the_steps_that_all_have():
    one = [{"step": step, "loss": 10.0 - step} for step in (0, 1, 2)]
    other = [{"step": step, "loss": 20.0 - step} for step in (1, 2, 3)]
    assert drawing.curve([one, other], "loss") == drawing.Curve([1, 2], [14.0, 13.0], [9.0, 8.0], [19.0, 18.0])
    assert drawing.curve([one, other], "other") is None
    long = drawing.curve([[{"step": step, "loss": 1.0} for step in range(5000)]], "loss")
    assert len(long.steps) <= drawing.POINTS and (long.steps[0], long.steps[-1]) == (0, 4999)


def test_two_dozen_curves_look_different_and_the_legend_is_of_the_same_looks():
    assert len({drawing.look(place) for place in range(24)}) == 24
    one = drawing.Curve([1, 2], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    facts = report.Facts("Why?", [], {}, {"valid/nll": {f"v{n}": one for n in range(18)}}, {}, ())
    made = pages.learning(facts)
    assert re.findall(r'<li class="([^"]+)">', made) == [drawing.look(place) for place in range(18)]
    assert re.findall(r'class="line ([^"]+)"', made) == [drawing.look(place) for place in range(18)] * 2  # two widths


def test_costs_are_what_the_log_says():
    def line(step, speed, seconds):
        return {"step": step, "perf/tokens_per_second": speed, "perf/step_seconds": seconds, "perf/mfu": 0.5}

    manifest = {"parameters": 7, "peak": {"flops": 4000.0}, "wall_seconds": 3600.0, "host": {"usable_cpus": 2},
                "devices": {"platform": "cpu", "kind": "cpu", "count": 1}}  # fmt: skip
    record = records.Record(None, "base", 0, None, manifest, [line(10, 100.0, 1.0), line(15, 100.0, 2.0)], {}, None)
    assert costs.cost(record) == costs.Cost(7, 2000.0, 2000.0 * 20, 3600.0, 2 * costs.CPU_WATTS)
    unknown = record._replace(manifest={**manifest, "devices": {"platform": "gpu", "kind": "strange"}})
    assert costs.cost(unknown).energy is None


def test_a_card_says_what_the_manifest_says(workspace, tmp_path):
    folder = shutil.copytree(workspace / "short" / "seed1", tmp_path / "run")
    record = records.read(folder)
    page = card.write(record).read_text()
    text = (folder / card.MARKDOWN).read_text()
    for word in (record.manifest["config_hash"], record.manifest["data"]["fingerprint"], "model.order"):
        assert word in page and word in text.replace("\\", "")
    assert f"{record.metrics['valid/nll']:.6g}" in text and "no interval over seeds" in text
    assert page == card.write(records.read(folder)).read_text() and Links(page).loads == []


def test_a_card_that_cannot_be_written_is_said_in_a_line(workspace, tmp_path, capsys):
    folder = shutil.copytree(next(workspace.glob("*/seed*")), tmp_path / "run")
    (folder / card.PAGE).mkdir()
    assert main(["card", str(folder)]) == 2
    assert f"no card in {folder}" in capsys.readouterr().err
