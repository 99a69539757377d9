"""Every bad input, one table: what a user can get wrong, over all commands, and the line that tells it.

For each of them: status 2, one line, no traceback, and not a file more, less or other than before.
"""

import contextlib
import hashlib
import importlib
import json
import os
import pickle
import shlex
import shutil
import signal

import numpy as np
import pytest
from conftest import INPUTS, SMALL_MODEL, make_corpus, model_config
from reference_network import random_parameters

from lmf_multitask.__main__ import COMMANDS, main
from lmf_multitask.command_line import run
from lmf_multitask.files import write_manifest
from lmf_multitask.pipeline.conversion import convert_run
from lmf_multitask.pipeline.settings import ExperimentConfig

LONG = "x" * 300

SETTINGS = """
--bogus 1 | unknown option '--bogus'. Did you mean
--training.epoch 3 | unknown option '--training.epoch'. Did you mean '--training.epochs'?
--model.rank 8 | unknown option '--model.rank'. Did you mean '--model.fusion.rank'?
--fusion_rank 8 | unknown option '--fusion_rank'. Did you mean '--model.fusion.rank'?
extra | there must be no argument 'extra' here. See --help.
--seed -1 | seed must be greater than or equal to 0, but got -1.
--seed 1.5 | seed must be a whole number, but got 1.5.
--seed one | seed must be a whole number, but got 'one'.
--seed 9223372036854775808 | seed must be less than 9223372036854775808, but got 9223372036854775808.
--seed | --seed: expected one argument. See --help.
--training.epochs 0 | training.epochs must be greater than or equal to 1, but got 0.
--training.epochs -3 | training.epochs must be greater than or equal to 1, but got -3.
--training.epochs 1e3 | training.epochs must be a whole number, but got 1000.0.
--training.epochs null | training.epochs must be a whole number, but got None.
--training.batch_size 1 | training.batch_size must be greater than or equal to 2, but got 1.
--training.batch_size 0 | training.batch_size must be greater than or equal to 2, but got 0.
--training.eval_batch_size 0 | training.eval_batch_size must be greater than or equal to 1, but got 0.
--training.learning_rate 0 | training.learning_rate must be greater than 0, but got 0.
--training.learning_rate -1 | training.learning_rate must be greater than 0, but got -1.
--training.learning_rate nan | training.learning_rate must be a number, but got 'nan'.
--training.learning_rate inf | training.learning_rate must be a number, but got 'inf'.
--training.learning_rate fast | training.learning_rate must be a number, but got 'fast'.
--training.learning_rate 11 | training.learning_rate must be less than or equal to 10, but got 11.
--training.factor_learning_rate 0 | training.factor_learning_rate must be greater than 0 or null, but got 0.
--training.weight_decay -1 | training.weight_decay must be greater than or equal to 0, but got -1.
--training.max_grad_norm 0 | training.max_grad_norm must be greater than 0 or null, but got 0.
--training.patience 0 | training.patience must be greater than or equal to 1 or null, but got 0.
--training.patience 1.5 | training.patience must be a whole number
--training.monitor f1 | training.monitor must be
--training.loss_reduction max | training.loss_reduction must be
--training.row_order random | training.row_order must be
--training.visualdl maybe | training.visualdl must be
--model.fusion.rank 0 | model.fusion.rank must be greater than or equal to 1, but got 0.
--model.fusion.rank 70000 | model.fusion.rank must be less than or equal to 65536, but got 70000.
--model.fusion.dim -4 | model.fusion.dim must be greater than or equal to 1 or null, but got -4.
--model.encoders.text.state 65536 | a network must have at most 268,435,456 parameters, but these sizes make 17,205,694,939. Choose smaller ones.
--model.encoders.audio.dropout 1 | model.encoders.audio.dropout must be less than 1, but got 1.
--model.encoders.video.dropout -0.1 | model.encoders.video.dropout must be greater than or equal to 0, but got -0.1.
--model.encoders.text.dropout nan | model.encoders.text.dropout must be a number, but got 'nan'.
--model.fusion.init zeros | model.fusion.init must be
--model.fusion.rank 0 --model.encoders.text.state 0 | model.encoders.text.state must be greater than or equal to 1, but got 0. model.fusion.rank must be greater than or equal to 1, but got 0.
--data.label_column 2 | data.label_column must be
--data.non_finite drop | data.non_finite must be
--data.non_finite error | good.pkl: audio must be finite, but has 1 NaN and 0 infinite values. Use --data.non_finite zero.
--data.cache_dir file | file/lmf_multitask: Not a directory.
--data.cache_dir file/below | file/below/lmf_multitask: Not a directory.
--emotions hapy | good.pkl: emotions must be among happy, sad, angry, neutral, but got 'hapy'. Did you mean 'happy'?
--emotions | --emotions: expected at least one argument. See --help.
--emotions happy happy | emotions must be one or more different names, but got ['happy', 'happy'].
--emotions ../../x | the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../../x'. Rename it.
--emotions '' | arguments must not be empty, but one is. Is a variable in the command not set?
--device tpu | device must be auto, cpu, gpu or gpu:NUMBER, but got 'tpu'.
--device gpu | device must be one that Paddle can use, but got 'gpu' and it finds no GPU. Use --device cpu.
--device gpu:99 | device must be one that Paddle can use, but got 'gpu:99'
--mode both | --mode: must be one of multitask, per_emotion, but got 'both'. See --help.
--recipe paper | --recipe must be used with --mode per_emotion, but is not. Remove it.
--jobs 2 | --jobs must be used with --mode per_emotion, --seeds or --folds, but is not. Remove it.
--mode per_emotion --jobs 0 | --jobs must be a whole number of at least 1, but got 0.
--mode per_emotion --jobs two | --jobs: must be a whole number, but got 'two'. See --help.
--mode per_emotion --recipe papers | --recipe: must be one of lmf_paddle, paper, paper/mosi, paper/pom, but got 'papers'. Did you mean 'paper'?
--mode per_emotion --emotions hapy | but got 'hapy'. Did you mean 'happy'?
--mode per_emotion --model.fusion.rank 0 | model.fusion.rank must be greater than or equal to 1, but got 0.
--config | --config: expected one argument. See --help.
--config nowhere.yaml | --config must be a YAML file, but nowhere.yaml is none
--config . | --config must be a YAML file, but . is none.
--config pipe | --config must be a YAML file, but pipe is none.
--config ../../etc/passwd | --config must be a YAML file, but ../../etc/passwd is none.
--config good.pkl | good.pkl: must be UTF-8 text, but is not at byte 0. Check the file.
--overwrite yes | there must be no argument 'yes' here. See --help.
"""

