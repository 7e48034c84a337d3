"""A release's card as a page: whole in itself, with curves of what plants let out and nothing else."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from interplant.core import config
from interplant.core.release import Lineage, Participant, task_digest
from interplant.core.schema import Task
from interplant.data.tasks import builtin
from interplant.server import card, card_html, charts
from interplant.server.card import CardFacts, RoundFigures

TASK = config.load(builtin("turbofan"), Task)
NORTH = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", 1.84, 1e-5, True)
SOUTH = Participant("south", {"cd" * 32: 3}, 3, "dp-sgd", "window", 0.92, 1e-5, False)
LINEAGE = Lineage(
    release="turbofan-1", run="run-1", task="turbofan", task_digest=task_digest(TASK), version="0.1.0",
    protocol="2", parent="turbofan-0", created="2026-01-01T10:20:30+00:00", rounds=3, engine="grpc",
    private=True, simulated=True, participants=(NORTH, SOUTH),
)  # fmt: skip
ROUNDS = (
    RoundFigures(1, 2, {"loss": 0.9}),
    RoundFigures(2, 1, {}),
    RoundFigures(3, 2, {"loss": 0.4125}),
)
FACTS = CardFacts(TASK, LINEAGE, {}, ROUNDS, "ab12" * 16)


class Page(HTMLParser):
    """A strict reader: what is opened is closed, in order; texts and tags are kept."""

    EMPTY = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_snapshot_of_a_plant_is_on_the_card():
    north = replace(NORTH, snapshots={"ab" * 32: 1, "ef" * 32: 2})
    facts = replace(FACTS, lineage=replace(LINEAGE, participants=(north, SOUTH)))
    text = card.markdown(facts)
    assert "| north | `abababababab` (1 round), `efefefefefef` (2 rounds) | 3 |" in text
    assert "| south | `cdcdcdcdcdcd` | 3 |" in text
    page = " ".join(Page(card_html.page(facts)).texts)
    for word in ("abababababab", "efefefefefef", "cdcdcdcdcdcd", "(2 rounds)"):
        assert word in page


def test_the_page_needs_nothing_else():
    text = card_html.page(FACTS)
    page = Page(text)
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "img", "iframe", "object", "form"}
    assert not re.search(r"https?://|@import|url\(", text)
    assert not any(name in ("src", "href") for _, attrs in page.tags for name in attrs)


def test_the_page_and_the_text_say_the_same():
    page, text = " ".join(Page(card_html.page(FACTS)).texts), card.markdown(FACTS)
    for said in ["Simulated data.", "north", "south", "abababababab", "1.84", "0.92", "turbofan-0", "run-1"]:
        assert said in page
        assert said in text
    for said in [
        "0.4125",
        "ab12ab12ab12ab12",
        "version 1",
        "A prediction is never meant to exceed 125 cycles",
    ]:
        assert said in page
        assert said in text
    assert "ab" * 32 not in page + text  # only the plant can tell which data that is, and it need not be seen


def test_a_metric_is_drawn_where_plants_let_it_out():
    page = card_html.page(FACTS)
    assert "Loss over the rounds" in page
    assert "<title>round 3: loss 0.4125</title>" in page
    assert "<title>round 2: loss" not in page
    assert card.METRICS in page
    silent = replace(FACTS, rounds=tuple(replace(one, metrics={}) for one in ROUNDS))
    page = card_html.page(silent)
    assert "Loss over the rounds" not in page
    assert card.NO_METRICS in page
    assert card.NO_METRICS in card.markdown(silent)


def test_what_is_not_private_has_no_epsilon():
    bare = replace(NORTH, mechanism="none", epsilon=0.0, delta=0.0)
    page = card_html.page(replace(FACTS, lineage=replace(LINEAGE, private=False, participants=(bare,))))
    assert "Not private." in page
    assert "Privacy spent by each plant" not in page
    assert '<td class="n">not private</td>' in page


def test_without_a_record_of_rounds_there_is_no_curve():
    page = card_html.page(replace(FACTS, rounds=()))
    assert "over the rounds" not in page
    assert "## Rounds" not in card.markdown(replace(FACTS, rounds=()))
    Page(page)


def test_words_of_others_are_not_read_as_html():
    worse = replace(LINEAGE, participants=(replace(NORTH, name='<img src="x">'),), run="<b>&")
    page = card_html.page(replace(FACTS, lineage=worse))
    assert "<img" not in page
    assert "&lt;b&gt;&amp;" in page


@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        [0.0, 0.0],
        [-1e9, 1e9],
        [1e-12, 2e-12],
        [math.nan, 1.0, math.inf],
        [5.0] * 500,
        [1e308, 1.5e308],
    ],
)
def test_any_values_make_a_picture_within_its_frame(values):
    picture = charts.line(list(enumerate(values, start=1)), "loss")
    numbers = re.findall(r'points="([^"]*)"', picture)
    places = [tuple(map(float, pair.split(","))) for points in numbers for pair in points.split()]
    assert places
    assert all(0 <= x <= 480 and 0 <= y <= 230 for x, y in places)
    Page(picture)


def test_no_finite_value_is_said():
    assert "No finite value" in charts.line([(1, math.nan)], "loss")


def test_columns_and_bars_are_as_high_and_long_as_their_values():
    picture = charts.columns([(1, 4.0), (2, 2.0), (3, 0.0)], "updates")
    heights = [float(one) for one in re.findall(r'height="([\d.]+)" rx', picture)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert heights[2] == 0
    widths = [
        float(one) for one in re.findall(r'width="([\d.]+)" height', charts.bars([("a", 2.0), ("b", 0.5)]))
    ]
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.2)
    Page(charts.bars([("<&", 0.0)]))
