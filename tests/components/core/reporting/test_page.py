"""The report says everything, needs nothing else, and trusts no text."""

import base64
import dataclasses
import hashlib
import io
import itertools
import pickle
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from PIL import Image

from components.core.evaluation.drift import Drift
from components.core.evaluation.label_errors import Suspect
from components.core.reporting import page
from components.core.reporting.page import ReportData, render
from components.core.targets import classification_metrics
from components.core.targets.classification import Classification
from components.core.targets.evaluation import Evaluation, Reference
from components.core.targets.multilabel import MultiLabel
from components.core.targets.regression import Regression
from components.core.targets.transcription import Transcription

CLASSES = ["mammal", "food", "household", "plant", "bird", "money", "sea_or_insect", "vehicle"]
SUPPORT = [7, 5, 7, 5, 6, 5, 5, 7]
HOSTILE = "<img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "img", "br", "link"}


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that don't nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.open}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluation(classes: list[str]) -> Evaluation:
    """Answers of a model that is right about four times of five on 47 rows."""
    generator, true = np.random.default_rng(3), np.repeat(np.arange(8), SUPPORT)
    logits = generator.normal(size=(47, 8))
    logits[np.arange(47), true] += 2.6
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = pd.DataFrame(
        {
            "label": [classes[number] for number in shares.argmax(1)],
            "probabilities": [dict(zip(classes, map(float, row), strict=True)) for row in shares],
        }
    )
    return classification_metrics.evaluate(
        answers, [classes[number] for number in true], classes, dict.fromkeys(classes, 9)
    )


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, kind)
    return buffer.getvalue()


PART = {"rows": 20, "champion": 0.6, "challenger": 0.7, "wins": 3, "losses": 1, "units": 20, "low": -0.1, "high": 0.3}
EVIDENCE: dict[str, Any] = {
    "version": 3,
    "metric": "accuracy",
    "champion": 0.659,
    "challenger": 0.829,
    "wins": 8,
    "losses": 1,
    "units": 47,
    "p": 10 / 512,
    "method": "exact McNemar",
    "interval": [0.01, 0.21],
    "alpha": 0.05,
    "level": 0.05,
    "look": 1,
    "horizon": 1,
    "spent": 0.05,
    "opened": "the first look",
    "smallest_told": 0.17,
    "smallest_told_approximate": False,
    "passed_over": 2,
    "recent": PART,
    "older": PART,
    "checks": [
        {"name": "test", "passed": True, "sentence": "The challenger beats the champion."},
        {"name": "slices", "passed": False, "sentence": "falls by more than 0.05 in class food"},
    ],
    "slices": [{"column": "class", "value": "food", "falls": True, "p_fall": 0.01, **PART}],
}


def sample(classes: list[str] = CLASSES) -> ReportData:
    """A run as the demo gives it."""
    result = evaluation(classes)
    epoch = {"train_loss": 0.5, "loss": 0.7, "accuracy": 0.8, "learning_rate": 1e-3, "seconds": 0.4}
    phases = [("head", 4), ("thaw", 2)]
    counts = {
        split: dict(zip(classes, [times * n for n in SUPPORT], strict=True))
        for split, times in [("train", 4), ("validation", 1), ("calibrate", 1), ("test", 1)]
    }
    states = ["COMPLETE"] * 5 + ["PRUNED", "FAIL", "COMPLETE"]
    trials: list[dict[str, Any]] = [
        {"number": n, "state": state, "value": None if state == "FAIL" else 0.9 - 0.03 * n, "seconds": 5.0, "epochs": 9}
        | {"params": {"head_learning_rate": 10.0 ** -(n % 3 + 2), "thaw": n % 3}}
        for n, state in enumerate(states)
    ]
    return ReportData(
        title="stamps",
        created="2025-11-23 19:40 UTC",
        decision="Version 4 becomes the champion.",
        accepted=True,
        evaluation=result,
        metrics=classification_metrics.METRICS,
        dataset={"classes": classes, "digest": "9f2c" * 16, "salt": "0", "counts": counts, "examples": 329}
        | {"duplicates": 3, "rejected": {"truncated": 2}, "source": ".thawline/demo/stamps"},
        champion=EVIDENCE,
        history=[
            {"phase": phase, "epoch": n, "best": float(n == 1), **epoch} for phase, last in phases for n in range(last)
        ],
        trials=trials,
        importances={"head_learning_rate": 0.7, "thaw": 0.3},
        rejected=[{"uri": "food/apple_07.png", "label": "food", "reason": "truncated"}],
        thumbnails=[picture("PNG" if n % 2 else "JPEG") for n in range(len(result.mistakes))],
        drift=Drift(share=0.3, low=0.2, high=0.4, new=60, old=200),
        suspects=[Suspect(row=3, label="food", suggested="plant", probability=0.9)],
        suspect_count=1,
        suspect_thumbnails=[picture("PNG")],
        costs=[{"step": "train_head", "seconds": 7.9, "saved": 61.5, "notes": ["Activations cached below the head"]}],
        timeline=[
            {"version": "3", "since": "2025-11-01 10:00", "until": "", "metric": "accuracy", "value": 0.66, "rows": 47}
        ],
        settings={"backbone": "timm/tf_efficientnet_lite0", "dropout": None, "trials": 8},
        hyperparameters={"thaw": 2, "dropout": 0.25},
        facts={"run": "4c1f0b8d", "temperature": "0.87", "torch": "2.14.1"},
    )


