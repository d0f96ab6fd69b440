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


# benchdnn's files ------------------------------------------------------------------------------------------------------

# Lines of oneDNN's tests/benchdnn/inputs/conv, as they are there (Apache-2.0), and what they mean.
PUBLISHED = {
    'g1ic3oc16_iw5ow5kw3pw1_n"1d_conv:1st"': "mb2ic3oc16ih1iw5kh1kw3pw1",
    'g4ic20oc20_iw8ow4kw3pw1sw2_n"1d_conv:grouped_stride_tail"': "g4mb2ic20oc20ih1iw8kh1kw3sw2pw1",
    'g1ic17oc17_iw5ow8kw3pw3_n"1d_conv:gemm_tail"': "mb2ic17oc17ih1iw5kh1kw3ow8pw3",
    'g1ic3oc17_ih8oh4kh3ph1sh2_n"2d_conv:1st_stride_tail"': "mb2ic3oc17ih8iw8kh3kw3oh4ow4ph1pw1sh2sw2",
    'mb2_ic32oc32_iw79ow75kw5sw1pw0_ih41oh16kh10sh2ph0n"ds2-swap"': "mb2ic32oc32ih41iw79oh16ow75kh10kw5sh2sw1",
    "--reset mb2ic3ih300oc32oh150kh3sh2": "mb2ic3ih300oc32oh150kh3sh2ph0",
    "mb2_g1ic32oc32_ih7oh11kh3ph2": "mb2ic32oc32ih7iw7oh11ow11kh3kw3ph2pw2",
    'mb1_ic1oc16_iw1_ow29_kw14_pw28_dw1_n"dilated_kernel_size_lt_padding"': "mb1ic1oc16ih1iw1kh1kw14ow29pw28dw1",
    'mb1_ic16oc1_ih2oh1kh2sh1dh0ph0_iw1000kw6sw1dw30pw128n"1d_conv"': "mb1ic16oc1ih2iw1000kh2kw6oh1pw128dw30",
    "g1ic16ih7iw1oc16oh1ow1kh11kw1sh2sw1ph5pw0n": "mb2ic16ih7iw1oc16oh1ow1kh11kw1sh2ph5",
    'mb1g2ic16oc16iw128kw21n"large"': "g2mb1ic16oc16ih1iw128kh1kw21",
}


@pytest.fixture
def batch(tmp_path):
    """Write a file, and select from it: (problems' texts without names, warnings without the path)."""

    def read(text, name="shapes", **options):
        path = tmp_path / name
        path.write_text(text)
        selection = select([str(path)], **options)
        warnings = [warning.replace(f"{tmp_path}/", "") for warning in selection.warnings]
        return [str(problem.unnamed()) for problem in selection.problems], warnings

    return read


def canonical(*lines):
    return [str(parse(line)) for line in lines]


@pytest.mark.parametrize("line", PUBLISHED)
def test_a_published_line(line, batch):
    assert batch(line + "\n") == (canonical(PUBLISHED[line]), [])


def test_all_3d_lines_are_left_out_by_number(batch):
    lines = "mb1_ic16oc16_id100od1kd100\nmb1ic3oc4ih8kh3\nic3oc4_kd1kh1kw1_id1ih2iw1n\n"
    found, warnings = batch(lines)
    assert found == canonical(LINE)
    assert [warning.partition(": left out: 3-D not supported: field ")[::2] for warning in warnings] == [
        ("shapes:1", "'id' with value '100' at position 13, in 'mb1_ic16oc16_id100od1kd100'"),
        ("shapes:3", "'kd' with value '1' at position 7, in 'ic3oc4_kd1kh1kw1_id1ih2iw1n'"),
    ]


def test_two_problems_and_a_comment_in_a_line(batch):
    found, warnings = batch('--dtype=float16 mb1ic3oc4ih8kh3n"a #b" mb1ic3oc4ih8kh5 # two\n mb1ic3oc4ih8kh1\n')
    assert found == canonical(f"--dtype=float16 {LINE}", "--dtype=float16 mb1ic3oc4ih8kh5", "mb1ic3oc4ih8kh1")
    assert not warnings


