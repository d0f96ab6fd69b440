"""Tables of shapes -> problems: the published lists as they are, what columns may be called, what is refused."""

import builtins

import pytest

from gpucnn.bench import UsageError
from gpucnn.bench.problems import select
from gpucnn.bench.tabular import ALIASES, read
from gpucnn.kernels.problem import parse

pd = pytest.importorskip("pandas")


@pytest.fixture
def table(tmp_path):
    """Write a table, and select from it: (problems' minimal lines, warnings without the path)."""

    def read(text, name="shapes.csv", **options):
        path = tmp_path / name
        path.write_text(text) if isinstance(text, str) else text(path)
        selection = select([str(path)], **options)
        lines = [problem.text(minimal=True) for problem in selection.problems]
        return lines, [warning.replace(f"{tmp_path}/", "") for warning in selection.warnings]

    return read


def minimal(*lines):
    return [parse(line).text(minimal=True) for line in lines]


# Rows of lists that others have published, as they are.
DEEPBENCH = """\
set,idx,W,H,C,N,K,S,R,pad_w,pad_h,stride_w,stride_h,P_out_h,Q_out_w,fwd_gflop
training,0,700,161,1,4,32,20,5,0,0,2,2,79,341,0.689638
training,4,341,79,32,4,32,10,5,0,0,2,2,38,166,2.583757
training,8,480,48,1,16,16,3,3,1,1,1,1,48,480,0.106168
"""
CONVNET = """\
suite,model,layer,N,C,H,W,K,R,S,pad_h,pad_w,stride_h,stride_w,dil_h,dil_w,groups,P_out_h,Q_out_w,fwd_gflop
layerwise,L1-L5,L1,128,3,128,128,96,11,11,0,0,1,1,1,1,1,118,118,124.217229
imagenet_winners,alexnet_owt,conv1,128,3,224,224,64,11,11,2,2,4,4,1,1,1,55,55,17.990861
imagenet_winners,overfeat_fast,conv1,128,3,231,231,96,11,11,0,0,4,4,1,1,1,56,56,27.976532
"""


def test_deepbench(table):
    assert table(DEEPBENCH) == (
        [
            "mb4ic1oc32ih161kh5sh2iw700kw20sw2",
            "mb4ic32oc32ih79kh5sh2iw341kw10sw2",
            "mb16ic1oc16ih48kh3ph1iw480kw3pw1",
        ],
        ["shapes.csv: not used: 'set', 'idx', 'fwd_gflop'"],
    )


def test_convnet_benchmarks(table):
    assert table(CONVNET) == (
        [
            'mb128ic3oc96ih128kh11n"L1-L5:L1"',
            'mb128ic3oc64ih224kh11sh4ph2n"alexnet_owt:conv1"',
            'mb128ic3oc96ih231kh11sh4n"overfeat_fast:conv1"',
        ],
        ["shapes.csv: not used: 'suite', 'fwd_gflop'"],
    )


@pytest.mark.parametrize("text", [DEEPBENCH, CONVNET], ids=["deepbench", "convnet"])
def test_operations_are_the_published_ones(text, table):
    published = [float(row.rpartition(",")[2]) for row in text.splitlines()[1:]]
    assert [round(parse(line).flops() / 1e9, 6) for line in table(text)[0]] == published