_DRAWN: dict[bytes, dict[str, Markup]] = {}


@pytest.fixture(autouse=True)
def _equal_charts_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most pages here differ in their words."""
    draw = page._pictures

    def drawn(data: ReportData) -> dict[str, Markup]:
        shown = data.evaluation
        figures = (next(iter(shown.metrics)) if data.history else "", shown.reliability, shown.numbers)
        key = pickle.dumps((*figures, shown.precision_recall, data.history, data.trials, data.importances))
        if key not in _DRAWN:
            _DRAWN[key] = draw(data)
        return _DRAWN[key]

    monkeypatch.setattr(page, "_pictures", drawn)


@pytest.fixture(scope="module")
def html() -> str:
    """The page of the sample, drawn once."""
    return render(sample())


def test_the_report_has_every_section(html: str) -> None:
    """Numbers, champion, classes, mistakes, calibration, learning, search, data and settings are all there."""
    page = Outline(html)
    ids = [attributes["id"] for attributes in page.all("section")]
    assert ids == [
        "numbers",
        "champion",
        "classes",
        "mistakes",
        "suspects",
        "calibration",
        "learning",
        "search",
        "data",
        "cost",
        "timeline",
        "settings",
    ]
    assert [link["href"] for link in page.all("a")[1:]] == [f"#{name}" for name in ids]
    assert len(page.all("svg")) == 5


def test_the_report_states_the_evidence(html: str) -> None:
    """Decision, verdict, number of test rows, each metric with its interval, and the paired test are text."""
    data = sample()
    text = " ".join(Outline(html).text.split())
    assert data.decision in text
    assert "Accepted" in text
    assert "47 test rows" in text
    for name, value in data.evaluation.metrics.items():
        low, high = data.evaluation.intervals[name]
        assert f"{value:.3f}" in text
        assert f"{low:.3f} to {high:.3f}" in text
    assert "8 better with the challenger" in text
    assert "38 the same" in text
    assert "probability 0.020" in text
    assert "This was look 1 of 1" in text
    assert "falls by more than 0.05 in class food" in text
    assert "can tell apart 30.0% of the 60 rows" in text
    assert "1 training and validation rows are contradicted" in text
    assert "saved about 1 min 02 s" in text
    cells = "".join(text.split())  # a table's cells have nothing between them
    assert "trainheadActivationscachedbelowthehead7.961.5" in cells
    assert "32025-11-0110:00now470.660" in cells
    assert "food/apple_07.png" in text
    assert "not set" in text


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({}, "A difference of 0.170 would have been enough."),
        ({"smallest_told_approximate": True}, "A gain of about 0.170 would have been enough (approximate:"),
        ({"smallest_told": None}, "With so few rows that differ, no lead would have been enough."),
    ],
)
def test_the_report_tells_what_lead_would_have_been_enough(known: dict[str, Any], sentence: str) -> None:
    """By counting, about, or none at all; as the evidence says."""
    assert sentence in Outline(render(dataclasses.replace(sample(), champion=EVIDENCE | known))).text


def test_intervals_are_drawn_where_they_lie(html: str) -> None:
    """The bar of the accuracy holds its interval, its value and its baseline at their places, in percent."""
    data = sample()
    (low, high), value = data.evaluation.intervals["accuracy"], data.evaluation.metrics["accuracy"]
    bar = Outline(html).all("i")[:3]
    assert [mark["class"] for mark in bar] == ["range", "base", "point"]
    left, width = map(float, re.findall(r":([\d.]+)%", str(bar[0]["style"])))
    assert (left, left + width) == pytest.approx((100 * low, 100 * high), abs=0.02)
    assert str(bar[2]["style"]) == f"left:{round(100 * value, 2)}%"


def test_the_report_is_self_contained(html: str) -> None:
    """Nothing is loaded from anywhere: no address, no script but its own, and only pictures in the page."""
    page = Outline(html)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert page.all("script") == [{}]
    assert not page.all("link")
    assert page.all("img")
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a") + page.all("use"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)


def test_thumbnails_carry_their_type_and_a_description(html: str) -> None:
    """PNG and JPEG are told apart, and each picture says in words what was taken for what."""
    data = sample()
    images = Outline(html).all("img")
    assert {str(image["src"])[:16] for image in images} == {"data:image/jpeg;", "data:image/png;b"}
    mistake = data.evaluation.mistakes[0]
    assert images[0]["alt"] == f"A {mistake.label} that was taken for {mistake.predicted}"


def test_the_report_is_accessible(html: str) -> None:
    """Figures have a description, column heads a scope, ids are unique, and the page names its language."""
    page = Outline(html)
    charts = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(charts) == 5
    assert all(chart["aria-label"] for chart in charts)
    assert all(head.get("scope") in ("row", "col") for head in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("html")[0]["lang"] == "en"


def test_the_report_begins_with_what_to_do() -> None:
    """The first heading is the sentence for a reader who decides; the statistics stand below it, then the model."""
    data = dataclasses.replace(
        sample(), headline="Keep version 3.", model={"made by": "thawline run photos --trials 8"}
    )
    html = render(data)
    assert html.index("<h1>Keep version 3.</h1>") < html.index(data.decision) < html.index('id="numbers"')
    assert "thawline run photos --trials 8" in Outline(html).text


def test_points_of_curves_have_a_text(html: str) -> None:
    """Every epoch and every trial that has a loss says its figure where the pointer rests on it."""
    titles = re.findall(r'<g class="point"><title>([^<]+)</title>', html)
    assert "epoch 1: training loss 0.5" in titles
    assert "epoch 6: validation accuracy 0.8" in titles
    assert sum(title.startswith("trial") for title in titles) == 7


def test_the_keyboard_reaches_every_table(html: str) -> None:
    """What may have to be scrolled is in the order of the keyboard, and headings skip no level."""
    page = Outline(html)
    scrolled = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert scrolled
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in scrolled)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert page.all("a")[0] == {"class": "skip", "href": "#numbers"}


def test_hostile_text_is_escaped_everywhere() -> None:
    """A class name, path, setting or sentence with markup in it is shown, never interpreted."""
    data = dataclasses.replace(
        sample([HOSTILE, *CLASSES[1:]]),
        title=HOSTILE,
        created=HOSTILE,
        decision=HOSTILE,
        rejected=[{"uri": HOSTILE, "label": HOSTILE, "reason": HOSTILE}],
        settings={HOSTILE: HOSTILE},
        hyperparameters={HOSTILE: HOSTILE},
        facts={HOSTILE: HOSTILE, "temperature": HOSTILE},
        importances={HOSTILE: 1.0},
    )
    trials = [dict(trial) | {"params": {HOSTILE: 0.1}} for trial in data.trials]
    dataset = dict(data.dataset) | {"source": HOSTILE, "digest": HOSTILE, "rejected": {HOSTILE: 1}}
    html = render(dataclasses.replace(data, trials=trials, dataset=dataset))
    page = Outline(html)
    assert HOSTILE in page.text
    assert "<img src=x" not in html
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert len(page.all("img")) == len(data.thumbnails) + len(data.suspect_thumbnails)


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ("search", {"trials": [], "importances": {}}),
        ("champion", {"champion": None}),
        ("learning", {"history": []}),
        ("suspects", {"suspects": []}),
        ("cost", {"costs": []}),
        ("timeline", {"timeline": []}),
    ],
)
def test_a_section_without_content_is_left_out(section: str, missing: dict[str, Any]) -> None:
    """What a run does not have takes its section and its link away, and nothing else."""
    page = Outline(render(dataclasses.replace(sample(), **missing)))
    ids = [attributes["id"] for attributes in page.all("section")]
    assert section not in ids
    assert len(ids) == 11
    assert {"href": f"#{section}"} not in page.all("a")


def test_a_model_without_mistakes_has_no_section_of_them() -> None:
    """A perfect model's page leaves the mistakes out."""
    data = sample()
    perfect = dataclasses.replace(data, evaluation=dataclasses.replace(data.evaluation, mistakes=()), thumbnails=[])
    assert "mistakes" not in [attributes["id"] for attributes in Outline(render(perfect)).all("section")]