KNOBS = {
    "--dt=f16": ["--dtype=float16 " + LINE],
    "--cfg=bf16bf16bf16": ["--dtype=bfloat16 " + LINE],
    "--cfg=f32_wino --alg=wino": [LINE],
    "--dt=f32:f32:f32,f64": [LINE, "--dtype=float64 " + LINE],
    "--dir=FWD_B": ["--bias " + LINE],
    "--dir=FWD_B,FWD_D": ["--bias " + LINE, LINE],
    "--dir=FWD_I": [LINE],
    "--stag=axb": ["--layout=channels_last " + LINE],
    "--stag=nhwc --dtag=nhwc": ["--layout=channels_last " + LINE],
    "--stag=abx --dtag=any": [LINE],
    "--stag=any,axb --dtag=any": [LINE, "--layout=channels_last " + LINE],
    "--attr-post-ops=": [LINE],
    "--attr-post-ops=, \\\n   relu": [LINE, "--activation=relu " + LINE],
    "--mb=4": [LINE.replace("mb1", "mb4")],
    "--mb=0": [LINE],
    "--dir=FWD_B --dt=f16,bf16": ["--bias --dtype=float16 " + LINE, "--bias --dtype=bfloat16 " + LINE],
    "--dt=f16 --reset": [LINE],
    "--dt=f16\n--dt=f32": [LINE],
    "--bias --dtype=float16": ["--bias --dtype=float16 " + LINE],
}


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda text: text.replace("\\\n", ""))
def test_knobs_that_mean_what_we_have(knobs, batch):
    assert batch(f"{knobs}\n{LINE}\n") == (canonical(*KNOBS[knobs]), [])


# What a batch file says of which nothing, or not all, is ours, and the warning
FOREIGN = {
    "--dt=u8:s8:f32": "problems with --dt=u8:s8:f32 are left out",
    "--dt=bf16:bf16:f32": "problems with --dt=bf16:bf16:f32 are left out",
    "--dt=f8_e5m2": "problems with --dt=f8_e5m2 are left out",
    "--dt=s8": "left out, as what follows under the same options: its dtype is int8",
    "--cfg=u8s8f32_wino": "problems with --cfg=u8s8f32_wino are left out",
    "--dir=bwd_d": "problems with --dir=bwd_d are left out",
    "--stag=aBx16b": "problems with --stag=aBx16b are left out",
    "--stag=axb --dtag=abx": "left out, as what follows under the same options: its input and its output have different layouts",
    "--wtag=goiw": "problems with --wtag=goiw are left out",
    "--attr-post-ops=sum:0.5": "problems with --attr-post-ops=sum:0.5 are left out",
    "--attr-scales=src:common:0.25": "problems with --attr-scales=src:common:0.25 are left out",
    "--attr-fpmath=bf16": "problems with --attr-fpmath=bf16 are left out",
    "--strides=903168x1x4032x9::": "problems with --strides=903168x1x4032x9:: are left out",
}


@pytest.mark.parametrize("knobs", FOREIGN)
def test_knobs_that_mean_something_else(knobs, batch):
    found, (warning,) = batch(f"{LINE}\n{knobs}\nmb9ic3oc4ih8kh3 mb8ic3oc4ih8kh3\n")
    assert found == canonical(LINE)
    assert warning in (f"shapes:{number}: {FOREIGN[knobs]}" for number in (2, 3))


def test_of_a_list_what_is_ours(batch):
    found, warnings = batch(f"--dir=FWD_B,BWD_D --dt=f32,bf16,f8_e4m3 {LINE}\n")
    assert found == canonical(f"--bias {LINE}", f"--bias --dtype=bfloat16 {LINE}")
    assert warnings == [
        "shapes:1: problems with --dir=BWD_D are left out", "shapes:1: problems with --dt=f8_e4m3 are left out"
    ]  # fmt: skip


def test_how_to_run_is_not_ours_to_be_told(batch):
    found, warnings = batch(f'--skip-impl="ref,x64:gemm" --mode=P {LINE}\n')
    assert found == canonical(LINE)
    assert warnings == ['shapes:1: --skip-impl="ref,x64:gemm" is not used', "shapes:1: --mode=P is not used"]


