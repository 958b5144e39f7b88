#!/usr/bin/env bash
# The main job: set up what is missing, train HyperCLIP, evaluate it and the training-free CLIPer, draw.
#
#   bash run_train_test.sh                                        the embedded quickstart: no download, two CPU cores
#   bash run_train_test.sh CONFIG NUM_GPUS OUTPUT [KEY VALUE …]   train a config and evaluate it, e.g.
#   bash run_train_test.sh configs/vitb_384_hyperbolic.yaml 4 output/vitb
#
# A folder that holds a training is refused: RESUME=1 continues it, OVERWRITE=1 removes its files and starts anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [ $# -gt 0 ] && [ $# -lt 3 ]; then
    echo "usage: bash run_train_test.sh [CONFIG NUM_GPUS OUTPUT [KEY VALUE …]]" >&2
    exit 2
fi
python=$(bash tools/setup.sh)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
resume=$([ "${RESUME:-0}" = 1 ] && echo --resume || true)
overwrite=$([ "${OVERWRITE:-0}" = 1 ] && echo OVERWRITE True || true)

if [ $# -ge 3 ]; then
    config=$1 gpus=$2 output=$3
    shift 3
    # Training ends with an evaluation on DATASETS.TEST, written to OUTPUT/results.json.
    exec "$python" tools/train_net.py --config-file "$config" --num-gpus "$gpus" $resume "$@" $overwrite OUTPUT_DIR "$output"
fi

output=output/quickstart
# stage NAME [FLAG …]: run one config; its whole log goes to console.txt, progress with ETA to the screen.
stage() {
    local name=$1 log="$output/$1/console.txt"
    shift
    echo "== $name"
    mkdir -p "$output/$name"
    "$python" tools/train_net.py --config-file "configs/quickstart/$name.yaml" "$@" \
        $overwrite OUTPUT_DIR "$output/$name" SEED 1 2>&1 | tee "$log" | sed -nuE 's/.*(eta:.*total_loss: [0-9.e-]+).*/   \1/p' || {
        tail -n 30 "$log" >&2
        echo "$name failed; its whole log is $log" >&2
        exit 1
    }
}
"$python" datasets/prepare_tinyscenes.py
stage dense_clip --eval-only
stage frozen_clip $resume
stage hyperclip $resume
stage clip_last_layer --eval-only
stage cliper_fusion --eval-only
stage cliper --eval-only
"$python" tools/visualize.py --config-file configs/quickstart/hyperclip.yaml --dataset tinyscenes_val_unseen \
    --output "$output/pictures" --limit 12 --opts MODEL.WEIGHTS "$output/hyperclip/model_final.pth"
echo
echo "mIoU in percent, one seed (the README has the mean of three; CLIPer is training-free and uses a CLIP of its own):"
"$python" tools/compare_runs.py --json "$output/results.json" "Plain dense CLIP=$output/dense_clip" \
    "Head on frozen CLIP=$output/frozen_clip" "HyperCLIP=$output/hyperclip" \
    "CLIPer: CLIP's last layer=$output/clip_last_layer" "CLIPer: early-layer fusion=$output/cliper_fusion" \
    "CLIPer: fusion and refinement=$output/cliper"
echo "Rows: $output/results.json. Pictures (input, truth, prediction, legend) of unseen classes: $output/pictures"