CONFIGS = {
    "a: [": "must be YAML, but while parsing a flow node",
    "hello": "must hold settings by name, but holds 'hello'. See a shipped config.",
    "[1, 2]": "2.yaml: must hold settings by name, but holds [1, 2]. See a shipped config.",
    "": "must hold settings by name, but holds",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]": "must be YAML, but it has the alias *a; write the value out.",
    "- &a [x, x]\n- &b [*a, *a, *a]": "must be YAML, but it has the alias *a; write the value out.",
    "a: &a\n  b: *a": "must be YAML, but it has the alias *a",
    "seed: !!python/object/apply:os.system ['true']": "must be YAML, but could not determine a constructor for the tag",
    "seed: !!python/name:os.system ''": "must be YAML, but could not determine a constructor for the tag",
    "a: " + "[" * 5000: "must be YAML, but it is nested more than 20 levels deep.",
    "a: " + "{b: " * 5000: "must be YAML, but it is nested more than 20 levels deep.",
    "seed: " + "9" * 5000: "must be YAML, but Exceeds the limit (4300 digits)",
    "seed: 2024-99-99": "must be YAML, but month must be in 1..12.",
    "# " + "x" * 200_000: "must have at most 100,000 bytes, but has more. Check the file.",
    "? [a, b]\n: 2": "must be YAML, but while constructing a mapping",
    "<<: 3": "must be YAML, but while constructing a mapping",
    "1: 2": "unknown setting '1'. Choose one of data_path, emotions, tasks, seed, output_dir, folds, fold, fold_seed, stratify, device, data, model, training.",
    "colour: red": "unknown setting 'colour'. Choose one of data_path, emotions, tasks, seed, output_dir, folds, fold, fold_seed, stratify, device, data, model, training.",
    "model: {colour: red}": "unknown setting 'model.colour'. Choose one of encoders, fusion, head_dropout, linear, modality_dropout, modalities.",
    "model: 3": "model must be settings by name, but got 3. See --help.",
    "training: {epochs: many}": "training.epochs must be a whole number, but got 'many'.",
    "training: {learning_rate: [1]}": "training.learning_rate must be a number, but got [1].",
    "seed: true": "seed must be a whole number, but got True.",
    "seed: .nan": "seed must be a whole number, but got nan.",
}

FOLDERS = f"""
--output_dir file | file: must be a folder, but is a file. Choose another --output_dir.
--output_dir foreign | foreign: must be empty or a run directory, but holds 'thesis.txt'. Choose another --output_dir.
--output_dir foreign --overwrite | foreign: must be empty or a run directory, but holds 'thesis.txt'.
--output_dir foreign --resume | foreign: must be empty or a run directory, but holds 'thesis.txt'.
--output_dir run | run: must be empty, but holds an unfinished run. Choose another --output_dir, --resume to continue it, or --overwrite to replace it.
--output_dir complete | complete: must be empty, but holds a complete run. Choose another --output_dir, or --overwrite
--output_dir complete --resume | complete: cannot resume: emotions changed from ['happy'] to ['happy', 'sad', 'angry', 'neutral']
--output_dir run --resume | run: cannot resume: emotions changed from ['happy'] to ['happy', 'sad', 'angry', 'neutral']
--output_dir badconfig --resume | badconfig/config.yaml: must hold the settings of a run, but
--output_dir file/below | file/below: Not a directory.
--output_dir /proc/nowhere/x | /proc/nowhere: No such file or directory.
--output_dir ~nobody12/x | a path that begins with ~ must name a user, but this one has no home directory.
--output_dir {LONG} | File name too long.
--output_dir pipe | pipe: must be a folder, but is a file. Choose another --output_dir.
--output_dir '' | arguments must not be empty, but one is. Is a variable in the command not set?
--output_dir parent | parent: must be empty or a run directory, but holds 'happy'. Choose another --output_dir.
--output_dir run --mode per_emotion | run: must be a folder for several runs, but is a run itself.
--output_dir file --mode per_emotion | file: must be a folder, but is a file.
--output_dir parent --mode per_emotion | parent/happy: cannot resume: model.encoders.audio.hidden changed from 3 to 4. Choose another --output_dir, or --overwrite the run.
"""

