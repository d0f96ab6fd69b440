"""Sources -> problems: suites, files as benchdnn has them, single lines; and what is said of bad ones."""

import pytest

from gpucnn.bench import UsageError
from gpucnn.bench.problems import is_problem_text, select, suites
from gpucnn.kernels.problem import parse

LINE = "mb1ic3oc4ih8kh3"

BENCHDNN = """# a shape file as they are found
g1ic16oc16_ih5oh5kh3ph1_n"2d_conv:3x3"

   # indented
g1ic3oc16_iw5ow5kw3pw1_n"1d_conv:1st"
ic16id5oc16od5kd3pd1n"3d_conv"
"""


def texts(*sources, **options):
    return [str(problem) for problem in select(sources, **options).problems]


def test_a_suite_a_file_and_a_line(tmp_path):
    path = tmp_path / "shapes.txt"
    path.write_text(LINE)
    assert texts("lenet5", str(path), " --op=softmax --axis=1 2x3 ")[-2:] == [
        str(parse(LINE)),
        "--op=softmax --axis=1 2x3",
    ]
    assert len(select(["lenet5"]).problems) > 3


def test_a_benchdnn_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "shapes"
    path.write_text(BENCHDNN)
    selection = select([str(path)])
    assert [problem.name for problem in selection.problems] == ["2d_conv:3x3", "1d_conv:1st"]
    (warning,) = selection.warnings
    assert warning.startswith(f"{path}:6: left out: 3-D not supported: field 'id'")


def test_a_bad_line_names_file_and_number_and_what_is_wrong(tmp_path):
    path = tmp_path / "shapes.txt"
    path.write_text(f"{LINE}\n\nmb1ic3oc4ih8kh9\n")
    with pytest.raises(UsageError, match=f"{path}:3: no output along h: 'kh' 9 is larger than the padded 'ih'"):
        select([str(path)])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "shapes.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=f"{path} cannot be read"):
        select([str(path)])


def test_options_hold_where_a_line_has_none():
    given = f"--dtype=float64 {LINE}"
    assert texts(LINE, given, dtypes=["float16"], layout="channels_last") == [
        str(parse(f"--dtype=float16 --layout=channels_last {LINE}")),
        str(parse(f"--dtype=float64 --layout=channels_last {LINE}")),
    ]


def test_every_dtype_once_and_no_problem_twice():
    found = select([LINE, LINE, f"--dtype=float64 {LINE}"], dtypes=["float32", "float16"]).problems
    assert [problem.dtype for problem in found] == ["float32", "float16", "float64"]


def test_every_batch_once_in_place_of_the_lines_own():
    chosen = select(
        ["mb1ic3oc4ih8kh3", "--op=softmax --axis=1 1x10", "--op=softmax --axis=0 7x10"], batches=[2, 32]
    ).problems
    assert [next(iter(problem.inputs().values())) for problem in chosen] == [
        (2, 3, 8, 8), (32, 3, 8, 8), (2, 10), (32, 10), (7, 10)
    ]  # fmt: skip


def test_operations_filter():
    assert {problem.operation for problem in select(["vgg16"], operations=["max_pool2d", "linear"]).problems} == {
        "max_pool2d",
        "linear",
    }
    with pytest.raises(UsageError, match="there is no problem that computes lp_pool2d in vgg16"):
        select(["vgg16"], operations=["lp_pool2d"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("vgg1", "did you mean vgg16"),
        ("resnet", "did you mean resnet50"),
        ("nosuch.txt", "is no suite, no file and no problem; suites: alexnet,"),
        ("mb1ic3", "field 'oc' is missing"),
        ("mb1ic3oc4ih8kh9", "no output along h"),
        ("--op=conv3d " + LINE, "unknown --op=conv3d"),
        (LINE + "n" + "x" * 5000, None),
    ],
    ids=lambda value: (value or "")[:20],
)
def test_what_is_said_of_a_source(source, message):
    if message is None:
        assert len(select([source]).problems) == 1
        return
    with pytest.raises(UsageError, match=message):
        select([source])


def test_every_suite_is_readable():
    for name in suites():
        assert select([name]).problems


@pytest.mark.parametrize(
    ("word", "is_text"),
    [
        ("--op=softmax --axis=1 8x10", True),
        (f"--bias {LINE}", True),
        (f"--padding-mode=reflect --bias {LINE}", True),
        ("--op=softmax", False),
        ("--op", False),
        ("--out=a file.jsonl", False),
        (LINE, False),
    ],
)
def test_a_problem_with_options_is_told_from_an_option(word, is_text):
    assert is_problem_text(word) is is_text
