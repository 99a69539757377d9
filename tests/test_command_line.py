"""Help, the table of commands, and how errors become one line."""

import errno
import importlib
import json
import re
import subprocess
import sys

import pytest
from commands import run_all, run_one

from lmf_multitask import __version__, command_line
from lmf_multitask.__main__ import COMMANDS
from lmf_multitask.command_line import CommandParser, SettingsOptions, describe_error
from lmf_multitask.errors import ConfigError, DataError, printable, suggestion
from lmf_multitask.pipeline.settings import ExperimentConfig

HELP = """
import json, os, runpy, sys
before = {*sys.modules}
for number, (module, *arguments) in enumerate(json.load(sys.stdin)):
    if os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        if number == 0:
            import lmf_multitask.command_line, lmf_multitask.pipeline.settings  # which most commands need, once
        continue
    os.dup2(os.open(f"{number}.out", os.O_WRONLY | os.O_CREAT), 1)
    sys.argv[1:] = [*arguments, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code
    sys.stdout.flush()
    with open(f"{number}.json", "w") as file:
        json.dump([status, sorted({name.partition(".")[0] for name in {*sys.modules} - before})], file)
    os._exit(0)
"""
HELPED = ["", *COMMANDS, "data inspect", "data sample"]
LIGHT = {  # besides the standard library: numbers, settings and YAML, with what these import
    *(
        "lmf_multitask",
        "numpy",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_extensions",
        "typing_inspection",
    ),
    *("yaml", "_yaml", "cython_runtime"),
}


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    """A fresh process that forks for every command: command -> its status, the packages that it loaded, and what it printed."""
    folder = tmp_path_factory.mktemp("help")
    modules = [
        ["lmf_multitask", *arguments] if not name else [COMMANDS[name][0].removesuffix(".__main__"), *arguments]
        for name, *arguments in (command.split() or [""] for command in HELPED)
    ]
    done = subprocess.run([sys.executable, "-c", HELP], input=json.dumps(modules), text=True, cwd=folder, stderr=subprocess.PIPE)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {
        command: (*json.loads((folder / f"{number}.json").read_text()), (folder / f"{number}.out").read_text())
        for number, command in enumerate(HELPED)
    }


def test_help_of_all_commands_needs_the_standard_library_only(helped):
    status, loaded, _ = helped[""]
    assert (status, {*loaded} - sys.stdlib_module_names) == (0, {"lmf_multitask"})


@pytest.mark.parametrize("command", HELPED[1:])
def test_help_needs_nothing_heavy(helped, command):
    status, loaded, text = helped[command]
    assert status == 0
    assert {
        name for name in loaded if not name.startswith(("_cython_", "_sysconfigdata_"))
    } - sys.stdlib_module_names <= LIGHT
    assert text.startswith("usage: ")
    assert "--plugin FILE.py" in text
    assert "function <" not in text
    assert "factory" not in text


def test_table_of_commands(tmp_path):
    bare, asked, version, data, train = run_all(
        [
            ("lmf_multitask.__main__", arguments)
            for arguments in ([], ["--help"], ["--version"], ["data", "--help"], ["train", "--help"])
        ],
        cwd=tmp_path,
    )
    assert (bare[0], asked[0]) == (2, 0)
    assert asked[1] == bare[1]
    for name, (_, text) in COMMANDS.items():
        assert f"  {name:<10} {text}" in asked[1]
    assert version[:2] == [0, f"lmf_multitask {__version__}\n"]
    assert (data[0], train[0]) == (0, 0)
    assert "inspect" in data[1]
    for text in (
        "--model.fusion.kind lmf|tfn|concat|late",
        "--model.fusion.rank N",
        "--model.encoders.audio.kind mlp|lstm",
        "lstm: width of the output; mlp: width of the three layers (default: 64)",
        "--training.patience N",
        "--emotions TEXT [TEXT ...]",
    ):
        assert text in " ".join(train[1].split()), text
    assert {"train", "evaluate", "data"} <= set(COMMANDS)


def test_console_script_and_module_are_one(tmp_path):
    done = run_one("lmf_multitask", "trian", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'trian'. Did you mean 'train'?\n"


# -- options


@pytest.fixture
def parser():
    parser = CommandParser(prog="test")
    parser.add_argument("run_dir")
    parser.add_argument("--batch_size", type=int, default=3)
    parser.add_argument("--format", choices=["paddle", "onnx"])
    return parser


def test_options_are_parsed(parser):
    options = parser.parse_args(["a", "--batch_size=5", "--format", "onnx"])
    assert (options.run_dir, options.batch_size, options.format) == ("a", 5, "onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: run_dir. See --help."),
        (["a", "b"], "there must be no argument 'b' here. See --help."),
        (["a", "--batch_siz", "3"], "unknown option '--batch_siz'. Did you mean '--batch_size'?"),
        (["a", "--batch", "3"], "unknown option '--batch'. Did you mean '--batch_size'?"),
        (["a", "--xyz"], "unknown option '--xyz'. See --help."),
        (["a", "--batch_size", "x"], "--batch_size: must be a whole number, but got 'x'. See --help."),
        (["a", "--batch_size"], "--batch_size: expected one argument. See --help."),
        (["a", "--format", "onx"], "--format: must be one of paddle, onnx, but got 'onx'. Did you mean 'onnx'?"),
    ],
)
def test_wrong_options(parser, arguments, message):
    with pytest.raises(ConfigError) as caught:
        parser.parse_args(arguments)
    assert str(caught.value) == message


