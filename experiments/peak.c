/* The most 8-bit multiply-accumulates a second that one core can do: nothing but dot products on registers, in 12
   independent chains, which is enough to hide their latency. Each function takes n steps of every chain. Assembly,
   because the compiler must neither remove, merge nor spill what it cannot see a use for; the values do not matter. */

#define LOOP(step)                                            \
  __asm__ volatile("1:\n"                                     \
                   ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11\n" step \
                   ".endr\n"                                  \
                   "dec %0\n"                                 \
                   "jnz 1b\n"                                 \
                   "vzeroupper\n"                             \
                   : "+r"(n)                                  \
                   :                                          \
                   : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                     "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

void avx512vnni(long n) { LOOP("vpdpbusd %%zmm15, %%zmm14, %%zmm\\i\n"); }

void avxvnni(long n) { LOOP("%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm\\i\n"); }

/* Exact without VNNI: products of 16 bits in pairs, then an addition. */
void avx2(long n) {
  LOOP("vpmaddwd %%ymm15, %%ymm14, %%ymm13\n"
       "vpaddd %%ymm13, %%ymm\\i, %%ymm\\i\n");
}

/* A tile register of sums for each of four chains; a chain takes three steps a round, so that the count is the same. */
void amx(long n) {
  unsigned char palette[64] __attribute__((aligned(64))) = {1};
  for (int tile = 0; tile < 8; tile++) {
    palette[16 + 2 * tile] = 64;
    palette[48 + tile] = 16;
  }
  __asm__ volatile("ldtilecfg %1\n"
                   "1:\n"
                   ".irp i, 0,1,2,3,0,1,2,3,0,1,2,3\n"
                   "tdpbusd %%tmm7, %%tmm6, %%tmm\\i\n"
                   ".endr\n"
                   "dec %0\n"
                   "jnz 1b\n"
                   "tilerelease\n"
                   : "+r"(n)
                   : "m"(palette)
                   : "cc");
}
