"""What ways of quantising for CPUs cost in accuracy and time, on x86 with VNNI and without it.

    dmcp-deploy prune --model networks:small_mobilenet --input-size 32 --epochs 2 $HOW --out runs/s
    dmcp-deploy prune --model resnet18 --input-size 32 --epochs 1 $HOW --out runs/resnet18
    dmcp-deploy prune --model mobilenet_v2 --input-size 64 --epochs 1 $HOW --out runs/mobilenet_v2
    python benchmarks/int8_presets.py runs/s runs/resnet18 runs/mobilenet_v2

with HOW="--method uniform --flops 50% --data fashion-mnist --batch-size 128 --seed 1". Accuracy is
that of the runs' pruned networks on pictures of the validation set, against their own FP32. For the
processor without VNNI, QEMU (`apt-get install qemu-user`) computes a Haswell. Times are those of
whole networks at 224 pixels and batch 1 on this processor, in interleaved rounds; QEMU's times mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization as ort

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import compare
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.machine.processor import adds_int8_in_16_bits
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.options.measure import BenchOptions

sys.path.insert(0, str(Path(__file__).parent))

#: Name -> how weights are quantised; activations are unsigned in all.
VARIANTS: dict[str, dict[str, Any]] = {
    "s8": {"weight_type": ort.QuantType.QInt8},
    "s8, 7 bits": {"weight_type": ort.QuantType.QInt8, "reduce_range": True},
    "u8": {"weight_type": ort.QuantType.QUInt8, "extra_options": {"WeightSymmetric": True}},
}
#: Name -> the words before a command that run it there.
PROCESSORS = {"this": (), "Haswell": ("qemu-x86_64", "-cpu", "Haswell")}
WAYS = ("onnxruntime", "onnxruntime exact", "openvino")
CALIBRATION = 64

#: Writes the logits of every network in a folder, in every way of running it.
CHILD = """
import sys; from pathlib import Path
import numpy
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.runtimes.session import open_session
folder, *ways = sys.argv[1:]
images = numpy.load(Path(folder) / "images.npy")
for path in sorted(Path(folder).glob("*.onnx")):
    for way in ways:
        exact = way.endswith("exact")
        with OnnxSession(path, 1, exact=True) if exact else open_session(path, way, 1) as session:
            parts = [session.run(part) for part in numpy.split(images, len(images) // 50)]
        numpy.save(path.with_suffix(f".{way}.npy"), numpy.concatenate(parts))
"""


def main() -> None:
    """Measures accuracy and time, and writes both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/int8_presets.json"))
    parser.add_argument("--images", type=int, default=1000, help="a multiple of 50")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, per network")
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    options = parser.parse_args()
    content = {
        "environment": read_environment(),
        "adds_int8_in_16_bits": adds_int8_in_16_bits(),
        "images": options.images,
        "accuracy": [row for run in options.runs for row in _accuracy(run, options.images)],
        "time": [row for model in options.models.split(",") for row in _times(model, options)],
    }
    write_text(options.out, json.dumps(content, indent=1) + "\n")
    print(report(content))


def report(content: dict[str, Any]) -> str:
    """Returns the results as two Markdown tables."""
    lines = ["| network | weights | run in | processor | dB | same answer | top-1 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in content["accuracy"]:
        figures = f"{row['snr_db']:.1f} | {row['top1_agreement']:.1%} | {row['top1']:.1%}"
        names = (row["network"], row["weights"], row["way"], row["processor"])
        lines.append(f"| {' | '.join(names)} | {figures} |")
    lines += ["", "| network | run in | weights | median ms | time against s8 [95%] |"]
    lines.append("|---|---|---|---|---|")
    for row in content["time"]:
        ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        names = (row["network"], row["runtime"], row["weights"])
        lines.append(f"| {' | '.join(names)} | {row['median_ms']:.2f} | {ratio} |")
    return "\n".join(lines)


def _accuracy(run: Path, count: int) -> Iterator[dict[str, Any]]:
    source = run / "model.onnx"
    side, data = inspect_onnx(source).input_shape[-1], open_data("fashion-mnist")
    calibration, _ = _pictures(data.train, side, CALIBRATION)
    images, labels = _pictures(data.val, side, count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = _variants(source, folder, calibration)
        np.save(folder / "images.npy", images)
        (folder / "fp32.onnx").write_bytes(source.read_bytes())
        reference = None
        for processor, words in PROCESSORS.items():
            command = [*words, sys.executable, "-c", CHILD, str(folder), *WAYS]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            reference = _logits(folder, "fp32", WAYS[0]) if reference is None else reference
            for weights, way in ((weights, way) for weights in files for way in WAYS):
                logits = _logits(folder, weights, way)
                yield {
                    "network": run.name,
                    "weights": weights,
                    "way": way,
                    "processor": processor,
                    **compare_outputs(reference, logits).to_json(),
                    "top1": float((logits.argmax(axis=1) == labels).mean()),
                    "fp32_top1": float((reference.argmax(axis=1) == labels).mean()),
                }


def _times(model: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from variants import whole_and_half

    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source.onnx"
        export_onnx(whole_and_half(model, 224)["whole"], source, input_shape=(3, 224, 224))
        noise = np.random.default_rng(0).standard_normal((32, 3, 224, 224), dtype=np.float32)
        files = {**_variants(source, Path(scratch), noise), "fp32": source}
        for runtime in ("onnxruntime", "openvino"):
            how = BenchOptions(threads=1, seconds=options.seconds, runtime=runtime)
            record = measure_artifacts(files, how)
            known = {item.name: item for item in compare(record, 1)}
            for item in record.at_batch(1):
                found = known.get(item.name)
                yield {
                    "network": model,
                    "runtime": runtime,
                    "weights": item.name,
                    "median_ms": item.median_ms,
                    "ratio": found.latency_ratio if found else 1.0,
                    "low": found.latency_low if found else 1.0,
                    "high": found.latency_high if found else 1.0,
                }


def _pictures(source: Any, side: int, count: int) -> tuple[Any, Any]:
    batches = list(eval_batches(source, image_size=side, batch_size=50, limit=count))
    return tuple(
        np.concatenate([getattr(batch, name).contiguous().numpy() for batch in batches])
        for name in ("images", "labels")
    )


def _variants(source: Path, folder: Path, images: Any) -> dict[str, Path]:
    """Returns name -> the network quantised in every way; the first is what others are held to."""
    files = {}
    for name, settings in VARIANTS.items():
        files[name] = folder / f"{name}.onnx"
        ort.quantize_static(
            source,
            files[name],
            _Images(inspect_onnx(source).input_name, images),
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            calibrate_method=ort.CalibrationMethod.MinMax,
            **settings,
        )
    files["tensorrt"] = quantize_int8(source, folder / "tensorrt.onnx", images).path
    return files


class _Images(ort.CalibrationDataReader):
    def __init__(self, name: str, images: Any) -> None:
        self._batches = iter([{name: image[None]} for image in images])

    def get_next(self) -> Any:
        """Returns the next image by the input's name; None after the last."""
        return next(self._batches, None)


def _logits(folder: Path, name: str, way: str) -> Any:
    return np.load(folder / f"{name}.{way}.npy")


if __name__ == "__main__":
    main()