POOL = "mb1ic3ih8oh4kh3sh2ph0"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"--alg=max,avg_np {POOL}", [f"--op=max_pool2d {POOL}", f"--op=avg_pool2d --count-include-pad=false {POOL}"]),
        (f"--alg=avg_p {POOL}", [f"--op=avg_pool2d --padding-end=1x1 {POOL}"]),
        (f"--dt=s8 --alg=max --tag=axb {POOL}", [f"--op=max_pool2d --dtype=int8 --layout=channels_last {POOL}"]),
        ("--alg=SOFTMAX,LOGSOFTMAX\n4x5x6", ["--op=softmax --axis=1 4x5x6", "--op=log_softmax --axis=1 4x5x6"]),
        ("--alg=SOFTMAX --axis=0\n4x5", ["--op=softmax --axis=0 4x5"]),
        ("--alg=SOFTMAX --sdt=f16 --ddt=f32 4x5", ["--op=softmax --axis=1 --dtype=float16 --out-dtype=float32 4x5"]),
        (f"--op=max_pool2d\n{POOL}\n--op=softmax 4x5\n--reset\n{LINE}",
         [f"--op=max_pool2d {POOL}", "--op=softmax --axis=1 4x5", LINE]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_poolings_and_softmaxes(text, lines, batch):
    assert batch(text) == (canonical(*lines), [])


def test_what_a_softmax_has_not_is_left_out(batch):
    found, (warning,) = batch(f"{LINE}\n--alg=SOFTMAX --tag=axb 4x5x6x7 4x5\n")
    assert found == canonical(LINE)
    assert warning == "shapes:2: left out, as what follows under the same options: softmax has no layout"


def test_a_batch_file_reads_others_beside_it_under_its_options(batch, tmp_path):
    (tmp_path / "shapes_a").write_text(f"{LINE}\n--batch=shapes_b\n")
    (tmp_path / "shapes_b").write_text("mb7ic3oc4ih8kh3\nmb1ic3oc4id8kd3\n")
    found, (warning,) = batch("--dir=FWD_B --mb=2 --batch=shapes_a\n--reset --batch=shapes_b\n", "test_ci")
    assert found == canonical(f"--bias {LINE}".replace("mb1", "mb2"), "mb7ic3oc4ih8kh3")
    assert warning.startswith("shapes_b:2: left out: 3-D not supported")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--batch=nosuch", "shapes:1: --batch=nosuch: there is no file .*nosuch"),
        ("\n--batch=shapes", "shapes:2: --batch=shapes: .*shapes is being read already"),
        (f"--frob=1 {LINE}", "shapes:1: unknown option --frob"),
        (f"--dtyp=f16 {LINE}", "shapes:1: unknown option --dtyp; did you mean --dtype?"),
        ("ic3oc4ih8kh3 ic3", "shapes:1: field 'oc' is missing, in 'ic3'"),
    ],
)
def test_what_is_wrong_with_a_batch_file(text, message, batch):
    with pytest.raises(UsageError, match=message):
        batch(text)


def test_what_the_file_says_wins_over_the_command_line(batch):
    found, _ = batch(f"{LINE}\n--dt=bf16 {LINE}\n", dtypes=["float16"], layout="channels_last")
    assert found == canonical(
        f"--dtype=float16 --layout=channels_last {LINE}", f"--dtype=bfloat16 --layout=channels_last {LINE}"
    )


# Sweeps ----------------------------------------------------------------------------------------------------------------

