"""The local page opens, sorts and filters in a browser; what would go to Weights & Biases holds the
same tables."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.report import wandb_views
from scripts.report.documents import Material, gather
from scripts.report.page import page

ROOT = Path(__file__).parents[2]
WATCH = """<script>
  window.problems = [];
  addEventListener("error", event => problems.push(event.message));
</script>"""
PROBE = """<script>
  const table = document.querySelector("#table1"), body = table.tBodies[0];
  const shown = () => [...body.rows].filter(row => !row.hidden);
  const column = name => [...table.tHead.rows[0].cells].find(cell => cell.textContent === name);
  const cells = name => shown().map(row => row.cells[column(name).cellIndex].dataset.value);
  const before = cells("Model");
  column("FP, dense").firstChild.click(); const rising = cells("FP, dense");
  column("FP, dense").firstChild.click(); const falling = cells("FP, dense");
  const select = document.querySelector("#policy");
  select.value = "nr_st"; select.dispatchEvent(new Event("change"));
  const filtered = cells("Policy");
  const links = [...document.querySelectorAll("td a")].map(a => a.getAttribute("href").slice(1));
  const broken = links.filter(id => !document.getElementById(id));
  const probe = document.createElement("pre"); probe.id = "probe";
  const widths = [...document.images].map(image => image.getBoundingClientRect().right);
  probe.textContent = JSON.stringify({ problems, before, rising, falling, filtered, broken,
    links: links.length, cut: widths.filter(right => right > innerWidth).length,
    overflow: document.documentElement.scrollWidth - innerWidth });
  document.body.append(probe);
</script>"""


@pytest.fixture(scope="module")
def text() -> str:
    return page(ROOT)


@pytest.fixture(scope="module")
def material() -> Material:
    return gather(ROOT)


def test_the_page_needs_nothing_outside_it(text):
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", text)
    assert not re.findall(r"@import|url\(|fetch\(", text)


def test_no_two_places_have_one_name(text):
    """A number would link to the first of them."""
    names = re.findall(r'id="([^"]+)"', text)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("width", [1280, 390])
def test_it_works_in_a_browser(text, material, tmp_path, width):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    path = tmp_path / "page.html"
    path.write_text(
        text.replace("<meta charset", WATCH + "<meta charset", 1).replace(
            "</html>", PROBE + "</html>"
        )
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += [f"--disable-{what}" for what in ("background-networking", "component-update", "sync")]
    place = [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        path.as_uri(),
    ]
    dom = subprocess.run(
        [chromium, *flags, *place], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    match = re.search(r'<pre id="probe">(.*?)</pre>', dom)
    assert match is not None, dom[-500:]
    probe = json.loads(html.unescape(match[1]))
    assert probe["problems"] == probe["broken"] == []
    assert probe["before"] == [row.model for row in material.tables[0].rows]
    numbers = sorted(
        row.speedup("fp") for row in material.tables[0].rows if row.speedup("fp") is not None
    )
    assert [float(value) for value in probe["rising"] if value] == numbers
    assert [float(value) for value in probe["falling"] if value] == numbers[::-1]
    assert probe["rising"][-1] == probe["falling"][-1] == ""  # what was not run comes last
    assert set(probe["filtered"]) == {"nr_st"}
    assert probe["links"] > 20
    assert probe["overflow"] <= 0
    assert probe["cut"] == 0  # figures are whole


def test_the_runs_show_what_they_reached_and_what_is_not_the_recipes(text):
    (line,) = re.findall(r"<summary><b>ptb_small nr_variational</b>.*?</summary>", text)
    assert re.search(r"perplexity \d+\.\d\d", line)
    assert "train.epochs: 2 (recipe: 13)" in line


def test_what_goes_to_wandb_holds_the_tables(material):
    pytest.importorskip("wandb_workspaces")
    place = (material.tables, "someone", "some-project")
    workspace = wandb_views.as_json(wandb_views.workspace(*place))
    assert workspace["entity"] == "someone"
    assert "valid_perplexity" in json.dumps(workspace)
    report = wandb_views.as_json(wandb_views.report(*place))
    content = json.dumps(report, ensure_ascii=False)
    assert "Table 3: Named entity recognition" in content
    row = next(row for row in material.tables[0].rows if row.model == "medium, NR+RH+ST")
    assert f"{row.speedup('iteration'):.2f} / 1.45" in content
