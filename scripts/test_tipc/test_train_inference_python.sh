#!/usr/bin/env bash
# Paddle's Training and Inference Pipeline Criterion (TIPC): trains, evaluates, exports and infers what a config lists.
#
#   bash scripts/test_tipc/test_train_inference_python.sh configs/tipc/lmf/train_infer_python.txt lite_train_lite_infer
#
# Modes: lite_train_lite_infer (300 made-up clips, two minutes), lite_train_whole_infer, whole_train_whole_infer (the file
# that the config names), whole_infer (only export and inference, of the run that the config's infer_model names).
# Everything goes to log/MODEL_NAME/MODE; results_python.log there holds one line per step. Exit status 1: a step failed.
#
# The config has TIPC's format: KEY:VALUE lines, sections between ===== lines, blocks between ## lines. The order of lines in a
# block matters, because a key may be the name of an option. A value "mode=a|mode=b" depends on the mode; other values "a|b" are
# lists (with commas inside a mode's value); null means: not given. gpu_list -1 is the CPU; --device, in the same order, is
# the device that the training gets. Lines beyond those of the format are further options of the block's commands.
set -uo pipefail
IFS=$' \t\n'

if [ $# -ne 2 ]; then
    echo "usage: bash $0 CONFIG.txt lite_train_lite_infer|lite_train_whole_infer|whole_train_whole_infer|whole_infer" >&2
    exit 2
fi
case $2 in
    lite_train_lite_infer | lite_train_whole_infer | whole_train_whole_infer | whole_infer) MODE=$2 ;;
    *)
        echo "error: the mode must be one of TIPC's, but got $2. See the first lines of $0." >&2
        exit 2
        ;;
esac
CONFIG=$(realpath -- "$1" 2>/dev/null)
if [ ! -f "$CONFIG" ]; then
    echo "error: $1: must be a config file, but there is none. Try configs/tipc/lmf/train_infer_python.txt" >&2
    exit 2
fi
set -e
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
set +e

# -- reading the config

lines_of() { # SECTION BLOCK -> the lines of the block, numbered from 1 in each section
    awk -v section="$1" -v wanted="$2" '
        { sub(/\r$/, "") }
        /^=+/ { name = $0; gsub(/=/, "", name); block = 1; next }
        /^##/ { block++; next }
        name == section && block == wanted && NF { print }' "$CONFIG"
}

key_of() { printf '%s' "${1%%:*}"; }