SWEEPS = {
    # the issue's own: 4 sizes, 2 strides, 2 paddings
    ("mb1ic3oc4ih56kh3", "ih=8,14 sh=1,2 ph=0,1"): [
        f"mb1ic3oc4ih{size}kh3sh{stride}ph{padding}" for size in (8, 14) for stride in (1, 2) for padding in (0, 1)
    ],
    (LINE, "ih=7..9"): ["mb1ic3oc4ih7kh3", "mb1ic3oc4ih8kh3", "mb1ic3oc4ih9kh3"],
    (LINE, "ih=7..28..7"): [f"mb1ic3oc4ih{size}kh3" for size in (7, 14, 21, 28)],
    (LINE, "ih=7..9..5,7,20"): ["mb1ic3oc4ih7kh3", "mb1ic3oc4ih20kh3"],
    (LINE, "ih=8 iw=4,6"): ["mb1ic3oc4ih8iw4kh3kw3", "mb1ic3oc4ih8iw6kh3kw3"],
    (LINE, "iw=4"): ["mb1ic3oc4ih8iw4kh3kw3"],
    (LINE, "mb=2 oc=6 g=3 ic=9"): ["g3mb2ic9oc6ih8kh3"],
    (LINE, "dh=0,1"): [LINE, "mb1ic3oc4ih8kh3dh1"],
    (LINE, "dtype=float16,f32 bias=0,1"): [
        f"--dtype=float16 {LINE}", f"--dtype=float16 --bias {LINE}", LINE, f"--bias {LINE}"
    ],
    (LINE, "padding_mode=zeros,reflect activation=none,relu ph=1"): [
        "mb1ic3oc4ih8kh3ph1", "--activation=relu mb1ic3oc4ih8kh3ph1",
        "--padding-mode=reflect mb1ic3oc4ih8kh3ph1", "--padding-mode=reflect --activation=relu mb1ic3oc4ih8kh3ph1",
    ],
    (f"--bias --dtype=float16 --layout=channels_last {LINE}", "bias=0 layout=contiguous,channels_last"): [
        f"--dtype=float16 {LINE}", f"--dtype=float16 --layout=channels_last {LINE}"
    ],
    # an output size that padding does not give stays where no axis changes, and only there
    ("mb1ic3oc4ih8oh5kh3sh2ph1", "mb=1,2"): ["mb1ic3oc4ih8oh5kh3sh2ph1", "mb2ic3oc4ih8oh5kh3sh2ph1"],
    ("mb1ic3oc4ih8oh5kh3sh2ph1", "ih=10"): ["mb1ic3oc4ih10kh3sh2ph1"],
    ("mb1ic3oc4ih8oh5kh3sh2ph1", "kw=5"): ["mb1ic3oc4ih8oh5kh3sh2ph1iw8kw5sw2pw1"],
    ("mb1ic3oc4ih8kh3", "oh=6,8"): [LINE, "mb1ic3oc4ih8oh8kh3ph0"],
    ("mb1ic3oc4iw8kw3", "iw=9 kw=5"): ["mb1ic3oc4iw9kw5"],
    (f"--op=avg_pool2d {POOL}", "op=max_pool2d,avg_pool2d ih=9"): [
        "--op=max_pool2d mb1ic3ih9kh3sh2", "--op=avg_pool2d mb1ic3ih9kh3sh2"
    ],
    ("g2mb1ic4oc4ih8kh3ph1", "op=conv2d,max_pool2d"): ["g2mb1ic4oc4ih8kh3ph1", "--op=max_pool2d mb1ic4ih8kh3ph1"],
    ("--op=adaptive_avg_pool2d mb1ic3ih8oh2", "ih=9 oh=1,3"): [
        "--op=adaptive_avg_pool2d mb1ic3ih9oh1", "--op=adaptive_avg_pool2d mb1ic3ih9oh3"
    ],
    ("--op=linear mb1ic8oc4", "mb=2,3 oc=5"): ["--op=linear mb2ic8oc5", "--op=linear mb3ic8oc5"],
    ("--op=softmax --axis=1 4x5", "dims=2x3,4x5x6 axis=0,1"): [
        f"--op=softmax --axis={axis} {dims}" for dims in ("2x3", "4x5x6") for axis in (0, 1)
    ],
    ("--op=cross_entropy 4x5", "mb=2 reduction=sum"): ["--op=cross_entropy --reduction=sum 2x5"],
}  # fmt: skip


@pytest.mark.parametrize(("base", "sweep"), SWEEPS)
def test_a_sweep(base, sweep):
    selection = select([base], sweep=sweep)
    assert [str(problem) for problem in selection.problems] == canonical(*SWEEPS[base, sweep])
    assert not selection.warnings


