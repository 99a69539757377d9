#!/usr/bin/env bash
# Trains on a GPU and on the CPU, compares results and times, and prints a block to paste into an issue. Some minutes.
#   pip install . and paddlepaddle-gpu from https://www.paddlepaddle.org.cn/install/quick, then: bash scripts/check_gpu.sh
# PYTHON: interpreter to use (python3); DEVICE: device to check (gpu); EPOCHS: of each training (5); DATA: data to train on (made-up
# clips of IEMOCAP's sizes).
set -euo pipefail
python=${PYTHON:-python3} device=${DEVICE:-gpu} epochs=${EPOCHS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lmf() {
    "$python" -m lmf_multitask "$@" >>"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 2; }
}

data=${DATA:-$work/sample.pkl}
[ -n "${DATA:-}" ] || lmf data sample "$data" --scale full
for run in cpu device again; do
    echo "training: $run" >&2
    lmf train --data_path "$data" --device "$([ "$run" = cpu ] && echo cpu || echo "$device")" --output_dir "$work/$run" \
        --training.epochs "$epochs" --training.patience null --no_report
done
echo "the weights of $device on the CPU" >&2
lmf evaluate "$work/device" --device cpu
lmf infer "$work/device" --data_path "$data" --device "$device" --backend paddle --output_dir "$work/inferred"

echo
echo '```'
"$python" - "$work" "$device" "$epochs" <<'END'
import csv, json, pathlib, re, sys

import paddle

work, device, epochs = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def largest(first, second):
    """Largest difference of the probabilities in two files of predictions."""
    names = [name for name in first[0] if name.endswith("_probability") and name in second[0]]
    return max(abs(float(a[name]) - float(b[name])) for a, b in zip(first, second, strict=True) for name in names)


def seconds(run):
    return float(re.findall(r"done in ([\d.]+) seconds", (work / run / "train.log").read_text())[-1])


print(f"Paddle {paddle.__version__}, CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}, device {device}")
if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
    print(paddle.device.cuda.get_device_properties(0))
for run, name in (("cpu", "cpu"), ("device", device), ("again", f"{device} again")):
    metrics = json.loads((work / run / "metrics.json").read_text())["mean"]
    shown = ", ".join(f"{key} {metrics[key]:.4f}" for key in ("weighted_f1", "auroc", "average_precision") if key in metrics)
    print(f"{name}: {epochs} epochs and test in {seconds(run):.1f} s; {shown}")
same = rows(work / "device" / "history.csv") == rows(work / "again" / "history.csv")
print(f"{device} twice gives the same history: {'yes' if same else 'NO'}")
trained = rows(work / "device" / "predictions.csv")
for what, other in (("evaluate on the CPU", work / "device" / "predictions_test.csv"), (f"infer on {device}", work / "inferred" / "predictions.csv")):
    difference = largest(trained, rows(other))
    print(f"probabilities, trained on {device} against {what}: largest difference {difference:.1e} {'ok' if difference < 1e-4 else 'TOO LARGE'}")
END
"$python" -m lmf_multitask doctor 2>&1 || true
echo '```'