def test_a_minimal_run_of_another_task_has_a_report() -> None:
    """One metric, one epoch, no tables, no pictures, nothing rejected: the page still stands."""
    data = sample()
    bare = ReportData(
        title="speech",
        created="today",
        decision="Version 1 is not accepted.",
        accepted=False,
        evaluation=Evaluation({"word_error_rate": 0.3}, {"word_error_rate": (0.2, 0.4)}, {}, 0.6),
        dataset={"classes": [], "counts": {"test": {"a": 12}}, "examples": 12},
        history=[{"phase": "head", "epoch": 0, "train_loss": 1.0, "loss": 2.0}],
    )
    text = " ".join(Outline(render(bare)).text.split())
    assert "Not accepted" in text
    assert "12 test rows" in text
    assert "There is no champion" in text
    assert "1 epoch in" in text
    assert "None." in text
    assert data.decision not in text


def test_mistakes_without_thumbnails_are_text() -> None:
    """Where an example is no picture, its mistake is still listed."""
    data = dataclasses.replace(sample(), thumbnails=[], suspect_thumbnails=[])
    page = Outline(render(data))
    assert not page.all("img")
    assert f"is {data.evaluation.mistakes[0].label}" in page.text


def test_texts_stand_beside_the_mistakes_escaped() -> None:
    """Where an example is a text, the page shows it, and nothing in it is markup."""
    data = sample()
    texts = [f"<script>alert({n})</script> fine & dull" for n in range(len(data.evaluation.mistakes))]
    html = render(dataclasses.replace(data, thumbnails=texts, suspect_thumbnails=texts[:1]))
    page = Outline(html)
    assert html.count("<script") == 1  # the page's own
    assert "<script>alert(0)</script> fine & dull" in page.text
    assert len(page.all("blockquote")) == len(texts) + 1
    assert not page.all("img")