FILES = f"""
nowhere.pkl | nowhere.pkl: must be a readable file, but No such file or directory. Check the path.
nowhere.pkl --mode per_emotion | nowhere.pkl: must be a readable file, but No such file or directory.
empty.pkl | empty.pkl: must be a pickle, but is empty. Get the file again.
cut.pkl | cut.pkl: must be a whole pickle of plain data, but ends too early
hostile.pkl | must be plain data (arrays, numbers, text, dicts, lists), but names os.system (at byte 11). Nothing of it was run
list.pkl | list.pkl: must be one of the known layouts (
none.pkl | none.pkl: must be one of the known layouts (
page.pkl | page.pkl: must be a pickle, but is a web page or XML. Download the file itself.
lfs.pkl | lfs.pkl: must be a pickle, but is a Git LFS pointer, not the file itself. Run `git lfs pull`.
table.csv | table.csv must have at least one of audio, video, text, but has id, label. Rename them, or choose them with --data.audio
packed.pkl | packed.pkl: must be a whole compressed file, but is damaged
happy.npz | happy.npz must have at least one of audio, video, text, but has audio_factor, audio_subnet.linear_1.bias, audio_subnet.linear_1.weight, audio_subnet.l
path.pkl | path.pkl: the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../../x'. Rename it.
path.pkl --mode per_emotion | path.pkl: the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../../x'. Rename it.
absent.pkl | sad must be present in some clips of train and absent in others, but is present in 0 of 24.
half.pkl | half.pkl: data['sad']['test']['label'] must be 0 or 1, or NaN where not annotated, but holds 0.5. Store one binary label per clip.
misspelt.pkl | misspelt.pkl: data['happy']['train'] must name its features audio, video, text, but has 'facett'. Did you mean 'video'?
somewhere.pkl | somewhere.pkl: video must be in every emotion and split, or in none, but is in happy/train and not in sad/test. Store zeros
featureless.pkl | featureless.pkl: data['happy']['train'] must have at least one of audio, video, text, but has nothing. Check the names.
silent.pkl --model.modalities audio | train must have clips with audio, but audio is missing in every clip. Choose others with --model.modalities.
silent.pkl --model.modalities audio --mode per_emotion | train must have clips with audio, but audio is missing in every clip.
unseen.pkl --emotions sad --training.monitor uar | training.monitor must be a metric that the labels of validation define, but uar is undefined for every task: each is present in all or in none of t
unseen.pkl --emotions sad --training.monitor positive_f1 | but positive_f1 is undefined for every task: each is present in all or in none
short.pkl | short.pkl: data['sad']['test'] must have the same number of rows in every feature, but has
untested.pkl | untested.pkl: data['sad'] must have the split test, but has ['train', 'valid']. Choose a split with --split, or add it.
nofolder | nofolder: must be one of the known layouts (
run | run: must be one of the known layouts (
pipe | pipe: must be a regular file, but is a pipe or a device. Write its content to a file first.
/dev/zero | /dev/zero: must be a regular file, but is a pipe or a device.
~nobody12/x | a path that begins with ~ must name a user, but this one has no home directory.
'' | arguments must not be empty, but one is. Is a variable in the command not set?
{LONG} | File name too long
"""