def test_options_of_subcommands_are_suggested():
    parser = CommandParser(prog="test")
    parser.add_subparsers(dest="what").add_parser("inspect").add_argument("--label_column")
    with pytest.raises(ConfigError, match="unknown option '--label_colum'. Did you mean '--label_column'?"):
        parser.parse_args(["inspect", "--label_colum", "1"])
    with pytest.raises(ConfigError, match=r"what: must be one of inspect, but got 'inspct'. Did you mean 'inspect'\?"):
        parser.parse_args(["inspct"])


def test_suggestions():
    assert suggestion("sed", ["seed", "device"]) == " Did you mean 'seed'?"
    assert suggestion("--rank", ["--model.fusion.rank", "--rang"]) == " Did you mean '--model.fusion.rank'?"
    assert suggestion("rnk", ["rank"], "model.") == " Did you mean 'model.rank'?"
    assert suggestion("xyz", ["seed"]) == suggestion("xyz", []) == ""


# -- errors


def run_main(body, *arguments):
    """A process that runs a command with this body."""
    code = (
        f"from lmf_multitask.command_line import run\ndef main(arguments): {body}\n"
        f"raise SystemExit(run(main, {list(arguments)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_interruption_has_its_own_status():
    assert run_main("raise KeyboardInterrupt") == (130, "", "interrupted\n")


def test_our_own_faults_are_told_as_such():
    status, _, error = run_main("raise ZeroDivisionError")
    assert status == 2
    assert error.startswith("error: unexpected ZeroDivisionError")
    assert "bug" in error


def test_errors_of_the_user_are_one_line_and_debug_shows_the_traceback():
    body = "from lmf_multitask.errors import DataError; print(arguments); raise DataError('x must be y.')"
    assert run_main(body, "--seed", "1") == (2, "['--seed', '1']\n", "error: x must be y.\n")
    status, out, error = run_main(body, "--debug", "--seed", "1")
    assert (status, out) == (1, "['--seed', '1']\n")
    assert error.startswith("Traceback")
    assert error.endswith("DataError: x must be y.\n")


def test_an_empty_argument_is_refused():
    status, out, error = run_main("print(1)", "--data_path", "")
    assert (status, out) == (2, "")
    assert error == "error: arguments must not be empty, but one is. Is a variable in the command not set?\n"


def test_errors_in_one_line():
    assert describe_error(DataError("x must be y,\n  but got z.")) == "x must be y, but got z."
    assert describe_error(OSError(errno.ENOSPC, "No space left on device", "/a/b")) == "/a/b: No space left on device."
    assert describe_error(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device."
    assert describe_error(OSError("odd\nthing")) == "odd thing"
    assert describe_error(DataError("a\x1b[2Jb ä 😀")) == "a\\x1b[2Jb ä 😀"
    assert printable("a\tb\x07", keep="\t") == "a\tb\\x07"


@pytest.mark.parametrize(
    ("module", "option", "advice"),
    [
        ("train", "--cuda", "Use --device gpu or --device cpu."),
        ("infer", "--use-gpu", "Use --device gpu or --device cpu."),
        ("train", "--rank", "Did you mean '--model.fusion.rank'?"),
        ("train", "--report_to", "Use --training.visualdl true."),
        (
            "train",
            "--save_steps",
            "Validation, a line of the log and a checkpoint come after every epoch: leave it out.",
        ),
        ("train", "--fp16", "All computation is in float32: leave it out."),
        ("train", "--gradient_accumulation_steps", "A batch of any size fits into memory: use --training.batch_size."),
        ("train", "--per_device_train_batch_size", "Use --training.batch_size."),
        ("train", "--lr", "Use --training.learning_rate."),
        ("train", "--model_path", "Use --output_dir for what is written."),
    ],
)
def test_options_of_other_packages(module, option, advice):
    main = importlib.import_module(f"lmf_multitask.{module}").main
    needed = ["x", "--data_path", "z"] if module == "infer" else []
    with pytest.raises(ConfigError) as caught:
        main([*needed, option, "2"])
    assert str(caught.value).removesuffix(" See --help.") == f"unknown option '{option}'. {advice}"


def test_every_advice_on_options_of_other_packages_is_a_setting():
    parser = CommandParser(prog="test")
    SettingsOptions(parser, ExperimentConfig)
    parser.add_argument("--resume")
    for name, advice in command_line._OTHER_NAMES.items():
        with pytest.raises(ConfigError, match=re.escape(advice)):
            parser.parse_args([f"--{name}", "1"])