def test_simple_models_stand_beside_the_trivial_one() -> None:
    """Each metric says what the linear probe and the simple model of a task reach, and where the model falls short."""
    data = sample()
    names = {"probe": ("linear probe", 0.877), "reference": ("TF-IDF", 0.431)}
    references = {key: Reference(name, {"accuracy": n}, pd.DataFrame()) for key, (name, n) in names.items()}
    result = dataclasses.replace(data.evaluation, references=references, shortfall="It does not beat <the> probe.")
    text = " ".join(Outline(render(dataclasses.replace(data, evaluation=result))).text.split())
    assert "· linear probe 0.877 · TF-IDF 0.431" in text
    assert "of the trivial baseline, 0.877 of the linear probe and 0.431 of TF-IDF." in text
    assert "It does not beat <the> probe." in text
    plain = Outline(render(data)).text
    assert "TF-IDF" not in plain
    assert "linear probe" not in plain


def test_many_classes_become_a_list_of_confusions() -> None:
    """With 60 classes a matrix can't be read: the page shows the most frequent confusions instead."""
    names = [f"class {number}" for number in range(60)]
    counts = np.eye(60, dtype=int) * 3
    counts[7, 9] = 5
    table = pd.DataFrame({"class": names, "support": counts.sum(1), "precision": 1.0, "recall": 1.0, "f1": 1.0})
    result = dataclasses.replace(evaluation(CLASSES), confusion=counts, per_class=table)
    text = " ".join(Outline(render(dataclasses.replace(sample(), evaluation=result))).text.split())
    assert "Most frequent confusions" in text
    assert "class 7 taken for class 9, 5 times" in text
    assert "All 60 classes" in text