EVALUATE = f"""
| the following arguments are required: RUN_DIR. See --help.
nowhere | nowhere: must be a run directory, but there is no such folder. Check the path.
file | file: must be a run directory, but there is no such folder.
pipe | pipe: must be a run directory, but there is no such folder.
'' | arguments must not be empty, but one is. Is a variable in the command not set?
foreign | foreign: must be a run directory, but neither it nor a folder in it has a config.yaml. Give the --output_dir of a training.
nofolder | nofolder: must be a run directory, but neither it nor a folder in it has a config.yaml. Give the --output_dir of a training.
run extra | there must be no argument 'extra' here. See --help.
run --bogus | unknown option '--bogus'. See --help.
run --split dev | --split: must be one of train, validation, test, but got 'dev'. See --help.
run --split | --split: expected one argument. See --help.
run --robustness yes | there must be no argument 'yes' here. See --help.
run --robust | unknown option '--robust'. Did you mean '--robustness'?
run --robustness --split valid | --split: must be one of train, validation, test, but got 'valid'. Did you mean 'validation'?
run --robustness --data_path wide.pkl | wide.pkl: audio must be 5 numbers per clip, as in the model, but is 9 numbers per clip. Extract the features alike.
run --robustness --data_path two.pkl | two.pkl: emotions must be among calm, tense, but got 'happy'.
run --robustness --data_path misspelt.pkl | has 'facett'. Did you mean 'video'?
nomodel --robustness | nomodel: must hold a trained model, but has no folder 'model'.
foreign --robustness | foreign: must be a run directory, but neither it nor a folder in it has a config.yaml. Give the --output_dir of a training.
parent --robustness --data_path wide.pkl | wide.pkl: audio must be 5 numbers per clip, as in the model, but is 9 numbers per clip. Extract the features alike.
run --device tpu | device must be auto, cpu, gpu or gpu:NUMBER, but got 'tpu'.
nomodel | nomodel: must hold a trained model, but has no folder 'model'. Let its training finish first.
badconfig | badconfig/config.yaml: must hold the settings of a run, but must be YAML, but while parsing a flow node expected the node content, but found '<stream
laughing | laughing/config.yaml: must hold the settings of a run, but must be YAML, but it has the alias *a; write the value out.
badweights | badweights/model/model.safetensors: must be a complete safetensors file, but
flipped | model.safetensors differs
otherkind | otherkind/model/config.json: must describe a model of the type lmf, but does not.
nested | nested/model/config.json: must be JSON, but
huge | huge/model/model.safetensors: encoders.text.lstm.weight_ih_l0 must have the shape [262144, 3], but has [16, 3].
outside | outside/model/config.json: must describe an LMF model, but the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../../
linked | linked/run: must not be a symbolic link, but is one. Replace it by what it points to.
run --data_path nowhere.pkl | nowhere.pkl: must be a readable file, but No such file or directory.
run --data_path wide.pkl | wide.pkl: audio must be 5 numbers per clip, as in the model, but is 9 numbers per clip. Extract the features alike.
run --data_path two.pkl | two.pkl: emotions must be among calm, tense, but got 'happy'. Choose among these.
run --data_path hostile.pkl | but names os.system (at byte 11). Nothing of it was run
parent --data_path wide.pkl | wide.pkl: audio must be 5 numbers per clip, as in the model, but is 9 numbers per clip. Extract the features alike.
~nobody12 | a path that begins with ~ must name a user, but this one has no home directory.
{LONG} | File name too long.
"""

INFER = """
run --data_path vidoe.npz | vidoe.npz must name its features audio, video, text, but has 'vidoe'. Did you mean 'video'?
run --data_path other.npz | other.npz must have at least one of audio, video, text, but has conv. Rename them, or choose them
run --data_path misspelt.pkl | has 'facett'. Did you mean 'video'?
run --data_path featureless.pkl | featureless.pkl: data['happy']['test'] must have at least one of audio, video, text, but has nothing. Check the names.
run --data_path wide.pkl | audio must have the shape [5] per clip, as in training, but has [9]. Extract the features in the same way.
blind --data_path videos.npz | the clips must have at least one of audio, text, which the model uses, but have video.
unmeasured --data_path videos.npz | unmeasured/robustness.json: must be what `lmf evaluate --robustness` wrote, but
"""

CONVERT = f"""
| the following arguments are required: CHECKPOINT, --emotion, --output_dir. See --help.
happy.npz | the following arguments are required: --emotion, --output_dir. See --help.
happy.npz --emotion happy | the following arguments are required: --output_dir. See --help.
happy.npz --output_dir new | the following arguments are required: --emotion. See --help.
happy.npz --emotion happy --output_dir new --bogus | unknown option '--bogus'. See --help.
nowhere.pkl --emotion happy --output_dir new | nowhere.pkl: must be a readable file, but No such file or directory. Check the path.
good.pkl --emotion happy --output_dir new | must hold an array for every parameter, but 'happy' is none. Save a state dict.
list.pkl --emotion happy --output_dir new | list.pkl: must hold parameters by name, but holds a list. Save a state dict.
hostile.pkl --emotion happy --output_dir new | but names os.system (at byte 11). Nothing of it was run
empty.pkl --emotion happy --output_dir new | empty.pkl: must be a pickle, but is empty. Get the file again.
cut.npz --emotion happy --output_dir new | cut.npz: must be
objects.npz --emotion happy --output_dir new | objects.npz: must be an .npz file of arrays or a state dict of PyTorch, but a.npy: it holds Python objects. Save it as float32.
other.npz --emotion happy --output_dir new | has conv and lacks audio_factor
foreign --emotion happy --output_dir new | foreign: must be a file, but is a folder. Check the path.
pipe --emotion happy --output_dir new | pipe: must be a regular file, but is a pipe or a device. Write its content to a file first.
happy.npz --emotion ../x --output_dir new | the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../x'. Rename it.
happy.npz --emotion '' --output_dir new | arguments must not be empty, but one is. Is a variable in the command not set?
happy.npz --emotion {LONG} --output_dir new | the name of a task must consist of at most 64 letters
happy.npz --emotion happy --output_dir run | run: must be empty, but holds an unfinished run.
happy.npz --emotion happy --output_dir complete | complete: must be empty, but holds a complete run.
happy.npz --emotion happy --output_dir foreign | foreign: must be empty or a run directory, but holds 'thesis.txt'.
happy.npz --emotion happy --output_dir foreign --overwrite | foreign: must be empty or a run directory, but holds 'thesis.txt'.
other.npz --emotion happy --output_dir run --overwrite | has conv and lacks audio_factor
happy.npz --emotion happy --output_dir file | file: must be a folder, but is a file.
happy.npz --emotion happy --output_dir file/below | file/below: Not a directory.
happy.npz --emotion happy --output_dir /proc/nowhere | /proc/nowhere: No such file or directory.
happy.npz --emotion happy --output_dir ~nobody12/x | a path that begins with ~ must name a user
happy.npz --emotion happy --output_dir new --data_path ~nobody12/x | a path that begins with ~ must name a user
~nobody12/x --emotion happy --output_dir new | a path that begins with ~ must name a user
happy.npz --emotion happy --output_dir {LONG} | File name too long.
"""

