"""The vendor's algorithm, from the names of its kernels."""

import os
import sys

import pytest

from gpucnn.bench import vendor
from gpucnn.bench.vendor import Kernel, algorithm, classify, convolutions

torch = pytest.importorskip("torch")

IMPLICIT, WINOGRAD, FFT, DIRECT = "implicit GEMM", "winograd", "fft", "direct"

# As cuDNN 7 to 9 and PyTorch name them on Maxwell, Volta, Ampere and Hopper.
NAMES = [
    (IMPLICIT, "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize256x64x32_stage3_warpsize4x1x1_g1_"
     "tensor16x8x16_kernel"),
    (IMPLICIT, "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1_"
     "g1_execute_segment_k_off_kernel__5x_cudnn"),
    (IMPLICIT, "sm80_xmma_dgrad_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x32x16_stage4"),
    (IMPLICIT, "void xmma_cudnn::gemm::kernel<xmma_cudnn::implicit_gemm::fprop::Kernel_traits<xmma_cudnn::Ampere_hmma_"
     "tf32_traits<float, float>>>(xmma_cudnn::implicit_gemm::fprop::Params)"),
    (IMPLICIT, "void cudnn::detail::implicit_convolve_sgemm<float, float, 128, 5, 5, 3, 3, 3, 1, true, false, true>(int, "
     "int, int, float const*, int, float*, kernel_conv_params, int, float, float, int, float, float, int, int)"),
    (IMPLICIT, "void implicit_convolve_sgemm<__half, __half, 1024, 5, 5, 3, 3, 3, 1, false, false, true>(int, int, int)"),
    (IMPLICIT, "volta_scudnn_128x128_relu_interior_nn_v1"),
    (IMPLICIT, "maxwell_scudnn_128x128_stridedB_small_nn"),
    (IMPLICIT, "volta_fp16_s884cudnn_fp16_256x128_ldg8_relu_f2f_exp_interior_nhwc2nchw_tn_v1"),
    (IMPLICIT, "void cutlass_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16_128x256_32x3>(cutlass_tensorop_"
     "f16_s16816fprop_optimized_f16_128x256_32x3::Params)"),
    (WINOGRAD, "void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>(cudnn::winograd_nonfused::"
     "WinogradDataParams<float, float>)"),
    (WINOGRAD, "void cudnn::winograd_nonfused::winogradForwardOutput9x9_5x5<float, float>(cudnn::winograd_nonfused::"
     "WinogradOutputParams<float, float>)"),
    (WINOGRAD, "void cudnn::winograd::winograd3x3Kernel<float, float, 4, 1, 8, false>(cudnn::maxwell::winograd::"
     "KernelParams)"),
    (WINOGRAD, "ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1"),
    (FFT, "void fft2d_r2c_32x32<float, false, 1u, false>(float2*, float const*, int, int, int, int, int, int, int, int, "
     "int, cudnn::reduced_divisor, bool, int2, int, int)"),
    (FFT, "void fft2d_c2r_16x16<float, false>(float*, float2*, int, int, int, int, int, int, int, int, int, int, float)"),
    (DIRECT, "void conv2d_grouped_direct_kernel<false, true, false, false, 0, 0, int, float, float, float, float, float, "
     "float>(cudnnTensorStruct, float const*, cudnnFilterStruct, float const*, cudnnConvolutionStruct)"),
    (DIRECT, "void at::native::(anonymous namespace)::conv_depthwise2d_forward_kernel<3, float, int>(at::GenericPacked"
     "TensorAccessor<float const, 4ul>, int, int)"),
]  # fmt: skip
AROUND = [
    Kernel("void cudnn::ops::nchwToNhwcKernel<__half, __half, float, false, true, (cudnnKernelDataType_t)0>", 3.0),
    Kernel("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", 4.0),
    Kernel("Memset (Device)", 1.0),
]


@pytest.mark.parametrize(("expected", "name"), NAMES, ids=[name.split("(")[0][:60] for _, name in NAMES])
def test_a_kernels_name_says_which_algorithm(expected, name):
    assert classify([Kernel(name, 2.0)]) == expected
    assert classify([*AROUND, Kernel(name, 2.0)]) == expected