def test_rows_outside_the_classes_are_named() -> None:
    """A test label that is no class is missing in the matrix, and the page says so."""
    answers = pd.DataFrame({"label": ["a", "b"], "probabilities": [{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}]})
    result = classification_metrics.evaluate(answers, ["a", "yak"], ["a", "b"], {"a": 1, "b": 1})
    page = Outline(render(dataclasses.replace(sample(), evaluation=result, thumbnails=[])))
    assert "1 row has a label that is not among the classes" in page.text
    assert "2 test rows" in page.text


def test_a_long_rejected_table_is_cut_with_a_word() -> None:
    """Of many rejected records the page shows the first 200 and says how many there are."""
    rejected = [{"uri": f"record-{n}.png", "label": "food", "reason": "truncated"} for n in range(450)]
    text = Outline(render(dataclasses.replace(sample(), rejected=rejected))).text
    assert "record-199.png" in text
    assert "record-200.png" not in text
    assert "The first 200 of 450" in text


def test_what_was_cut_and_what_it_cost_are_told() -> None:
    """What a deadline stopped stands below the decision; the table of steps has prices where there are any."""
    steps = [{"step": "train_head", "seconds": 106.0, "amount": "0.011 EUR", "notes": []}]
    cost, cut = "1 min 46 s on n2-standard-8, about 0.011 EUR", "The search stopped after 3 of 20 trials."
    page = render(dataclasses.replace(sample(), costs=steps, cost=cost, cut=cut))
    assert page.index(cut) < page.index('id="numbers"')
    assert f"{cost}: the work up to this report" in page
    assert '<td class="n">0.011 EUR</td>' in page
    plain = render(dataclasses.replace(sample(), costs=[{**steps[0], "amount": ""}]))
    assert "1 min 46 s: the work up to this report" in plain
    assert "about" not in plain[plain.index('id="cost"') :].partition("</section>")[0]


@pytest.mark.slow
def test_a_figure_of_which_less_is_better_says_so() -> None:
    """Every metric of a target is explained, with its direction where that is not the usual one."""
    for target in (Classification(), MultiLabel(0.5), Regression(0.0, 1.0, "mse"), Transcription()):
        for metric in target.metrics:
            figures = {metric.name: 0.5}
            some = Evaluation(figures, {metric.name: (0.4, 0.6)}, figures, bound=0.4)
            data = dataclasses.replace(sample(), evaluation=some, metrics=target.metrics, thumbnails=[], history=[])
            text = Outline(render(data)).text
            assert metric.explanation in text
            assert ("lower is better" in text) == (metric.sign < 0), metric.name


def test_a_solved_head_has_no_epochs() -> None:
    """The report names the penalty that was chosen for a solved head, and how sure it is that thawing helps."""
    head = {"phase": "head", "epoch": 0, "train_loss": 0.1, "loss": 0.5, "strength": 0.01, "seconds": 1.5, "best": 1.0}
    sentence = "Thawing lowered the loss by 0.031 ± 0.012 (239 rows, 3-fold cross-validation)"
    text = " ".join(Outline(render(dataclasses.replace(sample(), history=[head], thawing=sentence))).text.split())
    assert "Solved for in" in text
    assert "C = 0.01" in text
    assert "1 epoch in" not in text
    assert f"{sentence}." in text