DATA = f"""
| the following arguments are required: inspect|convert|sample|cache. See --help.
show good.pkl | inspect|convert|sample|cache: must be one of inspect, convert, sample, cache, but got 'show'. See --help.
inspect | the following arguments are required: FILE. See --help.
inspect nowhere.pkl | nowhere.pkl: must be a readable file, but No such file or directory.
inspect good.pkl extra | there must be no argument 'extra' here. See --help.
inspect good.pkl --data.label_column 2 | label_column
inspect good.pkl --data.label_column one | label_column
inspect hostile.pkl | but names os.system (at byte 11). Nothing of it was run
inspect path.pkl | path.pkl: the name of a task must consist of at most 64 letters, digits, '_' and '-', but got '../../x'. Rename it.
inspect pipe | pipe: must be a regular file, but is a pipe or a device.
inspect /dev/zero | /dev/zero: must be a regular file, but is a pipe or a device.
inspect nofolder | nofolder: must be one of the known layouts (
inspect '' | arguments must not be empty, but one is. Is a variable in the command not set?
inspect ~nobody12/x | a path that begins with ~ must name a user
inspect good.pkl --cache_dir file/below | unknown option '--cache_dir'. Did you mean '--data.cache_dir'?
inspect good.pkl --cache_dir /proc/nowhere | unknown option '--cache_dir'. Did you mean '--data.cache_dir'?
sample | the following arguments are required: FILE. See --help.
sample good.pkl | good.pkl: must not exist yet, but does. Choose another name, or --overwrite.
sample pipe | pipe: must not exist yet, but does.
sample pipe --overwrite | pipe: must be a file that may be replaced, but is a device or a pipe.
sample /dev/null --overwrite | /dev/null: must be a file that may be replaced, but is a device or a pipe.
sample nofolder --overwrite | nofolder: must be a file, but is a folder.
sample file/below.pkl | file: File exists.
sample /proc/nowhere/x.pkl | /proc/nowhere: No such file or directory.
sample '' | arguments must not be empty, but one is. Is a variable in the command not set?
sample ~nobody12/x | a path that begins with ~ must name a user
sample {LONG} | File name too long.
sample new.pkl --scale huge | --scale: must be one of tiny, small, full, but got 'huge'. See --help.
sample new.pkl --seed -1 | --seed must be from 0 to 2^32 - 1, but got -1.
sample new.pkl --seed 4294967296 | --seed must be from 0 to 2^32 - 1, but got 4294967296.
sample new.pkl --seed x | --seed: must be a whole number, but got 'x'. See --help.
sample new.pkl --size full | unknown option '--size'.
"""

