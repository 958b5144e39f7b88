#!/usr/bin/env bash
# The main job: set up what is missing, train, evaluate, draw.
#
#   bash run_train_test.sh                                  the embedded quickstart: no download, two CPU cores
#   bash run_train_test.sh CONFIG NUM_GPUS OUTPUT [KEY VALUE …]   train a config and evaluate it, e.g.
#   bash run_train_test.sh configs/vitb_384_hyperbolic.yaml 4 output/vitb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [ $# -gt 0 ] && [ $# -lt 3 ]; then
    echo "usage: bash run_train_test.sh [CONFIG NUM_GPUS OUTPUT [KEY VALUE …]]" >&2
    exit 2
fi
python=$(bash tools/setup.sh)

if [ $# -ge 3 ]; then
    config=$1 gpus=$2 output=$3
    shift 3
    "$python" tools/train_net.py --config-file "$config" --num-gpus "$gpus" OUTPUT_DIR "$output" "$@"
    exec "$python" tools/train_net.py --config-file "$config" --num-gpus "$gpus" --eval-only \
        OUTPUT_DIR "$output/eval" MODEL.WEIGHTS "$output/model_final.pth" "$@"
fi

output=output/quickstart
rm -rf "$output"
"$python" datasets/prepare_tinyscenes.py
for name in dense_clip frozen_clip hyperclip; do
    echo "== $name"
    mode=$([ "$name" = dense_clip ] && echo --eval-only || true)
    mkdir -p "$output/$name"
    "$python" tools/train_net.py --config-file "configs/quickstart/$name.yaml" $mode \
        OUTPUT_DIR "$output/$name" SEED 1 >"$output/$name/console.txt" 2>&1 || {
        tail -n 30 "$output/$name/console.txt" >&2
        echo "$name failed; its whole log is $output/$name/console.txt" >&2
        exit 1
    }
done
root=${DETECTRON2_DATASETS:-datasets}
"$python" demo/demo.py --config-file configs/quickstart/hyperclip.yaml --output "$output/pictures" \
    --input "$root"/tinyscenes/val_unseen/images/0000[0-7].png \
    --opts MODEL.WEIGHTS "$output/hyperclip/model_final.pth"
echo
echo "mIoU in percent, one seed (the README has the mean of three); pictures are in $output/pictures"
"$python" tools/compare_runs.py "Plain dense CLIP=$output/dense_clip" \
    "Head on frozen CLIP=$output/frozen_clip" "HyperCLIP=$output/hyperclip"