TABLES = {
    "ours": (
        "name,count,mb,ic,ih,iw,oc,kh,kw,sh,sw,ph,pw,dh,dw,g,dtype,layout,bias,activation\n"
        "net:a,3,1,4,8,9,6,3,5,2,1,1,2,0,1,2,float16,channels_last,1,relu\n"
        "net:b,1,1,4,8,9,6,3,5,2,1,1,2,0,1,2,,,0,\n",
        ['--dtype=float16 --layout=channels_last --bias --activation=relu '
         'g2mb1ic4oc6ih8iw9kh3kw5sh2ph1pw2dw1n"net:a*3"', 'g2mb1ic4oc6ih8iw9kh3kw5sh2ph1pw2dw1n"net:b"'],
    ),
    "pytorch": (
        "batch_size,in_channels,out_channels,height,width,kernel_size,stride,padding,dilation,groups,bias\n"
        '1,4,6,8,8,3,1,1,1,1,True\n2,4,6,8,9,"(3, 5)",2x1,"[1,2]",2,2,False\n',
        ["--bias mb1ic4oc6ih8kh3ph1", "g2mb2ic4oc6ih8iw9kh3kw5sh2sw1ph1pw2dh1dw1"],
    ),
    "benchdnns dilation counts from 0": ("ic,oc,ih,kh,dh\n3,4,8,3,0\n3,4,8,3,1\n", ["ic3oc4ih8kh3", "ic3oc4ih8kh3dh1"]),
    "pytorchs from 1": ("ic,oc,ih,kh,dilation\n3,4,8,3,1\n3,4,8,3,2\n", ["ic3oc4ih8kh3", "ic3oc4ih8kh3dh1"]),
    "a square": ("ic,oc,ih,kernel_size\n3,4,8,3\n", ["ic3oc4ih8kh3"]),
    "a square with a filter that is none": ("ic,oc,H,R,S\n3,4,8,3,5\n", ["ic3oc4ih8iw8kh3kw5"]),
    "one row": ("ic,oc,iw,kernel_size,padding,dilation\n3,4,8,3,1,2\n", ["ic3oc4iw8kw3pw1dw1"]),
    "an output that decides the padding": ("ic,oc,ih,kh,oh,ph,sh\n3,4,8,3,4,0,2\n", ["ic3oc4ih8oh4kh3sh2ph0"]),
    "operators": (
        "op,C,H,W,K,R,S,stride_h,stride_w,P,Q,in_features,dims\nconv2d,3,8,8,4,3,3,1,1,,,,\n"
        "max_pool2d,3,8,8,,2,2,2,2,,,,\nadaptive_avg_pool2d,3,8,8,,,,,,1,1,,\nsoftmax,,,,,,,,,,,,4x5\n",
        None,
    ),
    "linear": ("op,N,in_features,out_features\nlinear,7,8,9\n", ["--op=linear mb7ic8oc9"]),
    "layouts and dtypes by other names": (
        "ic,oc,ih,kh,layout,dtype\n3,4,8,3,NHWC,half\n3,4,8,3,NCHW,bf16\n3,4,8,3,nchw,fp32\n",
        ["--dtype=float16 --layout=channels_last ic3oc4ih8kh3", "--dtype=bfloat16 ic3oc4ih8kh3", "ic3oc4ih8kh3"],
    ),
    "letters, cases and spaces": ("n, c ,In Height,OUT-CHANNELS,R,S\n1, 3 ,8,4,3,3\n", ["mb1ic3ih8oc4kh3"]),
    "whole numbers as floats": ("ic,oc,ih,kh\n3.0,4.0,8.0,3.\n", ["ic3oc4ih8kh3"]),
    "empty lines": ("ic,oc,ih,kh\n\n3,4,8,3\n,,,\n\n", ["ic3oc4ih8kh3"]),
    "a byte order mark": ("\ufeffic,oc,ih,kh\n3,4,8,3\n", ["ic3oc4ih8kh3"]),
    "a layer alone, with a blank": ("ic,oc,ih,kh,layer\n3,4,8,3,a b\n", ['ic3oc4ih8kh3n"a_b"']),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TABLES if name != "operators"])
def test_a_table(name, table):
    text, lines = TABLES[name]
    assert table(text) == (minimal(*lines), [])


def test_rows_of_every_operator_leave_out_what_they_have_not(table):
    text = TABLES["operators"][0].replace("in_features,", "").replace(",,4x5", ",4x5").replace(",,\n", ",\n")
    with pytest.raises(UsageError, match="columns 'C' and 'in_features' say the same"):
        table(TABLES["operators"][0])
    assert table(text)[0] == minimal(
        "mb2ic3oc4ih8kh3", "--op=max_pool2d mb2ic3ih8kh2sh2", "--op=adaptive_avg_pool2d ic3ih8oh1", "--op=softmax 4x5"
    )


def test_tabs(table):
    assert table("ic\toc\tih\tkh\n3\t4\t8\t3\n", "shapes.tsv") == (minimal("ic3oc4ih8kh3"), [])


def test_parquet_has_types_and_gaps(table):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"name": ["a", None], "C": [3, 4], "K": [8, 8], "ih": [8, 9], "kernel_size": [3, 5], "pad": [1.0, None],
         "bias": [True, False], "dtype": ["float16", None], "time_us": [1.5, 2.5]}
    )  # fmt: skip
    lines, warnings = table(frame.to_parquet, "shapes.parquet")
    assert lines == minimal('--dtype=float16 --bias ic3oc8ih8kh3ph1n"a"', "ic4oc8ih9kh5")
    assert warnings == ["shapes.parquet: not used: 'time_us'"]
    with pytest.raises(UsageError, match=r"shapes.parquet, row 2: column 'C' has value '-4', expected an integer >= 0"):
        table(frame.assign(C=[3, -4]).to_parquet, "shapes.parquet")


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", refuse)
    with pytest.raises(UsageError, match=r"x.parquet needs pyarrow: pip install 'gpucnn\[bench\]'"):
        list(read(tmp_path / "x.parquet", {}))


def test_without_pandas_it_is_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"need pandas: pip install 'gpucnn\[bench\]'"):
        list(read(tmp_path / "x.csv", {}))