SEARCH = f"""
--trials 0 | --trials must be a whole number of at least 1, but got 0.
--trials two | --trials: must be a whole number, but got 'two'. See --help.
--trials | --trials: expected one argument. See --help.
--jobs 0 | --jobs must be a whole number of at least 1, but got 0.
--retrain -1 | --retrain must be a whole number of at least 0, but got -1.
--retrain_seeds 2 2 | --retrain_seeds must be different whole numbers of at least 0, but got 2, 2.
--retrain_seeds 2 -3 | --retrain_seeds must be different whole numbers of at least 0, but got 2, -3.
--retrain_seeds 3 1 | --retrain_seeds must not contain the seed of the trials, but 1 is it. Choose fresh ones.
--emotion happy | --emotion must be used with per_emotion: true, but the search has it false. Set experiment.emotions instead.
--per_emotion true --emotion hapy | good.pkl: emotions must be among happy, sad, angry, neutral, but got 'hapy'. Did you mean 'happy'?
--objective f1 | objective must be one of loss, task_metric, weighted_f1, accuracy, positive_f1, uar, precision, recall, macro_f1, auroc, average_precision,
--objective weightedf1 | but got 'weightedf1'. Did you mean 'weighted_f1'?
--sampler grid | sampler must be
--seed -1 | seed must be greater than or equal to 0, but got -1.
--bogus 1 | unknown option '--bogus'.
--fusion_rank 8 | unknown option '--fusion_rank'. See --help.
--experiment.training.epoch 8 | unknown option '--experiment.training.epoch'. Did you mean '--experiment.training.epochs'?
--experiment.training.epochs 0 | experiment.training.epochs must be greater than or equal to 1, but got 0.
--experiment.device tpu | device must be auto, cpu, gpu or gpu:NUMBER, but got 'tpu'.
--experiment.model.encoders.text.state 65536 | a network must have at most 268,435,456 parameters, but these sizes make 17,205,694,939. Choose smaller ones.
--pruning.warmup_epochs 0 | pruning.warmup_epochs must be greater than or equal to 1, but got 0.
--pruning.method fast | pruning.method must be
--space 3 | space must be
--config nowhere.yaml | --config must be a YAML file, but nowhere.yaml is none
--config multitask | unknown setting 'data'
--config search-colour.yaml | unknown setting 'colour'.
--config search-inside.yaml | unknown setting 'experiment.model.colour'.
--config search-rank.yaml | space must name settings of model or training, but names 'model.rank'. Did you mean 'model.fusion.rank'?
--config search-value.yaml | space: model.fusion.rank must be greater than or equal to 1, but got 0.
--config search-large.yaml | a network must have at most 268,435,456 parameters, but these sizes make 17,205,694,939. Choose smaller ones.
--config search-twice.yaml | must be YAML, but 'model.fusion.rank' is given twice.
--output_dir file | file: must be a folder, but is a file. Choose another --output_dir.
--output_dir foreign | foreign: must be empty or a search, but holds 'thesis.txt'. Choose another --output_dir.
--output_dir run | run: must be empty or a search, but holds 'config.yaml'. Choose another --output_dir.
--output_dir sought | sought: cannot continue the search: objective changed from 'uar' to 'weighted_f1'. Choose another --output_dir.
--output_dir linkedstudy | linkedstudy/study.db: must not be a symbolic link, but is one. Replace it by what it points to.
--experiment.output_dir new | experiment.output_dir must not be set, since every trial would be written there. Give --output_dir.
--output_dir badsearch | badsearch/search.yaml: must hold the settings of a search, but must be YAML, but while parsing a flow node expected the node content, but found '<stre
--output_dir badstudy | badstudy/study.db: must be the study of a search, but file is not a database. Choose another --output_dir.
--output_dir pipe | pipe: must be a folder, but is a file. Choose another --output_dir.
--output_dir file/below | file/below: Not a directory.
--output_dir /proc/nowhere/x | /proc/nowhere: No such file or directory.
--output_dir ~nobody12/x | a path that begins with ~ must name a user, but this one has no home directory.
--output_dir '' | arguments must not be empty, but one is.
--output_dir {LONG} | File name too long.
--data_path nowhere.pkl | nowhere.pkl: must be a readable file, but No such file or directory.
--data_path hostile.pkl | but names os.system (at byte 11). Nothing of it was run
--data_path absent.pkl | sad must be present in some clips of train and absent in others, but is present in 0 of 24.
"""

SEARCHES = {
    "good": "space: {model.fusion.rank: {choices: [1, 2]}}",
    "colour": "colour: red\nspace: {model.fusion.rank: {choices: [1, 2]}}",
    "inside": "experiment: {model: {colour: red}}\nspace: {model.fusion.rank: {choices: [1, 2]}}",
    "rank": "space: {model.rank: {choices: [1, 2]}}",
    "value": "space: {model.fusion.rank: {choices: [1, 0]}}",
    "large": "space: {model.encoders.text.state: {choices: [4, 65536]}}",
    "twice": "space: {model.fusion.rank: {choices: [1, 2]}, model.fusion.rank: {choices: [1]}}",
}


def rows(table, before, after=""):
    """[(command, what it must tell)]"""
    lines = [line.partition("| ") for line in table.strip().splitlines()]
    return [(f"{before} {options.strip()} {after}".strip(), told) for options, _, told in lines]


