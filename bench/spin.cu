// One thread spins until the GPU's own nanosecond timer has advanced by `ns`, and writes by how much it has.

__device__ long long globaltimer()
{
    long long ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

extern "C" __global__ void spin(long long ns, long long* took_ns)
{
    const long long start = globaltimer();
    long long now = start;
    while (now - start < ns) {
        now = globaltimer();
    }
    *took_ns = now - start;
}
