"""The comparison's page in a real browser: no complaint, nothing wider than the window."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser
from comparison_records import comparison, result

from dmcp_deploy.comparison.page import page
from dmcp_deploy.registry import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_complaint_and_fits(width: int, tmp_path: Path) -> None:
    cells = [
        result(entry, seed, 0.8 + 0.01 * place + 0.003 * seed, budget=budget, macs=macs)
        for budget, macs in (("25%", 990), ("10%", 400))
        for place, entry in enumerate((*METHODS, "dmcp*", "uniform@dmcp*"))
        for seed in range(3)
    ]
    path = tmp_path / "compare.html"
    path.write_text(page(comparison(*cells)))
    with Browser() as browser:
        browser.show(width)
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") == width
        dots = "[...document.querySelectorAll('.strip circle')]"
        assert browser.run(f"{dots}.length") == len(cells)
        inside = f"{dots}.every(d => d.getBoundingClientRect().right <= {width})"
        assert browser.run(inside) is True
        assert browser.complaints == []