TABLE = [
    *rows(SETTINGS, "train --data_path good.pkl --output_dir new"),
    *((f"train --data_path good.pkl --output_dir new --config {n}.yaml", told) for n, told in enumerate(CONFIGS.values())),
    *rows(FOLDERS, "train --data_path good.pkl"),
    *rows(FILES, "train --output_dir new --data_path"),
    *rows(SEARCH, "search --config search-good.yaml --trials 2 --data_path good.pkl --output_dir new"),
    ("search --trials 2", "--config must be given. See configs/search/multitask.yaml."),
    ("search --config search-good.yaml", "the following arguments are required: --trials. See --help."),
    *rows(EVALUATE, "evaluate"),
    *rows(INFER, "infer"),
    *rows(CONVERT, "convert"),
    *rows(DATA, "data"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that the commands of the table name."""
    importlib.import_module("lmf_multitask.pipeline.experiment")  # paddlenlp complains if datasets was there before it
    folder = tmp_path_factory.mktemp("place")

    def pickled(name, tree):
        (folder / name).write_bytes(pickle.dumps(tree, protocol=2))

    def corpus(do=lambda tree: None, **sizes):
        tree = make_corpus((24, 12, 16), **sizes)
        do(tree)
        return tree

    pickled("good.pkl", corpus())
    pickled("list.pkl", [1, 2])
    pickled("none.pkl", {"a": 1})
    pickled("path.pkl", {"../../x": corpus()["sad"]})
    pickled("absent.pkl", corpus(lambda tree: tree["sad"]["train"]["label"].__setitem__(slice(None), [1, 0])))
    pickled("half.pkl", corpus(lambda tree: tree["sad"]["test"].update(label=np.full((16, 2), 0.5))))
    pickled("short.pkl", corpus(lambda tree: tree["sad"]["test"].update(facet=tree["sad"]["test"]["facet"][:-1])))
    pickled("untested.pkl", corpus(lambda tree: tree["sad"].pop("test")))
    pickled("wide.pkl", corpus(audio=9))

    def renamed(tree, emotions, splits, old, new=None):
        for content in (tree[emotion][split] for emotion in emotions for split in splits):
            value = content.pop(old)
            if new:
                content[new] = value

    every = (("happy", "sad", "angry", "neutral"), ("train", "valid", "test"))
    pickled("misspelt.pkl", corpus(lambda tree: renamed(tree, *every, "facet", "facett")))
    pickled("somewhere.pkl", corpus(lambda tree: renamed(tree, ["sad"], ["test"], "facet")))
    pickled("silent.pkl", corpus(lambda tree: renamed(tree, *every, "covarep")))
    pickled(
        "featureless.pkl", corpus(lambda tree: [renamed(tree, *every, old) for old in ("covarep", "facet", "glove")])
    )
    pickled("unseen.pkl", corpus(lambda tree: tree["sad"]["valid"]["label"].__setitem__(slice(None), [1, 0])))
    np.savez(folder / "vidoe.npz", audio=np.zeros((2, 5)), vidoe=np.zeros((2, 4)), text=np.zeros((2, 6, 3)))
    np.savez(folder / "videos.npz", video=np.zeros((2, 4)))
    pickled("two.pkl", corpus(emotions=("calm", "tense")))
    raw = {
        "file": b"x",
        "empty.pkl": b"",
        "cut.pkl": pickle.dumps(corpus(), protocol=2)[:3000],
        "hostile.pkl": b"cos\nsystem\n(S'true'\ntR.",
        "page.pkl": b"<!DOCTYPE html><html>",
        "lfs.pkl": b"version https://git-lfs.github.com/spec/v1\noid sha256:7f\nsize 764739145\n",
        "table.csv": b"id,label\n1,0\n",
        "packed.pkl": b"\x1f\x8b\x08abc",
        **{f"{number}.yaml": text.encode() for number, text in enumerate(CONFIGS)},
    }
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    for name, text in SEARCHES.items():
        (folder / f"search-{name}.yaml").write_text(text)
    _begin_searches(folder)
    np.savez(folder / "happy.npz", **random_parameters())
    (folder / "cut.npz").write_bytes((folder / "happy.npz").read_bytes()[:-300])
    np.savez(folder / "objects.npz", a=np.array([{}], object))
    np.savez(folder / "other.npz", conv=np.zeros(3, "f4"))
    os.mkfifo(folder / "pipe")
    (folder / "nofolder").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign/thesis.txt").write_text("x")

    for name, emotion in (("run", "happy"), ("parent/happy", "happy"), ("parent/sad", "sad")):
        convert_run(folder / "happy.npz", emotion, folder / name, str(folder / "good.pkl"))

    def copy(name):
        return shutil.copytree(folder / "run", folder / name)

    def describe(name, change):
        about = json.loads((folder / "run/model/config.json").read_text())
        change(about)
        (copy(name) / "model/config.json").write_text(json.dumps(about))
        write_manifest(folder / name / "model")

    import paddle

    from lmf_multitask.models.lmf import LMFModel

    paddle.seed(0)
    small = model_config(SMALL_MODEL, {"modalities": ["audio", "text"]})
    LMFModel(INPUTS, ["happy"], small).save_pretrained(copy("blind") / "model")
    (copy("unmeasured") / "robustness.json").write_text("[]")
    (copy("complete") / "metrics.json").write_text("{}")
    shutil.rmtree(copy("nomodel") / "model")
    (copy("badconfig") / "config.yaml").write_text("a: [")
    (copy("laughing") / "config.yaml").write_text("a: &a [x, x]\nb: [*a, *a]")
    for name, file, content in (
        ("badweights", "model.safetensors", "x" * 99),
        ("otherkind", "config.json", "{}"),
        ("nested", "config.json", "[" * 100_000),
    ):
        (copy(name) / "model" / file).write_text(content)
        write_manifest(folder / name / "model")
    (copy("flipped") / "model/model.safetensors").write_bytes(b"x" * 99)
    describe("huge", lambda about: about["model"]["encoders"]["text"].update(state=65_536))
    describe("outside", lambda about: about["tasks"][0].update(name="../../x"))
    (folder / "linked").mkdir()
    (folder / "linked/run").symlink_to(folder / "run")
    return folder


def _begin_searches(folder):
    from lmf_multitask.searching.space import SearchConfig

    experiment = ExperimentConfig(data_path=str(folder / "good.pkl")).resolved(["happy", "sad", "angry", "neutral"])
    space = {"model.fusion.rank": {"choices": [1, 2]}}
    for name, objective in (("sought", "uar"), ("badsearch", "uar"), ("badstudy", "weighted_f1")):
        (folder / name).mkdir()
        text = SearchConfig(experiment=experiment, space=space, objective=objective).to_yaml()
        (folder / name / "search.yaml").write_text("a: [" if name == "badsearch" else text)
        (folder / name / "study.db").write_bytes(b"x" * 5000)
    (folder / "linkedstudy").mkdir()
    shutil.copy(folder / "badstudy/search.yaml", folder / "linkedstudy")
    (folder / "linkedstudy/study.db").symlink_to(folder / "file")


def snapshot(folder):
    """Every file, link and folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder or pipe"
    return found


@pytest.fixture
def told(place, monkeypatch, capfd):
    """Gives a command in that folder; returns its status and what it said on stderr."""
    monkeypatch.chdir(place)
    before = signal.getsignal(signal.SIGTERM)

    def give(command, run_it=None):
        name, *arguments = shlex.split(command)
        monkeypatch.setattr("sys.argv", ["lmf", name, *arguments])
        body = importlib.import_module(COMMANDS[name][0]).main if name in COMMANDS else None
        status = "no status"
        with contextlib.suppress(SystemExit):
            try:
                status = run(body, arguments) if body else main()
            except SystemExit as end:
                status = end.code
                raise
        return status, capfd.readouterr().err

    yield give
    signal.signal(signal.SIGTERM, before)


def test_the_table_is_as_long_as_promised():
    assert len({command for command, _ in TABLE}) == len(TABLE) >= 200


@pytest.mark.parametrize(("command", "line"), TABLE, ids=[command[:90] for command, _ in TABLE])
def test_every_wrong_input_ends_in_one_line(place, told, command, line):
    before = snapshot(place)
    status, said = told(command)
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    assert line in said
    assert "Traceback" not in said
    assert len(said) < 1500
    assert said[:-1].isprintable()
    assert status == 2
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian", "error: unknown command 'trian'. Did you mean 'train'?"),
        ("xyz", "error: unknown command 'xyz'. Choose one of data, train,"),
    ],
)
def test_unknown_commands(told, command, line):
    status, said = told(command)
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(line)