def test_a_sweep_of_several_problems_with_the_other_options():
    found = select(["lenet5"], sweep="ih=16 sh=1,2", operations=["avg_pool2d"], batches=[3], dtypes=["float16"])
    assert [str(problem) for problem in found.problems] == canonical(
        *(f"--op=avg_pool2d --dtype=float16 mb3ic{ic}ih16kh2sh{sh}" for ic in (6, 16) for sh in (1, 2))
    )


def test_what_makes_no_problem_is_left_out_with_one_warning():
    selection = select([LINE], sweep="ih=1,2,8 ph=0,1 kh=3")
    assert len(selection.problems) == 4
    (warning,) = selection.warnings
    assert warning.startswith(
        "--sweep: 2 of 6 combinations make no problem and are left out, the first ih=1 ph=0 kh=3: no output along h"
    )


def test_what_has_no_such_field_is_left_out_with_one_warning():
    selection = select(["lenet5"], sweep="ih=16,32")
    assert {problem.operation for problem in selection.problems} == {"conv2d", "avg_pool2d"}
    assert set(selection.warnings) == {
        "--sweep: 4 of 16 combinations are left out: linear has no ih",
        "--sweep: 2 of 16 combinations are left out: softmax has no ih",
    }


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("ihh=8", "--sweep has 'ihh=8', expected FIELD=VALUES; did you mean ih"),
        ("stride=8", "expected FIELD=VALUES; did you mean sh"),
        ("N=8", "expected FIELD=VALUES; did you mean mb"),
        ("dil_w=8", "expected FIELD=VALUES; did you mean dw"),
        ("paddingmode=zeros", "expected FIELD=VALUES; did you mean padding_mode"),
        ("frobnicate=8", "expected FIELD=VALUES; fields: g, mb, ic, oc, ih"),
        ("ih", "--sweep has 'ih', expected FIELD=VALUES"),
        ("", "--sweep says nothing"),
        ("ih=8 ih=9", "--sweep has 'ih' twice"),
        ("ih=8,x", "--sweep has ih=x, expected an integer >= 0"),
        ("ih=8,", "--sweep has ih='', expected an integer >= 0"),
        ("ih=-1", "--sweep has ih=-1, expected an integer >= 0"),
        ("ih=9..7", "--sweep has ih=9..7, expected FIRST..LAST"),
        ("ih=7..9..0", "--sweep has ih=7..9..0, expected FIRST..LAST"),
        ("ih=1..1000 iw=1..1000", "--sweep has more than 100000 combinations"),
        ("dtype=flot16", "--sweep has dtype=flot16, expected one of float64, .*; did you mean float16?"),
        ("op=conv3d", "--sweep has op=conv3d, expected one of conv2d, .*; did you mean conv2d?"),
        ("bias=2", "--sweep has bias=2, expected 0 or 1"),
        ("dims=4y4", "--sweep has dims=4y4, expected sizes, as 64x1000"),
        ("ih=1", "there is no problem in mb1ic3oc4ih8kh3: --sweep: 1 of 1 combinations make no problem"),
    ],
)
def test_what_is_wrong_with_a_sweep(sweep, message):
    with pytest.raises(UsageError, match=message):
        select([LINE], sweep=sweep)


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_sweep_of_the_default_problem_on_the_command_line(command, run_command, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.runner.MEASUREMENT_S", 0.01)
    monkeypatch.setattr("gpucnn.bench.machine.Machine.copy_gbs", lambda self: 20.0)
    monkeypatch.setattr("gpucnn.bench.machine.Machine.rate_gflops", lambda self, problem: 100.0)
    words = ("--strategy", "numpy_direct", "--device", "cpu", *(["--out", "x.jsonl"] if command == "bench" else []))
    code, _, err = run_command(command, "--sweep", "ic=2 oc=3 ih=1,5 ph=0,1", *words)
    assert code == 0, err
    assert err.count("PASSED numpy_direct") == 3
    assert "gpucnn: warning: --sweep: 1 of 4 combinations make no problem" in err