WRONG = {
    "ic,oc,ih,kh\n3,4,8,3\n3,x,8,3\n": "shapes.csv:3: column 'oc' has value 'x', expected an integer >= 0",
    "ic,oc,ih,kh\n\n3,4,8,3\n3,4,-8,3\n": "shapes.csv:4: column 'ih' has value '-8', expected",
    "ic,oc,ih,kh\n3,4,8,2.5\n": "shapes.csv:2: column 'kh' has value '2.5', expected an integer",
    "ic,oc,ih,kernel_size\n3,4,8,big\n": "shapes.csv:2: column 'kernel_size' has value 'big', expected an integer >= 0, or one for each axis, as 3x3",
    "ic,oc,ih,kh,dil_h\n3,4,8,3,0\n": "shapes.csv:2: column 'dil_h' has value '0', expected an integer >= 1",
    "ic,oc,ih,kh,dilation\n3,4,8,3,0\n": "shapes.csv:2: column 'dilation' has value '0', expected an integer >= 1",
    "ic,oc,ih,kh,count\n3,4,8,3,0\n": "shapes.csv:2: column 'count' has value '0', expected an integer >= 1",
    "ic,oc,ih,kh,dtype\n3,4,8,3,float12\n": "shapes.csv:2: dtype is 'float12', expected one of",
    "ic,oc,ih,kh,bias\n3,4,8,3,perhaps\n": "shapes.csv:2: option --bias has value 'perhaps', expected bool",
    "ic,oc,ih,kh\n3,4,2,3\n": "shapes.csv:2: no output along h: 'kh' 3 is larger than the padded 'ih'",
    "ic,oc,ih\n3,4,8\n": "shapes.csv:2: field 'kh' is missing",
    "op,ic,oc,ih,kh\nmax_pool2d,3,4,8,3\n": "shapes.csv:2: unknown field 'oc'",
    "ic,C,oc,ih,kh\n3,3,4,8,3\n": "shapes.csv: columns 'ic' and 'C' say the same",
    "ic,oc,ih,kh,kh\n3,4,8,3,3\n": "shapes.csv: columns 'kh' and 'kh' say the same",
    "ic,oc,ih,kh,kernel_size\n3,4,8,3,3\n": "shapes.csv: columns 'kh' and 'kernel_size' say the same",
    "ic,oc,ih,kh,dh,dil_h\n3,4,8,3,0,1\n": "shapes.csv: columns 'dh' and 'dil_h' say the same",
    "ic,oc,ih,kh,dw,dilation\n3,4,8,3,0,1\n": "shapes.csv: columns 'dw' and 'dilation' say the same",
    "ic,oc,ih,k\n3,4,8,3\n": r"shapes.csv: column 'k' may be filters \(oc\) or the filter's size",
    "ic,oc,ih,kh,s\n3,4,8,3,1\n": r"shapes.csv: column 's' may be the stride \(sh, sw\) or the filter's width",
    "C,H,K,S\n3,8,3,1\n": "shapes.csv: column 'S' without 'R' may be something else",
    "ic,oc,ih,kh,T\n3,4,8,3,1\n": "shapes.csv: column 'T' is not understood",
    "ic,oc,ih,kh,pad_top\n3,4,8,3,1\n": "shapes.csv: column 'pad_top' is not understood",
    "ic,oc,ih,kh,strideh\n3,4,8,3,1\n": "shapes.csv: column 'strideh' is not understood; did you mean 'stride_h'",
    "ic,oc,ih,kh,depth\n3,4,8,3,1\n": "shapes.csv: column 'depth' is not understood",
    "ic,oc,ih,kh\n3,4,8,3,9\n": "shapes.csv cannot be read: ",
    "": "shapes.csv cannot be read: No columns",
    "ic,oc,ih,kh\n": "there is no problem in .*shapes.csv",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text.replace("\n", "/"))
def test_what_is_wrong_is_named(text, table):
    with pytest.raises(UsageError, match=WRONG[text]):
        table(text)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"ic,oc\n\xff\xfe,3\n")
    with pytest.raises(UsageError, match=r"x.csv cannot be read: "):
        select([str(tmp_path / "x.csv")])


def test_no_name_has_two_fields():
    names = [name for names in ALIASES.values() for name in names]
    assert len(names) == len(set(names))


def test_options_hold_where_a_row_has_none_and_sweeps_replace(table):
    text = "ic,oc,ih,kh,dtype\n3,4,8,3,\n3,4,8,3,float64\n"
    assert table(text, dtypes=["float16"])[0] == minimal("--dtype=float16 ic3oc4ih8kh3", "--dtype=float64 ic3oc4ih8kh3")
    assert table(text, sweep="dtype=bf16 ih=9")[0] == minimal("--dtype=bfloat16 ic3oc4ih9kh3")