# -- surroundings


def test_a_folder_that_is_no_text(place, told, monkeypatch):
    name = os.fsdecode(b"new-\xff")
    before = snapshot(place)
    status, said = told(f"train --data_path good.pkl --output_dir {name}")
    assert (status, said.count("\n")) == (2, 1)
    assert r"output_dir must be a path in UTF-8 that is not empty, but got 'new-\udcff'" in said
    assert snapshot(place) == before


def test_what_does_not_fit_into_the_machine_ends_in_one_line(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def fails(error):
        def main(arguments):
            raise error

        return main

    assert run(fails(MemoryError()), []) == 2
    assert (
        capsys.readouterr().err
        == "error: the input must fit into this machine, but its memory does not. Use a smaller one.\n"
    )
    assert run(fails(RecursionError()), []) == 2
    assert "but its nesting does not" in capsys.readouterr().err
    for error in (MemoryError, RecursionError, RuntimeError("home directory"), OSError(2, "x")):
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            run(fails(error), ["--debug"])
    assert run(fails(KeyError("a mistake\nof ours")), []) == 2
    assert capsys.readouterr().err == (
        "error: unexpected KeyError: 'a mistake\\nof ours' This is a bug: --debug shows where.\n"
    )
    with pytest.raises(KeyError):
        run(fails(KeyError("a mistake of ours")), ["--debug"])
    signal.signal(signal.SIGTERM, before)


def test_control_characters_are_shown_and_not_obeyed(place, told):
    status, said = told("data inspect 'a\x1b[2J\x07b.pkl'")
    assert status == 2
    assert r"a\x1b[2J\x07b.pkl" in said


def test_the_list_of_commands(monkeypatch, capsys):
    for words, status, said in (
        ([], 2, "usage: lmf COMMAND"),
        (["--help"], 0, "usage: lmf COMMAND"),
        (["-h"], 0, "usage: lmf COMMAND"),
        (["--version"], 0, "lmf_multitask 0."),
        (["-V"], 0, "lmf_multitask 0."),
    ):
        monkeypatch.setattr("sys.argv", ["lmf", *words])
        assert main() == status
        shown = capsys.readouterr().out
        assert shown.startswith(said)
        assert "usage" not in said or all(name in shown for name in COMMANDS)


def test_interruptions_have_their_status(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(arguments):
        raise KeyboardInterrupt

    def ended(arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(interrupted, []) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(SystemExit) as caught:
        run(ended, [])
    assert caught.value.code == 143
    signal.signal(signal.SIGTERM, before)


def test_debug_shows_what_is_behind_a_line(told):
    from lmf_multitask.errors import UserError

    with pytest.raises(UserError):
        told("data inspect nowhere.pkl --debug")


def test_a_config_may_be_given_with_an_equals_sign(told):
    status, said = told("train --data_path good.pkl --output_dir new --config=nowhere.yaml")
    assert status == 2
    assert "--config must be a YAML file, but nowhere.yaml is none." in said


def test_a_sample_is_written_once(place, told):
    assert told("data sample sample.pkl --seed 3")[0] == 0
    first = (place / "sample.pkl").read_bytes()
    assert told("data sample sample.pkl")[0] == 2
    assert (place / "sample.pkl").read_bytes() == first
    assert told("data sample sample.pkl --overwrite")[0] == 0
    assert (place / "sample.pkl").read_bytes() != first
    assert told("data inspect sample.pkl") == (0, "")
    (place / "sample.pkl").unlink()