value_of() { # LINE -> its value in this mode, "" for null
    local value=${1#*:} part found=
    if [[ $value =~ (^|\|)[a-z_]+_(infer|train)= ]]; then
        local -a parts
        IFS='|' read -ra parts <<<"$value"
        for part in "${parts[@]}"; do
            if [ "${part%%=*}" = "$MODE" ]; then found=${part#*=}; fi
        done
        value=${found//,/|}
    fi
    [ "$value" = null ] || printf '%s' "$value"
}

named() { # NAME LINES... -> the value of the line with that key
    local name=$1 line
    shift
    for line in "$@"; do
        if [ "$(key_of "$line")" = "$name" ]; then
            value_of "$line"
            return
        fi
    done
}

add_option() { # KEY VALUE -> appends to the array `command`, unless there is nothing to give
    if [ "$1" = null ] || [ -z "$2" ]; then return; fi
    if [ "$2" = True ]; then command+=("$1"); elif [ "$2" != False ]; then command+=("$1" "$2"); fi
}

add_further_options() { # LINES...
    local line
    for line in "$@"; do add_option "$(key_of "$line")" "$(value_of "$line")"; done
}

mapfile -t train < <(lines_of train_params 1)
mapfile -t trainers < <(lines_of train_params 2)
mapfile -t preparations < <(lines_of train_params 3)
mapfile -t evaluation < <(lines_of eval_params 1)
mapfile -t export < <(lines_of infer_params 1)
mapfile -t given < <(lines_of infer_params 2)
mapfile -t inference < <(lines_of infer_params 3)
if [ ${#train[@]} -lt 10 ] || [ ${#export[@]} -lt 3 ] || [ ${#inference[@]} -lt 6 ]; then
    echo "error: $CONFIG: must have TIPC's lines in train_params and infer_params, but some are missing. Compare it with configs/tipc/lmf/train_infer_python.txt" >&2
    exit 2
fi
model_name=$(value_of "${train[0]}")
interpreter=$(value_of "${train[1]}")
data_key=$(key_of "${train[9]}")
data_path=$(value_of "${train[9]}")

# -- running a step

LOGS=log/$model_name/$MODE
STATUS_LOG=$LOGS/results_python.log
mkdir -p "$LOGS"
: >"$STATUS_LOG"
failures=0

run_step() { # LOG -> runs the array `command`, its output also into LOG, and prints TIPC's line; returns its status
    local status line
    "$interpreter" "${command[@]}" 2>&1 | tee "$1"
    status=${PIPESTATUS[0]}
    if [ "$status" -eq 0 ]; then
        line=" Run successfully with command - $interpreter ${command[*]}!"
    else
        line=" Run failed with command - $interpreter ${command[*]}!"
        failures=$((failures + 1))
    fi
    echo "$line" >>"$STATUS_LOG"
    if [ -t 1 ]; then printf '\033[33m%s\033[0m\n' "$line"; else echo "$line"; fi
    return "$status"
}

start_of() { read -ra command <<<"$1"; } # a command's words, as the config gives them

run_export() { # COMMAND RUN_DIR MODEL_DIR LOG
    start_of "$1"
    command+=("$2")
    add_option "$(key_of "${export[0]}")" "$3"
    add_further_options "${export[@]:3}"
    run_step "$4"
}

run_inference() { # MODEL_DIR NAME: every device and batch size that the config lists
    local device size data
    local -a devices sizes
    IFS='|' read -ra devices <<<"$(value_of "${inference[1]}")"
    IFS='|' read -ra sizes <<<"$(value_of "${inference[2]}")"
    data=$(value_of "${inference[4]}")
    for device in "${devices[@]}"; do
        case $device in True) device=gpu ;; False) device=cpu ;; esac
        for size in "${sizes[@]}"; do
            start_of "$(value_of "${inference[0]}")"
            command+=("$1")
            add_option "$(key_of "${inference[1]}")" "$device"
            add_option "$(key_of "${inference[2]}")" "$size"
            add_option "$(key_of "${inference[4]}")" "${data:-$data_path}"
            add_option "$(key_of "${inference[5]}")" "$(value_of "${inference[5]}")"
            add_further_options "${inference[@]:6}"
            command+=(--output_dir "$LOGS/$2/out_prob_${device}_batchsize_$size")
            run_step "$LOGS/$2/python_infer_${device}_batchsize_$size.log"
        done
    done
}

# -- the pipeline

preparation=$(named prepare "${preparations[@]}")
if [ -n "$preparation" ]; then
    start_of "${preparation//|/,}"
    if ! run_step "$LOGS/prepare.log"; then exit 1; fi
fi

if [ "$MODE" = whole_infer ]; then
    run_dir=$(named infer_model "${given[@]}")
    if [ -z "$run_dir" ]; then
        echo "error: $CONFIG: infer_model must name a run directory for whole_infer, but is null." >&2
        exit 2
    fi
    mkdir -p "$LOGS/given"
    if run_export "$(named infer_export "${given[@]}")" "$run_dir" "$LOGS/given/inference" "$LOGS/given/export.log"; then
        run_inference "$LOGS/given/inference" given
    fi
else
    IFS='|' read -ra gpus <<<"$(value_of "${train[2]}")"
    IFS='|' read -ra devices <<<"$(value_of "${train[3]}")"
    IFS='|' read -ra names <<<"$(named trainer "${trainers[@]}")"
    for number in "${!gpus[@]}"; do
        device=${devices[number]:-${devices[0]:-}}
        case $device in True) device=gpu ;; False) device=cpu ;; esac
        if [ "${gpus[number]}" = -1 ]; then unset CUDA_VISIBLE_DEVICES; else export CUDA_VISIBLE_DEVICES=${gpus[number]}; fi
        for name in "${names[@]}"; do
            folder=${name}_gpus_${gpus[number]}
            mkdir -p "$LOGS/$folder"
            run_dir=$LOGS/$folder/run
            start_of "$(named "$name" "${trainers[@]}")"
            add_option "$(key_of "${train[3]}")" "$device"
            add_option "$(key_of "${train[4]}")" "$(value_of "${train[4]}")"
            add_option "$(key_of "${train[5]}")" "$run_dir"
            add_option "$(key_of "${train[6]}")" "$(value_of "${train[6]}")"
            add_option "$(key_of "${train[7]}")" "$(value_of "${train[7]}")"
            add_option "$data_key" "$data_path"
            add_further_options "${train[@]:10}"
            if ! run_step "$LOGS/$folder/train.log"; then continue; fi
            trained=$(value_of "${train[8]}")
            run_dir=$run_dir${trained:+/$trained}
            evaluate=$(named eval "${evaluation[@]}")
            if [ -n "$evaluate" ]; then
                start_of "$evaluate"
                command+=("$run_dir")
                run_step "$LOGS/$folder/eval.log"
            fi
            exporter=$(named norm_export "${export[@]}")
            if [ -n "$exporter" ]; then
                if run_export "$exporter" "$run_dir" "$LOGS/$folder/inference" "$LOGS/$folder/export.log"; then
                    run_inference "$LOGS/$folder/inference" "$folder"
                fi
            fi
        done
    done
fi
echo "$((failures)) of $(wc -l <"$STATUS_LOG") steps failed; logs: $LOGS"
[ "$failures" -eq 0 ]