# Both transform, and multiply by calls of cuBLAS's kernels, which may take longest.
@pytest.mark.parametrize(
    ("expected", "names"),
    [
        (WINOGRAD, ["void cudnn::winograd_nonfused::winogradForwardFilter4x4<float, float>", "ampere_sgemm_128x64_nn"]),
        (
            FFT,
            ["void fft2d_r2c_32x32<float, false, 0u, false>", "volta_gcgemm_64x32_nt", "void fft2d_c2r_32x32<float>"],
        ),
        (FFT, ["void DSE::regular_fft_pad<0, 1, 256, 16, 16, 1, float, float, float2>", "ampere_gcgemm_64x64_nt"]),
    ],
)
def test_a_transform_decides_before_the_product_in_it(expected, names):
    assert classify([Kernel(name, 10.0 * place) for place, name in enumerate(names)]) == expected


def test_what_no_name_tells_is_the_longest_kernels_name():
    gemm = "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x16_stage4_warpsize2x2x1_tensor16x8x8_kernel"
    assert classify([*AROUND, Kernel(gemm, 20.0)]) == gemm
    assert classify(
        [*AROUND, Kernel("void explicit_convolve_sgemm<float, int, 512, 6, 8, 3, 3, 5, 0, false>", 9.0)]
    ) == ("void explicit_convolve_sgemm<float, int, 512, 6, 8, 3, 3, 5, 0, false>")
    assert classify([]) is None


def verbose(implementation, algorithm="convolution_direct"):
    return (
        f"onednn_verbose,v1,primitive,exec,cpu,convolution,{implementation},forward_training,src:f32:a:blocked:aBcd16b::f0 "
        f"wei:f32:a:blocked:ABcd16b16a::f0 bia:undef::undef::: dst:f32:a:blocked:aBcd16b::f0,attr-scratchpad:user,"
        f"alg:{algorithm},mb2_ic16oc32_ih20oh18kh3sh1dh0ph0_iw20ow18kw3sw1dw0pw0,34.8669"
    )


@pytest.mark.parametrize(
    ("expected", "implementation"),
    [
        (DIRECT, "jit:avx512_core"),
        (DIRECT, "jit_1x1:avx2"),
        (DIRECT, "jit_dw:avx512_core"),
        (IMPLICIT, "brgconv:avx512_core_amx"),
        (IMPLICIT, "brg_conv_fwd:avx10_1_512_amx"),
        (IMPLICIT, "brgconv_1x1:avx512_core_bf16"),
        (WINOGRAD, "wino:acl"),
        ("gemm:jit", "gemm:jit"),
        ("ref:any", "ref:any"),
    ],
)
def test_onednns_implementations(expected, implementation):
    reorder = "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:abcd::f0,,,2x32x18x18,99.0"
    head = "onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,exec_time"
    found = convolutions("\n".join([head, reorder, verbose(implementation), "a line of somebody else's"]))
    assert found == [Kernel(implementation, 34866.9)]
    assert classify(found) == expected


def test_a_printed_line_of_an_older_onednn():
    assert convolutions(
        "onednn_verbose,exec,cpu,convolution,jit:avx2,forward_training,,,alg:convolution_direct,,1.5"
    ) == [Kernel("jit:avx2", 1500.0)]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")
def test_a_convolution_on_the_host_is_named_and_prints_nothing(no_gpu, capfd):
    x, w, launches = torch.ones(2, 16, 20, 20), torch.ones(32, 16, 3, 3), []

    def launch():
        launches.append(torch.nn.functional.conv2d(x, w))

    print("before")
    found = algorithm(launch)
    print("after")
    sys.stdout.flush()
    assert found in (IMPLICIT, WINOGRAD, DIRECT) or ":" in found
    assert len(launches) == 2
    assert capfd.readouterr().out.split() == ["before", "after"]


def test_what_calls_no_library_is_unknown(no_gpu):
    assert algorithm(lambda: None) is None


def test_standard_output_is_put_back_after_an_error(capfd):
    def launch():
        os.write(1, b"lost\n")
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        vendor.on_host(launch)
    os.write(1, b"seen\n")
    assert capfd.readouterr().out == "seen\n"


def test_a_gpus_kernels_come_before_the_hosts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(vendor, "on_gpu", lambda launch: [Kernel("volta_scudnn_128x64_relu_small_nn_v1", 1.0)])
    monkeypatch.setattr(vendor, "on_host", lambda launch: [Kernel("jit:avx2", 1.0)])
    assert algorithm(lambda: None) == IMPLICIT


@pytest.mark.gpu
def test_a_convolution_on_the_gpu_is_named():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    x, w = torch.ones(8, 64, 28, 28, device="cuda"), torch.ones(64, 64, 3, 3, device="cuda")
    found = vendor.on_gpu(lambda: torch.nn.functional.conv2d(x, w))
    assert found
    assert all(kernel.time_us > 0 for kernel in found)
    assert classify(found)
