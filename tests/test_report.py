"""The page: what is given is text, the file stands alone, and what cannot be drawn or shown is still readable."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from mmpo.report import Page
from mmpo.report.figures import Series, curves, frontier, histogram, margin_scatter, reliability
from mmpo.report.page import show

EVIL = "<script>alert('x')</script> & \"quotes\""


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def full_page() -> Page:
    page = Page(EVIL, EVIL).section(EVIL, EVIL).text(EVIL).warn(EVIL).facts({EVIL: EVIL})
    page.numbers([(EVIL, EVIL, EVIL)]).table([EVIL, "n"], [[EVIL, 1]], caption=EVIL)
    return page.figure(curves({EVIL: Series([1, 2], [3, 4])}, ylabel=EVIL), caption=EVIL)


def test_markup_stays_text() -> None:
    parsed = Tags(full_page().html())
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert parsed.words.count(EVIL) == 16  # every place a text was given, the title twice
    assert [attrs["alt"] for tag, attrs in parsed.tags if tag == "img"] == [EVIL]


def test_the_file_asks_nothing_of_the_network() -> None:
    html = full_page().html()
    parsed = Tags(html)
    links = [attrs.get(name) for _, attrs in parsed.tags for name in ("src", "href") if attrs.get(name)]
    assert links and all(link.startswith(("data:", "#")) for link in links if link)
    assert "@import" not in html and "url(" not in html


def test_values_are_shown_for_a_reader() -> None:
    values = [None, float("nan"), True, 1234567, 123456.7, 0.123456, np.float32(0.5), np.int64(12), "as is"]
    assert [show(v) for v in values] == ["–", "–", "yes", "1,234,567", "123,457", "0.1235", "0.5", "12", "as is"]


def test_sections_are_linked_where_there_are_many() -> None:
    page = Page("t").text("before any section")
    for name in "abcd":
        page.section(name).text(name)
    parsed = Tags(page.html())
    targets = [attrs["href"] for tag, attrs in parsed.tags if tag == "a"]
    assert targets == [f"#{attrs['id']}" for tag, attrs in parsed.tags if tag == "section" and "id" in attrs]
    assert len(targets) == 4


def test_a_row_that_does_not_fit_its_headers_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells under 2 headers"):
        Page("t").table(["a", "b"], [[1, 2, 3]])


def test_write_makes_the_folder_and_survives_half_a_surrogate(tmp_path) -> None:
    path = Page("t").text("broken \ud800 text, good 猫").write(tmp_path / "new" / "page.html")
    assert "good 猫" in path.read_text(encoding="utf-8")


def test_the_same_page_is_the_same_bytes() -> None:
    assert full_page().html() == full_page().html()


def bins() -> SimpleNamespace:
    x = np.array([0.2, 0.8])
    return SimpleNamespace(predicted=x, observed=x, low=x - 0.1, high=x + 0.1, count=np.array([3, 3]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: reliability({"$a$ <b>": bins(), "b": bins()}),
        lambda: margin_scatter([-2.0, 0.0, 1.0, np.nan], [-1.0, 0.2, 0.4, 9.0], gamma=0.5),
        lambda: margin_scatter([], []),
        lambda: histogram({"$": [1, 2, 2, np.nan], "all equal": [2, 2]}, xlabel="$ spent", log=True),
        lambda: histogram({"empty": []}, xlabel="x"),
        lambda: curves({f"{k}": Series([1, 2], [k, k], [k - 1, k - 1], [k + 1, k + 1]) for k in range(9)}, ylabel="y"),
        lambda: frontier({"a": Series([2, 1], [1, 0], [0, 0], [2, 1]), "b": Series([1], [1])}, xlabel="KL", ylabel="y"),
    ],
)
def test_every_figure_draws(draw) -> None:
    figure = draw()
    assert isinstance(figure, Figure)
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', Page("t").figure(figure, "c").html())
    assert source and b"<svg" in base64.b64decode(source[1])


def test_the_scatter_reads_every_comparison_from_the_better_side() -> None:
    there, back = margin_scatter([1.0, 2.0, 0], [0.5, -3.0, 7]), margin_scatter([-1.0, -2.0, 0], [-0.5, 3.0, -7])
    points = [figure.axes[0].lines[1].get_xydata().tolist() for figure in (there, back)]
    assert points[0] == points[1] == [[1.0, 0.5], [2.0, -3.0]]


def test_the_mean_margin_has_one_point_for_each_step_of_a_coarse_scale() -> None:
    axes = margin_scatter([1, 1, 1, 2, 2, 3], [0, 1, 2, 4, 6, 9]).axes[0]
    assert axes.lines[2].get_xydata().tolist() == [[1, 1], [2, 5], [3, 9]]


def test_the_scatter_says_how_many_points_it_left_out() -> None:
    assert (
        margin_scatter(np.arange(1, 101), np.arange(100), most=10).axes[0].get_title("left")
        == "10 of 100 comparisons drawn"
    )


def test_the_frontier_walks_along_x() -> None:
    axes = frontier({"a": Series([3, 1, 2], [30, 10, 20])}, xlabel="x", ylabel="y").axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 10], [2, 20], [3, 30]]
