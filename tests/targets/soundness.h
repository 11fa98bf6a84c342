/* Offsets in `sound_in` and `sound_out`, shared by the soundness oracle's C and assembly. */
#ifndef SOUNDNESS_H
#define SOUNDNESS_H

#define GENERAL 32 /* words: general registers in the architecture's order; x86-64 uses 16 */
#define FLAGS_AT (8 * GENERAL)
#define HOST_AT (FLAGS_AT + 8)
#define TARGET_AT (HOST_AT + 8)
#define VECTORS_AT 320
#define VECTORS 1088 /* bytes: xsave of x87, SSE, AVX; or v0 to v31, fpsr, fpcr */

#endif
