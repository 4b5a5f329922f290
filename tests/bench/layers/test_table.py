from __future__ import annotations

from dataclasses import replace

from layer_records import HALF, LIMITS, RECORD, WHOLE

from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.layers.table import format_layers


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_each_network_has_a_table_of_its_own_with_the_slowest_layer_first():
    whole, half = format_layers(RECORD).split("\n\n")
    title, head, *rows = whole.splitlines()
    assert title == ("whole: layers at batch 1 in onnxruntime; at best 100 GMAC/s and 10 GB/s here")
    assert cells(head) == ["layer", "kind", "width", "MACs", "ms", "share", "GMAC/s", "bound ms"]
    assert [cells(row)[0] for row in rows] == [
        *("last", "first", "only here", "sum of 3 layers", "10 x Reorder"),
        *("all kernels", "whole call, not profiled"),
    ]
    # 81.9M multiply-adds at 100 GMAC/s take 0.819 ms.
    assert cells(rows[0])[1:] == [
        *("conv 1x1", "64 > 128", "81.9M", "3.0000", "54.1%", "27.3", "0.8192")
    ]
    assert cells(rows[3])[1:4] == ["123.5M", "5.5000", "99.1%"]
    assert cells(rows[5])[1:] == ["5.5500", "100.0%"]
    assert cells(rows[6])[1:] == ["9.0000"]
    assert half.startswith("half: ")


def test_the_others_are_compared_with_the_first():
    _, half = format_layers(RECORD).split("\n\n")
    _, head, *rows = half.splitlines()
    assert cells(head)[-3:] == ["MACs ratio", "time ratio [95%]", "likely reason"]
    assert cells(rows[0])[-3:] == [
        *("0.24", "0.83 [0.83, 0.83]", "width not a multiple of 8 (out 61)")
    ]
    assert cells(rows[1])[-2:] == ["0.50", "0.50 [0.50, 0.50]"]
    assert cells(rows[2])[-2:] == ["0.32", "0.64"]
    assert cells(rows[-2])[-1] == "0.64"
    assert cells(rows[-1])[-1] == "1.00 [1.00, 1.00]"


def test_what_is_not_known_is_left_out_or_told():
    lone = replace(*(HALF,), limits=None, without_kernel=("merged.0", "merged.1"), name="engine")
    text = format_layers(LayersRecord((lone,), {}, (3, 100, 100)))
    assert "the GPU's limits are not measured" in text
    assert text.endswith("No kernel is told of: merged.0, merged.1.")
    cached = replace(WHOLE, limits=replace(LIMITS, cached_gbytes_per_s=50.0))
    text = format_layers(LayersRecord((cached, HALF), {}, (3, 100, 100)))
    assert "10 GB/s here, 50 GB/s in the caches" in text


def test_a_layer_of_the_second_network_alone_has_no_ratio():
    text = format_layers(LayersRecord((HALF, WHOLE), {}, (3, 100, 100)))
    (row,) = [line for line in text.splitlines() if line.startswith("only here")]
    assert cells(row)[-1] == f"{LIMITS.layer_ms(WHOLE.layers[2].layer):.4f}"
