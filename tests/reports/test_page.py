"""The HTML page in a real browser, and the figure: what a person gets to see."""

import json
import os
import re
import shutil
import subprocess
from urllib.parse import urlsplit

import architectures
import keras
import numpy as np
import pytest
from keras import layers

import keras_he

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
NEEDED = os.environ.get("KERAS_HE_NEEDS_BROWSER")  # set where a skip would be a fault
in_a_browser = pytest.mark.skipif(
    BROWSER is None and not NEEDED, reason="needs Chromium: apt-get install chromium"
)

# What a reader does, and what they see afterwards, told in the title of the page.
READER = """
<script>
const seen = {}, cells = column => [...document.querySelectorAll("tbody tr")].map(
  row => row.cells[column].dataset.value);
const titles = [...document.querySelectorAll("th")].map(head => head.innerText.trim());
const click = title => document.querySelectorAll("th button")[titles.indexOf(title)].click();
seen.titles = titles;
seen.order = cells(0);
click("E[y²]"); seen.up = cells(titles.indexOf("E[y²]"));
click("E[y²]"); seen.down = cells(titles.indexOf("E[y²]"));
click("kernel"); seen.names = cells(0);
click("dead"); seen.dead = cells(titles.indexOf("dead"));
const box = document.querySelector("figure svg").getBoundingClientRect();
seen.figure = [box.width, box.height, document.querySelectorAll("figure svg path").length];
seen.wide = document.documentElement.scrollWidth - innerWidth;
seen.findings = [...document.querySelectorAll(".finding")].map(one => one.innerText);
seen.resources = performance.getEntriesByType("resource").map(one => one.name);
document.body.innerHTML = "<pre id=seen></pre>";
document.getElementById("seen").textContent = JSON.stringify(seen);
</script>
"""


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 64)),
            layers.DepthwiseConv2D(3, depthwise_initializer="he_normal", name="<b>first"),
            *(layers.Conv2D(16, 3, padding="same", activation="relu") for _ in range(12)),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name="a & b",
    )
    model.layers[-1].kernel.assign(np.zeros(model.layers[-1].kernel.shape))
    return keras_he.audit(model)


def opened(path, folder, *, width=1280):
    """Returns what Chromium shows of a page, what it logged, and the addresses it asked for."""
    log = folder / f"net{width}.json"
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / f'profile{width}'}",
            f"--window-size={width},900",
            f"--log-net-log={log}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    told = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    seen = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text(errors="replace")))
    return seen, console, asked


@pytest.fixture(scope="module", params=[1280, 390])
def page(request, report, tmp_path_factory):
    """Returns what a reader sees of the page, in a wide and in a narrow window."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    report.to_html(path)
    path.write_text(path.read_text("utf-8").replace("</body>", READER + "</body>"), "utf-8")
    return opened(path, folder, width=request.param), path


@in_a_browser
def test_the_table_sorts_in_a_browser(page, report):
    (seen, _, _), _ = page
    moments = [row.moments[0] for row in report.kernels]
    assert seen["order"] == [row.path for row in report.kernels]
    assert [float(one) for one in seen["up"]] == sorted(moments)
    assert [float(one) for one in seen["down"]] == sorted(moments, reverse=True)
    assert sorted(seen["names"]) == sorted(row.path for row in report.kernels)
    known = [one for one in seen["dead"] if one]
    assert seen["dead"] == known + [""] * (len(seen["dead"]) - len(known))  # none comes last
    assert [float(one) for one in known] == sorted(float(one) for one in known)


@in_a_browser
def test_the_figure_and_the_findings_show(page, report):
    (seen, _, _), _ = page
    width, height, paths = seen["figure"]
    assert width > 300
    assert height > 150
    assert paths > 50
    assert len(seen["findings"]) == len(report.findings) >= 2
    for told, finding in zip(seen["findings"], report.findings, strict=True):
        assert finding.verdict in told
        assert finding.layer in told  # such as <b>first, letter by letter
        assert finding.remedy in told
    assert seen["wide"] <= 0  # the page itself does not scroll sideways


def strange(asked):
    """Returns the addresses that are not Chromium's own, such as its clock's."""
    own = (".google.com", ".googleapis.com", ".gvt1.com")
    hosts = {address: urlsplit(address).hostname or "" for address in asked}
    return {address for address, host in hosts.items() if not host.endswith(own)}


@in_a_browser
def test_nothing_is_asked_for_and_nothing_goes_wrong(page):
    (seen, console, asked), _ = page
    assert console == []
    assert seen["resources"] == []
    assert strange(asked) == set()


@in_a_browser
def test_a_page_that_asks_and_complains_would_be_seen(tmp_path):
    path = tmp_path / "asks.html"
    path.write_text(
        '<pre id="seen">{}</pre><img src="http://127.0.0.1:9/x.png">'
        '<script>console.error("wrong")</script>',
        "utf-8",
    )
    _, console, asked = opened(path, tmp_path)
    assert any("wrong" in line for line in console)
    assert strange(asked) == {"http://127.0.0.1:9/x.png"}


def test_the_page_refers_to_nothing_outside(report, tmp_path):
    report.to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert not re.search(r"(?:src=|url\()[\"']?https?:", text)
    assert "<b>first" not in text
    assert "a &amp; b" in text


def test_a_page_of_initialize_is_written_too(tmp_path):
    report = keras_he.initialize(architectures.unet(), seed=1)
    report.to_html(tmp_path / "done.html")
    assert "initialized" in (tmp_path / "done.html").read_text("utf-8")


def test_the_figure_shows_signal_and_gradient_and_marks_findings(report):
    figure = report.plot()
    signal, gradient = figure.axes
    assert signal.get_yscale() == gradient.get_yscale() == "log"
    (line,) = (one for one in signal.lines if one.get_marker() == "o")
    assert list(line.get_ydata()) == [row.moments[0] for row in report.kernels if row.moments[0]]
    marks = {one.get_text() for one in signal.texts}
    assert any("wrong-fan" in mark for mark in marks)
    assert any("constant" in mark for mark in marks)


def test_values_that_a_log_scale_has_not_are_drawn_all_the_same():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, kernel_initializer="zeros"), layers.Dense(2)]
    )
    figure = keras_he.audit(model).plot()
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 2


def test_without_matplotlib_the_error_says_what_to_install(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`python -m pip install matplotlib`"):
        report.plot()
